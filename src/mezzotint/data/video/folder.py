"""Read video files as clips, from class folders or from a list of Kinetics or Something-Something.

Files, classes and splits are found as for images (`data/listing/`), with the extensions of video.
`data/listing/lists.py` reads lists, `decode.py` reads frames.
"""

import copy
import os
from collections.abc import Sequence
from typing import Any, Literal, Self

import numpy as np

from mezzotint.data.listing.folder import files_fingerprint, folder_of
from mezzotint.data.listing.groups import check_pattern, independent, overlap, same_files, source_of
from mezzotint.data.listing.lists import (
    ListedFile,
    classes_of,
    entries_of_folder,
    read_video_list,
    require_inside,
    split_of_list,
)
from mezzotint.data.listing.sampling import held_out
from mezzotint.data.source import FOLDER, Index, Source, Task, label_tasks
from mezzotint.data.video.decode import VIDEO_EXTENSIONS, UndecodableVideo, read_frames, times_of
from mezzotint.types import IMAGENET_MEAN, IMAGENET_STD, Input, Sample, Unreadable

Sampling = Literal["middle", "even"]


class VideoFolder(Source):
    """Read video files (mp4, avi, mkv, webm, …) as clips, uint8 `[3, frames, size, size]`.

    A clip shows the middle square of each frame. Without a list, folders are classes and splits, as
    in an image folder. With `files`, labels come from the list: the task is `label/test` with
    `test_files`, else `label/holdout`. Values are normalized with the mean and standard deviation
    of ImageNet.

    Args:
        root: folder of the files; paths in lists are relative to it.
        files: list of the files; null takes all files below `root`.
        test_files: list of the files to score; pretraining never sees them.
        frames: frames per clip.
        fps: frames per second; 7.5 is every fourth frame of most videos.
        sampling: `middle` takes the middle of a video at `fps`; `even` spreads the frames over the
            whole video, as for Something-Something.
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
        files: str | None = None,
        test_files: str | None = None,
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
            or sampling not in ("middle", "even")
        ):
            raise ValueError(
                "`frames`, `size` must be 1 or more, `context` at least `frames`, `fps` positive, "
                f"and `sampling` middle or even, got frames={frames}, size={size}, "
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
        if files is None:
            own, scored, self.scored, self.notes = entries_of_folder(
                os.fspath(root), VIDEO_EXTENSIONS, "video", "mp4, avi, mkv, webm and so on"
            )
        else:
            own = read_video_list(files)
            scored, self.scored = [], None
            if test_files:
                scored, self.scored = read_video_list(test_files), "test"
                self.notes = overlap([e.path for e in own], [e.path for e in scored])
            else:
                own, scored, self.scored, self.notes = split_of_list(own)
            require_inside(self.root, [entry.path for entry in own], files)
            require_inside(self.root, [entry.path for entry in scored], test_files or files)
        self.classes = classes_of([*own, *scored])
        position = {name: i for i, name in enumerate(self.classes)}
        self._paths, self.labels = _columns(own, position)
        self._scored_paths, self._scored_labels = _columns(scored, position)
        self._sources = [None if group is not None else entry.source for entry in own]
        self.input = Input((3, frames, size, size), IMAGENET_MEAN, IMAGENET_STD, "video")

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
        name, label = os.fsdecode(self._paths[index]), int(self.labels[index])
        clips, crops = self._parts
        times = times_of(self.sampling, self._frames, self.fps, clips)
        try:
            x = read_frames(os.path.join(self.root, name), times, self.size, crops)
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
        return os.fsdecode(self._paths[index])

    def fingerprint(self) -> str:
        """Hash the relative paths and sizes of all files; no file is read."""
        return files_fingerprint(self.root, map(bytes, self._paths))

    def evaluation(self) -> tuple[Source, Sequence[Task]]:
        """Return all clips, and the task; with fewer than two classes there is none."""
        both = copy.copy(self)
        both._frames = self.input.shape[1]
        both._paths = np.concatenate([self._paths, self._scored_paths])
        both.labels = np.concatenate([self.labels, self._scored_labels])
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
            names = [
                source or source_of(path, self.classes[label] if label >= 0 else None, self.group)
                for path, label, source in zip(
                    paths, self.labels.tolist(), self._sources, strict=True
                )
            ]
            self.groups = independent(
                self.labels,
                same_files(self.root, paths),
                names,
                required=bool(self.group) or any(self._sources),
            )
        return self.groups


def _columns(
    entries: Sequence[ListedFile], position: dict[str, int]
) -> tuple[np.ndarray[tuple[int], np.dtype[np.bytes_]], Index]:
    """Return paths as bytes, which workers share in memory, and the first label of each file."""
    paths = np.array([os.fsencode(entry.path) for entry in entries], np.bytes_)
    return paths, np.array([position[e.labels[0]] if e.labels else -1 for e in entries], np.int64)
