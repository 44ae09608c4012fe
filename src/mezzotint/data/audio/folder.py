"""Read audio files as log-mel spectrograms, from class folders or from a labeled list.

Files, classes and splits are found as for images (`data/listing/`), with the extensions of audio.
`data/listing/lists.py` reads lists, `waveform.py` decodes files, `log_mel.py` makes spectrograms.
"""

import copy
import math
import os
from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from mezzotint.data.audio.log_mel import AUDIOSET, BYOL_A, BYOL_A_HTK, Mel, described, log_mel
from mezzotint.data.audio.waveform import (
    AUDIO_EXTENSIONS,
    UndecodableAudio,
    read_seconds,
    read_waveform,
)
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
    read_label_table,
    read_list,
)
from mezzotint.data.listing.sampling import check_holdout, held_out
from mezzotint.data.memory import usable_std
from mezzotint.data.source import FOLDER, Index, Source, Task, label_tasks
from mezzotint.seeding import sample_order
from mezzotint.types import Input, Sample, Unreadable

FrontEnd = Literal["byol_a", "byol_a_htk", "audioset"]
Sampling = Literal["middle", "clips"]

_FRONT_ENDS: dict[str, Mel] = {
    "byol_a": BYOL_A,
    "byol_a_htk": BYOL_A_HTK,
    "audioset": AUDIOSET,
}
_MEASURED = 256  # files for measuring mean and standard deviation


def check_clips(seconds: float | None, std: float | None) -> None:
    """Raise a ValueError for clips that are too short, or values that cannot be scaled."""
    if seconds is not None and not seconds >= 0.1:
        raise ValueError(
            f"`seconds` must be 0.1 or more, got {seconds}. 0.95 gives 96 frames for byol_a."
        )
    if std is not None and not std > 0.0:
        raise ValueError(f"`std` must be positive, got {std}. Leave it out to measure it.")


class AudioFolder(Source):
    """Read audio files of any rate, length and number of channels as log-mel spectrograms.

    A sample is float32 `[1, mels, frames]`: the middle `seconds` of a file, mixed to mono at 16 kHz
    and padded with silence if shorter; with `sampling: clips`, each part of `seconds`. Views may
    cut shorter pieces out of it (`byol_a` with `frames`), another one each epoch.

    Without a list, folders are classes and splits, as in an image folder: the task is `label/val`
    (or `label/test`), or `label/holdout`. With `files`, labels come from the list: the task is
    `label/test` with `test_files`, a `test_fold`, or rows whose column `split` is test; for a list
    with folds, one task for each, `label/fold-1` and so on; else `label/holdout`. Clips of one
    file, and files of one content, speaker or session are held out together; a list names them in a
    column such as `speaker` or `group`. If files have several labels, the task predicts all of
    them, and is scored by mean average precision.

    Args:
        root: folder of the files; paths in lists are relative to it.
        files: a list, CSV or the JSON of AST or BRIDLE, by its path or with settings; null takes
            all files below `root`.
        test_files: list of the files to score; pretraining never sees them.
        front_end: `byol_a` has 64 mels each 10 ms; `byol_a_htk` the same on torchaudio's default
            scale, for encoders of BYOL-A's training script; `audioset` has Kaldi's 128, after
            removing the mean of the clip.
        seconds: duration of a sample. 96 frames are 0.95 s for `byol_a`; 1024 are 10.255 s for
            `audioset`.
        sampling: `middle` makes each file one sample; `clips` cuts each file into as many samples
            as fill it, for a few long files.
        mean: mean of the values, any number; by default measured on 256 of the files.
        std: standard deviation of the values; by default measured.
        holdout: fraction of each class to score, if nothing else defines a test split.
        group: regular expression that finds the person or session in the path of a file; by
            default the list's column (`group`, `speaker`, …), or the conventions of
            `data/listing/groups.py`. An empty one finds none.

    Attributes:
        classes: names of the classes.
        labels: int64 `[N]`; negative for files with no label, or several.
        holdout: the argument.

    Raises:
        ValueError: when the folder or a list is missing or malformed, or no file can be read.
    """

    modality = "audio"
    opens = frozenset({FOLDER})
    opens_one = AUDIO_EXTENSIONS
    labels: Index
    holdout: float = 0.2
    group: str | None = None

    def __init__(
        self,
        *,
        root: str,
        files: str | FileList | None = None,
        test_files: str | FileList | None = None,
        front_end: FrontEnd = "byol_a",
        seconds: float = 0.95,
        sampling: Sampling = "middle",
        mean: float | None = None,
        std: float | None = None,
        holdout: float = 0.2,
        group: str | None = None,
    ) -> None:
        check_pattern(group)
        check_holdout(holdout)
        check_clips(seconds, std)
        if test_files and not files:
            raise ValueError(
                "`test_files` needs `files`, a list of the training files. Set `data.files`."
            )
        if sampling not in ("middle", "clips"):
            raise ValueError(f"`sampling` must be middle or clips, got {sampling!r}. Choose one.")
        self.root, self.holdout, self.group = os.fspath(root), holdout, group
        if files is None:
            formats = "wav, flac, ogg, opus, mp3 and so on"
            found = entries_of_folder(self.root, AUDIO_EXTENSIONS, "audio", formats)
            parts = ListParts(*found)
        else:
            parts = parts_of_lists(self.root, files, test_files, read_list)
        table = as_list(files)
        labels = None if table is None else table.labels
        self._open(self.root, parts, labels, front_end, seconds, sampling, mean, std)

    def _open(
        self,
        root: str,
        parts: ListParts,
        labels: str | None,
        front_end: FrontEnd,
        seconds: float,
        sampling: Sampling,
        mean: float | None,
        std: float | None,
    ) -> None:
        """Store the training entries and the entries to score."""
        if front_end not in _FRONT_ENDS:
            raise ValueError(
                f"`front_end` must be one of {', '.join(_FRONT_ENDS)}, got {front_end!r}. Choose "
                "one."
            )
        self.root, self.front_end, self.scored = folder_of(os.fspath(root)), front_end, parts.name
        self.notes = parts.notes
        self.mel = _FRONT_ENDS[front_end]
        self._samples = round(seconds * self.mel.sample_rate)
        frames = self.mel.frames(self._samples)
        own, scored = parts.train, parts.scored
        if sampling == "clips":
            own, scored = (self._clips(entries) for entries in (own, scored))
            if len(own) > len(parts.train):
                note = f"{len(own):,} clips of {len(parts.train):,} files"
                self.notes = (*self.notes, note)
        self._use(own, scored, labels)
        self.input = Input((1, self.mel.mels, frames), (0.0,), (1.0,), "audio")
        if mean is None or std is None:
            measured = self._moments()
            mean, std = measured[0] if mean is None else mean, measured[1] if std is None else std
        self.input = Input(self.input.shape, (mean,), (std,), "audio")

    def _clips(self, entries: list[ListedFile]) -> list[ListedFile]:
        """Cut files into clips, one after the other."""
        return cut_into_clips(
            entries,
            self._samples / self.mel.sample_rate,
            lambda path: read_seconds(os.path.join(self.root, path)),
        )

    def _use(self, own: list[ListedFile], scored: list[ListedFile], table: str | None) -> None:
        """Store the entries, and turn their labels into indices of the classes."""
        both = [*own, *scored]
        keys, self.classes = read_label_table(table) if table else (classes_of(both),) * 2
        position = {key: i for i, key in enumerate(keys)} | (
            {name: i for i, name in enumerate(self.classes)}
        )
        unknown = next(
            (label for entry in both for label in entry.labels if label not in position), None
        )
        if unknown is not None:
            raise ValueError(
                f"The label {unknown!r} is not in {table}. Labels must be a mid or a display_name "
                "of the table. Correct the list or the table."
            )
        self._paths = np.array([os.fsencode(entry.path) for entry in own], np.bytes_)
        self._scored_paths = np.array([os.fsencode(entry.path) for entry in scored], np.bytes_)
        self._starts = np.array(
            [np.nan if entry.start is None else entry.start for entry in both], np.float32
        )
        self._folds = np.array(
            [-1 if entry.fold is None else entry.fold for entry in both], np.int64
        )
        self._valid = np.array([entry.split == "valid" for entry in both], np.bool_)
        found = [tuple(position[label] for label in entry.labels) for entry in both]
        self._found, self._scored_found = found[: len(own)], found[len(own) :]
        self.labels = _single(self._found)
        self._sources = [None if self.group is not None else entry.source for entry in own]

    @classmethod
    def located(cls, path: str, input: Input) -> dict[str, Any]:
        return {"root": path}

    def settings(self) -> dict[str, Any]:
        return {**self.config, "mean": self.input.mean[0], "std": self.input.std[0]}

    def preprocessing(self) -> dict[str, Any]:
        return {
            **super().preprocessing(),
            "front_end": described(self.mel),
            "remove_mean": self.front_end == "audioset",
            "samples": self._samples,
            "clip": "the middle of the file, mixed to mono; shorter ones get zeros on both sides",
        }

    def __len__(self) -> int:
        return len(self._paths)

    def read(self, index: int) -> Sample:
        """Read one sample; its label is a bool tensor `[classes]` if it has several."""
        try:
            wave = read_waveform(
                self._file(index), self.mel.sample_rate, self._samples, self._start_of(index)
            )
        except UndecodableAudio as error:
            raise Unreadable(self.id_of(index), str(error)) from None
        if self.front_end == "audioset":
            wave = wave - wave.mean()
        found = self._labels_of(index)
        label = self.multi_hot(index) if len(found) > 1 else found[0] if found else None
        x = log_mel(wave, self.mel).unsqueeze(0).contiguous()
        return {"x": x, "id": self.id_of(index), "label": label}

    def _file(self, index: int) -> str | bytes:
        """Return the path of a file, or its bytes."""
        return os.path.join(self.root, os.fsdecode(self._paths[index]))

    def _start_of(self, index: int) -> float | None:
        """Return the start of the clip in a file; `None` for the middle."""
        start = float(self._starts[index])
        return None if math.isnan(start) else start

    def _labels_of(self, index: int) -> tuple[int, ...]:
        return self._found[index]

    def id_of(self, index: int) -> str:
        return clip_name(os.fsdecode(self._paths[index]), self._start_of(index))

    def multi_hot(self, index: int) -> Tensor:
        """Return the labels of a file as bool `[classes]`."""
        chosen = torch.zeros(len(self.classes), dtype=torch.bool)
        chosen[list(self._labels_of(index))] = True
        return chosen

    def fingerprint(self) -> str:
        """Hash the relative paths and sizes of all files; no file is read."""
        return files_fingerprint(self.root, map(bytes, self._paths))

    def everything(self) -> tuple[Source, npt.NDArray[np.str_]]:
        samples, split = super().everything()
        if len(samples) == len(self) and len(self._scored_paths):  # without a task
            samples = self._with_scored(_single([*self._found, *self._scored_found]))
            split = np.concatenate([split, np.full(len(self._scored_paths), self.scored)])
        return samples, split

    def evaluation(self) -> tuple[Source, Sequence[Task]]:
        """Return all files, and the tasks; with fewer than two classes there is none."""
        if any(len(labels) > 1 for labels in (*self._found, *self._scored_found)):
            return self._tagging()
        single = _single([*self._found, *self._scored_found])
        if len(np.unique(single[single >= 0])) < 2:
            return self, []
        if not len(self._scored_paths) and (self._folds >= 0).all():
            return self, self._folds_of(single)
        if not len(self._scored_paths):
            chosen = held_out(self.labels, self.holdout, "label", self._independent())
            return self, label_tasks("label/holdout", self.labels, chosen, self.classes)
        both = self._with_scored(single)
        labeled = (single >= 0).nonzero()[0]
        train, test = labeled[labeled < len(self)], labeled[labeled >= len(self)]
        stop = np.intersect1d(train, self._valid.nonzero()[0])
        return both, [
            Task(f"label/{self.scored}", "classify", single, train, test, self.classes, stop)
        ]

    def _folds_of(self, single: Index) -> Sequence[Task]:
        """Return a task per fold, which learns from the other folds."""
        labeled = single >= 0
        return [
            Task(
                f"label/fold-{fold}",
                "classify",
                single,
                (labeled & (self._folds != fold)).nonzero()[0],
                (labeled & (self._folds == fold)).nonzero()[0],
                self.classes,
            )
            for fold in np.unique(self._folds).tolist()
        ]

    def _tagging(self) -> tuple[Source, Sequence[Task]]:
        """Return files and the task for several labels a file; unlabeled files take no part."""
        both = self._with_scored(_single([*self._found, *self._scored_found]))
        labels = np.zeros((len(both), len(self.classes)), np.bool_)
        for index, found in enumerate(both._found):
            labels[index, list(found)] = True
        known = np.flatnonzero(labels.any(axis=1))
        if self.scored is None:
            strata = np.where(labels.any(axis=1), 0, -1)
            chosen = held_out(strata, self.holdout, "label", self._independent())
        else:
            chosen = np.arange(len(both)) >= len(self)
        name = f"label/{self.scored or 'holdout'}"
        return both, [
            Task(name, "tag", labels, known[~chosen[known]], known[chosen[known]], self.classes)
        ]

    def _independent(self) -> Index:
        """Find the groups of files that stay together; the files are compared once."""
        if self.groups is None:
            paths = [os.fsdecode(path) for path in self._paths]
            self.groups = independent_files(
                self.root, paths, self.labels, self.classes, self.group, self._sources
            )
        return self.groups

    def _with_scored(self, single: Index) -> "AudioFolder":
        """Return the training files followed by the test files."""
        both = copy.copy(self)
        both._paths = np.concatenate([self._paths, self._scored_paths])
        both._found = [*self._found, *self._scored_found]
        both.labels = single
        both.held_out = None if self.scored is None else (len(self), self.scored)
        return both

    def _moments(self) -> tuple[float, float]:
        """Measure mean and standard deviation on some files, chosen by a fixed key."""
        count, total, square = 0, 0.0, 0.0
        last: Unreadable | None = None
        for index in sample_order(len(self), 0, 0, stop=_MEASURED).tolist():
            try:
                values = self.read(index)["x"].double()
            except Unreadable as error:
                last = error
                continue
            count += values.numel()
            total += float(values.sum())
            square += float(values.square().sum())
        if not count:
            raise ValueError(
                f"None of the sampled files can be read; the last is {last}. `data.root` must have "
                "audio files. Check them."
            )
        mean = total / count
        std = max(0.0, square / count - mean**2) ** 0.5
        return mean, float(usable_std(np.array(std), np.array(abs(mean)), np.float32))


def _single(found: Sequence[tuple[int, ...]]) -> Index:
    """Return the label of files with exactly one; -1 for the others."""
    return np.array([labels[0] if len(labels) == 1 else -1 for labels in found], np.int64)
