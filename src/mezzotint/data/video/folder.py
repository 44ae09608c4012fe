"""Read video files as clips, from class folders or from a list of Kinetics or Something-Something.

Files, classes and splits are found as for images (`data/listing/`), with the extensions of video.
`data/listing/lists.py` reads lists, `decode.py` reads frames.
"""

import copy
import os
from collections.abc import Sequence
from typing import Any, Literal, Self

import numpy as np
import numpy.typing as npt

from mezzotint.data.listing.file_list import (
    FileList,
    ListParts,
    as_list,
    clip_name,
    cut_into_clips,
    parts_of_lists,
)
from mezzotint.data.listing.folder import files_fingerprint, folder_of
from mezzotint.data.listing.groups import check_pattern, independent_files
from mezzotint.data.listing.lists import (
    ListedFile,
    classes_of,
    entries_of_folder,
    read_video_list,
)
from mezzotint.data.listing.sampling import held_out
from mezzotint.data.source import FOLDER, Index, Source, Task, label_tasks
from mezzotint.data.video.decode import (
    VIDEO_EXTENSIONS,
    UndecodableVideo,
    read_frames,
    read_length,
    times_of,
    within,
)
from mezzotint.types import IMAGENET_MEAN, IMAGENET_STD, Input, Sample, Unreadable

Sampling = Literal["middle", "even", "clips"]


class VideoFolder(Source):
    """Read video files (mp4, avi, mkv, webm, …) as clips, uint8 `[3, frames, size, size]`.

    A clip shows the middle square of each frame. Without a list, folders are classes and splits, as
    in an image folder. With `files`, labels come from the list: the task is `label/test` with
    `test_files`, else `label/holdout`. Clips of one video are held out together. Values are
    normalized with the mean and standard deviation of ImageNet.

    Args:
        root: folder of the files; paths in lists are relative to it.
        files: list of the files, by its path or with settings; null takes all files below `root`.
        test_files: list of the files to score; pretraining never sees them.
        frames: frames per clip.
        fps: frames per second; 7.5 is every fourth frame of most videos.
        sampling: `middle` takes the middle of a video at `fps`; `even` spreads the frames over the
            whole video, as for Something-Something; `clips` cuts each video into as many samples of
            `context` frames as fill it, for a few long videos.
        context: frames of a training sample, from which `random_clip` takes other `frames` each
            time; by default a clip's `frames`.
        size: height and width in pixels.
        holdout: fraction of each class to score, if nothing else defines a test split.
        group: regular expression that finds the person or session in the path of a file; by
            default the list's column (`group`, `subject`, …), or the conventions of
            `data/listing/groups.py`. An empty one finds none.

    Attributes:
        classes: names of the classes.
        labels: int64 `[N]`; negative for unlabeled files.

    Raises:
        ValueError: when the folder or a list is missing or malformed.
    """

    modality = "video"
    opens = frozenset({FOLDER})
    opens_one = VIDEO_EXTENSIONS
    labels: Index
    _parts = (1, 1)

    def __init__(
        self,
        *,
        root: str,
        files: str | FileList | None = None,
        test_files: str | FileList | None = None,
        frames: int = 16,
        fps: float = 7.5,
        sampling: Sampling = "middle",
        context: int | None = None,
        size: int = 224,
        holdout: float = 0.2,
        group: str | None = None,
    ) -> None:
        check_pattern(group)
        self._frames = self._context = frames if context is None else context
        if (
            frames < 1
            or self._frames < frames
            or not fps > 0.0
            or size < 1
            or sampling not in ("middle", "even", "clips")
        ):
            raise ValueError(
                "`frames`, `size` must be 1 or more, `context` at least `frames`, `fps` positive, "
                f"and `sampling` middle, even or clips, got frames={frames}, size={size}, "
                f"context={context}, fps={fps}, sampling={sampling!r}. Try 16, 224, 64 and 7.5 for "
                "Kinetics."
            )
        if not 0.0 < holdout < 1.0 or (test_files and not files):
            raise ValueError(
                "`holdout` must be more than 0 and less than 1, and `test_files` needs `files`, "
                f"got holdout={holdout}, test_files={test_files!r}, files={files!r}. Set "
                "`data.files` to the training list."
            )
        self.group = group
        self.root, self.fps, self.sampling, self.size, self.holdout = (
            folder_of(os.fspath(root)),
            fps,
            sampling,
            size,
            holdout,
        )
        own, scored = self._listed(os.fspath(root), files, test_files)
        self.classes = classes_of([*own, *scored])
        position = {name: i for i, name in enumerate(self.classes)}
        self._paths, self._starts, self.labels = _columns(own, position)
        self._scored_paths, self._scored_starts, self._scored_labels = _columns(scored, position)
        self._sources = [None if group is not None else entry.source for entry in own]
        self.input = Input((3, frames, size, size), IMAGENET_MEAN, IMAGENET_STD, "video")

    def _listed(
        self, root: str, files: str | FileList | None, test_files: str | FileList | None
    ) -> tuple[list[ListedFile], list[ListedFile]]:
        """Return the samples to train on and to score, and store the split and the notes."""
        table = as_list(files)
        if table is None:
            formats = "mp4, avi, mkv, webm and so on"
            parts = ListParts(*entries_of_folder(root, VIDEO_EXTENSIONS, "video", formats))
        elif table.labels is not None:
            raise ValueError(
                f"`data.files.labels` is a table of classes for audio lists, got {table.labels!r}. "
                "Leave it out: videos have their classes in the list."
            )
        else:
            parts = parts_of_lists(self.root, table, test_files, read_video_list)
        self.scored, self.notes = parts.name, parts.notes
        if self.sampling != "clips":
            return parts.train, parts.scored
        own, scored = (
            cut_into_clips(
                entries,
                self._context / self.fps,
                lambda path: read_length(os.path.join(self.root, path)),
            )
            for entries in (parts.train, parts.scored)
        )
        if len(own) > len(parts.train):
            self.notes = (*parts.notes, f"{len(own):,} clips of {len(parts.train):,} videos")
        return own, scored

    @classmethod
    def located(cls, path: str, input: Input) -> dict[str, Any]:
        return {"root": path, "frames": input.shape[1], "size": input.shape[2]}

    def preprocessing(self) -> dict[str, Any]:
        return {
            **super().preprocessing(),
            "values": "uint8 / 255, RGB",
            "crop": "center square of each frame",
            "size": [self.size, self.size],
            "frames": self.input.shape[1],
            "fps": self.fps,
            "sampling": self.sampling,
        }

    def __len__(self) -> int:
        return len(self._paths)

    def read(self, index: int) -> Sample:
        """Read one clip, uint8 `[3, frames, size, size]`, or `[clips · crops, 3, frames, …]`.

        Raises:
            Unreadable: when the file is missing, damaged or truncated.
        """
        name, label = self.id_of(index), int(self.labels[index])
        clips, crops = self._parts
        times = times_of(self.sampling, self._frames, self.fps, clips)
        start = float(self._starts[index])
        if not np.isnan(start):
            times = within(times, start, self._context / self.fps)
        path = os.path.join(self.root, os.fsdecode(self._paths[index]))
        try:
            x = read_frames(path, times, self.size, crops)
        except UndecodableVideo as error:
            raise Unreadable(name, str(error)) from None
        if clips * crops > 1:
            x = (
                x.view(crops, 3, clips, self._frames, self.size, self.size)
                .permute(2, 0, 1, 3, 4, 5)
                .flatten(0, 1)
            )
        return {"x": x, "id": name, "label": label if label >= 0 else None}

    def multi_crop(self, clips: int, crops: int) -> Self:
        if min(clips, crops) < 1:
            raise ValueError(
                f"`clips` and `crops` must be 1 or more, got clips={clips} and crops={crops}. "
                "10 clips of 3 crops are usual."
            )
        other = copy.copy(self)
        other._parts = (clips, crops)
        return other

    def with_context(self) -> Self:
        other = copy.copy(self)
        other._frames = self._context
        return other

    def id_of(self, index: int) -> str:
        start = float(self._starts[index])
        return clip_name(os.fsdecode(self._paths[index]), None if np.isnan(start) else start)

    def fingerprint(self) -> str:
        """Hash the relative paths and sizes of all files; no file is read."""
        return files_fingerprint(self.root, map(bytes, self._paths))

    def evaluation(self) -> tuple[Source, Sequence[Task]]:
        """Return all clips, and the task; with fewer than two classes there is none."""
        both = copy.copy(self)
        both._frames = self.input.shape[1]
        both._paths = np.concatenate([self._paths, self._scored_paths])
        both._starts = np.concatenate([self._starts, self._scored_starts])
        both.labels = np.concatenate([self.labels, self._scored_labels])
        both.held_out = None if self.scored is None else (len(self), self.scored)
        if len(self.classes) < 2:
            return both, []
        if self.scored is None:
            both.groups = self._independent()
            test = held_out(both.labels, self.holdout, "label", both.groups)
        else:
            test = np.arange(len(both.labels)) >= len(self)
        name = f"label/{self.scored or 'holdout'}"
        return both, label_tasks(name, both.labels, test, self.classes)

    def _independent(self) -> Index:
        """Find the groups of files that stay together; the files are compared once."""
        if self.groups is None:
            paths = [os.fsdecode(path) for path in self._paths]
            self.groups = independent_files(
                self.root, paths, self.labels, self.classes, self.group, self._sources
            )
        return self.groups


def _columns(
    entries: Sequence[ListedFile], position: dict[str, int]
) -> tuple[np.ndarray[tuple[int], np.dtype[np.bytes_]], npt.NDArray[np.float64], Index]:
    """Return paths as bytes, which workers share in memory, starts in seconds, and labels."""
    paths = np.array([os.fsencode(entry.path) for entry in entries], np.bytes_)
    starts = [np.nan if entry.start is None else entry.start for entry in entries]
    labels = [position[e.labels[0]] if e.labels else -1 for e in entries]
    return paths, np.array(starts, np.float64), np.array(labels, np.int64)
