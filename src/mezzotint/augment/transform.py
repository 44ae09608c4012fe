"""The contract of an augmentation: draw the parameters, then apply them.

The two halves are apart so that the same parameters can be shown (the gallery), predicted (which
invariances were learned), shared between views, or applied again. Both work on a whole batch, on its
device, with one row of parameters a sample; no transform keeps a generator.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import ClassVar

import torch
from torch import Tensor

from mezzotint.recipe.component import Component
from mezzotint.seeding import Draws
from mezzotint.timing import part

Params = dict[str, Tensor]
"""Parameters of one transform for a batch: each tensor has one row a sample."""


class Transform(Component, ABC, abstract=True):
    """An augmentation of a batch.

    `x` is float, in [0, 1] and `[B, C, H, W]` for images; the first dimension is always the batch.
    """

    modalities: ClassVar[frozenset[str]] = frozenset()
    """Modalities of the samples that it takes; empty for any."""

    @abstractmethod
    def draw(self, shape: Sequence[int], draws: Draws) -> Params:
        """Draw parameters for a batch of this shape, one row a sample."""

    @abstractmethod
    def apply(self, x: Tensor, params: Params) -> Tensor:
        """Apply drawn parameters. Pure: the same parameters give the same view; `x` is left as it is."""

    def output_shape(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        """Shape of what `apply` returns for a batch of this shape; the same, unless it crops or resizes."""
        return shape

    def __call__(self, x: Tensor, draws: Draws) -> Tensor:
        """Draw and apply."""
        return self.apply(x, self.draw(x.shape, draws))


class Compose(Transform):
    """Transforms one after the other, each with draws of its own (keyed by its place and name)."""

    def __init__(self, *, transforms: Sequence[Transform]) -> None:
        self.transforms = list(transforms)

    def names(self) -> list[str]:
        """The prefix of each transform's parameters: its place and its kind."""
        return [f"{i}.{t.config['kind']}" for i, t in enumerate(self.transforms)]

    def draw(self, shape: Sequence[int], draws: Draws) -> Params:
        """Parameters of all transforms, under `place.kind.name`."""
        return {
            f"{name}.{key}": value
            for name, transform in zip(self.names(), self.transforms, strict=True)
            for key, value in transform.draw(shape, draws.fold(name)).items()
        }

    def apply(self, x: Tensor, params: Params) -> Tensor:
        """Apply each in order."""
        for name, transform in zip(self.names(), self.transforms, strict=True):
            prefix = f"{name}."
            own = {
                key.removeprefix(prefix): v for key, v in params.items() if key.startswith(prefix)
            }
            with part(str(transform.config["kind"])):
                x = transform.apply(x, own)
        return x


def where_rows(x: Tensor, chosen: Tensor, change: Callable[[Tensor, Tensor], Tensor]) -> Tensor:
    """Change some rows of a batch and leave the others as they are.

    Args:
        x: `[B, …]`.
        chosen: bool `[B]`.
        change: takes the chosen rows `[K, …]` and their indices `[K]`, returns them changed.
    """
    rows = chosen.nonzero().squeeze(1)
    if len(rows) == 0:
        return x
    if len(rows) == len(x):
        return change(x, rows)
    # Rows are moved by `index_select`, which copies them whole; indexing and `index_copy` go
    # element by element, five times slower on a CPU.
    order = torch.cat([rows, chosen.logical_not().nonzero().squeeze(1)])
    y = x.index_select(0, order)
    y[: len(rows)] = change(y[: len(rows)], rows)
    return y.index_select(0, order.argsort())
