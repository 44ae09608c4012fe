"""Quantization grids and fake quantization.

A grid is made from a range and a number of bits; it has a scale, a zero point and integer codes.

| scheme | codes at b bits | scale | zero point |
|---|---|---|---|
| `ssql_symmetric` | −2^(b−1) … 2^(b−1) − 1 | max |x| / ((2^b − 1) / 2) | 0 |
| `ssql_outward` | as `ssql_symmetric` | as there, less 5e-7 of it | 0 |
| `ssql_asymmetric` | 0 … 2^b − 1 | (max − min) / (2^b − 1) | −round(min / scale) |
| `symmetric` | −(2^(b−1) − 1) … 2^(b−1) − 1 | max |x| / (2^(b−1) − 1) | 0 |
| `affine` | 0 … 2^b − 1 | (max − min) / (2^b − 1), 0 in range | a code |

Those of SSQL are its grids for weights and activations; runtimes use the other two.

SSQL divides by half a code more than its largest code, so the largest positive weight is clipped,
and the most negative one lies exactly between two codes: the last bit of a weight decides about a
whole step of the grid and about the gradient. `ssql_outward` rounds both extremes outward, as exact
arithmetic with halves to even does, so that training does not depend on the order of sums. SSQL's
asymmetric grid does not contain 0 unless the range does.

Fake quantization rounds to the grid in the forward pass and passes the gradient in the backward
pass. One autograd function serves every quantizer of the package. Its gradient is the
straight-through estimator (Bengio et al. 2013, arXiv 1308.3432) with an explicit inclusive mask: 1
where the rounded code lies within the grid, *ends included*, and 0 outside. `torch.clamp` is not
used for this, because its gradient at its bounds changed in torch 2.14, and with 2 bits half of all
codes are a bound. Forward and gradient equal `torch.fake_quantize_per_tensor_affine` and
`torch.fake_quantize_per_channel_affine` bit for bit; in addition, scale and zero point can be
learned.

Values halfway between two codes depend on how `x / scale` is computed: torch's kernels multiply by
the reciprocal, SSQL's source and ONNX's `QuantizeLinear` divide. The largest weight of a channel
lies exactly halfway on SSQL's grid, so both variants exist.
"""

from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

Number = float | Tensor


class _FakeQuantize(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        scale: Tensor,
        zero_point: Tensor | None,
        low: Number,
        high: Number,
        divide: bool,
    ) -> Tensor:
        codes = (torch.div(x, scale) if divide else torch.mul(x, 1.0 / scale)).round_()
        if zero_point is not None:
            codes.add_(zero_point)
        kept = codes.clamp(low, high)  # type: ignore[arg-type]
        inside = codes == kept
        if zero_point is not None:
            kept.sub_(zero_point)
        ctx.bounds_learned = ctx.needs_input_grad[1] or (
            zero_point is not None and ctx.needs_input_grad[2]
        )
        ctx.has_zero_point = zero_point is not None
        if ctx.bounds_learned:
            ctx.save_for_backward(inside, x, scale, kept)
            return kept * scale
        ctx.save_for_backward(inside)
        return kept.mul_(scale)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        if not ctx.bounds_learned:
            (inside,) = ctx.saved_tensors
            return gradient * inside, None, None, None, None, None
        inside, x, scale, kept = ctx.saved_tensors
        passed = gradient * inside
        # x̂ = s · k with k = clip(round(x / s) + z) − z, so ∂x̂/∂s = k − [inside] · x / s and
        # ∂x̂/∂z = −s · [outside].
        to_scale = torch.addcmul(gradient * kept, passed, x / scale, value=-1.0).sum_to_size(
            scale.shape
        )
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
    """Round each value to the nearest point of a uniform grid.

    `x̂ = (clip(round(x / scale) + zero_point, low, high) − zero_point) · scale`, with halves
    rounded to even.

    Args:
        x: float tensor of any shape.
        scale: step of the grid, above 0, broadcastable to `x`. It gets a gradient if it requires
            one.
        zero_point: code of the value 0, integers as floats, of the shape of `scale`; `None` is 0.
        low: lowest code, a number or a 0-d tensor (one compiled graph then serves all bits).
        high: highest code.
        divide: compute `x / scale` as a division, as SSQL and ONNX do, instead of multiplying by
            the reciprocal, as torch does.

    Returns:
        Tensor of the shape of `x`. The gradient passes unchanged where the rounded code lies in
        `[low, high]` and is 0 elsewhere; NaN stays NaN and gets no gradient.
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
    """Round half to even, and pass the gradient unchanged."""
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
    """Return the same values, and multiply their gradient by a factor."""
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
    """Return −1 below 0 and 1 elsewhere; the gradient passes where |x| ≤ reach, else it is 0."""
    out: Tensor = _SignSTE.apply(x, reach)
    return out


Scheme = Literal["ssql_symmetric", "ssql_outward", "ssql_asymmetric", "symmetric", "affine"]
SYMMETRIC: tuple[Scheme, ...] = ("ssql_symmetric", "ssql_outward", "symmetric")
BitWidth = int | Tensor

_OUTWARD = 1.0 - 2.0**-21  # more than the errors of a float32 division, and nothing to a weight
SMALLEST = 1e-8  # a float32 keeps its relative precision through a division by it
"""Smallest scale: a constant or dead channel keeps its value instead of dividing by zero."""


@dataclass(frozen=True)
class Grid:
    """Uniform grid, or one grid for each row of a tensor.

    Attributes:
        scale: step, above 0; `[R, 1]` for R rows.
        zero_point: code of 0, of the scale's shape; `None` is 0.
        low: lowest code, a 0-d tensor.
        high: highest code.
        divide: see `fake_quantize`.
    """

    scale: Tensor
    zero_point: Tensor | None
    low: Tensor
    high: Tensor
    divide: bool = True

    def quantize(self, x: Tensor) -> Tensor:
        """Round to the nearest point of the grid, differentiably."""
        return fake_quantize(
            x, self.scale, self.zero_point, self.low, self.high, divide=self.divide
        )

    def toward(self, x: Tensor, up: Tensor) -> Tensor:
        """Move each value to the point below it, or above it where `up` is 1.

        `quantize` leaves these values unchanged. The gradient passes unchanged, so that `quantize`
        has the same gradient as for the values themselves.
        """
        point = (torch.floor(x / self.scale) + up) * self.scale
        return x + (point - x).detach() if x.requires_grad else point

    @torch.no_grad()
    def codes(self, x: Tensor) -> Tensor:
        """Return the codes of the nearest points, int16 like `x`; `values` inverts it."""
        codes = (x / self.scale if self.divide else x * (1.0 / self.scale)).round()
        if self.zero_point is not None:
            codes += self.zero_point
        return codes.clamp(self.low, self.high).to(torch.int16)

    def values(self, codes: Tensor) -> Tensor:
        """Return the values of codes: exactly those that `quantize` returns."""
        centered = codes.float() if self.zero_point is None else codes.float() - self.zero_point
        return centered * self.scale


def make_grid(scheme: Scheme, low: Tensor, high: Tensor, bits: BitWidth) -> Grid:
    """Make the grid over a range.

    Args:
        scheme: scheme of the grid.
        low: smallest value of each range, `[R, 1]` or 0-d.
        high: largest value of each range.
        bits: number of bits, 2 to 8; as a 0-d tensor, one compiled graph serves all bits.

    Returns:
        Grid whose scale is differentiable in `low` and `high`.
    """
    if not isinstance(bits, Tensor):
        bits = low.new_tensor(float(bits))
    count = torch.exp2(bits).round()
    if scheme in SYMMETRIC:
        largest = torch.maximum(low.abs(), high.abs())
        half = count / 2
        if scheme == "symmetric":
            return Grid((largest / (half - 1)).clamp_min(SMALLEST), None, 1 - half, half - 1)
        scale = largest / ((count - 1) / 2)
        if scheme == "ssql_outward":
            scale = scale * _OUTWARD
        return Grid(scale.clamp_min(SMALLEST), None, -half, half - 1)
    if scheme == "affine":
        low, high = low.clamp_max(0.0), high.clamp_min(0.0)
    scale = ((high - low) / (count - 1)).clamp_min(SMALLEST)
    return Grid(scale, round_ste(-low / scale), torch.zeros_like(count), count - 1)
