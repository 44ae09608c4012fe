"""Learned codebooks, VQ and RQ: codes that follow their vectors, at one level or at several.

RQ is VQ applied to the residual of the level before, and VQ is RQ with one level; so there is one
implementation. It stores only the codes of a level: besides the quantized vectors and the residual
there is one tensor, the sum of the residuals of all levels, which is the gradient of the commitment
loss. The loss is only this term: the other one of VQ-VAE has no gradient when codes are averages.

Vector quantization is VQ-VAE (van den Oord et al. 2017, arXiv 1711.00937) with codes that follow
their vectors by moving averages. With `metric="cosine"` vectors and codes have length 1, as in
BEiT v2 (Peng et al. 2022, arXiv 2208.06366), BEATs (Chen et al. 2022, arXiv 2212.09058) and BRIDLE.
BEATs has `VQ(dim=256, num_codes=1024, ema=EMA(rule="norm"), commitment=1.0)`.

Residual quantization with `residual="plain"` (Lee et al. 2022, arXiv 2203.01941) takes the nearest
code by Euclidean distance. With k-means codes the residual energy falls with every level, and codes
go from coarse to fine. `residual="bridle"` follows BRIDLE (Nguyen et al. 2025, arXiv 2502.02118): a
level scales the residual to length 1, takes the nearest of K directions, and subtracts this
direction, of length 1, from the unscaled residual. For vectors much longer than 1 the levels are S
clusterings of nearly the same vector, and for vectors shorter than 1 the energy rises. BRIDLE's
source does not keep its codes at length 1: use `EMA(rule="norm", renormalize=False)` for this.

Differs from BRIDLE's source: initialized and replaced codes are the same on all ranks, frozen
codebooks never change, and `nearest` with several codes per level returns the nearest ones.

Shapes: N vectors, S levels, K codes, D dimensions.
"""

from abc import ABC
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from mezzotint import dist
from mezzotint.codebooks.codebook import Codebook, full_precision, need_finite
from mezzotint.codebooks.ema import EMA, EMACodes, Init
from mezzotint.codebooks.gradient import (
    Gradient,
    carry_gradient,
    commitment_loss,
    inverse_length,
    unit,
)
from mezzotint.codebooks.kmeans import k_nearest, nearest
from mezzotint.types import Codes

Compared = Literal["vectors", "directions", "residual_directions"]
"""What is compared with the codes: vectors, vectors scaled to length 1, or residuals scaled so."""


@dataclass
class _Encoding:
    indices_NS: Tensor
    quantized_ND: Tensor
    residuals_ND: Tensor
    energies_S: Tensor
    usage_SK: Tensor


class LearnedCodebook(Codebook, ABC, abstract=True):
    """Quantize vectors by codes that follow them, each level for the residual of the last.

    Args:
        dim: dimensions D of the vectors.
        num_codes: number of codes K of each level.
        num_levels: number of levels S.
        shared: one codebook for all levels.
        compared: what is compared with the codes.
        init: initialization of the codes.
        ema: moving averages of the codes.
        commitment: weight of the commitment loss.
        gradient: gradient past the choice of a code.
        seed: seed of all draws, any whole number.
    """

    def __init__(
        self,
        *,
        dim: int,
        num_codes: int,
        num_levels: int,
        shared: bool,
        compared: Compared,
        init: Init | float,
        ema: EMA,
        commitment: float,
        gradient: Gradient,
        seed: int,
    ) -> None:
        super().__init__(dim, num_codes, num_levels)
        if not commitment >= 0.0:
            raise ValueError(f"`commitment` must be 0 or more, got {commitment}. Try 0.25.")
        if shared and num_codes < num_levels:
            raise ValueError(
                "A shared codebook must have at least one code per level, "
                f"got {num_codes} codes for {num_levels} levels. Use more codes."
            )
        _check_init(init)
        one_of("gradient", gradient, "straight_through", "rotation")
        self.shared, self.compared, self.commitment, self.gradient = (
            shared,
            compared,
            commitment,
            gradient,
        )
        directions = compared != "vectors"
        count = 1 if shared else num_levels
        # The attribute's name is part of checkpoints.
        self.books = EMACodes(
            count, num_codes, dim, directions=directions, init=init, ema=ema, seed=seed
        )

    @property
    def ready(self) -> bool:
        return self.books.is_ready

    def forward(self, z: Tensor) -> Codes:
        """Encode vectors; while `learning`, initialize the codes if needed, and update them.

        Args:
            z: vectors, float `[…, D]`, in any precision.

        Returns:
            Codes; the quantized vectors pass a gradient to `z`, in eval mode too. While learning, a
            vector that is not finite gives a loss that is not finite, which the training loop
            detects, and does not change the codes; so does a frozen codebook in training mode on a
            device.

        Raises:
            ValueError: for vectors of another size; for vectors that are not finite, unless the
                loss reports them; when the codes are not initialized, and this pass may not
                initialize them; when there are fewer vectors than codes to initialize.
        """
        with full_precision(z):
            x = self._input(z)
            encoding = self._encode(x.detach(), x.requires_grad and torch.is_grad_enabled())
            loss = commitment_loss(x, encoding.residuals_ND, encoding.energies_S, self.commitment)
            quantized = carry_gradient(x, encoding.quantized_ND, self.gradient)
            energy = torch.dot(x.detach().view(-1), x.detach().view(-1)).clamp_min(1e-30)
        return Codes(
            quantized.to(z.dtype).view(z.shape),
            encoding.indices_NS.view(*z.shape[:-1], self.num_levels),
            loss,
            encoding.usage_SK,
            encoding.energies_S / energy,
        )

    @torch.no_grad()
    def decode(self, indices: Tensor) -> Tensor:
        """Return the sum of the codes of the first s ≤ S levels, `[…, s]` → float32 `[…, D]`."""
        self._check_indices(indices)
        self._need_ready()
        levels = indices.reshape(-1, indices.shape[-1]).long().unbind(1)
        total = self._codes(0, levels[0])
        for level, chosen in enumerate(levels[1:], 1):
            total = total.add_(self._codes(level, chosen))
        return total.view(*indices.shape[:-1], self.dim)

    @torch.no_grad()
    def nearest(self, z: Tensor, k: int) -> tuple[Tensor, Tensor]:
        self._check_k(k)
        self._need_ready()
        with full_precision(z):
            residual = self._input(z)
            self._need_finite(residual.isfinite().all())
            by_level = []
            for level in range(self.num_levels):
                vectors = self.books.vectors[self._codebook(level)]
                compared = self._to_compare(residual)
                by_level.append(k_nearest(compared, vectors, k, on_sphere=self.books.on_sphere))
                residual = residual - self._codes(level, by_level[-1][0][:, 0])
        shape = (*z.shape[:-1], self.num_levels, k)
        indices, distances = (
            torch.stack(parts, 1).view(shape) for parts in zip(*by_level, strict=True)
        )
        return indices, distances

    @torch.no_grad()
    def initialize(self, z: Tensor) -> None:
        """Initialize the codes, level by level, from vectors `[…, D]` of all ranks.

        All ranks call it together. Each level fits its codes to the residual of the last. In a
        shared codebook each level fits an equal part of the codes, so that there are codes for the
        residuals of every level, which are much shorter than the vectors.
        """
        with full_precision(z):
            x = self._input(z)
            need_finite(torch.tensor(dist.all_true(bool(x.isfinite().all()), x.device)))
            residual = x
            for level in range(self.num_levels):
                codebook, start, stop = level, 0, self.num_codes
                if self.shared:
                    codebook, start, stop = (
                        0,
                        *(self.num_codes * part // self.num_levels for part in (level, level + 1)),
                    )
                compared = self._to_compare(residual)
                codes = self.books.fit(compared, codebook, start, stop)
                residual = residual - codes[nearest(compared, codes)[0]]
            self.books.start()

    def check_ranks(self) -> None:
        sums = dist.gather(self.books.checksum().unsqueeze(0))
        if bool((sums != sums[0]).any()):
            raise RuntimeError(
                f"All {dist.world_size()} ranks must have the same codes, got different ones "
                f"(checksums {sums.tolist()}). Load the same checkpoint on each rank, and call the "
                "codebook on all ranks in every step."
            )

    def _input(self, z: Tensor) -> Tensor:
        x = self._rows(z)
        return unit(x) if self.compared == "directions" else x

    def _to_compare(self, residual_ND: Tensor, out: Tensor | None = None) -> Tensor:
        """Return what is compared with the codes; `out` is memory for it if it is computed."""
        return (
            torch.mul(residual_ND, inverse_length(residual_ND), out=out)
            if self.compared == "residual_directions"
            else residual_ND
        )

    def _codebook(self, level: int) -> int:
        return 0 if self.shared else level

    def _codes(self, level: int, indices_N: Tensor) -> Tensor:
        return self.books.vectors[self._codebook(level)].index_select(0, indices_N)

    def _need_ready(self) -> None:
        if not self.ready:
            raise ValueError(
                "The codebook must be initialized before it encodes, got one without codes. Call "
                "initialize(vectors), load a checkpoint, or run a training step that is not frozen."
            )

    @torch.compiler.disable  # type: ignore[untyped-decorator]
    @torch.no_grad()
    def _encode(self, x_ND: Tensor, sum_residuals: bool) -> _Encoding:
        if self.learning and not self.ready:
            self.initialize(x_ND)
        self._need_ready()
        step_sums = self.books.begin(len(x_ND)) if self.learning else None
        num_levels = self.num_levels
        indices = x_ND.new_empty(num_levels, len(x_ND), dtype=torch.int64)
        usage = x_ND.new_zeros(num_levels, self.num_codes)
        energies, ones = x_ND.new_zeros(num_levels), x_ND.new_ones(1).expand(len(x_ND))
        residual, quantized, residuals = x_ND.clone(), torch.empty_like(x_ND), x_ND
        # One buffer for all levels: on a CPU, new memory costs more than filling it.
        scratch = torch.empty_like(x_ND) if num_levels > 1 else quantized
        for level in range(num_levels):
            codebook, compared = self._codebook(level), self._to_compare(residual, scratch)
            indices[level] = self.books.nearest(codebook, compared)
            if step_sums is not None:
                part = slice(level, None, num_levels) if self.shared else slice(None)
                self.books.add(step_sums, codebook, compared, indices[level], part)
            usage[level].index_add_(0, indices[level], ones)
            codes = quantized if level == 0 else scratch
            torch.index_select(self.books.vectors[codebook], 0, indices[level], out=codes)
            residual.sub_(codes)
            torch.dot(residual.view(-1), residual.view(-1), out=energies[level])
            if level > 0:
                quantized.add_(codes)
            if sum_residuals:
                residuals = (
                    (residual.clone() if num_levels > 1 else residual)
                    if level == 0
                    else residuals.add_(residual)
                )
        if step_sums is not None:
            self.books.learn(step_sums)
        else:
            self._need_finite(energies.isfinite().all())
        return _Encoding(indices.t(), quantized, residuals, energies, usage)


def _check_init(init: Init | float) -> None:
    if isinstance(init, str):
        one_of("init", init, "kmeans", "uniform_sphere", "data", "uniform")
    elif not 0.0 < init < float("inf"):
        raise ValueError(
            "`init` must be a name, or a positive number, the upper end of uniform codes, got "
            f"{init}. Try kmeans."
        )


def one_of(name: str, value: str, *choices: str) -> None:
    """Refuse a value that is not among the choices.

    Raises:
        ValueError: with the choices.
    """
    if value not in choices:
        raise ValueError(
            f"`{name}` must be one of {', '.join(choices)}, got {value!r}. Try {choices[0]}."
        )


_EMA = EMA()


class VQ(LearnedCodebook):
    """Quantize each vector to the nearest of K learned codes.

    Args:
        dim: dimensions of the vectors.
        num_codes: number of codes, 2 or more.
        metric: `cosine`, nearest by angle with quantized vectors of length 1, or `euclidean`.
        init: `kmeans` or `data` (random vectors) of the first batch, which must have at least one
            vector per code; `uniform_sphere`, random directions; or `uniform`, values in [0, 1),
            for which a number gives another upper end, as in BRIDLE's source.
        ema: moving averages of the codes, and replacement of unused codes.
        commitment: weight of the loss that pulls vectors to their codes.
        gradient: `straight_through`, or the `rotation` trick.
        seed: seed of all draws, any whole number.
    """

    def __init__(
        self,
        *,
        dim: int = 256,
        num_codes: int = 1024,
        metric: Literal["cosine", "euclidean"] = "cosine",
        init: Init | float = "kmeans",
        ema: EMA = _EMA,
        commitment: float = 0.25,
        gradient: Gradient = "straight_through",
        seed: int = 0,
    ) -> None:
        one_of("metric", metric, "cosine", "euclidean")
        super().__init__(
            dim=dim,
            num_codes=num_codes,
            num_levels=1,
            shared=False,
            compared="directions" if metric == "cosine" else "vectors",
            init=init,
            ema=ema,
            commitment=commitment,
            gradient=gradient,
            seed=seed,
        )


class RQ(LearnedCodebook):
    """Quantize each vector by S levels of K learned codes.

    Args:
        dim: dimensions of the vectors.
        num_codes: number of codes of each level, 2 or more.
        num_levels: number of codes of one vector.
        residual: `plain`, nearest by Euclidean distance, or `bridle`, nearest by angle at each
            level.
        shared: one codebook for all levels, instead of one per level.
        init: `kmeans` or `data` (random vectors) of the first batch, which must have at least one
            vector per code; `uniform_sphere`, random directions; or `uniform`, values in [0, 1),
            for which a number gives another upper end, as in BRIDLE's source.
        ema: moving averages of the codes, and replacement of unused codes.
        commitment: weight of the loss that pulls vectors to the codes of every level.
        gradient: `straight_through`, or the `rotation` trick.
        seed: seed of all draws, any whole number.
    """

    def __init__(
        self,
        *,
        dim: int = 256,
        num_codes: int = 256,
        num_levels: int = 4,
        residual: Literal["plain", "bridle"] = "plain",
        shared: bool = False,
        init: Init | float = "kmeans",
        ema: EMA = _EMA,
        commitment: float = 0.25,
        gradient: Gradient = "straight_through",
        seed: int = 0,
    ) -> None:
        one_of("residual", residual, "plain", "bridle")
        super().__init__(
            dim=dim,
            num_codes=num_codes,
            num_levels=num_levels,
            shared=shared,
            compared="vectors" if residual == "plain" else "residual_directions",
            init=init,
            ema=ema,
            commitment=commitment,
            gradient=gradient,
            seed=seed,
        )
