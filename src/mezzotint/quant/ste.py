"""Fake quantization: round to a grid in the forward pass, let the gradient through in the backward pass.

One autograd function serves every quantizer of the package. Its gradient is the straight-through estimator (Bengio et
al. 2013, arXiv 1308.3432) with an explicit inclusive mask: 1 where the rounded code lies within the grid, *its ends
included*, and 0 outside. `torch.clamp` is not used for this, because its gradient at its bounds changed in torch 2.14,
and with 2 bits half of all codes stand on a bound. Forward and gradient equal `torch.fake_quantize_per_tensor_affine`
and `torch.fake_quantize_per_channel_affine` bit for bit; beyond those, the scale and the zero point may be learnt.

A value halfway between two codes shows how `x / scale` is computed: torch's kernels multiply by the reciprocal, SSQL's
source and ONNX's `QuantizeLinear` divide. The largest weight of a channel stands exactly halfway on SSQL's grid, so
both ways are there.
"""

from typing import Any

import torch
from torch import Tensor

Number = float | Tensor


class _FakeQuantize(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, x: Tensor, scale: Tensor, zero_point: Tensor | None, low: Number, high: Number, divide: bool
    ) -> Tensor:
        codes = (torch.div(x, scale) if divide else torch.mul(x, 1.0 / scale)).round_()
        if zero_point is not None:
            codes.add_(zero_point)
        kept = codes.clamp(low, high)  # type: ignore[arg-type]
        inside = codes == kept
        if zero_point is not None:
            kept.sub_(zero_point)
        ctx.bounds_learnt = ctx.needs_input_grad[1] or (zero_point is not None and ctx.needs_input_grad[2])
        ctx.has_zero_point = zero_point is not None
        if ctx.bounds_learnt:
            ctx.save_for_backward(inside, x, scale, kept)
            return kept * scale
        ctx.save_for_backward(inside)
        return kept.mul_(scale)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        if not ctx.bounds_learnt:
            (inside,) = ctx.saved_tensors
            return gradient * inside, None, None, None, None, None
        inside, x, scale, kept = ctx.saved_tensors
        passed = gradient * inside
        # x̂ = s · k with k = clip(round(x / s) + z) − z, so ∂x̂/∂s = k − [inside] · x / s and ∂x̂/∂z = −s · [outside].
        to_scale = torch.addcmul(gradient * kept, passed, x / scale, value=-1.0).sum_to_size(scale.shape)
        to_zero = None
        if ctx.has_zero_point and ctx.needs_input_grad[2]:
            to_zero = ((passed - gradient) * scale).sum_to_size(scale.shape)
        return passed, to_scale, to_zero, None, None, None


def fake_quantize(
    x: Tensor,
    scale: Tensor,
    zero_point: Tensor | None = None,
    low: Number = -128.0,
    high: Number = 127.0,
    *,
    divide: bool = False,
) -> Tensor:
    """The point of a uniform grid that is nearest to each value.

    `x̂ = (clip(round(x / scale) + zero_point, low, high) − zero_point) · scale`, with halves rounded to even.

    Args:
        x: float tensor of any shape.
        scale: step of the grid, above 0, of a shape that broadcasts to `x`. It gets a gradient when it requires one.
        zero_point: code of the value 0, whole numbers as floats, of the shape of `scale`; `None` is 0.
        low: lowest code, a number or a tensor without dimensions (so that a compiled graph serves every width).
        high: highest code.
        divide: compute `x / scale` as a division, as SSQL and ONNX do, rather than by the reciprocal, as torch does.

    Returns:
        Of the shape of `x`. Its gradient is that of the identity where the rounded code lies in `[low, high]`, and 0
        elsewhere; NaN stays NaN and gets no gradient.
    """
    out: Tensor = _FakeQuantize.apply(x, scale, zero_point, low, high, divide)
    return out


class _RoundSTE(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x.round()

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        return gradient


def round_ste(x: Tensor) -> Tensor:
    """Round half to even; the gradient is that of the identity."""
    out: Tensor = _RoundSTE.apply(x)
    return out


class _ScaleGradient(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, factor: Tensor) -> Tensor:
        ctx.save_for_backward(factor)
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        (factor,) = ctx.saved_tensors
        return gradient * factor, None


def scale_gradient(x: Tensor, factor: Tensor) -> Tensor:
    """The same values, whose gradient is multiplied by a factor."""
    out: Tensor = _ScaleGradient.apply(x, factor)
    return out


class _SignSTE(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, reach: float) -> Tensor:
        ctx.save_for_backward(x.abs() <= reach)
        return torch.where(x >= 0.0, 1.0, -1.0).to(x.dtype)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        (inside,) = ctx.saved_tensors
        return gradient * inside, None


def sign_ste(x: Tensor, reach: float = 1.0) -> Tensor:
    """−1 below 0 and 1 elsewhere; the gradient is that of the identity where |x| ≤ reach, and 0 outside."""
    out: Tensor = _SignSTE.apply(x, reach)
    return out
