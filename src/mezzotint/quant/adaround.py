"""Learn the rounding of each weight (AdaRound) and the step of each activation (QDrop, BRECQ).

AdaRound (Nagel et al. 2020, arXiv 2004.10568): a weight is `s · clip(⌊w / s⌋ + h(v))`. h is a
sigmoid stretched to −0.1 … 1.1 and clipped to 0 … 1 (eq. 23). v starts so that h is the fractional
part of w / s. A penalty `1 − |2h − 1|^β` (eq. 24) with a decaying β drives every h to 0 or 1. The
result is one bit per weight: round up or down.

QDrop (Wei et al. 2022, arXiv 2203.05740): during learning each activation stays fp32 with some
probability, so that the rounding does not overfit one particular grid. The activations' steps are
learned as well (BRECQ, arXiv 2102.05426).
"""

import torch
from torch import Tensor, nn

from mezzotint.quant.fake import Layout, Quantizer
from mezzotint.quant.grid import SYMMETRIC, Grid, Scheme
from mezzotint.quant.observers import MinMax

_LOW, _HIGH = -0.1, 1.1


class AdaRound(Quantizer, kind="adaround"):
    """Soft rounding of one weight on a fixed grid; replaces the weight's quantizer during learning.

    Args:
        weight: fp32 weight of the layer.
        grid: grid of the weight, `[R, 1]`.
        layout: layout of the grid's rows.

    Attributes:
        v: learned rounding logits, of the weight's shape.
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
        """False: a soft rounding is never saved."""
        return False

    def rounding(self) -> Tensor:
        """Return h(v), the fraction of a step that each weight is rounded up, 0 to 1."""
        stretched = torch.sigmoid(self.v) * (_HIGH - _LOW) + _LOW
        return torch.where(stretched <= 0.0, 0.0, torch.where(stretched >= 1.0, 1.0, stretched))

    def penalty(self, beta: float) -> Tensor:
        """Return the mean of `1 − |2h − 1|^β`, which is 0 once every h is 0 or 1."""
        return 1.0 - (2.0 * self.rounding() - 1.0).abs().pow(beta).mean()

    def rounded_up(self) -> Tensor:
        """Return which weights are rounded up, bool of the weight's shape."""
        return self.v >= 0.0

    def quantize(self, x: Tensor) -> Tensor:
        """Round the weight softly; the result is differentiable in v and not in the weight."""
        rows, grid = self.layout.rows(x.detach()), self._grid
        codes = (rows / grid.scale).floor() + self.layout.rows(self.rounding())
        if grid.zero_point is not None:
            codes = codes + grid.zero_point
        codes = torch.minimum(torch.maximum(codes, grid.low), grid.high)
        if grid.zero_point is not None:
            codes = codes - grid.zero_point
        return self.layout.unrows(codes * grid.scale, x.shape)


class LearnedStep(Quantizer):
    """Grid of an activation with a learned step and a fixed zero point; replaces its quantizer.

    Args:
        quantizer: calibrated quantizer, set to the bits to learn for.
        drop: probability that a value stays fp32 (QDrop).

    Attributes:
        change: learned log of the ratio of the new step to the old one. In the log domain one
            learning rate fits steps of every size.
        generator: random generator of QDrop, set before each forward pass. `None` drops nothing.
    """

    def __init__(self, quantizer: Quantizer, *, drop: float) -> None:
        super().__init__(quantizer.layout, quantizer.scheme, MinMax())
        self.mode, self.drop = "quantize", drop
        self.generator: torch.Generator | None = None
        self._start = quantizer.grid()
        self.change = nn.Parameter(torch.zeros_like(self._start.scale.detach()))

    @property
    def keeps_range(self) -> bool:
        """False: the learned range is saved by the quantizer that this one replaces."""
        return False

    def grid(self) -> Grid:
        """Return the grid with the current step."""
        start = self._start
        return Grid(
            start.scale * self.change.exp(), start.zero_point, start.low, start.high, start.divide
        )

    def quantize(self, x: Tensor) -> Tensor:
        """Quantize, and leave a random subset in fp32."""
        out = self.layout.quantize(x, self.grid())
        if self.generator is None or self.drop == 0.0:
            return out
        dropped = torch.rand(x.shape, generator=self.generator, device=x.device) < self.drop
        return torch.where(dropped, x, out)

    def range(self) -> Tensor:
        """Return the range for which the quantizer's scheme gives this grid, `[2, R, 1]`."""
        return range_of(self.scheme, self.grid())


@torch.no_grad()
def range_of(scheme: Scheme, grid: Grid) -> Tensor:
    """Invert `make_grid`: return the range of a grid to float32 precision, `[2, R, 1]`."""
    if scheme in SYMMETRIC:
        # `symmetric` divides by its largest code, SSQL's scheme by half a code more.
        high = grid.scale * (grid.high if scheme == "symmetric" else grid.high + 0.5)
        return torch.stack([-high, high])
    zero = torch.zeros_like(grid.scale) if grid.zero_point is None else grid.zero_point
    low = -zero * grid.scale
    return torch.stack([low, low + (grid.high - grid.low) * grid.scale])
