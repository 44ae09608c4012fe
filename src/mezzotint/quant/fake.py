"""Quantizer modules: simulate low bits of one weight or one activation.

A quantizer is off, observes, or quantizes. Its bits are a tensor, so that changing them every step
neither waits for the device nor recompiles. Its range is saved with the weights, which are never
copied.
"""

import re
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn

from mezzotint.quant.grid import BitWidth, Grid, Scheme, make_grid
from mezzotint.quant.observers import MinMax, Observer
from mezzotint.recipe.component import Component

Mode = Literal["off", "observe", "quantize"]
Granularity = Literal["tensor", "channel", "group"]
_TUNED = re.compile(r"(range|rounding|shift)_[1-8]")


@dataclass(frozen=True)
class Layout:
    """Granularity of the quantization: the values that share a range.

    Attributes:
        granularity: one range for the tensor, for each channel, or for each `group` values of a
            channel.
        axis: dimension of the channels: 0 for a weight, 1 for activations of a convolution, −1 for
            activations of a linear layer.
        group: values per group, in memory order; the last group of a channel may have fewer.
    """

    granularity: Granularity = "tensor"
    axis: int = 0
    group: int = 0

    def __post_init__(self) -> None:
        if (self.granularity == "group") != (self.group > 0):
            raise ValueError(
                f"`group` must be at least 1 for granularity 'group' and 0 for the others, got "
                f"{self.group} for granularity {self.granularity!r}."
            )

    def rows(self, x: Tensor) -> Tensor:
        """Arrange values as one row per range, `[R, N]`, as a view where possible."""
        if self.granularity == "tensor":
            if x.ndim == 4 and not x.is_contiguous():
                x = x.permute(0, 2, 3, 1)  # channels_last: a view, and the order does not matter
            return x.reshape(1, -1)
        rows = x.movedim(self.axis, 0).flatten(1)
        if self.granularity == "group":
            spare = -rows.shape[1] % self.group
            rows = nn.functional.pad(rows, (0, spare), mode="constant").reshape(-1, self.group)
        return rows

    def unrows(self, rows: Tensor, shape: torch.Size) -> Tensor:
        """Invert `rows` for a tensor of this shape."""
        if self.granularity == "tensor":
            return rows.reshape(shape)
        moved = torch.Size(
            [shape[self.axis], *(s for i, s in enumerate(shape) if i != self.axis % len(shape))]
        )
        if self.granularity == "group":
            rows = rows.reshape(shape[self.axis], -1)[:, : moved[1:].numel()]
        return rows.reshape(moved).movedim(0, self.axis)

    def quantize(self, x: Tensor, grid: Grid, up: Tensor | None = None) -> Tensor:
        """Quantize every value on the grid of its row; broadcast the grid where possible.

        Args:
            x: values of any shape.
            grid: grid of shape `[R, 1]`.
            up: of the shape of `x`: 1 rounds up, 0 rounds down, fractions lie in between; `None`
                rounds to nearest.
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
    """Base of all quantizers: mode, bits and range.

    Args:
        layout: values that share a range.
        scheme: scheme of the grid.
        observer: chooses the range.
        fixed_bits: bits that `quant.bits` does not change; `None` follows it.

    Attributes:
        mode: `"off"`, `"observe"` or `"quantize"`.
        low: smallest value of the range, `[R, 1]`, saved with the weights; NaN before calibration.
        high: largest value of the range.
        bits: number of bits, a 0-d float32 tensor.
        num_bits: the same as an int, or `None` if the bits were set as a tensor; it selects what
            was tuned for these bits.
        supported_bits: bits that the grid is defined for.
    """

    supported_bits: ClassVar[range] = range(2, 9)
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
        if fixed_bits is not None and fixed_bits not in self.supported_bits:
            first, last = self.supported_bits[0], self.supported_bits[-1]
            raise ValueError(
                f"`fixed_bits` must be {first} to {last}, the bits that the quantizer supports, "
                f"got {fixed_bits}. Leave it out to follow the other bits."
            )
        self.layout, self.scheme, self.fixed_bits = layout, scheme, fixed_bits
        self.num_bits: int | None = fixed_bits or 8
        self.observer = observer if observer is not None else MinMax()
        self.mode: Mode = "off"
        stored = self.keeps_range
        self.register_buffer("low", torch.full((1, 1), torch.nan), persistent=stored)
        self.register_buffer("high", torch.full((1, 1), torch.nan), persistent=stored)
        self.register_buffer("bits", torch.tensor(float(fixed_bits or 8)), persistent=False)

    @property
    def keeps_range(self) -> bool:
        """Whether the range is saved; it is not if it follows from the weight."""
        return True

    @property
    def calibrated(self) -> bool:
        """Whether the range is set; waits for the device."""
        return bool((self.low.isfinite() & self.high.isfinite()).all())

    def forward(self, x: Tensor) -> Tensor:
        """Pass through, observe or quantize, according to the mode."""
        if self.mode == "off":
            return x
        if self.mode == "observe":
            self.observer.update(self.layout.rows(x.detach().float()))
            return x
        return self.quantize(x.float()).to(x.dtype)

    def quantize(self, x: Tensor) -> Tensor:
        """Round float32 values to the grid."""
        return self.layout.quantize(x, self.grid())

    def grid(self) -> Grid:
        """Return the grid over the saved range, or over the one tuned for the current bits."""
        tuned = self.tuned("range")
        low, high = (self.low, self.high) if tuned is None else (tuned[0], tuned[1])
        return make_grid(self.scheme, low, high, self.bits)

    def grid_of(self, weight: Tensor) -> Grid:
        """Return the grid of this weight at the current bits."""
        return self.grid()

    def codes(self, weight: Tensor) -> Tensor:
        """Return the integer codes of a weight at the current bits, int16 `[R, N]`."""
        grid, rows, up = self.grid_of(weight), self.layout.rows(weight), self.tuned("rounding")
        return grid.codes(rows if up is None else grid.toward(rows, self.layout.rows(up)))

    def attach(self, weight: Tensor) -> None:
        """Prepare for this weight's shape; called once, when a layer is converted."""

    def fit(self, weight: Tensor) -> None:
        """Choose the range from the weight; called when the bits are set."""

    def set_bits(self, bits: BitWidth) -> None:
        """Set the bits, unless they are fixed, and update the range."""
        if self.fixed_bits is None:
            self.bits = (
                bits.to(self.bits.device, torch.float32)
                if isinstance(bits, Tensor)
                else torch.full((), bits, dtype=torch.float32, device=self.bits.device)
            )
            self.num_bits = None if isinstance(bits, Tensor) else bits
        self.refresh()

    def fix(self, bits: int | None) -> None:
        """Fix the bits of this quantizer; `None` lets it follow `quant.bits` again."""
        self.fixed_bits = bits
        if bits is not None:
            self.bits, self.num_bits = torch.full_like(self.bits, float(bits)), bits

    def check_bits(self, bits: BitWidth, where: str) -> None:
        """Raise a ValueError when the quantizer does not support these bits.

        Args:
            bits: requested bits; fixed bits take precedence.
            where: the weight or activation, as the subject of the message.
        """
        bits = bits if self.fixed_bits is None else self.fixed_bits
        if not isinstance(bits, Tensor) and bits not in self.supported_bits:
            first, last = self.supported_bits[0], self.supported_bits[-1]
            supported = f"{first} to {last} bits" if last > first else f"{first} bit only"
            raise ValueError(
                f"{where} is quantized by {type(self).__name__}, which supports {supported}, "
                f"got {bits}. Choose other bits, or a quantizer that supports these (1 bit: "
                "Binary, DoReFaWeight, DoReFaActivation)."
            )

    def refresh(self) -> None:
        """Read the range from the observer; without observations the saved range stays."""
        if self.observer.seen:
            with torch.no_grad():
                self.low, self.high = self.observer.range(self.scheme, self.bits)

    def tune(self, name: Literal["range", "rounding", "shift"], value: Tensor) -> None:
        """Store a range `[2, R, 1]`, a rounding or an output shift for the current bits only."""
        if self.num_bits is None:
            raise ValueError(
                "The bits must be an int to store something for them, got a tensor. Set them with "
                "an int first."
            )
        self.register_buffer(f"{name}_{self.num_bits}", value)

    def tuned(self, name: Literal["range", "rounding", "shift"]) -> Tensor | None:
        """Return what `tune` stored for the current bits."""
        return self._buffers.get(f"{name}_{self.num_bits}")

    def untune(self, name: Literal["range", "rounding", "shift"], bits: int | None = None) -> None:
        """Delete what `tune` stored, for some bits or for all."""
        for key in [key for key in self._buffers if key.startswith(f"{name}_{bits or ''}")]:
            del self._buffers[key]

    def _load_from_state_dict(self, state: dict[str, Any], prefix: str, *args: Any) -> None:
        for name in ("low", "high"):  # the checkpoint decides the number of ranges
            if f"{prefix}{name}" in state:
                setattr(
                    self, name, torch.empty_like(state[f"{prefix}{name}"], device=self.low.device)
                )
        for key in state:
            if key.startswith(prefix) and _TUNED.fullmatch(name := key.removeprefix(prefix)):
                self.register_buffer(name, torch.empty_like(state[key], device=self.low.device))
        super()._load_from_state_dict(state, prefix, *args)


class Rangeless(Quantizer):
    """Quantizer with fixed, learned or weight-dependent levels, which needs no calibration."""

    @property
    def keeps_range(self) -> bool:
        """False: there is no range."""
        return False

    @property
    def calibrated(self) -> bool:
        """True: there is nothing to calibrate."""
        return True


class ActivationQuantizer(Quantizer):
    """Uniform quantizer of activations; by default SSQL's, with one asymmetric range per tensor.

    Args:
        layout: values that share a range.
        scheme: scheme of the grid.
        observer: chooses the range; by default `MinMax`.
        fixed_bits: bits that `quant.bits` does not change; `None` follows it.
    """

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
    """Uniform quantizer of a weight; by default SSQL's: symmetric, one range per output channel.

    With a dynamic observer the range follows the weight at every step and takes part in the
    gradient: the largest weight of a channel also learns through the scale. With any other observer
    the range is computed when the bits are set.

    Args:
        layout: values that share a range; by default an output channel.
        scheme: scheme of the grid.
        observer: chooses the range; by default `MinMax`.
        fixed_bits: bits that `quant.bits` does not change; `None` follows it.
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
        """True unless the observer is dynamic: the range then follows from the weight."""
        return not self.observer.dynamic

    def quantize(self, x: Tensor) -> Tensor:
        """Round the weight to its grid."""
        return self.layout.quantize(x, self.grid_of(x), self.tuned("rounding"))

    def grid_of(self, weight: Tensor) -> Grid:
        """Return the grid at the current bits over the weight's own range."""
        if self.observer.dynamic:
            return make_grid(self.scheme, *MinMax.of(self.layout.rows(weight)), self.bits)
        return self.grid()

    def fit(self, weight: Tensor) -> None:
        """Choose the range from the weight; called when the bits are set."""
        if not self.observer.dynamic:
            self.observer.reset()
            self.observer.update(self.layout.rows(weight.detach().float()))
            self.refresh()
