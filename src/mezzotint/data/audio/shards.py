"""Read audio from shards: tar files on a disk or at a URL, parquet files, and Arrow data sets."""

import os

from mezzotint.data.audio.folder import AudioFolder, FrontEnd, check_clips
from mezzotint.data.audio.waveform import AUDIO_EXTENSIONS
from mezzotint.data.listing.file_list import ListParts
from mezzotint.data.listing.lists import ListedFile
from mezzotint.data.listing.sampling import check_holdout
from mezzotint.data.listing.sharded import Sharded, check_window, open_shards


class AudioShards(Sharded, AudioFolder):
    """Read audio files from shards as log-mel spectrograms.

    Samples are as those of `audio_folder`; shards are those of `image_shards`, with encoded sounds:
    `key.wav` with `key.cls`, or a column of bytes.

    Args:
        root: folder of the shards, or one of them; or the URL of a folder of tar files
            (`s3://bucket/shards`), which needs mezzotint[shards].
        column: column of the sounds in parquet and Arrow files; by default the only one of bytes.
        label: column of the labels there; `null` ignores them. Only `label` may be missing, and the
            only column of `ClassLabel` then takes its part.
        window: samples that are shuffled together, out of shards in random order, for slow disks;
            null shuffles all samples together, but for parquet files too large to be kept.
        front_end: as in `audio_folder`.
        seconds: duration of a sample.
        mean: mean of the values, any number; by default measured on 256 of the files.
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
        column: str | None = None,
        label: str | None = "label",
        window: int | None = None,
        front_end: FrontEnd = "byol_a",
        seconds: float = 0.95,
        mean: float | None = None,
        std: float | None = None,
        holdout: float = 0.2,
    ) -> None:
        check_holdout(holdout)
        check_window(window)
        check_clips(seconds, std)
        self.holdout = holdout
        index = open_shards(os.fspath(root), AUDIO_EXTENSIONS, "audio", column, label)
        self.index = index
        nothing = ListParts([], [], None)
        self._open(os.fspath(root), nothing, None, front_end, seconds, "middle", mean, std)
        self.use(index, window)

    def _use(self, own: list[ListedFile], scored: list[ListedFile], table: str | None) -> None:
        self.show(self.index.splits[0][1])

    def _start_of(self, index: int) -> float | None:
        return None

    def _labels_of(self, index: int) -> tuple[int, ...]:
        label = int(self.labels[index])
        return (label,) if label >= 0 else ()
