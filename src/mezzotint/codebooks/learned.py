"""What VQ and RQ share: vectors walk down the levels, and the books follow.

RQ is VQ applied to what the level before has left, and VQ is RQ with one level; so there is one
walk. It keeps nothing of a level but its codes: beside the quantized vectors and what is left,
there is one tensor, the sum of what all levels left, which is the gradient of the commitment loss.

Shapes: N vectors, S levels, K codes, D width.
"""

from abc import ABC
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from mezzotint import dist
from mezzotint.codebooks.books import EMA, Books, Init
from mezzotint.codebooks.codebook import Codebook, full_precision, need_finite
from mezzotint.codebooks.gradient import (
    Gradient,
    carry_gradient,
    commitment_loss,
    inverse_length,
    unit,
)
from mezzotint.codebooks.kmeans import k_nearest, nearest
from mezzotint.types import Codes

Compared = Literal["vectors", "directions", "directions_left"]
"""What meets the codes: vectors, vectors scaled to length 1, or what each level left scaled to length 1."""


@dataclass
class _Walk:
    indices_NS: Tensor
    quantized_ND: Tensor
    residuals_ND: Tensor
    energies_S: Tensor
    usage_SK: Tensor


class LearnedCodebook(Codebook, ABC, abstract=True):
    """Books searched one after the other, each for what the last has left.

    Args:
        dim: D.
        num_codes: K.
        num_levels: S.
        shared: one book for all levels.
        compared: what meets the codes.
        init: how books start.
        ema: how they follow their vectors.
        commitment: weight of the commitment loss.
        gradient: how it passes the choice of a code.
        seed: of all draws.
    """

    def __init__(
        self,
        *,
        dim: int,
        num_codes: int,
        num_levels: int,
        shared: bool,
        compared: Compared,
        init: Init,
        ema: EMA,
        commitment: float,
        gradient: Gradient,
        seed: int,
    ) -> None:
        super().__init__(dim, num_codes, num_levels)
        if not commitment >= 0.0:
            raise ValueError(f"got commitment={commitment}; allowed is 0 or more: choose 0.25")
        if shared and num_codes < num_levels:
            raise ValueError(
                f"got {num_codes} codes shared by {num_levels} levels; allowed is at least one a level: take more codes"
            )
        one_of("init", init, "kmeans", "uniform_sphere", "data")
        one_of("gradient", gradient, "straight_through", "rotation")
        self.shared, self.compared, self.commitment, self.gradient = (
            shared,
            compared,
            commitment,
            gradient,
        )
        directions = compared != "vectors"
        count = 1 if shared else num_levels
        self.books = Books(
            count, num_codes, dim, directions=directions, init=init, ema=ema, seed=seed
        )

    @property
    def ready(self) -> bool:
        """Whether the books have their first codes."""
        return self.books.is_ready

    def forward(self, z: Tensor) -> Codes:
        """Codes of vectors; while `learning`, the books start with the first ones, and follow.

        Args:
            z: float `[…, D]`, of any precision.

        Returns:
            Codes, whose vectors carry a gradient to `z`, in eval mode too. While learning, vectors
            that are not finite make the loss so, for the loop to see, and leave the books alone.

        Raises:
            ValueError: for a wrong width; for vectors that are not finite, unless learning; when
                the books have not been started, and this pass may not start them; when there are
                fewer vectors than codes to start with.
        """
        with full_precision(z):
            x = self._input(z)
            walk = self._encode(x.detach(), x.requires_grad and torch.is_grad_enabled())
            loss = commitment_loss(x, walk.residuals_ND, walk.energies_S, self.commitment)
            quantized = carry_gradient(x, walk.quantized_ND, self.gradient)
            energy = torch.dot(x.detach().view(-1), x.detach().view(-1)).clamp_min(1e-30)
        return Codes(
            quantized.to(z.dtype).view(z.shape),
            walk.indices_NS.view(*z.shape[:-1], self.num_levels),
            loss,
            walk.usage_SK,
            walk.energies_S / energy,
        )

    @torch.no_grad()
    def decode(self, indices: Tensor) -> Tensor:
        """The vectors of codes: float32 `[…, D]` of whole numbers `[…, s]`, codes of the first s ≤ S levels."""
        self._check_indices(indices)
        self._need_ready()
        levels = indices.reshape(-1, indices.shape[-1]).long().unbind(1)
        total = self._codes(0, levels[0])
        for level, chosen in enumerate(levels[1:], 1):
            total = total.add_(self._codes(level, chosen))
        return total.view(*indices.shape[:-1], self.dim)

    @torch.no_grad()
    def nearest(self, z: Tensor, k: int) -> tuple[Tensor, Tensor]:
        """The k nearest codes of each level, and squared distances: int64 and float32 `[…, S, k]`, nearest first."""
        self._check_k(k)
        self._need_ready()
        with full_precision(z):
            left = self._input(z)
            need_finite(left.isfinite().all())
            found = []
            for level in range(self.num_levels):
                book = self.books.vectors[self._book(level)]
                found.append(k_nearest(self._meets(left), book, k, on_sphere=self.books.on_sphere))
                left = left - self._codes(level, found[-1][0][:, 0])
        shape = (*z.shape[:-1], self.num_levels, k)
        indices, distances = (
            torch.stack(parts, 1).view(shape) for parts in zip(*found, strict=True)
        )
        return indices, distances

    @torch.no_grad()
    def initialize(self, z: Tensor) -> None:
        """Start the books, level after level, from vectors `[…, D]` of all ranks, which call it together.

        Each level fits its codes to what the last has left; of a shared book, each level an equal
        part, so that there are codes for what is left at every level, which are much shorter than
        those for the vectors.
        """
        with full_precision(z):
            x = self._input(z)
            need_finite(torch.tensor(dist.all_true(bool(x.isfinite().all()), x.device)))
            left = x
            for level in range(self.num_levels):
                book, start, stop = level, 0, self.num_codes
                if self.shared:
                    book, start, stop = (
                        0,
                        *(self.num_codes * part // self.num_levels for part in (level, level + 1)),
                    )
                met = self._meets(left)
                codes = self.books.fit(met, book, start, stop)
                left = left - codes[nearest(met, codes)[0]]
            self.books.start()

    def check_ranks(self) -> None:
        """Raise `RuntimeError` on every rank when ranks hold different books; all of them call it together."""
        sums = dist.gather(self.books.checksum().unsqueeze(0))
        if bool((sums != sums[0]).any()):
            raise RuntimeError(
                f"got different books on {dist.world_size()} ranks (checksums {sums.tolist()}); allowed are the same: "
                "load the same checkpoint on each, and call the codebook on all ranks in every step"
            )

    def _input(self, z: Tensor) -> Tensor:
        x = self._rows(z)
        return unit(x) if self.compared == "directions" else x

    def _meets(self, left_ND: Tensor, out: Tensor | None = None) -> Tensor:
        """What meets the codes; `out` is a place for it where it is not what is left."""
        return (
            torch.mul(left_ND, inverse_length(left_ND), out=out)
            if self.compared == "directions_left"
            else left_ND
        )

    def _book(self, level: int) -> int:
        return 0 if self.shared else level

    def _codes(self, level: int, indices_N: Tensor) -> Tensor:
        return self.books.vectors[self._book(level)].index_select(0, indices_N)

    def _need_ready(self) -> None:
        if not self.ready:
            raise ValueError(
                "got a codebook without codes; allowed is one that was started: call initialize(vectors), load a "
                "checkpoint, or make a first pass in training mode, not frozen"
            )

    @torch.compiler.disable  # type: ignore[untyped-decorator]
    @torch.no_grad()
    def _encode(self, x_ND: Tensor, sum_residuals: bool) -> _Walk:
        if self.learning and not self.ready:
            self.initialize(x_ND)
        self._need_ready()
        filled = self.books.begin(len(x_ND)) if self.learning else None
        num_levels = self.num_levels
        indices = x_ND.new_empty(num_levels, len(x_ND), dtype=torch.int64)
        usage = x_ND.new_zeros(num_levels, self.num_codes)
        energies, ones = x_ND.new_zeros(num_levels), x_ND.new_ones(1).expand(len(x_ND))
        left, quantized, residuals = x_ND.clone(), torch.empty_like(x_ND), x_ND
        # One place for what a level needs: on the CPU, new memory costs more than filling it.
        scratch = torch.empty_like(x_ND) if num_levels > 1 else quantized
        for level in range(num_levels):
            met = self._meets(left, scratch)
            indices[level] = self.books.nearest(self._book(level), met)
            if filled is not None:
                turn = slice(level, None, num_levels) if self.shared else slice(None)
                self.books.add(filled, self._book(level), met, indices[level], turn)
            usage[level].index_add_(0, indices[level], ones)
            codes = quantized if level == 0 else scratch
            torch.index_select(self.books.vectors[self._book(level)], 0, indices[level], out=codes)
            left.sub_(codes)
            torch.dot(left.view(-1), left.view(-1), out=energies[level])
            if level > 0:
                quantized.add_(codes)
            if sum_residuals:
                residuals = (
                    (left.clone() if num_levels > 1 else left)
                    if level == 0
                    else residuals.add_(left)
                )
        if filled is not None:
            self.books.learn(filled)
        else:
            need_finite(energies.isfinite().all())
        return _Walk(indices.t(), quantized, residuals, energies, usage)


def one_of(name: str, value: str, *allowed: str) -> None:
    """Refuse a choice that there is not."""
    if value not in allowed:
        raise ValueError(
            f"got {name}={value!r}; allowed are {', '.join(allowed)}: choose one of them"
        )
