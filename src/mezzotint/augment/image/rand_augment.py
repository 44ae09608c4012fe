"""Strategies that draw operations for each sample: RandAugment and TrivialAugment; the base of the others.

A strategy is a policy that draws, for each sample, some operations and their magnitudes. What it
may draw from is a *space*: for each operation the range of its magnitudes, from the weakest to the
strongest.
"""

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from mezzotint.augment.image.operations import NAMES, OPERATIONS, apply_operations
from mezzotint.augment.image.policies import Policy
from mezzotint.augment.image.resample import Sampling
from mezzotint.augment.transform import Params
from mezzotint.recipe.schema import nearest
from mezzotint.seeding import Draws


@dataclass(frozen=True)
class Range:
    """Magnitudes of an operation, from the weakest to the strongest.

    Attributes:
        low: at level 0.
        high: at level 1.
        signed: whether the sign is drawn.
        of: whether `low` and `high` are shares of the image's `width` or `height`.
        whole: whether magnitudes are whole numbers, rounded to the nearest or down.
    """

    low: float = 0.0
    high: float = 0.0
    signed: bool = False
    of: Literal["", "width", "height"] = ""
    whole: Literal["", "nearest", "down"] = ""

    def at(self, level: Tensor, shape: Sequence[int]) -> Tensor:
        """The magnitudes at levels of 0 to 1, for images `[…, H, W]`."""
        return _at([self], torch.zeros_like(level, dtype=torch.int64), level, shape)


def _at(ranges: Sequence["Range"], which: Tensor, level: Tensor, shape: Sequence[int]) -> Tensor:
    """The magnitudes at levels of the ranges that were drawn: their properties are looked up, all at once."""
    sizes = {"": 1, "height": shape[-2], "width": shape[-1]}
    rounding = ("", "nearest", "down")
    rows = [[r.low, r.high - r.low, sizes[r.of], rounding.index(r.whole)] for r in ranges]
    low, span, size, whole = torch.tensor(rows, dtype=torch.float64)[which].unbind(-1)
    magnitude = (low + span * level) * size
    magnitude = torch.where(whole == 1, magnitude.round(), magnitude)
    return torch.where(whole == 2, magnitude.floor(), magnitude)


Space = Mapping[str, Range]

_COLORS = ("brightness", "color", "contrast", "sharpness")
_PUBLISHED: dict[str, Range] = {
    "identity": Range(),
    "shear_x": Range(0.0, 0.3, signed=True),
    "shear_y": Range(0.0, 0.3, signed=True),
    "translate_x": Range(0.0, 150.0 / 331.0, signed=True, of="width"),
    "translate_y": Range(0.0, 150.0 / 331.0, signed=True, of="height"),
    "rotate": Range(0.0, 30.0, signed=True),
    **{name: Range(0.0, 0.9, signed=True) for name in _COLORS},
    "posterize": Range(8.0, 4.0, whole="nearest"),
    "solarize": Range(1.0, 0.0),
    "auto_contrast": Range(),
    "equalize": Range(),
}
"""The 14 operations of RandAugment, with the ranges of AutoAugment."""

EXTRA: dict[str, Range] = {
    "hue": Range(0.0, 0.2, signed=True),
    "grayscale": Range(),
    "gaussian_blur": Range(0.1, 2.0),
}
"""SimCLR's operations that are not among them; its three others are `brightness`, `contrast` and `color`."""

RAND_AUGMENT: dict[str, Range] = {
    **_PUBLISHED,
    **EXTRA,
    "invert": Range(),
    "cutout": Range(0.0, 0.2),
}
"""All operations that RandAugment can be given."""

TRIVIAL_AUGMENT: dict[str, Range] = {
    **_PUBLISHED,
    "shear_x": Range(0.0, 0.99, signed=True),
    "shear_y": Range(0.0, 0.99, signed=True),
    "translate_x": Range(0.0, 32.0, signed=True),
    "translate_y": Range(0.0, 32.0, signed=True),
    "rotate": Range(0.0, 135.0, signed=True),
    **{name: Range(0.0, 0.99, signed=True) for name in _COLORS},
    "posterize": Range(8.0, 2.0, whole="nearest"),
}
"""The "wide" space of TrivialAugment."""


class Strategy(Policy, ABC, abstract=True):
    """A policy that draws operations for each sample.

    The view is rounded to the 256 levels of a stored image first, as torchvision does, and what
    comes out are multiples of 1/255.

    Attributes:
        interpolation: of shears, translations and rotations.
        fill: level of what they bring into the image, 0 to 255; also that of cutouts.
    """

    def __init__(self, *, interpolation: Sampling, fill: int) -> None:
        if interpolation not in ("nearest", "bilinear"):
            raise ValueError(
                f"got interpolation={interpolation!r}; allowed are nearest and bilinear: choose one"
            )
        if not 0 <= fill <= 255:
            raise ValueError(f"got fill={fill}; allowed is a level of 0 to 255: 128 is gray")
        super().__init__(transforms=[])
        self.interpolation, self.fill = interpolation, fill

    @abstractmethod
    def operations(self, shape: Sequence[int], draws: Draws) -> tuple[Tensor, Tensor]:
        """Draw int64 places in `NAMES` and float32 magnitudes, both `[B, S]` for S operations."""

    def draw(self, shape: Sequence[int], draws: Draws) -> Params:
        """`op` and `magnitude`, `[B, S]`, and `place`, `[B, S, 2]`, where a cutout has its center."""
        op, magnitude = self.operations(shape, draws)
        return {"op": op, "magnitude": magnitude, "place": draws.uniform("place", op.shape[1], 2)}

    def apply(self, x: Tensor, params: Params) -> Tensor:
        """Apply the operations in the order in which they were drawn."""
        if x.shape[1] not in (1, 3):
            raise ValueError(
                f"got images of {x.shape[1]} channels; allowed are 1 (gray) and 3 (red, green, blue): "
                "choose a policy without color"
            )
        changed = apply_operations(
            x.float(),
            params["op"],
            params["magnitude"],
            params["place"],
            interpolation=self.interpolation,
            fill=float(self.fill),
        )
        return changed.mul_(1.0 / 255.0).to(x.dtype)


class RandAugment(Strategy):
    """RandAugment (Cubuk et al. 2019, arXiv 1909.13719): N operations drawn uniformly, all of one magnitude.

    With the defaults it draws from the 14 operations of torchvision's, with the same magnitudes.

    Args:
        num_ops: operations one after the other; N of the paper.
        magnitude: bin of all magnitudes, from 0; M of the paper.
        bins: into which each range is cut.
        std: deviation of the magnitude, drawn for each operation and kept within the bins.
        p: probability of each operation; otherwise it is left out.
        extended: add the color operations of SimCLR that are missing: hue, grayscale and blur.
        names: the operations to draw from, instead; one that is named twice is drawn twice as
            often.
        interpolation: of shears, translations and rotations.
        fill: level of what they bring into the image, 0 to 255.
    """

    def __init__(
        self,
        *,
        num_ops: int = 2,
        magnitude: int = 9,
        bins: int = 31,
        std: float = 0.0,
        p: float = 1.0,
        extended: bool = False,
        names: list[str] | None = None,
        interpolation: Sampling = "nearest",
        fill: int = 0,
    ) -> None:
        super().__init__(interpolation=interpolation, fill=fill)
        if num_ops < 1:
            raise ValueError(f"got num_ops={num_ops}; allowed is 1 or more: 2 is published")
        if bins < 2 or not 0 <= magnitude < bins:
            raise ValueError(
                f"got magnitude={magnitude} of bins={bins}; allowed is a bin of 0 to bins − 1, and two bins or more: "
                "9 of 31 is published"
            )
        if std < 0.0 or not 0.0 < p <= 1.0:
            raise ValueError(
                f"got std={std}, p={p}; allowed are 0 or more and a probability in (0, 1]: 0.5 and 0.5"
            )
        if names is not None and extended:
            raise ValueError(
                "got extended=True and a list of names; allowed is one of the two: leave extended out, "
                "and add hue, grayscale and gaussian_blur to the list"
            )
        chosen = [*_PUBLISHED, *(EXTRA if extended else ())] if names is None else list(names)
        check_names(chosen, RAND_AUGMENT)
        self.num_ops, self.names_drawn = num_ops, chosen
        self.magnitude, self.bins, self.std, self.p = magnitude, bins, std, p

    def operations(self, shape: Sequence[int], draws: Draws) -> tuple[Tensor, Tensor]:
        """N operations, at the same level, or around it."""
        which = draws.integers("operation", self.num_ops, high=len(self.names_drawn))
        level = torch.full(which.shape, float(self.magnitude), dtype=torch.float64)
        if self.std > 0.0:
            level = (level + self.std * draws.normal("level", self.num_ops)).clamp_(
                0.0, self.bins - 1.0
            )
        op, magnitude = magnitudes(
            RAND_AUGMENT, self.names_drawn, which, level / (self.bins - 1), draws, shape
        )
        if self.p < 1.0:
            op = torch.where(
                draws.uniform("applied", self.num_ops) < self.p, op, NAMES.index("identity")
            )
        return op, magnitude


class TrivialAugment(Strategy):
    """TrivialAugment (Müller and Hutter 2021, arXiv 2103.10158): one operation, of a magnitude drawn uniformly.

    The "wide" space, equal to torchvision's `TrivialAugmentWide`.

    Args:
        bins: into which each range is cut.
        names: the operations to draw from; `None` for all 14.
        interpolation: of shears, translations and rotations.
        fill: level of what they bring into the image, 0 to 255.
    """

    def __init__(
        self,
        *,
        bins: int = 31,
        names: list[str] | None = None,
        interpolation: Sampling = "nearest",
        fill: int = 0,
    ) -> None:
        super().__init__(interpolation=interpolation, fill=fill)
        if bins < 2:
            raise ValueError(f"got bins={bins}; allowed is two or more: 31 is published")
        self.bins, self.names_drawn = bins, list(TRIVIAL_AUGMENT) if names is None else list(names)
        check_names(self.names_drawn, TRIVIAL_AUGMENT)

    def operations(self, shape: Sequence[int], draws: Draws) -> tuple[Tensor, Tensor]:
        """One operation at one level."""
        which = draws.integers("operation", 1, high=len(self.names_drawn))
        level = draws.integers("level", 1, high=self.bins).double() / (self.bins - 1)
        return magnitudes(TRIVIAL_AUGMENT, self.names_drawn, which, level, draws, shape)


def magnitudes(
    space: Space,
    names: Sequence[str],
    which: Tensor,
    level: Tensor,
    draws: Draws,
    shape: Sequence[int],
) -> tuple[Tensor, Tensor]:
    """From what was drawn to operations and magnitudes, with a sign drawn where the range asks for one.

    Args:
        space: the range of each operation.
        names: of the operations that were drawn from.
        which: int64 `[B, S]`, places in `names`.
        level: float64 `[B, S]`, in [0, 1].
        draws: of the signs.
        shape: of the images.
    """
    ranges = [space[name] for name in names]
    op, signed = torch.tensor(
        [[NAMES.index(n), r.signed] for n, r in zip(names, ranges, strict=True)]
    )[which].unbind(2)
    turned = (
        draws.integers("sign", which.shape[1], high=2) < signed
    )  # those whose sign is drawn, and is minus
    magnitude = _at(ranges, which, level, shape)
    return op, torch.where(turned, -magnitude, magnitude).float()


def check_names(names: Iterable[str], space: Iterable[str]) -> None:
    """Refuse operations that are not in the space.

    Raises:
        ValueError: for no name at all, or one that is unknown.
    """
    allowed = list(space)
    names = list(names)
    wrong = next((name for name in names if name not in allowed), None)
    if wrong is not None or not names:
        got = f"the operation {wrong!r}" if names else "no operation"
        raise ValueError(f"got {got}; allowed: {', '.join(allowed)}.{nearest(str(wrong), allowed)}")


def describe(params: Params, row: int) -> list[tuple[str, str]]:
    """What a strategy drew for one sample: each operation and its magnitude, without those that do nothing."""
    found = []
    for op, magnitude in zip(
        params["op"][row].tolist(), params["magnitude"][row].tolist(), strict=True
    ):
        name = NAMES[op]
        if name != "identity":
            found.append(
                (
                    name.replace("_", " "),
                    f"{magnitude + 0.0:.3g}" if OPERATIONS[name].magnitude else "",
                )
            )
    return found
