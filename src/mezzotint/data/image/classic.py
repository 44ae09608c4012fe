"""Read CIFAR-10, CIFAR-100, STL-10 and SVHN from the files that their authors distribute.

Nothing is downloaded: `root` is the unpacked folder, or the folder above. Pretraining sees the
training split; the task `label/test` learns from it and is scored on the official test split.

The normalization constants are those the literature uses. For CIFAR-10 the usual (0.2023, 0.1994,
0.2010) is the average of the standard deviations *within* images; over all pixels it is (0.2470,
0.2435, 0.2616). `normalization: measured` takes mean and standard deviation over all pixels of the
training split.
"""

import copy
import os
from collections.abc import Sequence
from typing import Literal, Self

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import interpolate

from mezzotint.data.image.classic_files import (
    Pixels,
    find_folder,
    read_matlab,
    read_names,
    read_pickled,
    read_pickled_names,
    read_records,
    read_rows,
)
from mezzotint.data.image.folder import check_interpolation
from mezzotint.data.memory import InMemory, moments
from mezzotint.data.source import Index, Source, Task
from mezzotint.recipe.component import Component
from mezzotint.types import Input, Interpolation, Sample

Normalization = Literal["published", "measured"]

_CIFAR10 = Input((3, 32, 32), (0.4914, 0.4822, 0.4465), (0.2023, 0.1994, 0.2010))
_CIFAR100 = Input((3, 32, 32), (0.5071, 0.4865, 0.4409), (0.2673, 0.2564, 0.2762))
_STL10 = Input((3, 96, 96), (0.4467, 0.4398, 0.4066), (0.2603, 0.2566, 0.2713))
_SVHN = Input((3, 32, 32), (0.4377, 0.4438, 0.4728), (0.1980, 0.2010, 0.1970))


class Enlarge(Component):
    """Evaluate the middle of an enlarged image, cut to its stored size, as published protocols do.

    Args:
        size: height and width that an image is resized to before its middle is cut out.
        interpolation: filter of the resize.
    """

    def __init__(self, *, size: int, interpolation: Interpolation = "bilinear") -> None:
        if size < 1:
            raise ValueError(f"`data.enlarge.size` must be 1 or more pixels, got {size}. Try 36.")
        self.size, self.interpolation = size, check_interpolation(interpolation)

    def middle(self, images: Tensor) -> Tensor:
        """Resize and cut images, uint8 `[B, C, H, W]`, to the same shape."""
        height, width = images.shape[-2:]
        resized = interpolate(
            images, (self.size, self.size), mode=self.interpolation, antialias=True
        )
        top, left = round((self.size - height) / 2), round((self.size - width) / 2)
        return resized[..., top : top + height, left : left + width]


class _Split(InMemory):
    """Images in one tensor, `[unlabeled | train | test]`; pretraining sees all but `test`."""

    classes: list[str]
    enlarge: Enlarge | None = None
    _evaluated = False

    def _fill(
        self,
        images: Tensor,
        labels: Index,
        test: int,
        published: Input,
        normalization: Normalization,
        enlarge: Enlarge | None,
    ) -> None:
        if enlarge is not None and enlarge.size < published.shape[1]:
            raise ValueError(
                f"`data.enlarge.size` must be at least the images' {published.shape[1]} pixels, "
                f"got {enlarge.size}. Leave `data.enlarge` out to evaluate images as stored."
            )
        self.enlarge = enlarge
        if normalization not in ("published", "measured"):
            raise ValueError(
                f"`normalization` must be published or measured, got {normalization!r}. Choose one."
            )
        end = len(images) - test
        self.input = published
        if normalization == "measured":
            self.input = Input(published.shape, *moments(images[:end]))
        self.images, self.labels = images[:end], labels[:end]
        self._whole = images, labels

    def _shown(self, images: Tensor) -> Tensor:
        return self.enlarge.middle(images) if self._evaluated and self.enlarge else images

    def read(self, index: int) -> Sample:
        sample = super().read(index)
        return {**sample, "x": self._shown(sample["x"][None])[0]}

    def read_batch(self, indices: Tensor) -> Tensor:
        return self._shown(super().read_batch(indices))

    def with_context(self) -> Self:
        """Return the samples as stored: training crops them itself."""
        other = copy.copy(self)
        other._evaluated = False
        return other

    def evaluation(self) -> tuple[Source, Sequence[Task]]:
        """Return the labeled images, and the task over the official split."""
        images, labels = self._whole
        first = int((labels < 0).sum())
        both = self.with_samples(images[first:], labels[first:])
        both._evaluated = True
        count = len(self.images) - first
        train, test = (
            np.arange(count, dtype=np.int64),
            np.arange(count, len(both.labels), dtype=np.int64),
        )
        return both, [Task("label/test", "classify", both.labels, train, test, self.classes)]


class CIFAR10(_Split):
    """CIFAR-10 (Krizhevsky 2009): 50,000 and 10,000 color images of 32 px, 10 classes.

    Reads the binary version (`cifar-10-batches-bin`) or the Python version (`cifar-10-batches-py`).

    Args:
        root: folder of the files, or the folder above.
        normalization: constants that the literature uses, or measured over all training pixels.
        enlarge: resize and cut of evaluated images; `null` evaluates them as stored.
    """

    def __init__(
        self,
        *,
        root: str,
        normalization: Normalization = "published",
        enlarge: Enlarge | None = None,
    ) -> None:
        versions = {
            "cifar-10-batches-bin": "data_batch_1.bin",
            "cifar-10-batches-py": "data_batch_1",
        }
        folder, version = find_folder(root, versions)
        files = [
            os.path.join(folder, name)
            for name in (*(f"data_batch_{i}" for i in range(1, 6)), "test_batch")
        ]
        if version == "cifar-10-batches-bin":
            parts = [read_records(f"{file}.bin", classes=10) for file in files]
            self.classes = read_names(os.path.join(folder, "batches.meta.txt"))
        else:
            parts = [read_pickled(file, b"labels", classes=10) for file in files]
            self.classes = read_pickled_names(os.path.join(folder, "batches.meta"), b"label_names")
        self.ids = "cifar10"
        self._fill(*_joined(parts), len(parts[-1][1]), _CIFAR10, normalization, enlarge)


class CIFAR100(_Split):
    """CIFAR-100 (Krizhevsky 2009): 50,000 and 10,000 color images of 32 px, 100 classes.

    Reads the binary version (`cifar-100-binary`) or the Python version (`cifar-100-python`).

    Args:
        root: folder of the files, or the folder above.
        labels: the 100 classes (`fine`) or the 20 superclasses (`coarse`).
        normalization: constants that the literature uses, or measured over all training pixels.
        enlarge: resize and cut of evaluated images; `null` evaluates them as stored.
    """

    def __init__(
        self,
        *,
        root: str,
        labels: Literal["fine", "coarse"] = "fine",
        normalization: Normalization = "published",
        enlarge: Enlarge | None = None,
    ) -> None:
        if labels not in ("fine", "coarse"):
            raise ValueError(f"`labels` must be fine or coarse, got {labels!r}. Choose one.")
        folder, version = find_folder(
            root, {"cifar-100-binary": "train.bin", "cifar-100-python": "train"}
        )
        classes, fine = {"fine": 100, "coarse": 20}[labels], int(labels == "fine")
        files = [os.path.join(folder, name) for name in ("train", "test")]
        if version == "cifar-100-binary":
            parts = [
                read_records(f"{file}.bin", classes, label_bytes=2, label=fine) for file in files
            ]
            self.classes = read_names(os.path.join(folder, f"{labels}_label_names.txt"))
        else:
            parts = [read_pickled(file, f"{labels}_labels".encode(), classes) for file in files]
            self.classes = read_pickled_names(
                os.path.join(folder, "meta"), f"{labels}_label_names".encode()
            )
        self.ids = "cifar100"
        self._fill(*_joined(parts), len(parts[-1][1]), _CIFAR100, normalization, enlarge)


class STL10(_Split):
    """STL-10 (Coates et al. 2011): 100,000 unlabeled, 5,000 and 8,000 color images of 96 px.

    It has 10 classes. Pretraining sees the unlabeled and the training images: 2.9 GB of memory.

    Args:
        root: the folder `stl10_binary`, or the one above.
        unlabeled: whether to pretrain on the unlabeled images as well.
        normalization: constants that the literature uses, or measured over all training pixels.
        enlarge: resize and cut of evaluated images; `null` evaluates them as stored.
    """

    def __init__(
        self,
        *,
        root: str,
        unlabeled: bool = True,
        normalization: Normalization = "published",
        enlarge: Enlarge | None = None,
    ) -> None:
        folder, _ = find_folder(root, {"stl10_binary": "train_X.bin"})
        splits = ("unlabeled", "train", "test") if unlabeled else ("train", "test")
        stored = [read_rows(os.path.join(folder, f"{name}_X.bin"), 3 * 96 * 96) for name in splits]
        sizes = [len(part) for part in stored]
        images = torch.empty(sum(sizes), 3, 96, 96, dtype=torch.uint8)
        for part, room in zip(stored, torch.split(images, sizes), strict=True):
            room.copy_(
                torch.from_numpy(part).view(-1, 3, 96, 96).transpose(2, 3)
            )  # the file stores columns first
        numbers = [
            read_rows(os.path.join(folder, f"{name}_y.bin"), 1)[:, 0].astype(np.int64) - 1
            for name in splits[-2:]
        ]
        if [len(y) for y in numbers] != sizes[-2:] or not all(
            ((y >= 0) & (y < 10)).all() for y in numbers
        ):
            raise ValueError(
                f"`{folder}` must have a label of 1 … 10 for each image, got {sizes[-2:]} images "
                f"and {[len(y) for y in numbers]} labels. Download and unpack the data set again."
            )
        labels = np.concatenate([np.full(sum(sizes[:-2]), -1, np.int64), *numbers])
        self.classes = read_names(os.path.join(folder, "class_names.txt"))
        self.ids = "stl10"
        self._fill(images, labels, sizes[-1], _STL10, normalization, enlarge)


class SVHN(_Split):
    """SVHN (Netzer et al. 2011), cropped digits: 73,257 and 26,032 color images of 32 px.

    Args:
        root: folder of `train_32x32.mat` and `test_32x32.mat`; reading them needs scipy.
        extra: whether to train on the 531,131 images of `extra_32x32.mat` as well.
        normalization: constants that the literature uses, or measured over all training pixels.
        enlarge: resize and cut of evaluated images; `null` evaluates them as stored.
    """

    def __init__(
        self,
        *,
        root: str,
        extra: bool = False,
        normalization: Normalization = "published",
        enlarge: Enlarge | None = None,
    ) -> None:
        folder, _ = find_folder(root, {"SVHN": "train_32x32.mat"})
        splits = ("extra", "train", "test") if extra else ("train", "test")
        parts = [read_matlab(os.path.join(folder, f"{name}_32x32.mat")) for name in splits]
        self.classes = [str(digit) for digit in range(10)]
        self.ids = "svhn"
        self._fill(*_joined(parts), len(parts[-1][1]), _SVHN, normalization, enlarge)


def _joined(parts: Sequence[tuple[Pixels, Index]]) -> tuple[Tensor, Index]:
    images = torch.from_numpy(np.concatenate([pixels for pixels, _ in parts]))
    return images, np.concatenate([labels for _, labels in parts])
