"""The contract of a codebook, and what all of them check.

A codebook turns vectors into codes, and codes into vectors again. Channels come last; any
dimensions may stand before. All arithmetic is float32, inside autocast too: half precision changes
codes, and overflows in their sums.
"""

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Self

import torch
from torch import Tensor, nn

from mezzotint.recipe.component import Component
from mezzotint.types import Codes


class Codebook(nn.Module, Component):
    """Turns vectors into codes, and codes into vectors.

    Attributes:
        dim: width of the vectors it takes.
        out_dim: width of the vectors it gives.
        num_levels: S, how many codes stand for one vector.
        num_codes: K, how many codes a level has.
        frozen: nothing is written, whatever `train()` says; see `freeze`.
    """

    def __init__(
        self, dim: int, num_codes: int, num_levels: int = 1, out_dim: int | None = None
    ) -> None:
        super().__init__()
        if num_codes < 2:
            raise ValueError(
                f"got num_codes={num_codes}; allowed is 2 or more: one code tells nothing, take e.g. 256"
            )
        if dim < 1 or num_levels < 1:
            raise ValueError(
                f"got dim={dim}, num_levels={num_levels}; allowed is 1 or more of each: take e.g. 256 and 4"
            )
        self.dim, self.num_codes, self.num_levels = dim, num_codes, num_levels
        self.out_dim = dim if out_dim is None else out_dim
        self.frozen = False

    @property
    def ready(self) -> bool:
        """Whether it can make codes already; if not, `initialize`, or a forward pass in training, makes it so."""
        return True

    @property
    def learning(self) -> bool:
        """Whether a forward pass changes the books: in training mode, and not frozen."""
        return self.training and not self.frozen

    def initialize(self, z: Tensor) -> None:
        """Start the books from vectors `[…, D]` of all ranks, in any mode; again, if they had been started."""

    def forward(self, z: Tensor) -> Codes:
        """Codes of vectors.

        Args:
            z: float `[…, D]`, of any precision.

        Returns:
            Codes, whose vectors carry a gradient to `z`, in eval mode too.
        """
        raise TypeError(f"{type(self).__name__} has no forward")

    def decode(self, indices: Tensor) -> Tensor:
        """The vectors of codes.

        Args:
            indices: whole numbers `[…, s]`, of the first s ≤ S levels.

        Returns:
            float32 `[…, out_dim]`; of all levels, exactly what `forward` gave for float32 vectors.
        """
        raise TypeError(f"{type(self).__name__} has no decode")

    def nearest(self, z: Tensor, k: int) -> tuple[Tensor, Tensor]:
        """Several codes for each level: the nearest ones, nearest first.

        Args:
            z: float `[…, D]`.
            k: how many, 1 to K.

        Returns:
            int64 `[…, S, k]`, and squared distances `[…, S, k]`. The first is the code of
            `forward`, and levels follow its path.
        """
        raise TypeError(f"{type(self).__name__} has no nearest")

    def soft_targets(self, z: Tensor, k: int, temperature: float) -> tuple[Tensor, Tensor]:
        """The nearest codes with probabilities, a target softer than one code: `softmax(−distance² / temperature)`.

        Args:
            z: float `[…, D]`.
            k: how many codes share the probability, 1 to K.
            temperature: above 0; in units of squared distance.

        Returns:
            int64 `[…, S, k]`, and float32 `[…, S, k]` that sum to 1 over the last dimension.
        """
        if not temperature > 0.0:
            raise ValueError(
                f"got temperature={temperature}; allowed is above 0: for a single code use k=1"
            )
        indices, distances = self.nearest(z, k)
        return indices, (-distances / temperature).softmax(-1)

    def freeze(self, frozen: bool = True) -> Self:
        """Write nothing from here on (or again), whatever mode the modules around it are put into."""
        self.frozen = frozen
        return self

    @contextmanager
    def freezing(self) -> Iterator[Self]:
        """Frozen inside the block; afterwards as before."""
        before = self.frozen
        try:
            yield self.freeze()
        finally:
            self.freeze(before)

    def check_ranks(self) -> None:
        """Raise `RuntimeError` on every rank when ranks hold different books; all of them call it together."""

    def _rows(self, z: Tensor) -> Tensor:
        """Float32 `[N, D]` of vectors `[…, D]`, differentiable."""
        if not z.is_floating_point():
            raise TypeError(
                f"got vectors of {z.dtype}; allowed are floating-point numbers: call .float() first"
            )
        if z.dim() == 0 or z.shape[-1] != self.dim:
            raise ValueError(
                f"got vectors of shape {tuple(z.shape)}; allowed is (…, {self.dim}), channels last: project them to "
                f"width {self.dim}, or construct the codebook with dim={z.shape[-1] if z.dim() else 1}"
            )
        return z.reshape(-1, self.dim).float().contiguous()

    def _check_k(self, k: int) -> None:
        if not 1 <= k <= self.num_codes:
            raise ValueError(
                f"got k={k}; allowed is 1 to {self.num_codes}, the codes of a level: take fewer"
            )

    def _check_indices(self, indices: Tensor) -> None:
        if (
            indices.is_floating_point()
            or indices.dim() == 0
            or not 1 <= indices.shape[-1] <= self.num_levels
        ):
            raise ValueError(
                f"got indices {indices.dtype} of shape {tuple(indices.shape)}; allowed are whole numbers (…, s), "
                f"with s from 1 to {self.num_levels} levels: pass `Codes.indices`, or its first levels"
            )


def full_precision(z: Tensor) -> AbstractContextManager[None]:
    """No autocast on the device of these vectors."""
    return torch.autocast(z.device.type, enabled=False)


def need_finite(finite: Tensor) -> None:
    """Refuse vectors of which not all are finite; waits for the device."""
    if not bool(finite):
        raise ValueError(
            "got vectors with NaN or infinity; allowed are finite numbers: look for the layer that made them, or "
            "for an overflow of fp16 (bf16 has none)"
        )
