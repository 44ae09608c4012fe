"""Quantizers as modules: what sits on a weight or on an activation and simulates low bits.

A quantizer is off, observes, or quantizes. Its width is a tensor, so that changing it every step
neither waits for the device nor recompiles; its range is stored beside the weights it belongs to,
which are never copied.
"""

import re
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn

from mezzotint.quant.grid import Bits, Grid, Scheme, make_grid
from mezzotint.quant.observers import MinMax, Observer
from mezzotint.recipe.component import Component

Mode = Literal["off", "observe", "quantize"]
Granularity = Literal["tensor", "channel", "group"]
_TUNED = re.compile(r"(range|rounding|shift)_[1-8]")


@dataclass(frozen=True)
class Layout:
    """Which values share a range.

    Attributes:
        granularity: one range for the tensor, for each channel, or for each `group` values of a
            channel.
        axis: of the channels: 0 of a weight, 1 of the activations of a convolution, −1 of those of
            a linear.
        group: values in one group, in the order of memory; the last group of a channel may have
            fewer.
    """

    granularity: Granularity = "tensor"
    axis: int = 0
    group: int = 0

    def __post_init__(self) -> None:
        if (self.granularity == "group") != (self.group > 0):
            raise ValueError(
                f"got granularity {self.granularity!r} with group={self.group}; allowed is a group size of at least 1 "
                "with granularity 'group', and 0 with the others"
            )

    def rows(self, x: Tensor) -> Tensor:
        """One row a range: `[R, N]`; not a copy where the order in memory allows."""
        if self.granularity == "tensor":
            if x.ndim == 4 and not x.is_contiguous():
                x = x.permute(0, 2, 3, 1)  # the order of channels_last; a range does not care which
            return x.reshape(1, -1)
        rows = x.movedim(self.axis, 0).flatten(1)
        if self.granularity == "group":
            spare = -rows.shape[1] % self.group
            rows = nn.functional.pad(rows, (0, spare), mode="constant").reshape(-1, self.group)
        return rows

    def unrows(self, rows: Tensor, shape: torch.Size) -> Tensor:
        """Undo `rows` for a tensor of that shape."""
        if self.granularity == "tensor":
            return rows.reshape(shape)
        moved = torch.Size(
            [shape[self.axis], *(s for i, s in enumerate(shape) if i != self.axis % len(shape))]
        )
        if self.granularity == "group":
            rows = rows.reshape(shape[self.axis], -1)[:, : moved[1:].numel()]
        return rows.reshape(moved).movedim(0, self.axis)

    def quantize(self, x: Tensor, grid: Grid, up: Tensor | None = None) -> Tensor:
        """Put every value on the grid of its row, without moving values where the grid can be broadcast instead.

        Args:
            x: any shape.
            grid: of `[R, 1]`.
            up: of the shape of `x`: which values go to the point above them and which to the one
                below; `None` sends each to the nearest. Fractions stand in between.
        """
        if self.granularity == "group":
            rows = self.rows(x)
            return self.unrows(
                grid.quantize(rows if up is None else grid.toward(rows, self.rows(up))), x.shape
            )
        if self.granularity == "channel":
            shape = [1] * x.ndim
            shape[self.axis] = -1
            zero = None if grid.zero_point is None else grid.zero_point.reshape(shape)
            grid = Grid(grid.scale.reshape(shape), zero, grid.low, grid.high, grid.divide)
        return grid.quantize(x if up is None else grid.toward(x, up))


class Quantizer(nn.Module, Component):
    """What all quantizers share: mode, width, range.

    Args:
        layout: which values share a range.
        scheme: of the grid.
        observer: that chooses the range.
        fixed_bits: width that `quant.bits` does not change; `None` follows it.

    Attributes:
        mode: `"off"`, `"observe"` or `"quantize"`.
        low: least value of the range, `[R, 1]`, stored with the weights; NaN before calibration.
        high: greatest value.
        bits: width, a float32 tensor without dimensions.
        width: the same as a number where the host knows it, else `None`; it chooses what was tuned
            for that width.
        widths: widths that the grid is defined for.
    """

    widths: ClassVar[range] = range(2, 9)
    low: Tensor
    high: Tensor
    bits: Tensor

    def __init__(
        self,
        layout: Layout,
        scheme: Scheme,
        observer: Observer | None = None,
        *,
        fixed_bits: int | None = None,
    ) -> None:
        super().__init__()
        self.layout, self.scheme, self.fixed_bits = layout, scheme, fixed_bits
        self.width: int | None = fixed_bits or 8
        self.observer = observer if observer is not None else MinMax()
        self.mode: Mode = "off"
        stored = self.keeps_range
        self.register_buffer("low", torch.full((1, 1), torch.nan), persistent=stored)
        self.register_buffer("high", torch.full((1, 1), torch.nan), persistent=stored)
        self.register_buffer("bits", torch.tensor(float(fixed_bits or 8)), persistent=False)

    @property
    def keeps_range(self) -> bool:
        """Whether the range is state, and not a function of the weight."""
        return True

    @property
    def calibrated(self) -> bool:
        """Whether there is a range; waits for the device."""
        return bool((self.low.isfinite() & self.high.isfinite()).all())

    def forward(self, x: Tensor) -> Tensor:
        """Of the shape and type of `x`."""
        if self.mode == "off":
            return x
        if self.mode == "observe":
            self.observer.update(self.layout.rows(x.detach().float()))
            return x
        return self.quantize(x.float()).to(x.dtype)

    def quantize(self, x: Tensor) -> Tensor:
        """Float32 values on the grid."""
        return self.layout.quantize(x, self.grid())

    def grid(self) -> Grid:
        """Over the stored range, or the one that was tuned for the present width, at that width."""
        tuned = self.tuned("range")
        low, high = (self.low, self.high) if tuned is None else (tuned[0], tuned[1])
        return make_grid(self.scheme, low, high, self.bits)

    def grid_of(self, weight: Tensor) -> Grid:
        """The grid that this weight stands on at the present width."""
        return self.grid()

    def codes(self, weight: Tensor) -> Tensor:
        """Codes of a weight at the present width, as it is rounded there: int16 `[R, N]`, in the layout's rows."""
        grid, rows, up = self.grid_of(weight), self.layout.rows(weight), self.tuned("rounding")
        return grid.codes(rows if up is None else grid.toward(rows, self.layout.rows(up)))

    def attach(self, weight: Tensor) -> None:
        """Take the shape that this weight's ranges need; called once, when a layer is converted."""

    def fit(self, weight: Tensor) -> None:
        """Choose the range from the weight, for the present width; called when the width is set."""

    def set_bits(self, bits: Bits) -> None:
        """Change the width, unless it is fixed, and what depends on it."""
        if self.fixed_bits is None:
            self.bits = torch.as_tensor(bits, dtype=torch.float32, device=self.bits.device)
            self.width = None if isinstance(bits, Tensor) else bits
        self.refresh()

    def fix(self, bits: int | None) -> None:
        """Give this quantizer a width of its own; `None` lets it follow the others again."""
        self.fixed_bits = bits
        if bits is not None:
            self.bits, self.width = torch.full_like(self.bits, float(bits)), bits

    def refuse(self, bits: Bits, where: str) -> None:
        """Raise a ValueError when the width that it would run at has no grid; `where` names it in the message."""
        bits = bits if self.fixed_bits is None else self.fixed_bits
        if not isinstance(bits, Tensor) and bits not in self.widths:
            allowed = (
                f"{self.widths[0]} to {self.widths[-1]}"
                if len(self.widths) > 1
                else f"{self.widths[0]}"
            )
            raise ValueError(
                f"got {bits} bits for the {type(self).__name__} at {where}; allowed are {allowed}: choose another "
                "width, or a quantizer that has it (1 bit: Binary, DoReFaWeight, DoReFaActivation)"
            )

    def refresh(self) -> None:
        """Take the range anew from what the observer has collected; without that, the stored range stands."""
        if self.observer.seen:
            with torch.no_grad():
                self.low, self.high = self.observer.range(self.scheme, self.bits)

    def tune(self, name: Literal["range", "rounding", "shift"], value: Tensor) -> None:
        """Store what holds at the present width only: a range `[2, R, 1]`, a rounding, or a shift of the output."""
        if self.width is None:
            raise ValueError(
                "the width is a tensor; allowed is a number of bits: set the width with an int first"
            )
        self.register_buffer(f"{name}_{self.width}", value)

    def tuned(self, name: Literal["range", "rounding", "shift"]) -> Tensor | None:
        """What was stored for the present width."""
        return self._buffers.get(f"{name}_{self.width}")

    def untune(self, name: Literal["range", "rounding", "shift"], width: int | None = None) -> None:
        """Forget it at one width, or at all."""
        for key in [key for key in self._buffers if key.startswith(f"{name}_{width or ''}")]:
            del self._buffers[key]

    def _load_from_state_dict(self, state: dict[str, Any], prefix: str, *args: Any) -> None:
        for name in ("low", "high"):  # the number of ranges is that of the file
            if f"{prefix}{name}" in state:
                setattr(
                    self, name, torch.empty_like(state[f"{prefix}{name}"], device=self.low.device)
                )
        for key in state:
            if key.startswith(prefix) and _TUNED.fullmatch(name := key.removeprefix(prefix)):
                self.register_buffer(name, torch.empty_like(state[key], device=self.low.device))
        super()._load_from_state_dict(state, prefix, *args)


class Rangeless(Quantizer):
    """A quantizer whose levels are fixed, learned, or a function of the weight: there is nothing to calibrate."""

    @property
    def keeps_range(self) -> bool:
        """Never."""
        return False

    @property
    def calibrated(self) -> bool:
        """Always."""
        return True


class ActivationQuantizer(Quantizer):
    """A uniform grid over activations: by default SSQL's, one asymmetric range for the tensor."""

    def __init__(
        self,
        layout: Layout | None = None,
        scheme: Scheme = "ssql_asymmetric",
        observer: Observer | None = None,
        *,
        fixed_bits: int | None = None,
    ) -> None:
        super().__init__(layout or Layout(), scheme, observer, fixed_bits=fixed_bits)


class WeightQuantizer(Quantizer):
    """A uniform grid over a weight: by default SSQL's, symmetric with one range for each output channel.

    With a live observer the range follows the weight at every step and is part of the gradient: the
    largest weight of a channel also learns through the scale. With any other it is taken when the
    width is set.
    """

    def __init__(
        self,
        layout: Layout | None = None,
        scheme: Scheme = "ssql_symmetric",
        observer: Observer | None = None,
        *,
        fixed_bits: int | None = None,
    ) -> None:
        super().__init__(layout or Layout("channel"), scheme, observer, fixed_bits=fixed_bits)

    @property
    def keeps_range(self) -> bool:
        """Only where the observer does not follow the weight."""
        return not self.observer.live

    def quantize(self, x: Tensor) -> Tensor:
        """The weight on its grid."""
        return self.layout.quantize(x, self.grid_of(x), self.tuned("rounding"))

    def grid_of(self, weight: Tensor) -> Grid:
        """The grid at the present width over the weight's own range."""
        if self.observer.live:
            return make_grid(self.scheme, *MinMax.of(self.layout.rows(weight)), self.bits)
        return self.grid()

    def fit(self, weight: Tensor) -> None:
        """Choose the range from the weight, for the present width; called when the width is set."""
        if not self.observer.live:
            self.observer.reset()
            self.observer.update(self.layout.rows(weight.detach().float()))
            self.refresh()
