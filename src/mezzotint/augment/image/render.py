"""Views of a batch of images: crop, flip, policy, randomized quantization, normalization.

On a CPU the rows are made a few at a time, so that each operation finds its input in the cache. A
row does not depend on the rows that are made with it.
"""

import functools
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from mezzotint.augment.image.geometry import (
    HorizontalFlip,
    RandomResizedCrop,
    per_channel,
    probability,
)
from mezzotint.augment.image.policies import Policy
from mezzotint.augment.randomized_quantization.transform import RandomizedQuantization
from mezzotint.augment.transform import Params, Transform, flips
from mezzotint.memory import keep_freed_memory
from mezzotint.seeding import Draws
from mezzotint.timing import part
from mezzotint.types import Input

_CACHED_VALUES = 2**21
"""Values of a view that are made at a time: 8 MB, which stay in the last-level cache. For small
images a batch matters more than a nearer cache, since an operation on one image takes less time
than its call."""

_GEOMETRY = ("crop", "flip")
"""Steps that views of a shared crop have in common, and that are computed once."""

_LARGE = 2**17
"""Number of values from which a view is made alone: it fills the second-level cache."""


@dataclass(frozen=True)
class View:
    """How one view of a sample is made.

    Attributes:
        tag: `"global"`, `"local"`, or the policy's name.
        crop: crop; with `size` `None` it has the encoder's input size.
        flip: probability that a sample is mirrored.
        policy: augmentation policy, such as color jitter and blur.
        randomized_quantization: quantization, applied last; `None` for none.
        crop_of: index of an earlier view whose crop and flip it shares; `None` for its own.
        same_policy: whether it shares that view's draws of the policy too.
    """

    tag: str
    crop: RandomResizedCrop
    flip: float
    policy: Policy
    randomized_quantization: RandomizedQuantization | None = None
    crop_of: int | None = None
    same_policy: bool = False

    def __post_init__(self) -> None:
        probability(self.flip, "views.flip")  # here, and not at the first step of a run

    @functools.cached_property
    def steps(self) -> dict[str, Transform]:
        """Transforms after the crop, in order."""
        steps: dict[str, Transform] = {"flip": HorizontalFlip(p=self.flip), "policy": self.policy}
        if self.randomized_quantization is not None:
            steps["randomized_quantization"] = self.randomized_quantization
        return steps

    def at_strength(self, strength: float) -> "View":
        """Return the view with crop, flip, policy and quantization at a strength."""
        quantization = self.randomized_quantization
        return replace(
            self,
            crop=self.crop.at_strength(strength),
            flip=flips(self.flip, strength),
            policy=self.policy.at_strength(strength),
            randomized_quantization=quantization and quantization.at_strength(strength),
        )

    def size(self, input: Input) -> tuple[int, int]:
        """Return height and width of the view."""
        if self.crop.size is None:
            return input.shape[1], input.shape[2]
        return self.crop.size, self.crop.size

    def draw(
        self, input: Input, draws: Draws, drawn: Sequence[dict[str, Params]] = ()
    ) -> dict[str, Params]:
        """Draw the parameters of `crop` and `steps`; a shared crop is taken from `drawn`."""
        shape = (len(draws.ids), input.shape[0], *self.size(input))
        common = (*_GEOMETRY, "policy") if self.same_policy else _GEOMETRY
        shared = (
            {} if self.crop_of is None else {name: drawn[self.crop_of][name] for name in common}
        )
        transforms = {"crop": self.crop, **self.steps}
        return {
            name: shared[name] if name in shared else transform.draw(shape, draws.fold(name))
            for name, transform in transforms.items()
        }


def render_views(
    views: Sequence[View],
    images: Tensor,
    params: Sequence[dict[str, Params]],
    *,
    input: Input,
    cropped: bool,
    normalized: bool,
) -> list[Tensor]:
    """Make views that share a crop, which is cut once.

    Args:
        views: one view, or several views that have the first view's crop.
        images: uint8, or floats in [0, 1], `[B, C, H, W]`, whole or cropped.
        params: drawn parameters of each view.
        input: input of the encoder.
        cropped: whether the images are cropped.
        normalized: True returns values as the encoder takes them, False values in [0, 1].

    Returns:
        One float32 `[B, C, *size]` per view, on the device of the images.
    """
    keep_freed_memory()
    images = images.float() if images.is_floating_point() else images
    first, device = views[0], images.device
    size = first.size(input)
    boxes = (
        None if cropped else first.crop.boxes(params[0]["crop"], images.shape[2], images.shape[3])
    )
    drawn = [
        {name: step.to_device(own[name], device) for name, step in view.steps.items()}
        for view, own in zip(views, params, strict=True)
    ]
    outs = [torch.empty(len(images), images.shape[1], *size, device=device) for _ in views]
    mean, std = per_channel(input.mean, outs[0]), per_channel(input.std, outs[0])
    at_a_time = _rows_at_a_time(len(images), math.prod(outs[0].shape[1:]), device)
    for start in range(0, len(images), at_a_time):
        rows = slice(start, start + at_a_time)
        with part("crop"):
            x = images[rows] if boxes is None else first.crop.cut(images[rows], boxes[rows], size)
            stored = x.dtype == torch.uint8
            x = x.to(torch.float32, memory_format=torch.contiguous_format, copy=not stored)
            x = x.mul_(1.0 / 255.0) if stored else x  # floats are a copy, which steps may change
        with part("flip"):
            x = first.steps["flip"].apply(x, rows_of(drawn[0]["flip"], rows))
        for view, own, out in zip(views, drawn, outs, strict=True):
            y = x
            for name, transform in view.steps.items():
                if name not in _GEOMETRY:
                    with part(name):
                        y = transform.apply(y, rows_of(own[name], rows))
            with part("normalize"):
                if normalized:
                    torch.sub(y, mean, out=out[rows]).div_(std)
                else:
                    out[rows] = y
    return outs


def require_pixels(x: Tensor) -> None:
    """Refuse images that are neither uint8 nor floats in [0, 1].

    Raises:
        TypeError: for another type.
        ValueError: for floats outside of [0, 1], NaN among them.
    """
    if x.dtype == torch.uint8:
        return
    if not x.is_floating_point():
        raise TypeError(
            f"Images must be torch.uint8 or floats in [0, 1], got {x.dtype}. Convert them."
        )
    low, high = (float(value) for value in x.aminmax()) if x.numel() else (0.0, 1.0)
    if not (low >= 0.0 and high <= 1.0):
        raise ValueError(
            f"Images of floats must be in [0, 1], got values from {low:g} to {high:g}. Divide by "
            "255, or leave normalization to the views."
        )


def rows_of(params: Params, rows: slice) -> Params:
    """Return the parameters of some samples."""
    return {name: value[rows] for name, value in params.items()}


def _rows_at_a_time(count: int, values: int, device: torch.device) -> int:
    if device.type != "cpu":
        return max(1, count)
    return 1 if values >= _LARGE else max(1, _CACHED_VALUES // values)
