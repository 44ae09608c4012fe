"""The few things that travel between the packages."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, TypedDict

from torch import Tensor

from mezzotint.modality.modality import modality_of
from mezzotint.seeding import Draws

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
"""Statistics of ImageNet's RGB values in [0, 1], by which most pretrained encoders normalize."""

Box = tuple[int, int, int, int]
"""Top, left, height and width of a crop, in pixels of the stored image."""

CropSampler = Callable[[int, int], Sequence[tuple[Box, int]]]
"""Takes height and width of a stored image; returns the box and the output size of each crop."""


class Sample(TypedDict):
    """One sample as its source reads it."""

    x: Tensor
    id: str
    label: int | Tensor | None


class Unreadable(Exception):
    """A sample that cannot be read. Caught by the loader, counted, and named in log and report."""

    def __init__(self, id: str, reason: str) -> None:
        super().__init__(id, reason)
        self.id, self.reason = id, reason

    def __str__(self) -> str:
        return f"{self.id}: {self.reason}"


@dataclass(frozen=True)
class Input:
    """What an encoder takes: shape of one sample, and how its values are normalized.

    Attributes:
        shape: of one sample, without the batch: `(C, H, W)` for images, `(1, mels, frames)` for
            audio, `(3, N)` for points, `(C, T)` for series, `(F,)` for tables, `(L,)` for tokens,
            `(4, H, W)` for images with text, whose tokens are the last channel.
        mean: per channel, of values in [0, 1] where the samples are uint8, and of the values
            themselves elsewhere; empty for tokens, which are whole numbers and stay so.
        std: per channel.
        modality: what the tensor is.
        vocabulary: of tokens, how many there are: ids are `0 … vocabulary − 1`, with `PADDING` and
            `MASK` among them.
        text: of images with text, how many tokens each has.
    """

    shape: tuple[int, ...]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    modality: str = "image"
    vocabulary: int = 0
    text: int = 0

    def __post_init__(self) -> None:
        modality_of(self).check(self)

    def as_float(self, x: Tensor) -> Tensor:
        """Convert stored values to floats: uint8 to [0, 1], others as they are; token ids stay."""
        return modality_of(self).as_float(x)

    def normalize(self, x: Tensor) -> Tensor:
        """Normalize floats `[B, *sizes]` by channel: `(x − mean) / std`; token ids stay."""
        return modality_of(self).normalize(x, self)


@dataclass(frozen=True)
class Batch:
    """What the loader hands to the view generator.

    Attributes:
        x: uint8 tensors `[B, C, H, W]`: a single one holding whole samples, or one per view when
            the workers have already cropped (large and odd-sized images are cropped while they are
            decoded).
        ids: int64 `[B]`, the samples' indices in the source: what every draw is keyed by.
        cropped: whether `x` holds one crop per view.
        bad: the samples that could not be read and were replaced by the next readable ones.
        labels: int64 `[B]`, or bool `[B, C]` where a sample has several; `None` from a source that
            teaches nothing.
        seconds: what reading took, by part, where it was measured; see `timing`.
    """

    x: tuple[Tensor, ...]
    ids: Tensor
    cropped: bool = False
    bad: tuple[Unreadable, ...] = ()
    labels: Tensor | None = None
    seconds: dict[str, float] = field(default_factory=dict)

    def split(self, count: int) -> list["Batch"]:
        """Micro-batches: consecutive rows."""
        if count == 1:
            return [self]
        columns = [x.chunk(count) for x in self.x]
        rows = self.ids.chunk(count)
        labels = [None] * len(rows) if self.labels is None else self.labels.chunk(count)
        return [
            replace(self, x=tuple(c[i] for c in columns), ids=rows[i], labels=labels[i])
            for i in range(len(rows))
        ]


@dataclass(frozen=True)
class Views:
    """What a method sees: views of the same samples, row for row.

    Attributes:
        x: float tensors `[B, C, H, W]`, normalized as the encoder's `Input` says.
        tags: one name a view: `"global"` or `"local"` for crops, or the strategy that made it.
        draws: for randomness inside the method (projections, bit-widths), keyed by (seed, step).
        labels: of the samples, as in `Batch`; only supervised methods look at them.
        pairs: the (prediction, target) places that are compared; empty for every global target with
            every other view.
        weights: float32, one for each of `pairs`; `None` for equal ones.
        epoch: a scalar, from 0; a tensor, so that a compiled method is not compiled anew for each.
        progress: a scalar, the share of training that is done.
    """

    x: tuple[Tensor, ...]
    tags: tuple[str, ...]
    draws: Draws
    labels: Tensor | None = None
    pairs: tuple[tuple[int, int], ...] = ()
    weights: Tensor | None = None
    epoch: Tensor | None = None
    progress: Tensor | None = None


@dataclass(frozen=True)
class Step:
    """What a method's forward returns: the loss to minimize, and scalars worth logging."""

    loss: Tensor
    logs: dict[str, Tensor] = field(default_factory=dict)


@dataclass(frozen=True)
class Codes:
    """What a codebook makes of vectors `[…, D]`, with S levels of K codes each.

    Attributes:
        quantized: `[…, D]` (`[…, codebook.out_dim]`), in the dtype of the input; carries the
            gradient to it.
        indices: int64 `[…, S]`, the code of each level.
        loss: what the vectors are to be charged (commitment), a float32 scalar.
        usage: float32 `[S, K]`, how many of this rank's vectors took each code.
        residual: float32 `[S]`, energy that is left after each level, as a share of the input's.
    """

    quantized: Tensor
    indices: Tensor
    loss: Tensor
    usage: Tensor
    residual: Tensor


@dataclass(frozen=True)
class Features:
    """Frozen features of samples.

    Attributes:
        x: float32 `[N, D]`.
        y: labels, when there are some: int64 `[N]`, or bool `[N, C]`.
        validation: bool `[N]`, those on which settings are to be selected, where the data says
            which.
    """

    x: Tensor
    y: Tensor | None = None
    validation: Tensor | None = None

    def __getitem__(self, rows: Any) -> "Features":
        return Features(
            self.x[rows], *(None if v is None else v[rows] for v in (self.y, self.validation))
        )
