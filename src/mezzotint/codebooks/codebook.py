"""The contract of a codebook, and the checks that all codebooks share.

A codebook maps vectors to codes, and codes to vectors. Channels are the last dimension, after any
others. All arithmetic is float32, inside autocast too: half precision changes codes, and overflows
in their sums.
"""

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import ClassVar, Self

import torch
from torch import Tensor, nn

from mezzotint.recipe.component import Component
from mezzotint.types import Codes


class Codebook(nn.Module, Component):
    """Map vectors to codes, and codes to vectors.

    Attributes:
        dim: dimensions of the input vectors.
        out_dim: dimensions of the quantized vectors.
        num_levels: number of codes S of one vector.
        num_codes: number of codes K of each level.
        frozen: whether nothing changes the codebook, even in training mode; see `freeze`.
        differentiable: whether quantized vectors pass a gradient to the input.
    """

    differentiable: ClassVar[bool] = True

    def __init__(
        self, dim: int, num_codes: int, num_levels: int = 1, out_dim: int | None = None
    ) -> None:
        super().__init__()
        if num_codes < 2:
            raise ValueError(f"`num_codes` must be 2 or more, got {num_codes}. Try 256.")
        if dim < 1 or num_levels < 1:
            raise ValueError(
                "`dim` and `num_levels` must be 1 or more, "
                f"got {dim} and {num_levels}. Try 256 and 4."
            )
        self.dim, self.num_codes, self.num_levels = dim, num_codes, num_levels
        self.out_dim = dim if out_dim is None else out_dim
        self.frozen = False

    @property
    def ready(self) -> bool:
        """Whether it can encode; if not, call `initialize`, or run a training step."""
        return True

    @property
    def learning(self) -> bool:
        """Whether a forward pass changes the codebook: in training mode, and not frozen."""
        return self.training and not self.frozen

    def initialize(self, z: Tensor) -> None:
        """Initialize the codes from vectors `[…, D]` of all ranks, in any mode."""

    def forward(self, z: Tensor) -> Codes:
        """Encode vectors.

        Args:
            z: vectors, float `[…, D]`, in any precision.

        Returns:
            Codes; the quantized vectors pass a gradient to `z`, in eval mode too.
        """
        raise TypeError(f"{type(self).__name__} has no forward")

    def decode(self, indices: Tensor) -> Tensor:
        """Return the vectors of codes.

        Args:
            indices: codes of the first s ≤ S levels, integers `[…, s]`.

        Returns:
            Vectors, float32 `[…, out_dim]`; for all levels they equal the quantized vectors of
            `forward` for float32 inputs.
        """
        raise TypeError(f"{type(self).__name__} has no decode")

    def nearest(self, z: Tensor, k: int) -> tuple[Tensor, Tensor]:
        """Return the k nearest codes of each level, nearest first.

        Args:
            z: vectors, float `[…, D]`.
            k: number of codes, 1 to K.

        Returns:
            Indices, int64 `[…, S, k]`, and squared distances `[…, S, k]`. The first is the code of
            `forward`, and each level uses the residual of these first codes.
        """
        raise TypeError(f"{type(self).__name__} has no nearest")

    def soft_targets(self, z: Tensor, k: int, temperature: float) -> tuple[Tensor, Tensor]:
        """Return the nearest codes with probabilities `softmax(−distance² / temperature)`.

        Args:
            z: vectors, float `[…, D]`.
            k: number of codes with a probability, 1 to K.
            temperature: temperature above 0, in units of squared distance.

        Returns:
            Indices, int64 `[…, S, k]`, and probabilities, float32 `[…, S, k]`, that sum to 1.
        """
        if not temperature > 0.0:
            raise ValueError(
                f"`temperature` must be above 0, got {temperature}. Use k=1 for a single code."
            )
        indices, distances = self.nearest(z, k)
        return indices, (-distances / temperature).softmax(-1)

    def freeze(self, frozen: bool = True) -> Self:
        """Keep the codebook constant (or let it learn again), whatever `train()` sets."""
        self.frozen = frozen
        return self

    @contextmanager
    def freezing(self) -> Iterator[Self]:
        """Freeze the codebook inside a `with` block."""
        before = self.frozen
        try:
            yield self.freeze()
        finally:
            self.freeze(before)

    def check_ranks(self) -> None:
        """Raise `RuntimeError` on all ranks if their codes differ; all ranks call it together."""

    def _rows(self, z: Tensor) -> Tensor:
        """Return vectors `[…, D]` as float32 `[N, D]`, differentiable."""
        if not z.is_floating_point():
            raise TypeError(
                f"Vectors must be floating-point numbers, got {z.dtype}. Call .float() first."
            )
        if z.dim() == 0 or z.shape[-1] != self.dim:
            raise ValueError(
                f"Vectors must have shape (…, {self.dim}), channels last, got {tuple(z.shape)}. "
                f"Project them to {self.dim} dimensions, or construct the codebook with "
                f"dim={z.shape[-1] if z.dim() else 1}."
            )
        return z.reshape(-1, self.dim).float().contiguous()

    def _check_k(self, k: int) -> None:
        if not 1 <= k <= self.num_codes:
            raise ValueError(
                f"`k` must be 1 to {self.num_codes}, the number of codes of a level, got {k}. "
                "Use a smaller k."
            )

    def _need_finite(self, finite: Tensor) -> None:
        """Refuse vectors that are not all finite, but never let a training step wait for a device.

        There the loss of `forward` is NaN instead, which the training loop detects.
        """
        if not self.training or finite.device.type == "cpu":
            need_finite(finite)

    def _check_indices(self, indices: Tensor) -> None:
        if (
            indices.is_floating_point()
            or indices.dim() == 0
            or not 1 <= indices.shape[-1] <= self.num_levels
        ):
            raise ValueError(
                f"Indices must be integers (…, s), with s from 1 to {self.num_levels} levels, got "
                f"{indices.dtype} of shape {tuple(indices.shape)}. "
                "Pass `Codes.indices`, or its first levels."
            )


def full_precision(z: Tensor) -> AbstractContextManager[None]:
    """Turn autocast off on the device of these vectors."""
    return torch.autocast(z.device.type, enabled=False)


class NotFiniteVectors(ValueError, FloatingPointError):
    """Vectors with NaN or inf: the training loop leaves such a step out."""


def need_finite(finite: Tensor) -> None:
    """Refuse vectors that are not all finite; waits for the device.

    Raises:
        NotFiniteVectors: when `finite` is false.
    """
    if not bool(finite):
        raise NotFiniteVectors(
            "Vectors must be finite, got NaN or inf. Find the layer that produces them, or train "
            "in bf16, which overflows less than fp16."
        )
