"""Read images from shards: tar files on a disk or at a URL, parquet files, and Arrow data sets."""

import os
from typing import Any

from mezzotint.data.image.folder import (
    ImageFolder,
    check_image_options,
    check_interpolation,
    input_of,
)
from mezzotint.data.listing.folder import EXTENSIONS
from mezzotint.data.listing.sharded import Sharded, check_window, open_shards
from mezzotint.types import Input, Interpolation


class ImageShards(Sharded, ImageFolder):
    """Read images from shards.

    Samples are as those of `image_folder`. Shards are what `mezzotint shard` wrote, with the
    classes, splits and samples that stay together of the folder that was sharded; tar files of
    WebDataset's form, `key.jpg` with `key.cls` or `key.json`; or parquet files and Arrow data sets
    of Hugging Face, with a column of encoded images. In those of others, files and folders named
    for splits are splits.

    Args:
        root: folder of the shards, or one of them; or the URL of a folder of tar files
            (`s3://bucket/shards`), which needs mezzotint[shards].
        size: height and width of a whole sample, in pixels.
        column: column of the images in parquet and Arrow files; by default the only one of bytes.
        label: column of the labels there; `null` ignores them. Only `label` may be missing, and the
            only column of `ClassLabel` then takes its part.
        window: samples that are shuffled together, out of shards in random order, for slow disks;
            null shuffles all samples together, but for parquet files too large to be kept.
        holdout: fraction of each class to score, where the shards have no split for it.
        max_pixels: images with more pixels are unreadable; checked before decoding.
        interpolation: filter by which whole samples are resized, for evaluation.

    Raises:
        ValueError: when there are no shards, or an archive or the index is damaged or unsafe.
    """

    def __init__(
        self,
        *,
        root: str,
        size: int = 224,
        column: str | None = None,
        label: str | None = "label",
        window: int | None = None,
        holdout: float = 0.2,
        max_pixels: int = 50_000_000,
        interpolation: Interpolation = "bilinear",
    ) -> None:
        check_image_options(size, holdout, max_pixels)
        check_window(window)
        self.interpolation = check_interpolation(interpolation)
        self.root, self.size, self.holdout = os.fspath(root), size, holdout
        self.max_pixels, self.input = max_pixels, input_of(size)
        self.use(open_shards(self.root, EXTENSIONS, "image", column, label), window)

    @classmethod
    def located(cls, path: str, input: Input) -> dict[str, Any]:
        return {"root": path, "size": input.shape[-1]}
