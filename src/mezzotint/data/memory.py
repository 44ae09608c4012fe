"""Sources in memory, and the per-channel mean and standard deviation of their samples."""

import copy
import hashlib
from collections.abc import Sequence
from typing import Self

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from mezzotint.data.source import Index, Source
from mezzotint.types import Sample

Floats = npt.NDArray[np.float64]
Ranges = tuple[tuple[float, float], ...]
"""Low and high of each channel."""

_STORED, _SUMMED = 4.0, 64.0  # multiples of epsilon: for stored values, for a mean


class InMemory(Source, abstract=True):
    """Samples in one tensor: no files are read while training, and no workers are needed.

    A subclass fills the attributes in its constructor.

    Attributes:
        images: uint8 `[N, C, H, W]`.
        labels: int64 `[N]`; negative for unlabeled samples.
        ids: the name of the source, from which ids are numbered, or one id a sample.
        input: shape and normalization.
    """

    in_memory = True
    images: Tensor
    labels: Index
    ids: str | list[str]

    def __len__(self) -> int:
        return len(self.images)

    def read(self, index: int) -> Sample:
        label = int(self.labels[index])
        return {
            "x": self.images[index],
            "id": self.id_of(index),
            "label": label if label >= 0 else None,
        }

    def id_of(self, index: int) -> str:
        if not -len(self) <= index < len(self):
            raise IndexError(f"sample {index} of {len(self)}")
        return f"{self.ids}/{index:06d}" if isinstance(self.ids, str) else self.ids[index]

    def read_batch(self, indices: Tensor) -> Tensor:
        return self.images.index_select(0, indices)

    def fingerprint(self) -> str:
        """Hash all values, their shape and their labels: 16 hexadecimal digits."""
        digest = hashlib.blake2b(repr(tuple(self.images.shape)).encode(), digest_size=8)
        digest.update(self.images.contiguous().numpy().data)
        digest.update(np.ascontiguousarray(self.labels).tobytes())
        return digest.hexdigest()

    def with_samples(self, images: Tensor, labels: Index) -> Self:
        """Return this source over other samples, for evaluation; values are not copied."""
        other = copy.copy(self)
        other.images, other.labels = images, labels
        return other


def moments(images: Tensor) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Return mean and standard deviation of each channel over all pixels, for values in [0, 1].

    A channel with a single value has std 1. It counts how often each of the 256 values occurs, so
    it is exact and makes no float copy.

    Args:
        images: uint8 `[N, C, H, W]`.
    """
    values = np.arange(256, dtype=np.float64) / 255.0
    means, stds = [], []
    for channel in range(images.shape[1]):
        counts = np.zeros(256, dtype=np.float64)
        for part in torch.split(images[:, channel], 4096):
            counts += torch.bincount(part.reshape(-1), minlength=256).numpy()
        mean = float(counts @ values / counts.sum())
        means.append(mean)
        varies = np.count_nonzero(counts) > 1  # else the difference below is a rounding error
        variance = max(0.0, counts @ values**2 / counts.sum() - mean**2)
        stds.append(float(np.sqrt(variance)) if varies else 1.0)
    return tuple(means), tuple(stds)


def usable_std(std: Floats, largest: Floats, dtype: npt.DTypeLike = np.float64) -> Floats:
    """Replace standard deviations of rounding size by 1, so that no value is divided by them.

    Args:
        std: standard deviations.
        largest: largest absolute value behind each.
        dtype: type in which the values were stored, which gives the size of their rounding.
    """
    rounding = max(_STORED * np.finfo(dtype).eps, _SUMMED * np.finfo(np.float64).eps)
    return np.where(std > rounding * largest, std, 1.0)


def float_moments(x: Tensor) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Return mean and standard deviation of each channel in float64; a constant channel has std 1.

    A channel is constant if it varies by no more than the rounding of its values.

    Args:
        x: `[N, C, …]`, floating point, finite.
    """
    means, stds, largest = [], [], []
    for channel in range(x.shape[1]):
        parts = [part.double() for part in torch.split(x[:, channel], 4096)]
        count = sum(part.numel() for part in parts)
        mean = sum(part.sum().item() for part in parts) / count
        variance = sum((part - mean).square().sum().item() for part in parts) / count
        means.append(mean)
        stds.append(variance**0.5)
        largest.append(max(part.abs().max().item() for part in parts))
    dtype = np.float64 if x.dtype == torch.float64 else np.float32
    return tuple(means), tuple(usable_std(np.array(stds), np.array(largest), dtype).tolist())


def percentile_ranges(pixels: Sequence[Floats], percentiles: tuple[float, float]) -> Ranges:
    """Return two percentiles of each channel; a channel of one value gets a range above it.

    Args:
        pixels: of each image `[C, P]`, NaN where there are no data.
        percentiles: from 0 to 100.
    """
    found = []
    for channel in range(len(pixels[0])):
        values = np.concatenate([x[channel] for x in pixels])
        low, high = np.percentile(values[np.isfinite(values)], percentiles).tolist()
        found.append((low, high if high > low else low + 1.0))
    return tuple(found)


def mapped_moments(
    pixels: Sequence[Floats], ranges: Ranges
) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Return mean and standard deviation of each channel, mapped by its range and clipped.

    Each image has the same weight.

    Args:
        pixels: of each image `[C, P]`, NaN where there are no data; these become 0.
        ranges: low and high of each channel.
    """
    low, high = np.array(ranges).T[:, :, None]
    sums = []
    for x in pixels:
        mapped = np.nan_to_num(np.clip((x - low) / (high - low), 0.0, 1.0), nan=0.0)
        sums.append([mapped.mean(axis=1), np.square(mapped).mean(axis=1)])
    mean, square = np.mean(sums, axis=0)
    std = np.sqrt(np.maximum(0.0, square - mean**2))
    return tuple(mean.tolist()), tuple(usable_std(std, mean + 1e-6, np.float32).tolist())
