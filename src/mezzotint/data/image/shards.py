"""Read images from shards: tar files on a disk or at a URL; `mezzotint shard` writes them."""

import os

from mezzotint.data.formats.shards import read_index
from mezzotint.data.image.folder import (
    ImageFolder,
    check_image_options,
    check_interpolation,
    input_of,
)
from mezzotint.data.listing.folder import EXTENSIONS
from mezzotint.data.listing.sharded import Sharded
from mezzotint.types import Interpolation


class ImageShards(Sharded, ImageFolder):
    """Read images from shards.

    Samples are as those of `image_folder`. The classes, splits and samples that stay together are
    those of the folder that was sharded. Tar files of WebDataset's form, `key.jpg` and `key.cls`,
    are read without an index.

    Args:
        root: folder of the shards, or its URL (`s3://bucket/shards`), which needs
            mezzotint[shards].
        size: height and width of a whole sample, in pixels.
        window: samples that are shuffled together, out of shards in random order, for slow disks;
            null shuffles all samples together.
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
        window: int | None = None,
        holdout: float = 0.2,
        max_pixels: int = 50_000_000,
        interpolation: Interpolation = "bilinear",
    ) -> None:
        check_image_options(size, holdout, max_pixels)
        self.interpolation = check_interpolation(interpolation)
        self.root, self.size, self.holdout = os.fspath(root), size, holdout
        self.max_pixels, self.input = max_pixels, input_of(size)
        self.index = read_index(self.root, EXTENSIONS, "image")
        self.show(self.index.splits[0][1])
        self.weighting = self.order(window)
