"""The contract of a data source, and what it may say beyond the contract."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol, runtime_checkable

import numpy as np
import numpy.typing as npt
from torch import Tensor

from mezzotint.types import Box as Box
from mezzotint.types import Input, Sample

Index = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Task:
    """A question that frozen features can be asked, with its split fixed by the data.

    Attributes:
        name: what is predicted and how it is split, `"category/across-styles"`.
        kind: `"classify"`: labels of `train` are learnt and those of `test` predicted. `"retrieve"`: each sample of
            `test` looks for the one with its own label among `train`.
        labels: int64 `[N]` for all samples of the source; only those of `train` and `test` are looked at.
        train: indices of the samples to learn from.
        test: indices of the samples to be scored.
        classes: names, by label; empty for retrieval.
    """

    name: str
    kind: Literal["classify", "retrieve"]
    labels: Index
    train: Index
    test: Index
    classes: Sequence[str] = ()


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

    def read_crops(self, index: int, choose: Callable[[int, int], Sequence[tuple[Box, int]]]) -> list[Tensor]:
        """Cut crops out of one image, opening the file once.

        Args:
            index: of the sample.
            choose: takes height and width of the stored image, returns for each crop its box and its output size.

        Returns:
            uint8 `[C, size, size]` for each crop.

        Raises:
            Unreadable: with the sample's id and the reason.
        """
        ...


@runtime_checkable
class InMemory(Protocol):
    """A source that holds all samples as one tensor: no workers are needed."""

    def read_batch(self, indices: Tensor) -> Tensor:
        """int64 `[B]` → uint8 `[B, C, H, W]`."""
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
