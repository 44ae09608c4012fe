"""Sources whose samples are one tensor in memory, and the mean and standard deviation of such tensors."""

import copy
import hashlib
from typing import Self

import numpy as np
import torch
from torch import Tensor

from mezzotint.data.source import Index, Source
from mezzotint.types import Sample


class InMemory(Source, abstract=True):
    """Samples in one tensor: no files are read while training, and no workers are needed.

    A subclass fills the attributes in its constructor.

    Attributes:
        images: uint8 `[N, C, H, W]`.
        labels: int64 `[N]`; negative where there is none.
        ids: what `Sample["id"]` is made of: the name of the source, or one name a sample.
        input: shape and normalization.
    """

    in_memory = True
    images: Tensor
    labels: Index
    ids: str | list[str]

    def __len__(self) -> int:
        return len(self.images)

    def read(self, index: int) -> Sample:
        """One sample, uint8 `[C, H, W]`."""
        label = int(self.labels[index])
        return {
            "x": self.images[index],
            "id": self.id_of(index),
            "label": label if label >= 0 else None,
        }

    def id_of(self, index: int) -> str:
        """The name of a sample."""
        return f"{self.ids}/{index:06d}" if isinstance(self.ids, str) else self.ids[index]

    def read_batch(self, indices: Tensor) -> Tensor:
        """int64 `[B]` → uint8 `[B, C, H, W]`."""
        return self.images.index_select(0, indices)

    def fingerprint(self) -> str:
        """A hash of all pixels, their shape and their labels: 16 hexadecimal digits."""
        digest = hashlib.blake2b(repr(tuple(self.images.shape)).encode(), digest_size=8)
        digest.update(self.images.contiguous().numpy().data)
        digest.update(np.ascontiguousarray(self.labels).tobytes())
        return digest.hexdigest()

    def with_samples(self, images: Tensor, labels: Index) -> Self:
        """The same source over other samples, for evaluation; the pixels are not copied."""
        other = copy.copy(self)
        other.images, other.labels = images, labels
        return other


def moments(images: Tensor) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and standard deviation of each channel over all pixels, of values in [0, 1].

    Counts how often each of the 256 values occurs, so it is exact and needs no copy in float.

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
        stds.append(float(np.sqrt(max(0.0, counts @ values**2 / counts.sum() - mean**2))))
    return tuple(means), tuple(stds)


def float_moments(x: Tensor) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and standard deviation of each channel over all samples, summed in float64; 1 where a channel is constant.

    Args:
        x: `[N, C, …]`, floating point, finite.
    """
    means, stds = [], []
    for channel in range(x.shape[1]):
        parts = [part.double() for part in torch.split(x[:, channel], 4096)]
        count = sum(part.numel() for part in parts)
        mean = sum(part.sum().item() for part in parts) / count
        variance = sum((part - mean).square().sum().item() for part in parts) / count
        means.append(mean)
        stds.append(variance**0.5 or 1.0)
    return tuple(means), tuple(stds)
