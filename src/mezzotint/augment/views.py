"""The contract of a view generator: from a batch of stored samples to the views that a method contrasts.

Views of anything: the same sample through a chain of transforms, twice or more.

For modalities whose samples all have one shape in memory: log-mel spectrograms, point clouds,
sensor series, tables. What a chain consists of says everything about the modality; randomized
quantization fits any.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import ClassVar

import torch
from torch import Tensor

from mezzotint.augment.transform import Params, Transform
from mezzotint.recipe.component import Component
from mezzotint.seeding import Draws, key_of
from mezzotint.timing import part
from mezzotint.types import Batch, Box, Input, Views

Pairing = tuple[tuple[int, int], ...]
"""Pairs of views that are compared: places of prediction and target."""

Chooser = Callable[[int, int], list[tuple[Box, int]]]
"""Takes height and width of a stored image, returns for each view its box and the size it is to have."""


def view_draws(ids: Tensor, seed: int, epoch: int, place: int | str) -> Draws:
    """The draws of one view, by its place (or of what all views share, by a name), on the CPU."""
    return Draws(ids.cpu(), key_of(seed, epoch, "view", place))


class ViewGenerator(Component, ABC, abstract=True):
    """Makes the views of a batch, on the device of the encoder.

    Parameters are drawn on the CPU, keyed by (seed, epoch, sample, view, transform), and then
    moved: so a sample's views do not depend on the device, the batch, the worker or the process it
    happens to be in.
    """

    modalities: ClassVar[frozenset[str]] = frozenset()
    """Modalities of the samples that it takes; empty for any."""

    @property
    @abstractmethod
    def tags(self) -> tuple[str, ...]:
        """One a view: `"global"`, `"local"`, or the strategy that makes it."""

    @property
    def num_views(self) -> int:
        """How many views a batch gets."""
        return len(self.tags)

    @property
    def remembers(self) -> int:
        """How many samples of earlier batches the views depend on; a resumed run makes those views again."""
        return 0

    @abstractmethod
    def draw(self, ids: Tensor, *, input: Input, seed: int, epoch: int) -> list[dict[str, Params]]:
        """Every parameter of every view, to look at or to predict; for each view by the name of the step.

        Args:
            ids: int64 `[B]`.
            input: of the encoder.
            seed: of the run.
            epoch: from 0.
        """

    @abstractmethod
    def render(
        self,
        batch: Batch,
        *,
        input: Input,
        seed: int,
        epoch: int,
        device: torch.device | None = None,
        normalized: bool = True,
    ) -> tuple[Tensor, ...]:
        """Make the views of a batch.

        Args:
            batch: of stored samples.
            input: of the encoder.
            seed: of the run.
            epoch: from 0.
            device: where the views are made; by default where the batch is.
            normalized: as the encoder takes them, or as they are shown.

        Returns:
            One float32 tensor a view, the batch first.
        """

    def choosers(self, ids: Tensor, *, input: Input, seed: int, epoch: int) -> list[Chooser]:
        """For each sample the function that tells a source which boxes to cut out of it while it decodes.

        Raises:
            ValueError: when these views are not crops of images.
        """
        raise ValueError(
            f"{self.config['kind']} does not crop images, and the data are images that are cropped while they are "
            "decoded; choose views of images, such as two_views"
        )

    def pairing(self, progress: float) -> tuple[Pairing, list[float] | None]:
        """Which views are compared, as places of (prediction, target), and how much each pair weighs.

        Args:
            progress: share of training that is done.

        Returns:
            No pairs where every global target is compared with every other view; `None` for equal
            weights.
        """
        return (), None

    def __call__(
        self,
        batch: Batch,
        *,
        input: Input,
        seed: int,
        epoch: int,
        step: int,
        progress: float = 0.0,
        device: torch.device | None = None,
    ) -> Views:
        """The views of a batch as a method takes them; `step` keys the draws of the method itself."""
        x = self.render(batch, input=input, seed=seed, epoch=epoch, device=device)
        draws = Draws(batch.ids.to(x[0].device), key_of(seed, step, "method"))
        labels = None if batch.labels is None else batch.labels.to(x[0].device)
        pairs, weights = self.pairing(progress)
        return Views(
            x,
            self.tags,
            draws,
            labels,
            pairs,
            None if weights is None else x[0].new_tensor(weights),
            x[0].new_tensor(epoch),
            x[0].new_tensor(progress),
        )


class Transformed(ViewGenerator):
    """Views made by chains of transforms.

    Args:
        transforms: of every view, in order.
        second: of the second view, where it differs.
        count: of views; a single one suits supervised training.
    """

    def __init__(
        self, *, transforms: list[Transform], second: list[Transform] | None = None, count: int = 2
    ) -> None:
        if count < 1 or (second is not None and count != 2):
            raise ValueError(
                f"got count={count}{' with a second chain' if second else ''}; allowed is one view or more, and two "
                "where the second has a chain of its own"
            )
        self.chains = (
            [list(transforms)] * count if second is None else [list(transforms), list(second)]
        )

    @property
    def tags(self) -> tuple[str, ...]:
        """All views are global."""
        return ("global",) * len(self.chains)

    def draw(self, ids: Tensor, *, input: Input, seed: int, epoch: int) -> list[dict[str, Params]]:
        """Parameters by place and kind of the transform, for samples of the shape that the encoder takes."""
        shape = (len(ids), *input.shape)
        return [
            self._draw(chain, shape, view_draws(ids, seed, epoch, place))
            for place, chain in enumerate(self.chains)
        ]

    def _draw(
        self, chain: Sequence[Transform], shape: tuple[int, ...], draws: Draws
    ) -> dict[str, Params]:
        drawn = {}
        for name, transform in _named(chain):
            drawn[name] = transform.draw(shape, draws.fold(name))
            shape = transform.output_shape(shape)
        return drawn

    @torch.no_grad()
    def render(
        self,
        batch: Batch,
        *,
        input: Input,
        seed: int,
        epoch: int,
        device: torch.device | None = None,
        normalized: bool = True,
    ) -> tuple[Tensor, ...]:
        """Make the views; uint8 values become floats in [0, 1], floats stay what they are.

        Raises:
            ValueError: when the batch was cropped by the loader.
        """
        if batch.cropped or len(batch.x) != 1:
            raise ValueError(
                "got crops; allowed is a single tensor of whole samples: choose views of images"
            )
        stored = batch.x[0] if device is None else batch.x[0].to(device, non_blocking=True)
        x = input.as_float(stored)
        views = []
        for place, chain in enumerate(self.chains):
            with part("draw"):
                drawn = self._draw(chain, tuple(x.shape), view_draws(batch.ids, seed, epoch, place))
            view = x
            for name, transform in _named(chain):
                with part(str(transform.config["kind"])):
                    view = transform.apply(
                        view, {key: value.to(x.device) for key, value in drawn[name].items()}
                    )
            views.append(input.normalize(view) if normalized else view)
        return tuple(views)


def _named(chain: Sequence[Transform]) -> list[tuple[str, Transform]]:
    return [
        (f"{place}.{transform.config['kind']}", transform) for place, transform in enumerate(chain)
    ]
