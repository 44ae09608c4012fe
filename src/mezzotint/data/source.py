"""The contract of a data source, and what it may say beyond the contract."""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal, Protocol, runtime_checkable

import numpy as np
import numpy.typing as npt
from torch import Tensor

from mezzotint.data.balance import Weighting
from mezzotint.types import Box as Box
from mezzotint.types import Input, Sample

if TYPE_CHECKING:
    from mezzotint.data.image.nvjpeg import Jpeg

Index = npt.NDArray[np.int64]

FOLD = re.compile(r"/fold-\d+(?=/|$)")
"""What marks a task as one of several folds, in its name and in those of its figures."""


@dataclass(frozen=True)
class Task:
    """A question that frozen features can be asked, with its split fixed by the data.

    Attributes:
        name: what is predicted and how it is split, `"category/across-styles"`.
        kind: `"classify"`: labels of `train` are learned and those of `test` predicted. `"tag"`: the
            same, where a sample has any number of labels. `"retrieve"`: each sample of `test` looks
            for the one with its own label among `train`.
        labels: int64 `[N]`, or to tag bool `[N, C]`, for all samples of the source; only those of
            `train` and `test` are looked at.
        train: indices of the samples to learn from.
        test: indices of the samples to be scored.
        classes: names, by label; empty for retrieval.
        validation: those of `train` on which a probe may select its settings or stop, where the
            data has a split for it; empty where the probe is to hold out some itself.
    """

    name: str
    kind: Literal["classify", "tag", "retrieve"]
    labels: Index | npt.NDArray[np.bool_]
    train: Index
    test: Index
    classes: Sequence[str] = ()
    validation: Index = field(default_factory=lambda: np.empty(0, np.int64))


@runtime_checkable
class Source(Protocol):
    """Where samples come from. `read` runs in loader workers; a source is picklable and keeps no open file."""

    config: dict[str, object]
    input: Input

    def __len__(self) -> int: ...

    def read(self, index: int) -> Sample:
        """Read one sample as uint8 `[C, H, W]` of the size `input` states.

        Raises:
            Unreadable: with the sample's id and the reason.
        """
        ...

    def fingerprint(self) -> str:
        """A short hash of what the source holds: a resumed run must see the same data."""
        ...


@runtime_checkable
class Croppable(Protocol):
    """A source of large or odd-sized images: it crops while it decodes, in the workers."""

    def read_crops(
        self, index: int, choose: Callable[[int, int], Sequence[tuple[Box, int]]]
    ) -> list[Tensor]:
        """Cut crops out of one image, opening the file once.

        Args:
            index: of the sample.
            choose: takes height and width of the stored image, returns for each crop its box and
                its output size.

        Returns:
            uint8 `[C, size, size]` for each crop.

        Raises:
            Unreadable: with the sample's id and the reason.
        """
        ...


@runtime_checkable
class Several(Protocol):
    """A source that can read several parts of each sample, over whose features an evaluation averages."""

    def several(self, clips: int, crops: int) -> Source:
        """The same samples, each as `[clips · crops, *input.shape]`: clips along time, crops along the longer side.

        Raises:
            ValueError: for clips of what has no time.
        """
        ...


def in_parts(source: Source, clips: int, crops: int) -> Source:
    """A source of which several clips and crops of each sample are read, over whose features an evaluation averages.

    Raises:
        ValueError: when the source has none.
    """
    if min(clips, crops) < 1 or not isinstance(source, Several):
        raise ValueError(
            f"got clips={clips}, crops={crops} of {source.config['kind']}; allowed are 1 or more of video_folder, and "
            "crops of image_folder: change them, or leave them out"
        )
    return source.several(clips, crops)


@runtime_checkable
class Longer(Protocol):
    """A source of clips that can read more of each than an encoder takes, for training to cut other parts each time."""

    def longer(self) -> Source:
        """The same samples in the same order, as long as training reads them."""
        ...


@runtime_checkable
class Encoded(Protocol):
    """A croppable source that can leave the decoding of JPEG files to a GPU.

    Attributes:
        decoder: `nvjpeg` where it does.
    """

    decoder: Literal["pillow", "nvjpeg"]

    def read_encoded(
        self, index: int, choose: Callable[[int, int], Sequence[tuple[Box, int]]]
    ) -> "Jpeg | list[Tensor]":
        """As `read_crops`; but of a plain JPEG its bytes, and where it is to be cropped."""
        ...


@runtime_checkable
class InMemory(Protocol):
    """A source that holds all samples as one tensor: no workers are needed."""

    def read_batch(self, indices: Tensor) -> Tensor:
        """int64 `[B]` → uint8 `[B, C, H, W]`."""
        ...


@runtime_checkable
class Taught(Protocol):
    """A source whose samples come with what a supervised method is to predict."""

    def targets(self, indices: Tensor) -> Tensor:
        """int64 `[B]` → labels int64 `[B]`, or bool `[B, C]` where a sample has several."""
        ...


@runtime_checkable
class Weighted(Protocol):
    """A source whose samples are not all visited once an epoch.

    Attributes:
        weighting: how often each is drawn; `None` where they are after all.
    """

    weighting: Weighting | None


@runtime_checkable
class Named(Protocol):
    """A source that knows the ids of its samples without reading them."""

    def id_of(self, index: int) -> str:
        """`Sample["id"]` of a sample."""
        ...


@runtime_checkable
class Evaluable(Protocol):
    """A source that knows what its samples can be asked."""

    def evaluation(self) -> tuple[Source, Sequence[Task]]:
        """All samples to extract features of (training and test), and the tasks over their indices."""
        ...


@runtime_checkable
class Credited(Protocol):
    """A source whose samples are other people's work, who are to be named wherever the samples are shown."""

    credit: str
