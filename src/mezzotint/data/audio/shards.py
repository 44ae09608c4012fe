"""Read audio from shards: tar files on a disk or at a URL; `mezzotint shard` writes them."""

import os
from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from mezzotint.data.audio.folder import AudioFolder, FrontEnd
from mezzotint.data.audio.waveform import AUDIO_EXTENSIONS
from mezzotint.data.formats.shards import read_index
from mezzotint.data.listing.file_list import ListParts
from mezzotint.data.listing.lists import ListedFile
from mezzotint.data.listing.sharded import (
    all_of,
    content_of,
    order_of,
    restore,
    show,
    stored,
    tasks_of,
)
from mezzotint.data.source import Source, Task


class AudioShards(AudioFolder):
    """Read audio files from shards as log-mel spectrograms.

    Samples are as those of `audio_folder`. The classes, splits and samples that stay together are
    those of the data that was sharded. Tar files of WebDataset's form, `key.wav` and `key.cls`, are
    read without an index.

    Args:
        root: folder of the shards, or its URL (`s3://bucket/shards`), which needs
            mezzotint[shards].
        window: samples that are shuffled together, out of shards in random order, for slow disks;
            null shuffles all samples together.
        front_end: as in `audio_folder`.
        seconds: duration of a sample.
        mean: mean of the values; by default measured on 256 of the files.
        std: standard deviation of the values; by default measured.
        holdout: fraction of each class to score, where the shards have no split for it.

    Raises:
        ValueError: when there are no shards, an archive or the index is damaged or unsafe, or no
            file can be read.
    """

    opens: ClassVar[frozenset[str]] = frozenset()
    opens_one: ClassVar[frozenset[str]] = frozenset()

    def __init__(
        self,
        *,
        root: str,
        window: int | None = None,
        front_end: FrontEnd = "byol_a",
        seconds: float = 0.95,
        mean: float | None = None,
        std: float | None = None,
        holdout: float = 0.2,
    ) -> None:
        if not 0.0 < holdout < 1.0:
            raise ValueError(
                f"`holdout` must be more than 0 and less than 1, got {holdout}. Try 0.2 for a "
                "fifth."
            )
        self.holdout = holdout
        self.index = read_index(os.fspath(root), AUDIO_EXTENSIONS, "audio")
        nothing = ListParts([], [], None)
        self._open(os.fspath(root), nothing, None, front_end, seconds, "middle", mean, std)
        self.weighting = order_of(self, window)

    def _use(self, own: list[ListedFile], scored: list[ListedFile], table: str | None) -> None:
        show(self, self.index.splits[0][1])

    def __getstate__(self) -> dict[str, Any]:
        return stored(self)

    def __setstate__(self, state: dict[str, Any]) -> None:
        restore(self, state)

    def _file(self, index: int) -> bytes:
        return content_of(self, index)

    def _start_of(self, index: int) -> float | None:
        return None

    def _labels_of(self, index: int) -> tuple[int, ...]:
        label = int(self.labels[index])
        return (label,) if label >= 0 else ()

    def fingerprint(self) -> str:
        return self.index.fingerprint

    def evaluation(self) -> tuple[Source, Sequence[Task]]:
        return tasks_of(self)

    def everything(self) -> tuple[Source, npt.NDArray[np.str_]]:
        return all_of(self, Source.everything(self))
