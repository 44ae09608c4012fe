"""Read a folder of images of any size, with class folders and splits, or without.

`data/listing/folder.py` defines images, classes and splits; `decode.py` converts pixels to 8-bit
RGB, and `native.py` reads other types and channels.
"""

import copy
import functools
import os
from collections.abc import Sequence
from dataclasses import replace
from itertools import accumulate
from pathlib import Path
from typing import Any, Literal, Self

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from mezzotint.data.image.decode import (
    Undecodable,
    decode_crops,
    even_fractions,
    is_plain_jpeg,
    open_image,
    upright_size,
)
from mezzotint.data.image.losses import notes_on_losses
from mezzotint.data.image.native import Native
from mezzotint.data.image.native_files import NATIVE_EXTENSIONS
from mezzotint.data.image.nvjpeg import Jpeg, is_whole, require_cuda
from mezzotint.data.listing.folder import (
    EXTENSIONS,
    Listing,
    extension_of,
    files_fingerprint,
    scan,
)
from mezzotint.data.listing.groups import check_pattern, independent_files
from mezzotint.data.listing.layout import parts_of
from mezzotint.data.listing.sampling import check_holdout, held_out
from mezzotint.data.source import FOLDER, Index, Source, Task, label_tasks
from mezzotint.types import (
    IMAGENET_MEAN,
    IMAGENET_STD,
    Crop,
    CropSampler,
    Input,
    Interpolation,
    Sample,
    Unreadable,
)

CROP_FRACTION = 7 / 8
"""Side of the middle square that a whole sample shows, as a fraction of the shorter side."""


class ImageFolder(Source):
    """Read images from a folder, with or without class folders.

    A whole sample is the middle square of 7/8 of the shorter side (for 224 pixels: resize to 256,
    then crop the center), antialiased, as uint8 RGB. Training crops are cut by `read_crops` while
    the file is decoded. Values are normalized with the mean and standard deviation of ImageNet.

    `data/listing/layout.py` says which folders are splits and classes. With folders `train` and
    `val` (or other names of splits), pretraining sees `train`, and the task `label/val` learns from
    `train` and is scored on `val`. Without a labeled split to score, `label/holdout` holds out a
    part of each class: pretraining sees these images, never their labels. Copies of an image, and
    images of one person or session, are held out together. With fewer than two classes there is no
    task.

    Args:
        root: path of the folder.
        size: height and width of a whole sample, in pixels.
        split: folder of the split to pretrain on; by default the training split, if there is one.
        holdout: fraction of each class to score, if there is no split for it.
        group: regular expression that finds the person, patient or session in the path of an
            image; by default the conventions of `data/listing/groups.py`. An empty one finds none.
        max_pixels: images with more pixels are unreadable; checked before decoding.
        decoder: decoder of training crops: `pillow` in the workers, or `nvjpeg` on an NVIDIA GPU,
            for JPEG files.
        interpolation: filter by which whole samples are resized, for evaluation; training crops
            have their own in `views.crop`.
        reader: `native` reads 16-bit, float and N-channel images as they are stored, as floats in
            [0, 1] of a value range; by default images become 8-bit RGB.

    Attributes:
        classes: names of the classes, sorted; a label is an index into this list.
        labels: int64 `[N]`, negative where a file lies outside of all class folders.

    Raises:
        ValueError: when the folder is missing, has no images, or has a part without permission to
            list it.
    """

    opens = frozenset({FOLDER})
    opens_one = EXTENSIONS | NATIVE_EXTENSIONS
    croppable = True
    labels: Index
    classes: list[str]
    group: str | None = None
    interpolation: Interpolation = "bilinear"
    reader: Native | None = None
    _crops = 1
    _paths: Sequence[str]
    _others: Sequence[tuple[str, str, int]] = ()  # path, split and label of unused splits

    def __init__(
        self,
        *,
        root: str,
        size: int = 224,
        split: str | None = None,
        holdout: float = 0.2,
        group: str | None = None,
        max_pixels: int = 50_000_000,
        decoder: Literal["pillow", "nvjpeg"] = "pillow",
        interpolation: Interpolation = "bilinear",
        reader: Native | None = None,
    ) -> None:
        check_image_options(size, holdout, max_pixels)
        self.interpolation = check_interpolation(interpolation)
        check_pattern(group)
        if decoder not in ("pillow", "nvjpeg"):
            raise ValueError(f"`decoder` must be pillow or nvjpeg, got {decoder!r}. Choose one.")
        if decoder == "nvjpeg":
            if reader is not None:
                raise ValueError(
                    "`data.decoder` nvjpeg decodes 8-bit JPEG files only. Leave it out to use "
                    "`data.reader`."
                )
            require_cuda()
        self.decoder, self.group, self.reader = decoder, group, reader
        self.root, self.size, self.holdout, self.max_pixels = (
            os.fspath(root),
            size,
            holdout,
            max_pixels,
        )
        listing = scan(self.root, EXTENSIONS if reader is None else NATIVE_EXTENSIONS)
        listing = listing if reader is None else reader.listed(listing)
        self.root = listing.root
        if listing.closed:
            raise ValueError(
                f"`{self.root}`: no permission to list {listing.closed[0]}. Change its "
                "permissions, or move it out."
            )
        self._use(listing, split)
        self.input = input_of(size)
        if reader is not None:
            self.input = replace(reader.input, shape=(*reader.input.shape[:1], size, size))

    def _use(self, listing: Listing, split: str | None) -> None:
        """Store the images of a split, and the images to score for the evaluation."""
        parts = parts_of(listing, split=split)
        own, other, class_of = parts.train, parts.scored, parts.layout.class_of
        self.split, self.scored, self.notes = parts.split, parts.name, parts.notes
        if not own:
            where = f"{self.root}/{split}" if split else self.root
            found = f" ({'; '.join(self.notes)})" if self.notes else ""
            native = [p for p in listing.others if extension_of(p) in NATIVE_EXTENSIONS]
            hint = f" {native[0]} is read by data.reader=native." if native else ""
            raise ValueError(
                f"`{where}` has no images{found}. Supported: jpg, png, webp and more, with or "
                f"without class folders.{hint} Check `data.root`, or run `mezzotint doctor` on it."
            )
        unused = dict(parts.unused)
        if self.reader is None:
            self.notes = (*self.notes, *notes_on_losses(self.root, own, self.max_pixels))
        else:
            self.notes = (*self.notes, *self.reader.fit(self.root, own, self.max_pixels))
            own, other_ids, *rest = (
                self.reader.expanded(self.root, paths, self.max_pixels)
                for paths in (own, other, *unused.values())
            )
            other, unused = other_ids, dict(zip(unused, rest, strict=True))
        names = [class_of(path) for path in own], [class_of(path) for path in other]
        self.classes = sorted({name for part in names for name in part if name is not None})
        position = {name: i for i, name in enumerate(self.classes)}
        self.labels = np.array([position.get(name or "", -1) for name in names[0]], np.int64)
        self._scored_labels: Index = np.array(
            [position.get(name or "", -1) for name in names[1]], np.int64
        )
        self._paths, self._scored_paths = PathList(own), PathList(other)
        self._others = [
            (path, name.lower(), position.get(class_of(path) or "", -1))
            for name, paths in unused.items()
            for path in paths
        ]

    @classmethod
    def located(cls, path: str, input: Input) -> dict[str, Any]:
        return {"root": path, "size": input.shape[-1]}

    def settings(self) -> dict[str, Any]:
        fitted = {} if self.reader is None else {"reader": self.reader.settings()}
        return {**self.config, **fitted}

    def preprocessing(self) -> dict[str, Any]:
        native = "stored values, mapped by their range to [0, 1]"
        return {
            **super().preprocessing(),
            "values": "uint8 / 255, RGB" if self.reader is None else native,
            "crop": "center square",
            "crop_fraction": CROP_FRACTION,
            "resize": f"{self.interpolation}, antialiased",
            "size": [self.size, self.size],
        }

    def __len__(self) -> int:
        return len(self._paths)

    def read(self, index: int) -> Sample:
        """Read the middle of an image, uint8 `[3, size, size]`, or `[crops, 3, size, size]`.

        With a `reader`: float32 in [0, 1], with its channels.
        """
        label = int(self.labels[index])
        crops = self._cut(index, self._squares, margin=2.0)
        return {
            "x": crops[0] if self._crops == 1 else torch.stack(crops),
            "id": self._paths[index],
            "label": label if label >= 0 else None,
        }

    def id_of(self, index: int) -> str:
        return self._paths[index]

    def read_crops(self, index: int, choose: CropSampler) -> list[Tensor]:
        """Cut crops out of one image; boxes refer to the upright image, after EXIF rotation."""
        return self._cut(index, choose, margin=1.0)

    def read_encoded(self, index: int, choose: CropSampler) -> Jpeg | list[Tensor]:
        """Return the bytes and crops of a plain JPEG file, or the crops of any other image."""
        path = self._paths[index]
        try:
            found = self._file(index)
            with open_image(found, self.max_pixels) as image:
                if is_plain_jpeg(image):
                    data = found if isinstance(found, bytes) else Path(found).read_bytes()
                    if is_whole(data):
                        crops = _chosen(path, choose, *upright_size(image))
                        return Jpeg(torch.frombuffer(bytearray(data), dtype=torch.uint8), crops)
        except (Undecodable, OSError):  # `read_crops` names the reason
            pass
        return self.read_crops(index, choose)

    def _file(self, index: int) -> str | bytes:
        """Return the path of an image, or its bytes."""
        return os.path.join(self.root, self._paths[index])

    def _cut(self, index: int, choose: CropSampler, margin: float) -> list[Tensor]:
        path = self._paths[index]
        checked = functools.partial(_chosen, path, choose)
        try:
            if self.reader is not None:
                file, number = self.reader.split(path)
                file = os.path.join(self.root, file)
                return self.reader.cut(file, number, checked, self.max_pixels)
            with open_image(self._file(index), self.max_pixels) as image:
                pixels = decode_crops(image, checked(*upright_size(image)), margin)
        except Undecodable as error:
            raise Unreadable(path, str(error)) from None
        return [torch.from_numpy(crop).permute(2, 0, 1).contiguous() for crop in pixels]

    def fingerprint(self) -> str:
        """Hash the relative paths and sizes of all files; no file is read."""
        return files_fingerprint(self.root, map(os.fsencode, self._files()))

    def _files(self) -> list[str]:
        """Return the path of the file of each sample."""
        split = self.reader.split if self.reader is not None else lambda id: (id, 0)
        return [split(id)[0] for id in self._paths]

    def everything(self) -> tuple[Source, npt.NDArray[np.str_]]:
        """Return all images, those of splits that are neither trained on nor scored too."""
        samples, split = super().everything()
        others = list(self._others)
        if len(samples) == len(self):  # without a scored split, or without a task
            labels = self._scored_labels.tolist() if len(self._scored_paths) else []
            found = zip(self._scored_paths, labels, strict=True)
            others = [*((path, str(self.scored), label) for path, label in found), *others]
        if not others:
            return samples, split
        both = copy.copy(self)
        known = samples.labels if isinstance(samples, ImageFolder) else self.labels
        both._paths = PathList(
            [*(samples.id_of(i) for i in range(len(samples))), *(path for path, _, _ in others)]
        )
        both.labels = np.concatenate([known, [label for _, _, label in others]])
        return both, np.concatenate([split, [name for _, name, _ in others]])

    def evaluation(self) -> tuple[Source, Sequence[Task]]:
        """Return all images, and the task; with fewer than two classes there is none."""
        if len(self.classes) < 2:
            return self, []
        if not len(self._scored_paths):
            groups = self._independent(self.labels)
            chosen = held_out(self.labels, self.holdout, "label", groups)
            return self, label_tasks("label/holdout", self.labels, chosen, self.classes)
        both = copy.copy(self)
        both.labels = np.concatenate([self.labels, self._scored_labels])
        both._paths = PathList([*self._paths, *self._scored_paths])
        both.held_out = len(self), str(self.scored)
        test = np.arange(len(both.labels)) >= len(self)
        return both, label_tasks(f"label/{self.scored}", both.labels, test, self.classes)

    def _independent(self, labels: Index) -> Index:
        """Find the groups of images that stay together; the files are compared once."""
        if self.groups is None:
            self.groups = independent_files(
                self.root, self._files(), labels, self.classes, self.group
            )
        return self.groups

    def multi_crop(self, clips: int, crops: int) -> Self:
        if clips != 1 or crops < 1:
            raise ValueError(
                f"`clips` must be 1 and `crops` 1 or more for images, got clips={clips} and "
                f"crops={crops}. Images have no time axis: set `crops` only."
            )
        other = copy.copy(self)
        other._crops = crops
        return other

    def _squares(self, height: int, width: int) -> list[Crop]:
        side = max(1, round(min(height, width) * CROP_FRACTION))
        top, left = (height - side) // 2, (width - side) // 2
        if self._crops == 1:
            corners = [(top, left)]
        elif width >= height:
            corners = [(top, int((width - side) * at)) for at in even_fractions(self._crops)]
        else:
            corners = [(int((height - side) * at), left) for at in even_fractions(self._crops)]
        return [Crop((*corner, side, side), self.size, self.interpolation) for corner in corners]


def _chosen(path: str, choose: CropSampler, height: int, width: int) -> Sequence[Crop]:
    """Return the crops that a crop sampler chooses of an image, checked."""
    crops = choose(height, width)
    for (top, left, rows, columns), size, _ in crops:
        inside = 0 <= top <= top + rows <= height and 0 <= left <= left + columns <= width
        if not (inside and rows and columns and size):
            raise ValueError(
                f"The box {(top, left, rows, columns)} must lie within the {height} x {width} "
                f"pixels of {path}. Correct the crop sampler."
            )
    return crops


def input_of(size: int) -> Input:
    """Return an input normalized with the mean and standard deviation of ImageNet."""
    return Input((3, size, size), IMAGENET_MEAN, IMAGENET_STD)


class PathList(Sequence[str]):
    """Paths in one block of bytes: reference counts would copy a million `str` into each worker."""

    def __init__(self, paths: Sequence[str]) -> None:
        encoded = [os.fsencode(path) for path in paths]
        self.block = b"".join(encoded)
        self.ends = np.fromiter(
            accumulate(map(len, encoded), initial=0), np.int64, len(encoded) + 1
        )

    def __len__(self) -> int:
        return len(self.ends) - 1

    def __getitem__(self, index: int) -> str:  # type: ignore[override]
        if not -len(self) <= index < len(self):
            raise IndexError(index)
        index %= len(self)
        return os.fsdecode(self.block[self.ends[index] : self.ends[index + 1]])


def check_interpolation(interpolation: Interpolation) -> Interpolation:
    """Return the name of a filter; raise `ValueError` for any other."""
    if interpolation not in ("bilinear", "bicubic"):
        raise ValueError(
            f"`interpolation` must be bilinear or bicubic, got {interpolation!r}. Choose one."
        )
    return interpolation


def check_image_options(size: int, holdout: float, max_pixels: int) -> None:
    """Check the options that sources of image files share; raise `ValueError`."""
    if size < 1 or max_pixels < 1:
        raise ValueError(
            f"`size` and `max_pixels` must be 1 or more, got size={size} and "
            f"max_pixels={max_pixels}. 224 and 50000000 are the defaults."
        )
    check_holdout(holdout)
