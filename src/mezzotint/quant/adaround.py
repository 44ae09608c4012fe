"""Learning which way to round each weight, and which step to round activations with.

AdaRound (Nagel et al. 2020, arXiv 2004.10568): a weight is `s · clip(⌊w / s⌋ + h(v))`, where h is a
sigmoid stretched to −0.1 … 1.1 and cut to 0 … 1 (eq. 23), and v starts so that h is w / s's own
fractional part. A penalty `1 − |2h − 1|^β` (eq. 24) with a falling β drives every h to 0 or 1. What
remains afterwards is one bit a weight.

QDrop (Wei et al. 2022, arXiv 2203.05740): while learning, each activation is left in float with
some probability, so that the rounding does not fit the noise of one particular grid. Activation
steps are learned along (BRECQ, arXiv 2102.05426).
"""

import torch
from torch import Tensor, nn

from mezzotint.quant.fake import Layout, Quantizer
from mezzotint.quant.grid import SYMMETRIC, Grid, Scheme
from mezzotint.quant.observers import MinMax

_LOW, _HIGH = -0.1, 1.1


class AdaRound(Quantizer, kind="adaround"):
    """A soft rounding of one weight over a grid that does not move; stands in for its quantizer while it learns.

    Args:
        weight: float, the layer's own.
        grid: of it, `[R, 1]`.
        layout: of the grid's rows.

    Attributes:
        v: what is learned, of the weight's shape.
    """

    def __init__(self, weight: Tensor, grid: Grid, layout: Layout) -> None:
        super().__init__(layout, "symmetric", MinMax())
        self.mode = "quantize"
        with torch.no_grad():
            self._grid = Grid(
                grid.scale.detach(), grid.zero_point, grid.low, grid.high, grid.divide
            )
            codes = layout.rows(weight) / self._grid.scale
            part = layout.unrows((codes - codes.floor()).clamp(0.01, 0.99), weight.shape)
            self.v = nn.Parameter(torch.logit((part - _LOW) / (_HIGH - _LOW)))

    @property
    def keeps_range(self) -> bool:
        """It is never stored."""
        return False

    def up(self) -> Tensor:
        """h(v): how far each weight is rounded up, 0 to 1."""
        stretched = torch.sigmoid(self.v) * (_HIGH - _LOW) + _LOW
        return torch.where(stretched <= 0.0, 0.0, torch.where(stretched >= 1.0, 1.0, stretched))

    def penalty(self, beta: float) -> Tensor:
        """Mean over weights of `1 − |2h − 1|^β`: 0 when all are decided."""
        return 1.0 - (2.0 * self.up() - 1.0).abs().pow(beta).mean()

    def decided(self) -> Tensor:
        """Which weights are rounded up: bool, of the weight's shape."""
        return self.v >= 0.0

    def quantize(self, x: Tensor) -> Tensor:
        """The weight between the points of its grid, differentiable in v and not in the weight."""
        rows, grid = self.layout.rows(x.detach()), self._grid
        codes = (rows / grid.scale).floor() + self.layout.rows(self.up())
        if grid.zero_point is not None:
            codes = codes + grid.zero_point
        codes = torch.minimum(torch.maximum(codes, grid.low), grid.high)
        if grid.zero_point is not None:
            codes = codes - grid.zero_point
        return self.layout.unrows(codes * grid.scale, x.shape)


class LearnedStep(Quantizer):
    """An activation's grid whose step is learned while its zero point stays; stands in for its quantizer meanwhile.

    Args:
        quantizer: calibrated, at the width that is learned for.
        drop: probability that a value is left in float (QDrop).

    Attributes:
        change: what is learned: the logarithm of the step over what it was, so that one learning
            rate fits all.
        generator: of what is dropped; set before each pass. `None` drops nothing.
    """

    def __init__(self, quantizer: Quantizer, *, drop: float) -> None:
        super().__init__(quantizer.layout, quantizer.scheme, MinMax())
        self.mode, self.drop = "quantize", drop
        self.generator: torch.Generator | None = None
        self._start = quantizer.grid()
        self.change = nn.Parameter(torch.zeros_like(self._start.scale.detach()))

    @property
    def keeps_range(self) -> bool:
        """It is never stored."""
        return False

    def grid(self) -> Grid:
        """With the step as it is now."""
        start = self._start
        return Grid(
            start.scale * self.change.exp(), start.zero_point, start.low, start.high, start.divide
        )

    def quantize(self, x: Tensor) -> Tensor:
        """On the grid, some values dropped from it."""
        out = self.layout.quantize(x, self.grid())
        if self.generator is None or self.drop == 0.0:
            return out
        kept = torch.rand(x.shape, generator=self.generator, device=x.device) < self.drop
        return torch.where(kept, x, out)

    def range(self) -> Tensor:
        """The range over which the quantizer's scheme makes this grid: `[2, R, 1]`."""
        return range_of(self.scheme, self.grid())


@torch.no_grad()
def range_of(scheme: Scheme, grid: Grid) -> Tensor:
    """The range from which `make_grid` makes this grid, to the precision of float32: `[2, R, 1]`."""
    if scheme in SYMMETRIC:
        # the divisor of `symmetric` is its largest code; SSQL's is half a code more
        high = grid.scale * (grid.high if scheme == "symmetric" else grid.high + 0.5)
        return torch.stack([-high, high])
    zero = torch.zeros_like(grid.scale) if grid.zero_point is None else grid.zero_point
    low = -zero * grid.scale
    return torch.stack([low, low + (grid.high - grid.low) * grid.scale])
