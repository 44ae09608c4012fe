"""Gradients through a codebook: past the choice of a code, which has none.

`straight_through` gives the input the gradient of its code unchanged (van den Oord et al. 2017,
arXiv 1711.00937). `rotation` (Fifty et al. 2024, arXiv 2410.06424) takes the code for the input,
rotated and stretched, and sends the gradient back through that rotation, held constant; the angle
between gradient and code is the angle between what the input receives and the input. With residual
quantization it is taken once, from the input to the sum of its codes, rather than once a level,
which would add up S gradients.

Each returns the codes exactly: `z + (q − z)` would round them. Everything here works on float32
rows `[N, D]`.
"""

from typing import Any, Literal

import torch
from torch import Tensor

Gradient = Literal["straight_through", "rotation"]
SMALLEST = 1e-6
"""Vectors shorter than this have no direction."""


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
        # R = 1 − 2 m mᵀ + 2 q̂ x̂ᵀ takes x̂ to q̂; its transpose takes the gradient back.
        turned = gradient - 2.0 * middle * (middle * gradient).sum(1, keepdim=True)
        turned.add_(2.0 * source * (goal * gradient).sum(1, keepdim=True))
        turned.mul_(target / length.clamp_min(SMALLEST))
        defined = (length >= SMALLEST) & (target >= SMALLEST)
        return torch.where(defined, turned, gradient), None


# A compiled graph returns an output that aliases an input as a view of that input, and loses the
# gradient. A copy would cost memory; outside the graph it is not needed.
@torch.compiler.disable  # type: ignore[untyped-decorator]
def carry_gradient(x: Tensor, quantized: Tensor, kind: Gradient) -> Tensor:
    """The codes, with a gradient to the vectors they stand for.

    Args:
        x: vectors `[N, D]`.
        quantized: their codes `[N, D]`, without gradient.
        kind: how the gradient passes. Where vector or code are near 0, a rotation is straight
            through.
    """
    function = _StraightThrough if kind == "straight_through" else _Rotation
    out: Tensor = function.apply(x, quantized)
    return out


def inverse_length(x: Tensor) -> Tensor:
    """`1 / |x|` along the last dimension, which is kept; 0 for vectors near 0."""
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
    """Vectors of length 1 along the last dimension; those near 0 become 0, and get no gradient."""
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
    """`weight · mean over levels of mean((r_before − code)²)`, whose gradient reaches the vectors and no code.

    What is left after a level is the vector minus constants, so the gradient of all levels is the
    sum of what they leave, and one tensor is kept for them all.

    Args:
        x: vectors `[N, D]`.
        residuals: sum over levels of what each leaves, `[N, D]`.
        energies: sum of squares of what each level leaves, `[S]`.
        weight: of the loss.
    """
    values = max(1, x.numel()) * len(energies)
    loss: Tensor = _Commitment.apply(
        x, residuals, energies.sum() * (weight / values), 2.0 * weight / values
    )
    return loss
