"""Read audio from shards: tar files on a disk or at a URL; `mezzotint shard` writes them."""

import os

from mezzotint.data.audio.folder import AudioFolder, FrontEnd
from mezzotint.data.audio.waveform import AUDIO_EXTENSIONS
from mezzotint.data.formats.shards import read_index
from mezzotint.data.listing.file_list import ListParts
from mezzotint.data.listing.lists import ListedFile
from mezzotint.data.listing.sharded import Sharded


class AudioShards(Sharded, AudioFolder):
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
        self.weighting = self.order(window)

    def _use(self, own: list[ListedFile], scored: list[ListedFile], table: str | None) -> None:
        self.show(self.index.splits[0][1])

    def _start_of(self, index: int) -> float | None:
        return None

    def _labels_of(self, index: int) -> tuple[int, ...]:
        label = int(self.labels[index])
        return (label,) if label >= 0 else ()
