"""The contract of an augmentation: draw the parameters, then apply them.

The two halves are separate, so that the same parameters can be displayed (the gallery), predicted
(which invariances an encoder learned), shared between views, or applied again. Both work on a whole
batch, on its device, with one row of parameters per sample. No transform keeps a random generator.
"""

import copy
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol, Self, TypeVar

import torch
from torch import Tensor

from mezzotint.recipe.component import Component
from mezzotint.seeding import Draws
from mezzotint.timing import part

Params = dict[str, Tensor]
"""Parameters of one transform for a batch: each tensor has one row per sample."""


@dataclass(frozen=True)
class BatchLayout:
    """Modality and shape of the batches that a transform takes.

    Attributes:
        modality: modality of the samples.
        shape: fixed sizes as integers, the others as letters.
    """

    modality: str
    shape: tuple[int | str, ...]

    def fits(self, shape: Sequence[int]) -> bool:
        """Return whether a batch of this shape has the layout."""
        return len(shape) == len(self.shape) and all(
            isinstance(own, str) or own == size for own, size in zip(self.shape, shape, strict=True)
        )

    def __str__(self) -> str:
        return f"{self.modality} [{', '.join(map(str, self.shape))}]"


IMAGES = BatchLayout("image", ("B", "C", "H", "W"))


class FractionCrop(Protocol):
    """A crop that keeps a fraction of a sample between `low` and `high`."""

    low: float
    high: float


CropT = TypeVar("CropT", bound=FractionCrop)

Scale = Callable[[float, float], float]
"""Compute a setting of a transform at a strength from its setting at strength 1."""

_LEAST_KEPT = 0.05


def amount(value: float, strength: float) -> float:
    """Scale a quantity that changes nothing at 0, such as a std or an angle."""
    return value * strength


def chance(value: float, strength: float) -> float:
    """Scale a probability or a fraction that changes nothing at 0; at most 1."""
    return min(1.0, value * strength)


def flips(value: float, strength: float) -> float:
    """Scale the probability of one of two equal choices: above 0.5 the other is the rule."""
    return min(max(0.5, value), value * strength)


def most(value: float, strength: float) -> float:
    """Scale a probability that must stay below 1; at most 0.9."""
    return min(max(0.9, value), value * strength)


def kept(value: float, strength: float) -> float:
    """Scale a fraction or a factor that changes nothing at 1; at least 0.05."""
    return max(min(_LEAST_KEPT, value), 1.0 - (1.0 - value) * strength)


SPECTROGRAMS = BatchLayout("audio", ("B", 1, "F", "T"))
VIDEOS = BatchLayout("video", ("B", "C", "T", "H", "W"))


class Transform(Component, ABC, abstract=True):
    """Augment a batch.

    `x` is float; images are `[B, C, H, W]` in [0, 1]. The first dimension is always the batch.

    Attributes:
        layouts: batches that the transform takes; empty for any.
        modalities: modalities of `layouts`, set from them.
        mixes_samples: whether a view depends on the other samples of its batch.
        eight_bit: whether values are rounded to 256 levels.
        scaled: how each attribute that says how strong the transform is follows a strength; without
            any, it has one strength.
        decisions: parameters that decide which operations run on which samples. They stay on the
            CPU, where they were drawn, so that the host never waits for a device to read them.
    """

    layouts: ClassVar[tuple[BatchLayout, ...]] = ()
    modalities: ClassVar[frozenset[str]] = frozenset()
    mixes_samples: ClassVar[bool] = False
    eight_bit: ClassVar[bool] = False
    scaled: ClassVar[Mapping[str, Scale]] = {}
    decisions: ClassVar[frozenset[str]] = frozenset()

    def __init_subclass__(cls, **keywords: Any) -> None:
        super().__init_subclass__(**keywords)
        cls.modalities = frozenset(layout.modality for layout in cls.layouts)

    @abstractmethod
    def draw(self, shape: Sequence[int], draws: Draws) -> Params:
        """Draw parameters for a batch of this shape, one row per sample."""

    @abstractmethod
    def apply(self, x: Tensor, params: Params) -> Tensor:
        """Apply drawn parameters. Pure: equal parameters give equal views; `x` is not modified."""

    def to_device(self, params: Params, device: torch.device) -> Params:
        """Move drawn parameters to the device of a batch, without waiting; `decisions` stay."""
        return {
            name: value if name in self.decisions else value.to(device, non_blocking=True)
            for name, value in params.items()
        }

    def output_shape(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        """Return the shape of `apply`'s result for a batch of this shape; crops override it."""
        return shape

    def check(self, shape: Sequence[int]) -> None:
        """Refuse a batch whose shape the transform does not take.

        Raises:
            ValueError: when none of the layouts fits.
        """
        if self.layouts and not any(layout.fits(shape) for layout in self.layouts):
            raise ValueError(
                f"{self.config['kind']} takes {' or '.join(map(str, self.layouts))}, "
                f"got {list(shape)}. Choose transforms of the data's modality."
            )

    @property
    def has_strength(self) -> bool:
        """Whether `at_strength` returns another transform."""
        return self.at_strength(0.5) is not self

    def at_strength(self, strength: float) -> Self:
        """Return this transform at a strength: 0 changes next to nothing, 1 is as constructed."""
        if strength == 1.0 or not self.scaled:
            return self
        other = copy.copy(self)
        for name, scale in self.scaled.items():
            setattr(other, name, _scaled(getattr(self, name), scale, strength))
        return other

    def __call__(self, x: Tensor, draws: Draws) -> Tensor:
        """Draw parameters and apply them."""
        self.check(x.shape)
        return self.apply(x, self.draw(x.shape, draws))


def with_low(crop: CropT, strength: float) -> CropT:
    """Return a crop of a fraction between `low` and `high` with `low` at a strength.

    `high` stays, because a crop of a shorter length or of fewer points depends on it.
    """
    other = copy.copy(crop)
    low = crop.high - (crop.high - crop.low) * strength
    other.low = max(min(_LEAST_KEPT, crop.low), low)
    return other


def _scaled(value: Any, scale: Scale, strength: float) -> Any:
    """Scale a number, or each number of a tuple or a dictionary."""
    if isinstance(value, tuple):
        return tuple(scale(item, strength) for item in value)
    if isinstance(value, dict):
        return {key: _scaled(item, scale, strength) for key, item in value.items()}
    return scale(value, strength)


class Compose(Transform):
    """Apply transforms one after the other, each with its own draws (keyed by index and name).

    Args:
        transforms: in the order in which they are applied.
    """

    def __init__(self, *, transforms: Sequence[Transform]) -> None:
        self.transforms = list(transforms)

    def at_strength(self, strength: float) -> Self:
        scaled = [item.at_strength(strength) for item in self.transforms]
        if all(new is old for new, old in zip(scaled, self.transforms, strict=True)):
            return self
        other = copy.copy(self)
        other.transforms = scaled
        return other

    def leaves(self) -> Iterator[Transform]:
        """Yield this and all transforms within, at any depth."""
        yield self
        for transform in self.transforms:
            yield from transform.leaves() if isinstance(transform, Compose) else (transform,)

    def names(self) -> list[str]:
        """Return the prefix of each transform's parameters: its index and its kind."""
        return [f"{i}.{t.config['kind']}" for i, t in enumerate(self.transforms)]

    def draw(self, shape: Sequence[int], draws: Draws) -> Params:
        """Draw the parameters of all transforms, under `index.kind.name`."""
        drawn: Params = {}
        for name, transform in zip(self.names(), self.transforms, strict=True):
            transform.check(shape)
            own = transform.draw(shape, draws.fold(name))
            drawn |= {f"{name}.{key}": value for key, value in own.items()}
        return drawn

    def apply(self, x: Tensor, params: Params) -> Tensor:
        for name, transform in zip(self.names(), self.transforms, strict=True):
            with part(str(transform.config["kind"])):
                x = transform.apply(x, params_of(params, name))
        return x

    def to_device(self, params: Params, device: torch.device) -> Params:
        names = self.names()
        inner = tuple(f"{name}." for name in names)
        outer = {key: value for key, value in params.items() if not key.startswith(inner)}
        moved = super().to_device(outer, device)
        for name, transform in zip(names, self.transforms, strict=True):
            own = transform.to_device(params_of(params, name), device)
            moved |= {f"{name}.{key}": value for key, value in own.items()}
        return moved


def params_of(params: Params, name: str) -> Params:
    """Return the parameters under `name.`, without this prefix."""
    prefix = f"{name}."
    return {key.removeprefix(prefix): v for key, v in params.items() if key.startswith(prefix)}


def where_rows(x: Tensor, chosen: Tensor, change: Callable[[Tensor, Tensor], Tensor]) -> Tensor:
    """Change some rows of a batch and keep the others.

    Args:
        x: batch `[B, …]`.
        chosen: mask of the rows to change, bool `[B]`; on the CPU, nothing waits for a device.
        change: function of the chosen rows `[K, …]` and their indices `[K]`, on the device of the
            batch, that returns new rows.
    """
    rows = chosen.nonzero().squeeze(1)
    if len(rows) == 0:
        return x
    if len(rows) == len(x):
        return change(x, to_device_of(x, rows))
    # `index_select` copies whole rows; indexing and `index_copy` copy element by element, which is
    # five times slower on a CPU.
    order = torch.cat([rows, chosen.logical_not().nonzero().squeeze(1)])
    y = x.index_select(0, to_device_of(x, order))
    y[: len(rows)] = change(y[: len(rows)], to_device_of(x, rows))
    return y.index_select(0, to_device_of(x, order.argsort()))


def to_device_of(x: Tensor, value: Tensor) -> Tensor:
    """Move a tensor to the device of a batch, without waiting."""
    return value.to(x.device, non_blocking=True)
