"""View generators turn a batch of stored samples into the views that a method contrasts.

`ViewGenerator` is the contract. `Transformed` is the generator for every modality whose samples
all have one shape: log-mel spectrograms, point clouds, sensor series, tables, tokens. It sends
each sample through a chain of transforms, once per view. Views of images are in
`augment/image/views.py`.
"""

import copy
import functools
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from torch import Tensor

from mezzotint.augment.transform import Params, Transform, to_device_of
from mezzotint.recipe.component import Component
from mezzotint.seeding import Draws, key_of
from mezzotint.timing import part
from mezzotint.types import Batch, Crop, CropSampler, Input, Views

Pairing = tuple[tuple[int, int], ...]
"""Pairs of views that are compared: indices of prediction and target."""


_MOST = 2.0  # of a strength


def checked_strength(strength: float) -> float:
    """Return a strength after checking it.

    Raises:
        ValueError: when it is not between 0 and 2.
    """
    if not 0.0 <= strength <= _MOST:
        raise ValueError(f"`views.strength` must be 0 to {_MOST:g}, got {strength}. Try 1.")
    return strength


@dataclass(frozen=True)
class ViewContext:
    """Everything that the views of a sample depend on besides the sample.

    Attributes:
        input: shape and statistics that the encoder takes.
        seed: seed of the run.
        epoch: epoch, from 0.
    """

    input: Input
    seed: int
    epoch: int

    def draws(self, ids: Tensor, view: int | str) -> Draws:
        """Return the draws of one view by its index, or of what all views share by a name.

        They are made on the CPU, so that a view does not depend on the device.
        """
        return Draws(ids.cpu(), key_of(self.seed, self.epoch, "view", view))


class ViewGenerator(Component, ABC, abstract=True):
    """Make the views of a batch on the device of the encoder.

    Parameters are drawn on the CPU, keyed by (seed, epoch, sample, view, transform), and then
    moved: a sample's views do not depend on its batch, device, worker or process.

    Attributes:
        modalities: modalities of the samples that it takes; empty for any.
    """

    modalities: ClassVar[frozenset[str]] = frozenset()

    @property
    @abstractmethod
    def tags(self) -> tuple[str, ...]:
        """One tag per view: `"global"`, `"local"`, or the policy that makes the view."""

    @property
    def num_views(self) -> int:
        """Number of views of each sample."""
        return len(self.tags)

    @property
    def mixes_samples(self) -> bool:
        """Whether a view depends on other samples of its batch, or of earlier ones."""
        return False

    @property
    def num_target_views(self) -> int:
        """Number of the last views, which a momentum copy encodes instead of the views before."""
        return 0

    @property
    def memory_size(self) -> int:
        """Number of earlier samples that the views depend on; a resumed run replays that many."""
        return 0

    def check(self, input: Input) -> None:
        """Refuse samples that these views cannot be made of, before a run begins.

        Raises:
            ValueError: with the transform that cannot take them.
        """

    @abstractmethod
    def draw(self, ids: Tensor, context: ViewContext) -> list[dict[str, Params]]:
        """Draw the parameters of every view, to show or to predict them.

        Args:
            ids: sample ids, int64 `[B]`.
            context: input of the encoder, seed and epoch.

        Returns:
            One dictionary per view, from the name of a step to its parameters.
        """

    @abstractmethod
    def render(
        self,
        batch: Batch,
        context: ViewContext,
        *,
        device: torch.device | None = None,
        normalized: bool = True,
    ) -> tuple[Tensor, ...]:
        """Make the views of a batch.

        Args:
            batch: stored samples.
            context: input of the encoder, seed and epoch.
            device: device on which the views are made; by default the device of the batch.
            normalized: True returns values as the encoder takes them, False as they are displayed.

        Returns:
            One float32 tensor per view, with the batch dimension first.
        """

    def crop_samplers(self, ids: Tensor, context: ViewContext) -> list[CropSampler]:
        """Return one crop sampler per sample, with which a source crops while it decodes.

        Raises:
            ValueError: when these views are not crops of images.
        """
        kind = self.config["kind"]
        raise ValueError(
            f"`views` {kind} does not crop images, but this data source crops images while it "
            "decodes them. Supported: view generators for images. Try `views.kind=two_views`."
        )

    def repeats(self, input: Input) -> bool:
        """Return whether targets are made of the same views in every epoch.

        Made-up samples are rendered in three epochs, which tells all but rare randomness; token ids
        cannot be made up, and count as repeated.

        Args:
            input: of the samples.
        """
        if input.vocabulary or input.text:
            return True
        numbers = torch.Generator().manual_seed(0)
        made = Batch((torch.rand(16, *input.shape, generator=numbers),), torch.arange(16))
        generator = copy.deepcopy(self)  # some remember earlier samples
        seen = [
            generator.render(made, ViewContext(input, 0, epoch))[-self.num_target_views :]
            for epoch in range(3)
        ]
        return all(
            torch.equal(a, b) for other in seen[1:] for a, b in zip(seen[0], other, strict=True)
        )

    def pairing(self, progress: float) -> tuple[Pairing, list[float] | None]:
        """Return the (prediction, target) pairs of views to compare, and a weight for each pair.

        Args:
            progress: fraction of training that is done.

        Returns:
            No pairs when every global target is compared with every other view; `None` for equal
            weights.
        """
        return (), None

    def __call__(
        self,
        batch: Batch,
        context: ViewContext,
        *,
        step: int,
        progress: float = 0.0,
        device: torch.device | None = None,
    ) -> Views:
        """Make the views of a batch as a method takes them; `step` keys the method's own draws."""
        x = self.render(batch, context, device=device)
        draws = Draws(to_device_of(x[0], batch.ids), key_of(context.seed, step, "method"))
        pairs, weights = self.pairing(progress)
        own = len(x) - self.num_target_views
        return Views(
            x[:own],
            self.tags[:own],
            draws,
            batch.labels,
            pairs,
            None if weights is None else to_device_of(x[0], torch.tensor(weights)),
            x[0].new_full((), context.epoch),
            x[0].new_full((), progress),
            x[own:],
        )


class Transformed(ViewGenerator):
    """Make each view with a chain of transforms.

    Args:
        transforms: transforms of every view, in order.
        second: transforms of the second view, if it has its own.
        count: number of views; 1 suits supervised training.
        strength: factor of how much the transforms change a sample, from 0 for next to nothing to
            2.
    """

    def __init__(
        self,
        *,
        transforms: list[Transform],
        second: list[Transform] | None = None,
        count: int = 2,
        strength: float = 1.0,
    ) -> None:
        if count < 1:
            raise ValueError(f"`count` must be 1 or more, got {count}. Try 2.")
        if second is not None and count != 2:
            raise ValueError(
                f"`count` must be 2 when `second` is set, got {count}. Remove `second` or `count`."
            )
        factor = checked_strength(strength)
        chains = [transforms] * count if second is None else [transforms, second]
        self.chains = [[item.at_strength(factor) for item in chain] for chain in chains]

    @property
    def tags(self) -> tuple[str, ...]:
        return ("global",) * len(self.chains)

    @property
    def mixes_samples(self) -> bool:
        return any(transform.mixes_samples for chain in self.chains for transform in chain)

    def draw(self, ids: Tensor, context: ViewContext) -> list[dict[str, Params]]:
        """Draw parameters under `index.kind`, for samples of the shape that the encoder takes."""
        shape = (len(ids), *context.input.shape)
        return [
            self._draw(chain, shape, context.draws(ids, index))
            for index, chain in enumerate(self.chains)
        ]

    def _draw(
        self, chain: Sequence[Transform], shape: tuple[int, ...], draws: Draws
    ) -> dict[str, Params]:
        drawn = {}
        for name, transform in _named(chain):
            transform.check(shape)
            drawn[name] = transform.draw(shape, draws.fold(name))
            shape = transform.output_shape(shape)
        return drawn

    @torch.no_grad()
    def render(
        self,
        batch: Batch,
        context: ViewContext,
        *,
        device: torch.device | None = None,
        normalized: bool = True,
    ) -> tuple[Tensor, ...]:
        """Make the views; uint8 values become floats in [0, 1], floats keep their values.

        Raises:
            ValueError: when the loader has cropped the batch.
        """
        if batch.cropped or len(batch.x) != 1:
            raise ValueError(
                "`views` transformed takes one tensor of whole samples, got crops. "
                "Choose view generators for images, such as `views.kind=two_views`."
            )
        stored = batch.x[0] if device is None else batch.x[0].to(device, non_blocking=True)
        x = context.input.as_float(stored)
        views = []
        for index, chain in enumerate(self.chains):
            with part("draw"):
                drawn = self._draw(chain, tuple(x.shape), context.draws(batch.ids, index))
            view = x
            for name, transform in _named(chain):
                with part(str(transform.config["kind"])):
                    view = transform.apply(view, transform.to_device(drawn[name], x.device))
            views.append(context.input.normalize(view) if normalized else view)
        return tuple(views)


class CleanTarget(ViewGenerator):
    """Make views for a student, and give its teachers each sample as it is.

    The sample is what evaluation reads: without augmentation, and of images the largest centered
    square.

    Args:
        student: the student's views.
    """

    def __init__(self, *, student: ViewGenerator) -> None:
        if student.num_target_views:
            raise ValueError(
                "`views.student` must not have views of its own for a momentum copy or a teacher. "
                "Leave `per_branch` out."
            )
        self.student = student

    @property
    def tags(self) -> tuple[str, ...]:
        return (*self.student.tags, "clean")

    @property
    def num_target_views(self) -> int:
        return 1

    @property
    def memory_size(self) -> int:
        return self.student.memory_size

    def draw(self, ids: Tensor, context: ViewContext) -> list[dict[str, Params]]:
        """Draw the parameters of the student's views; the clean sample has none."""
        return [*self.student.draw(ids, context), {}]

    def crop_samplers(self, ids: Tensor, context: ViewContext) -> list[CropSampler]:
        """Add the largest centered square to the crops of the student."""
        size = context.input.shape[-1]
        own = self.student.crop_samplers(ids, context)
        return [functools.partial(_with_square, sampler, size) for sampler in own]

    def pairing(self, progress: float) -> tuple[Pairing, list[float] | None]:
        return self.student.pairing(progress)

    @torch.no_grad()
    def render(
        self,
        batch: Batch,
        context: ViewContext,
        *,
        device: torch.device | None = None,
        normalized: bool = True,
    ) -> tuple[Tensor, ...]:
        """Make the views of the student, then the clean samples."""
        *crops, stored = batch.x if batch.cropped else (*batch.x, batch.x[0])
        own = self.student.render(
            replace(batch, x=tuple(crops)), context, device=device, normalized=normalized
        )
        clean = context.input.as_float(stored.to(own[0].device, non_blocking=True))
        clean = clean.to(torch.float32, copy=True)
        return (*own, context.input.normalize(clean) if normalized else clean)


def _with_square(sampler: CropSampler, size: int, height: int, width: int) -> list[Crop]:
    """Add the largest centered square of an image to its crops."""
    side = min(height, width)
    box = ((height - side) // 2, (width - side) // 2, side, side)
    return [*sampler(height, width), Crop(box, size)]


def _named(chain: Sequence[Transform]) -> list[tuple[str, Transform]]:
    """Name each transform by index and kind; the names key the draws."""
    return [(f"{i}.{transform.config['kind']}", transform) for i, transform in enumerate(chain)]
