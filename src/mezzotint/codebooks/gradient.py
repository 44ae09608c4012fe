"""Gradients through a codebook, past the choice of a code, which has no gradient.

`straight_through` passes the gradient of a code to the input unchanged (van den Oord et al. 2017,
arXiv 1711.00937). `rotation` (Fifty et al. 2024, arXiv 2410.06424) treats the code as the input,
rotated and scaled, and passes the gradient back through this constant rotation: the gradient keeps
its angle to the vector. With residual quantization there is one rotation, from the input to the sum
of its codes, instead of one per level, which would add S gradients.

Both return the codes exactly: `z + (q − z)` would round them. All functions work on float32 rows
`[N, D]`.
"""

from typing import Any, Literal

import torch
from torch import Tensor

Gradient = Literal["straight_through", "rotation"]
SMALLEST = 1e-6
"""Length below which a vector has no direction."""


class _StraightThrough(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, quantized: Tensor) -> Tensor:
        return quantized.view_as(quantized)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        return gradient, None


class _Rotation(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, quantized: Tensor) -> Tensor:
        ctx.save_for_backward(x, quantized)
        return quantized.view_as(quantized)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        x, quantized = ctx.saved_tensors
        length, target = x.norm(dim=1, keepdim=True), quantized.norm(dim=1, keepdim=True)
        source, goal = x / length.clamp_min(SMALLEST), quantized / target.clamp_min(SMALLEST)
        middle = source + goal
        middle = middle / middle.norm(dim=1, keepdim=True).clamp_min(SMALLEST)
        # R = 1 − 2 m mᵀ + 2 q̂ x̂ᵀ rotates x̂ to q̂; its transpose rotates the gradient back.
        turned = gradient - 2.0 * middle * (middle * gradient).sum(1, keepdim=True)
        turned.add_(2.0 * source * (goal * gradient).sum(1, keepdim=True))
        turned.mul_(target / length.clamp_min(SMALLEST))
        defined = (length >= SMALLEST) & (target >= SMALLEST)
        return torch.where(defined, turned, gradient), None


# In a compiled graph an output that aliases an input becomes a view of it and loses the gradient. A
# copy would fix this, but costs memory; outside the graph it is not needed.
@torch.compiler.disable  # type: ignore[untyped-decorator]
def carry_gradient(x: Tensor, quantized: Tensor, kind: Gradient) -> Tensor:
    """Return the codes, with a gradient to their vectors.

    Args:
        x: vectors `[N, D]`.
        quantized: codes of the vectors `[N, D]`, without gradient.
        kind: kind of gradient. For a vector or code near 0, a rotation is straight-through.
    """
    function = _StraightThrough if kind == "straight_through" else _Rotation
    out: Tensor = function.apply(x, quantized)
    return out


def inverse_length(x: Tensor) -> Tensor:
    """Return `1 / |x|` along the last dimension, which is kept; 0 for vectors near 0."""
    length = x.norm(dim=-1, keepdim=True)
    return torch.where(length < SMALLEST, 0.0, length.reciprocal())


class _Unit(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        inverse = inverse_length(x)
        direction = x * inverse
        ctx.save_for_backward(direction, inverse)
        return direction

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        direction, inverse = ctx.saved_tensors
        along = (gradient * direction).sum(-1, keepdim=True)
        to_x: Tensor = (gradient - direction * along) * inverse
        return to_x


def unit(x: Tensor) -> Tensor:
    """Scale vectors to length 1; vectors near 0 become 0, and get no gradient."""
    out: Tensor = _Unit.apply(x)
    return out


class _Commitment(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, residuals: Tensor, loss: Tensor, factor: float) -> Tensor:
        ctx.save_for_backward(residuals)
        ctx.factor = factor
        return loss.view_as(loss)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None, None]:
        (residuals,) = ctx.saved_tensors
        return residuals * (gradient * ctx.factor), None, None, None


def commitment_loss(x: Tensor, residuals: Tensor, energies: Tensor, weight: float) -> Tensor:
    """Return `weight · mean over levels of mean((residual − code)²)`, with a gradient to `x` only.

    The residual of a level is the vector minus constants, so the gradient of all levels is the sum
    of their residuals, and one tensor is stored for all of them.

    Args:
        x: vectors `[N, D]`.
        residuals: sum of the residuals after each level, `[N, D]`.
        energies: sum of squares of the residual after each level, `[S]`.
        weight: weight of the loss.
    """
    values = max(1, x.numel()) * len(energies)
    loss: Tensor = _Commitment.apply(
        x, residuals, energies.sum() * (weight / values), 2.0 * weight / values
    )
    return loss
