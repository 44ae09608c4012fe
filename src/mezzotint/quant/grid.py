"""The grids that values are rounded to: from a range and a number of bits to scale, zero point and codes.

| name | codes at b bits | scale | zero point | whose |
|---|---|---|---|---|
| `ssql_symmetric` | −2^(b−1) … 2^(b−1) − 1 | max |x| / ((2^b − 1) / 2) | 0 | SSQL's weights |
| `ssql_asymmetric` | 0 … 2^b − 1 | (max − min) / (2^b − 1) | −round(min / scale), unbounded | SSQL's activations |
| `symmetric` | −(2^(b−1) − 1) … 2^(b−1) − 1 | max |x| / (2^(b−1) − 1) | 0 | weights in the runtimes |
| `affine` | 0 … 2^b − 1 | (max − min) / (2^b − 1), with 0 in the range | a code | activations in the runtimes |

SSQL's divisor is half a code wider than its largest code, so the largest positive weight is clipped and the most
negative one stands exactly between two codes. Its asymmetric grid does not contain 0 unless the range does.
"""

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from mezzotint.quant.ste import fake_quantize, round_ste

Scheme = Literal["ssql_symmetric", "ssql_asymmetric", "symmetric", "affine"]
SYMMETRIC: tuple[Scheme, ...] = ("ssql_symmetric", "symmetric")
Bits = int | Tensor

SMALLEST = 1e-8  # a float32 keeps its relative precision through a division by it
"""Least scale: a constant or dead channel keeps its value instead of dividing by zero."""


@dataclass(frozen=True)
class Grid:
    """A uniform grid, or one for each row of a tensor.

    Attributes:
        scale: step, above 0; `[R, 1]` for R rows.
        zero_point: code of 0, of the scale's shape; `None` is 0.
        low: lowest code, a tensor without dimensions.
        high: highest code.
        divide: see `fake_quantize`.
    """

    scale: Tensor
    zero_point: Tensor | None
    low: Tensor
    high: Tensor
    divide: bool = True

    def quantize(self, x: Tensor) -> Tensor:
        """The nearest point of the grid, differentiable."""
        return fake_quantize(x, self.scale, self.zero_point, self.low, self.high, divide=self.divide)

    def towards(self, x: Tensor, up: Tensor) -> Tensor:
        """Move each value to the point below it, or to the one above where `up` is 1; `quantize` then leaves it there.

        The gradient is that of the identity, so that `quantize` behaves as it does for the values themselves.
        """
        point = (torch.floor(x / self.scale) + up) * self.scale
        return x + (point - x).detach() if x.requires_grad else point

    @torch.no_grad()
    def codes(self, x: Tensor) -> Tensor:
        """Codes of the nearest points, int16 of the shape of `x`; `values` undoes it."""
        codes = (x / self.scale if self.divide else x * (1.0 / self.scale)).round()
        if self.zero_point is not None:
            codes += self.zero_point
        return codes.clamp(self.low, self.high).to(torch.int16)

    def values(self, codes: Tensor) -> Tensor:
        """The points that codes stand for: exactly what `quantize` returns."""
        centred = codes.float() if self.zero_point is None else codes.float() - self.zero_point
        return centred * self.scale


def make_grid(scheme: Scheme, low: Tensor, high: Tensor, bits: Bits) -> Grid:
    """The grid over a range.

    Args:
        scheme: which.
        low: least value of each range, `[R, 1]` or without dimensions.
        high: greatest value.
        bits: width, 2 to 8; as a tensor without dimensions, one compiled graph serves every width.

    Returns:
        A grid whose scale is differentiable in `low` and `high`.
    """
    if not isinstance(bits, Tensor):
        bits = low.new_tensor(float(bits))
    count = torch.exp2(bits).round()
    if scheme in SYMMETRIC:
        largest = torch.maximum(low.abs(), high.abs())
        half = count / 2
        if scheme == "symmetric":
            return Grid((largest / (half - 1)).clamp_min(SMALLEST), None, 1 - half, half - 1)
        return Grid((largest / ((count - 1) / 2)).clamp_min(SMALLEST), None, -half, half - 1)
    if scheme == "affine":
        low, high = low.clamp_max(0.0), high.clamp_min(0.0)
    scale = ((high - low) / (count - 1)).clamp_min(SMALLEST)
    return Grid(scale, round_ste(-low / scale), torch.zeros_like(count), count - 1)
