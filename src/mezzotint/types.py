"""The few data classes that all packages exchange."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from typing import Any, Literal, NamedTuple, TypedDict

import torch
from torch import Tensor

from mezzotint.files import shown
from mezzotint.modality.modality import modality_of
from mezzotint.seeding import Draws

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
"""Statistics of ImageNet's RGB values in [0, 1], by which most pretrained encoders normalize."""

Box = tuple[int, int, int, int]
"""Top, left, height and width of a crop, in pixels of the stored image."""

Interpolation = Literal["bilinear", "bicubic"]
"""Filter of a resize, antialiased, as Pillow and torchvision define it."""


class Crop(NamedTuple):
    """A region of a stored image, and how it becomes a square.

    Attributes:
        box: region in the stored image.
        size: height and width of the result, in pixels.
        interpolation: filter of the resize.
    """

    box: Box
    size: int
    interpolation: Interpolation = "bilinear"


CropSampler = Callable[[int, int], Sequence[Crop]]
"""Takes height and width of a stored image; returns the crops to cut out of it."""


class Sample(TypedDict):
    """One sample as its source reads it."""

    x: Tensor
    id: str
    label: int | Tensor | None


class Unreadable(Exception):
    """A sample cannot be read. The loader catches, counts and reports it.

    Args:
        id: id of the sample.
        reason: why, beginning with a word such as `empty`, `truncated` or `broken`.
    """

    def __init__(self, id: str, reason: str) -> None:
        super().__init__(id, reason)
        self.id, self.reason = id, reason

    def __str__(self) -> str:
        return shown(f"{self.id}: {self.reason}")


@dataclass(frozen=True)
class Input:
    """Shape and normalization of the samples that an encoder takes.

    Attributes:
        shape: shape of one sample, without the batch: `(C, H, W)` for images, `(1, mels, frames)`
            for audio, `(3, N)` for points, `(C, T)` for series, `(F,)` for tables, `(L,)` for
            tokens, `(4, H, W)` for images with text, whose tokens are the last channel.
        mean: mean of each channel: of values in [0, 1] for uint8 samples and for images that were
            mapped by `range`, of the values themselves for all others; empty for tokens, which are
            not normalized.
        std: standard deviation of each channel, likewise.
        modality: name of a file in `mezzotint.modality`.
        vocabulary: number of token ids, `PADDING` and `MASK` among them.
        text: number of tokens of an image with text.
        dtype: type of the values in the files, such as `uint16` or `float32`; empty for images of
            8-bit RGB and for other modalities.
        bits: bits of an integer in the files, such as 12 of a camera that stores them in `uint16`;
            0 for floats, and where `dtype` is empty.
        channels: name of each channel; empty where they have none.
        range: low and high of each channel: the stored values that become 0 and 1. Sources map and
            clip by it, so samples are float32 in [0, 1]. Empty where `dtype` is.

    Raises:
        ValueError: when the modality is unknown, or cannot have this shape and normalization.
    """

    shape: tuple[int, ...]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    modality: str = "image"
    vocabulary: int = 0
    text: int = 0
    dtype: str = ""
    bits: int = 0
    channels: tuple[str, ...] = ()
    range: tuple[tuple[float, float], ...] = ()

    def __post_init__(self) -> None:
        if min(self.std, default=1.0) <= 0.0:
            raise ValueError(
                f"`std` must be positive, got {list(self.std)}. A channel that never changes has "
                "no scale: leave it out, or set 1."
            )
        modality_of(self).check(self)

    @classmethod
    def of(cls, description: Mapping[str, Any]) -> "Input":
        """Make the input that `described` described; keys of other versions are left out."""
        known = {key.name for key in fields(cls)}
        return cls(**{key: _as_tuple(v) for key, v in description.items() if key in known})

    def described(self) -> dict[str, Any]:
        """Describe shape and normalization as plain data, for whoever serves an encoder.

        The key `values` says in words how stored values become what the network takes.
        """
        mapped = "clip((x - low) / (high - low), 0, 1) by the range of its channel, then "
        how = f"{mapped}(x - mean) / std" if self.range else modality_of(self).values
        return asdict(self) | {"values": how}

    def stated_values(self) -> str:
        """State channels, stored type and range in one line."""
        (low, high), shared = self.range[0], len(set(self.range)) == 1
        each = f"{low:,g} … {high:,g}" if shared else "a range for each channel"
        depth = f" of {self.bits} bits" if self.bits else ""
        count = f"{self.shape[0]} channels" if self.shape[0] > 1 else "1 channel"
        named = f" ({', '.join(self.channels)})" if self.channels else ""
        return f"{count}{named} of {self.dtype}{depth}; {each} becomes 0 … 1"

    def as_float(self, x: Tensor) -> Tensor:
        """Convert stored values to floats: uint8 to [0, 1], others as they are; token ids stay."""
        return modality_of(self).as_float(x)

    def normalize(self, x: Tensor) -> Tensor:
        """Normalize floats `[B, *sizes]` by channel: `(x − mean) / std`; token ids stay."""
        return modality_of(self).normalize(x, self)

    def blank(self, count: int = 1) -> Tensor:
        """Make samples `[count, *sizes]` of one value, to try a network with."""
        return modality_of(self).blank(self, count)

    def prepare(self, x: Tensor) -> Tensor:
        """Turn stored samples `[B, *sizes]` into what an encoder takes: floats, normalized."""
        return self.normalize(self.as_float(x))


def _as_tuple(value: Any) -> Any:
    """Turn lists, at any depth, into tuples."""
    return tuple(map(_as_tuple, value)) if isinstance(value, list | tuple) else value


@dataclass(frozen=True)
class Batch:
    """A batch from the loader, input of the view generator.

    Attributes:
        x: uint8 tensors `[B, C, H, W]`: one tensor of whole samples, or one per view if the workers
            crop (large and odd-sized images are cropped while they are decoded).
        ids: int64 `[B]`, indices of the samples in the source; they key every draw.
        cropped: true if `x` has one crop per view.
        bad: samples that could not be read and were replaced by the next readable ones.
        labels: int64 `[B]`, or bool `[B, C]` for tags; `None` from an
            unlabeled source.
        seconds: reading time by part, if it was measured; see `timing`.
    """

    x: tuple[Tensor, ...]
    ids: Tensor
    cropped: bool = False
    bad: tuple[Unreadable, ...] = ()
    labels: Tensor | None = None
    seconds: dict[str, float] = field(default_factory=dict)

    def split(self, count: int) -> list["Batch"]:
        """Split into micro-batches of consecutive rows."""
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
        tags: one name per view: `"global"` or `"local"` for crops, or its augmentation policy.
        draws: for randomness inside the method (projections, bit-widths), keyed by (seed, step).
        labels: labels of the samples, as in `Batch`; only supervised methods use them.
        pairs: indices (prediction, target) of the views to compare; empty to compare every global
            target with every other view.
        weights: float32, one per pair; `None` for equal weights.
        target_x: the same views for a momentum copy, with draws of their own; empty if it encodes
            `x` too.
        epoch: scalar from 0; a tensor, so that a compiled method is not recompiled each epoch.
        progress: scalar, the fraction of training that is done.
    """

    x: tuple[Tensor, ...]
    tags: tuple[str, ...]
    draws: Draws
    labels: Tensor | None = None
    pairs: tuple[tuple[int, int], ...] = ()
    weights: Tensor | None = None
    epoch: Tensor | None = None
    progress: Tensor | None = None
    target_x: tuple[Tensor, ...] = ()

    def split(self, count: int) -> list["Views"]:
        """Split into parts of consecutive samples, which share memory with the whole."""
        parts = []
        for rows in torch.arange(len(self.x[0])).chunk(count):
            part = slice(int(rows[0]), int(rows[-1]) + 1)
            parts.append(
                replace(
                    self,
                    x=tuple(x[part] for x in self.x),
                    target_x=tuple(x[part] for x in self.target_x),
                    draws=replace(self.draws, ids=self.draws.ids[part]),
                    labels=None if self.labels is None else self.labels[part],
                )
            )
        return parts

    def for_targets(self) -> "Views":
        """Return what a momentum copy encodes: `target_x` as `x`, if there are any."""
        return replace(self, x=self.target_x, target_x=()) if self.target_x else self

    def channels_last(self) -> "Views":
        """Return images in the memory format of convolutions; other views as they are."""
        x, target_x = (
            tuple(v.contiguous(memory_format=torch.channels_last) if v.ndim == 4 else v for v in vs)
            for vs in (self.x, self.target_x)
        )
        return replace(self, x=x, target_x=target_x)


@dataclass(frozen=True)
class Step:
    """What a method's forward returns: the loss to minimize, and scalars worth logging.

    Attributes:
        loss: 0-d tensor with a gradient.
        logs: 0-d tensors without a gradient, by name.
    """

    loss: Tensor
    logs: dict[str, Tensor] = field(default_factory=dict)


@dataclass(frozen=True)
class Codes:
    """Result of a codebook for vectors `[…, D]`, with S levels of K codes each.

    Attributes:
        quantized: `[…, D]` (`[…, codebook.out_dim]`), in the dtype of the input; carries the
            gradient to it.
        indices: int64 `[…, S]`, the code of each level.
        loss: commitment loss, a float32 scalar.
        usage: float32 `[S, K]`, number of vectors of this rank per code.
        residual: float32 `[S]`, energy of the residual after each level, as a fraction of the
            energy of the input.
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
        y: labels, int64 `[N]` or bool `[N, C]`; `None` for unlabeled samples.
        validation: bool `[N]`, samples on which settings are selected; `None` if the data has no
            such split.
    """

    x: Tensor
    y: Tensor | None = None
    validation: Tensor | None = None

    def __getitem__(self, rows: Any) -> "Features":
        return Features(
            self.x[rows], *(None if v is None else v[rows] for v in (self.y, self.validation))
        )
