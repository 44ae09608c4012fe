"""Policies that draw operations for each sample: their base class, RandAugment and TrivialAugment.

A `RandomPolicy` draws some operations and their magnitudes for each sample. It draws from a
*space*: the operations and for each the range of its magnitudes, from weakest to strongest.
"""

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor

from mezzotint.augment.image.color import check_channels
from mezzotint.augment.image.operations import NAMES, OPERATIONS, apply_operations
from mezzotint.augment.image.policies import Policy
from mezzotint.augment.image.resample import Sampling
from mezzotint.augment.transform import IMAGES, BatchLayout, Params
from mezzotint.recipe.schema import nearest
from mezzotint.seeding import Draws


@dataclass(frozen=True)
class Range:
    """Magnitudes of an operation, from weakest to strongest.

    Attributes:
        low: magnitude at level 0.
        high: magnitude at level 1.
        signed: whether the sign is drawn.
        of: side of the image, if `low` and `high` are fractions of its `width` or `height`.
        whole: rounding of whole magnitudes: to the nearest, or down.
    """

    low: float = 0.0
    high: float = 0.0
    signed: bool = False
    of: Literal["", "width", "height"] = ""
    whole: Literal["", "nearest", "down"] = ""

    def at(self, level: Tensor, shape: Sequence[int]) -> Tensor:
        """Return the magnitudes at levels of 0 to 1, for images `[…, H, W]`."""
        return _at([self], torch.zeros_like(level, dtype=torch.int64), level, shape)


def _at(ranges: Sequence["Range"], which: Tensor, level: Tensor, shape: Sequence[int]) -> Tensor:
    """Return the magnitudes at levels of the drawn ranges, for all samples at once."""
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
"""SimCLR's operations that RandAugment lacks; it has `brightness`, `contrast` and `color`."""

RAND_AUGMENT: dict[str, Range] = {
    **_PUBLISHED,
    **EXTRA,
    "invert": Range(),
    "cutout": Range(0.0, 0.2),
}
"""All operations that RandAugment can use."""

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


class RandomPolicy(Policy, ABC, abstract=True):
    """Draw operations for each sample.

    The view is first rounded to the 256 levels of a stored image, as in torchvision; results are
    multiples of 1/255.

    Attributes:
        interpolation: interpolation of shears, translations and rotations.
        fill: level of pixels from outside the image and of cutouts, 0 to 255.
    """

    eight_bit = True
    layouts: ClassVar[tuple[BatchLayout, ...]] = (IMAGES,)  # a spectrogram's values are not levels
    decisions = frozenset({"op", "magnitude", "center"})  # the CPU sorts them by operation

    def __init__(self, *, interpolation: Sampling, fill: int) -> None:
        if interpolation not in ("nearest", "bilinear"):
            raise ValueError(
                f"`interpolation` must be nearest or bilinear, got {interpolation!r}. Try nearest."
            )
        if not 0 <= fill <= 255:
            raise ValueError(f"`fill` must be a level of 0 to 255, got {fill}. Try 128, gray.")
        super().__init__(transforms=[])
        self.interpolation, self.fill = interpolation, fill

    def check(self, shape: Sequence[int]) -> None:
        super().check(shape)
        check_channels(shape)

    @abstractmethod
    def operations(self, shape: Sequence[int], draws: Draws) -> tuple[Tensor, Tensor]:
        """Draw int64 indices in `NAMES` and float32 magnitudes, both `[B, S]` for S operations."""

    def draw(self, shape: Sequence[int], draws: Draws) -> Params:
        """Draw `op` and `magnitude`, `[B, S]`, and `center` of cutouts, `[B, S, 2]`."""
        op, magnitude = self.operations(shape, draws)
        return {"op": op, "magnitude": magnitude, "center": draws.uniform("place", op.shape[1], 2)}

    def apply(self, x: Tensor, params: Params) -> Tensor:
        """Apply the operations in the drawn order."""
        check_channels(x.shape)
        changed = apply_operations(
            x.float(),
            params["op"],
            params["magnitude"],
            params["center"],
            interpolation=self.interpolation,
            fill=float(self.fill),
        )
        return changed.mul_(1.0 / 255.0).to(x.dtype)


class RandAugment(RandomPolicy):
    """Apply N uniformly drawn operations of one magnitude: RandAugment (Cubuk et al. 2019).

    arXiv 1909.13719. The defaults draw from torchvision's 14 operations, with equal magnitudes.

    Args:
        num_ops: number of operations, one after the other; N of the paper.
        magnitude: bin of all magnitudes, from 0; M of the paper.
        bins: number of bins of each range.
        std: standard deviation of the magnitude in bins, drawn for each operation and clamped.
        p: probability that an operation is applied.
        extended: add SimCLR's missing color operations: hue, grayscale and blur.
        names: operations to draw from, instead of the default ones: identity, shear_x, shear_y,
            translate_x, translate_y, rotate, brightness, color, contrast, sharpness, posterize,
            solarize, auto_contrast, equalize, and hue, grayscale, gaussian_blur, invert, cutout. An
            operation that is listed twice is drawn twice as often.
        interpolation: interpolation of shears, translations and rotations.
        fill: level of pixels from outside the image, 0 to 255.
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
            raise ValueError(f"`num_ops` must be 1 or more, got {num_ops}. Try 2, as published.")
        if bins < 2 or not 0 <= magnitude < bins:
            raise ValueError(
                "`bins` must be 2 or more and `magnitude` 0 to bins − 1, "
                f"got {bins} and {magnitude}. Try 31 and 9, as published."
            )
        if std < 0.0 or not 0.0 < p <= 1.0:
            raise ValueError(
                "`std` must be 0 or more and `p` above 0 and at most 1, "
                f"got {std} and {p}. Try 0.5 and 0.5."
            )
        if names is not None and extended:
            raise ValueError(
                "`extended` must be false with a list of `names`, got true. "
                "Add hue, grayscale and gaussian_blur to `names` instead."
            )
        chosen = [*_PUBLISHED, *(EXTRA if extended else ())] if names is None else list(names)
        check_names(chosen, RAND_AUGMENT)
        self.num_ops, self.names_drawn = num_ops, chosen
        self.magnitude, self.bins, self.std, self.p = magnitude, bins, std, p

    def operations(self, shape: Sequence[int], draws: Draws) -> tuple[Tensor, Tensor]:
        """Draw N operations, at the same level or around it."""
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


class TrivialAugment(RandomPolicy):
    """Apply one operation of random magnitude: TrivialAugment (Müller and Hutter 2021).

    arXiv 2103.10158. It has the "wide" space, equal to torchvision's `TrivialAugmentWide`.

    Args:
        bins: number of bins of each range.
        names: operations to draw from; `None` for all 14: identity, shear_x, shear_y, translate_x,
            translate_y, rotate, brightness, color, contrast, sharpness, posterize, solarize,
            auto_contrast, equalize.
        interpolation: interpolation of shears, translations and rotations.
        fill: level of pixels from outside the image, 0 to 255.
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
            raise ValueError(f"`bins` must be 2 or more, got {bins}. Try 31, as published.")
        self.bins, self.names_drawn = bins, list(TRIVIAL_AUGMENT) if names is None else list(names)
        check_names(self.names_drawn, TRIVIAL_AUGMENT)

    def operations(self, shape: Sequence[int], draws: Draws) -> tuple[Tensor, Tensor]:
        """Draw one operation at one level."""
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
    """Return operations and magnitudes of drawn names and levels; signed ranges draw a sign.

    Args:
        space: range of each operation.
        names: names of the operations that were drawn from.
        which: indices in `names`, int64 `[B, S]`.
        level: levels in [0, 1], float64 `[B, S]`.
        draws: draws of the signs.
        shape: shape of the images.
    """
    ranges = [space[name] for name in names]
    op, signed = torch.tensor(
        [[NAMES.index(n), r.signed] for n, r in zip(names, ranges, strict=True)]
    )[which].unbind(2)
    negative = draws.integers("sign", which.shape[1], high=2) < signed
    magnitude = _at(ranges, which, level, shape)
    return op, torch.where(negative, -magnitude, magnitude).float()


def check_names(names: Iterable[str], space: Iterable[str]) -> None:
    """Refuse operations that are not in the space.

    Raises:
        ValueError: for an empty list, or an unknown name.
    """
    known = list(space)
    names = list(names)
    unknown = next((name for name in names if name not in known), None)
    if unknown is not None or not names:
        got = repr(unknown) if names else "none"
        raise ValueError(
            f"Operations must be among {', '.join(known)}, got {got}."
            f"{nearest(unknown or '', known) or ' Choose from this list.'}"
        )


def describe(params: Params, row: int) -> list[tuple[str, str]]:
    """Return the operations and magnitudes that were drawn for one sample, without identity."""
    operations = []
    for op, magnitude in zip(
        params["op"][row].tolist(), params["magnitude"][row].tolist(), strict=True
    ):
        name = NAMES[op]
        if name != "identity":
            operations.append(
                (
                    name.replace("_", " "),
                    f"{magnitude + 0.0:.3g}" if OPERATIONS[name].magnitude else "",
                )
            )
    return operations
