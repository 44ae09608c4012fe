"""Audio files as log-mel spectrograms: from class folders, or from a list with labels.

Which files count, and what is a class or a split, is as for images (`folder.py`), with the
extensions of sound; lists are read by `audio_lists.py`, files by `waveform.py`, and made into
spectrograms by `log_mel.py`.
"""

import copy
import math
import os
from collections.abc import Sequence
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from mezzotint.data.audio.log_mel import AUDIOSET, BYOL_A, Mel, log_mel
from mezzotint.data.audio.waveform import AUDIO_EXTENSIONS, UndecodableAudio, read_waveform
from mezzotint.data.folder import files_fingerprint
from mezzotint.data.lists import (
    ListedFile,
    classes_of,
    entries_of_folder,
    read_label_table,
    read_list,
)
from mezzotint.data.sampling import held_out
from mezzotint.data.source import FOLDER, Index, Source, Task, label_tasks
from mezzotint.seeding import sample_order
from mezzotint.types import Input, Sample, Unreadable

FrontEnd = Literal["byol_a", "audioset"]

_FRONT_ENDS: dict[str, Mel] = {"byol_a": BYOL_A, "audioset": AUDIOSET}
_MEASURED = 256  # files from which mean and deviation are taken


class AudioFolder(Source):
    """Audio files of any rate, length and number of channels, as log-mel spectrograms.

    A sample is float32 `[1, mels, frames]`: the middle `seconds` of the recording, with silence
    around what is shorter, mixed to mono at 16 kHz. Views may cut shorter pieces out of it
    (`byol_a` with `frames`), each epoch another.

    Without a list, folders are classes and splits, as in an image folder: the task is `label/val`
    (or `label/test`), or `label/holdout`. With `files`, labels come from the list: the task is
    `label/test` when there is a list `test_files` or a `test_fold`; where the list has folds, one
    task for each, `label/fold-1` and so on; else `label/holdout`. Where a file has several labels,
    the task asks for all of them, and is scored by mean average precision.

    Args:
        root: folder of the files; paths in lists are relative to it.
        files: a CSV, or JSON as AST or BRIDLE have it; null takes all files below `root`.
        test_files: a list of the files to be scored. They are never pretrained on.
        test_fold: the fold of `files` to be scored, where it has folds. It is never pretrained on.
        labels: a table of classes as AudioSet's (index, mid, display_name); null takes the classes
            as they are found.
        front_end: `byol_a`, 64 mels each 10 ms, or `audioset`, Kaldi's 128; the mean of a clip is
            removed for that.
        seconds: of a sample. 96 frames are 0.95 s for `byol_a`; 1024 are 10.255 s for `audioset`.
        mean: of the values; by default measured on 256 of the files.
        std: of the values; by default measured.
        holdout: part of each class to be scored, where nothing else says it.

    Attributes:
        classes: names of the classes.
        labels: int64 `[N]`; negative where a file has no label, or several.
        holdout: as the argument.

    Raises:
        ValueError: when the folder or a list is missing or wrong, or no file can be read.
    """

    modality = "audio"
    opens = frozenset({FOLDER})
    labels: Index
    holdout: float = 0.2

    def __init__(
        self,
        *,
        root: str,
        files: str | None = None,
        test_files: str | None = None,
        test_fold: int | None = None,
        labels: str | None = None,
        front_end: FrontEnd = "byol_a",
        seconds: float = 0.95,
        mean: float | None = None,
        std: float | None = None,
        holdout: float = 0.2,
    ) -> None:
        if not 0.0 < holdout < 1.0:
            raise ValueError(f"got holdout={holdout}; allowed is a share between 0 and 1")
        if (test_files or test_fold is not None) and not files:
            raise ValueError(
                "got test_files or test_fold without files; allowed is a list for both: give files too"
            )
        self.root, self.holdout = os.fspath(root), holdout
        own, scored, name = self._listed(files, test_files, test_fold)
        self._open(self.root, own, scored, name, labels, front_end, seconds, mean, std)

    def _open(
        self,
        root: str,
        own: list[ListedFile],
        scored: list[ListedFile],
        name: str | None,
        labels: str | None,
        front_end: FrontEnd,
        seconds: float,
        mean: float | None,
        std: float | None,
    ) -> None:
        """Take the entries to learn from and those to be scored, whose split has this name."""
        if front_end not in _FRONT_ENDS:
            raise ValueError(
                f"got front_end={front_end!r}; allowed is one of {', '.join(_FRONT_ENDS)}: choose one"
            )
        if std is not None and not std > 0.0:
            raise ValueError(f"got std={std}; allowed is more than 0")
        self.root, self.front_end, self.scored = os.fspath(root), front_end, name
        self.mel = _FRONT_ENDS[front_end]
        self._samples = round(seconds * self.mel.sample_rate)
        frames = self.mel.frames(self._samples) if seconds > 0 else 0
        if frames < 8:
            raise ValueError(
                f"got seconds={seconds}; allowed is 0.1 or more: 0.95 gives 96 frames to byol_a"
            )
        self._use(own, scored, labels)
        self.input = Input((1, self.mel.mels, frames), (0.0,), (1.0,), "audio")
        if mean is None or std is None:
            measured = self._moments()
            mean, std = measured[0] if mean is None else mean, measured[1] if std is None else std
        self.input = Input(self.input.shape, (mean,), (std,), "audio")

    def _listed(
        self, files: str | None, test_files: str | None, test_fold: int | None
    ) -> tuple[list[ListedFile], list[ListedFile], str | None]:
        """The files to pretrain on, those to be scored, and the name of the latter's split."""
        if files is None:
            return entries_of_folder(
                self.root, AUDIO_EXTENSIONS, "audio", "wav, flac, ogg, opus, mp3 and so on"
            )
        entries = read_list(files)
        if test_files is not None:
            return entries, read_list(test_files), "test"
        if test_fold is None:
            return entries, [], None
        scored = [entry for entry in entries if entry.fold == test_fold]
        own = [entry for entry in entries if entry.fold != test_fold]
        if not scored or not own:
            folds = sorted({entry.fold for entry in entries if entry.fold is not None})
            raise ValueError(
                f"got test_fold={test_fold}; {files} has the folds {folds}: choose one, and keep another"
            )
        return own, scored, "test"

    def _use(self, own: list[ListedFile], scored: list[ListedFile], table: str | None) -> None:
        """Take the entries, and turn their labels into places in the list of classes."""
        both = [*own, *scored]
        keys, self.classes = read_label_table(table) if table else (classes_of(both),) * 2
        place = {key: i for i, key in enumerate(keys)} | (
            {name: i for i, name in enumerate(self.classes)}
        )
        unknown = next(
            (label for entry in both for label in entry.labels if label not in place), None
        )
        if unknown is not None:
            raise ValueError(
                f"got the label {unknown!r}, which {table} does not have; allowed are its mid and names"
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
        found = [tuple(place[label] for label in entry.labels) for entry in both]
        self._found, self._scored_found = found[: len(own)], found[len(own) :]
        self.labels = _single(self._found)

    @classmethod
    def open(cls, path: str, input: Input) -> Source:
        return cls(root=path)

    def __len__(self) -> int:
        return len(self._paths)

    def read(self, index: int) -> Sample:
        """One sample, float32 `[1, mels, frames]`; its label is a bool tensor `[classes]` where it has several."""
        path = os.fsdecode(self._paths[index])
        try:
            start = float(self._starts[index])
            own = None if math.isnan(start) else start
            wave = read_waveform(
                os.path.join(self.root, path), self.mel.sample_rate, self._samples, own
            )
        except UndecodableAudio as error:
            raise Unreadable(path, str(error)) from None
        if self.front_end == "audioset":
            wave = wave - wave.mean()
        found = self._found[index]
        label = self.multi_hot(index) if len(found) > 1 else found[0] if found else None
        return {"x": log_mel(wave, self.mel).unsqueeze(0).contiguous(), "id": path, "label": label}

    def id_of(self, index: int) -> str:
        return os.fsdecode(self._paths[index])

    def multi_hot(self, index: int) -> Tensor:
        """Which of the classes a file has: bool `[classes]`."""
        chosen = torch.zeros(len(self.classes), dtype=torch.bool)
        chosen[list(self._found[index])] = True
        return chosen

    def fingerprint(self) -> str:
        """A hash of the relative paths and sizes of all files, 16 hexadecimal digits; no file is read."""
        return files_fingerprint(self.root, map(bytes, self._paths))

    def evaluation(self) -> tuple[Source, Sequence[Task]]:
        """All files that have a part in the task, and the task: none with fewer than two classes."""
        if any(len(labels) > 1 for labels in (*self._found, *self._scored_found)):
            return self._tagging()
        single = _single([*self._found, *self._scored_found])
        if len(np.unique(single[single >= 0])) < 2:
            return self, []
        if not len(self._scored_paths) and (self._folds >= 0).all():
            return self, self._folds_of(single)
        if not len(self._scored_paths):
            chosen = held_out(self.labels, self.holdout, "label")
            return self, label_tasks("label/holdout", self.labels, chosen, self.classes)
        both = self._with_scored(single)
        labeled = (single >= 0).nonzero()[0]
        train, test = labeled[labeled < len(self)], labeled[labeled >= len(self)]
        stop = np.intersect1d(train, self._valid.nonzero()[0])
        return both, [
            Task(f"label/{self.scored}", "classify", single, train, test, self.classes, stop)
        ]

    def _folds_of(self, single: Index) -> Sequence[Task]:
        """One task a fold, which learns from the others."""
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
        """The same where files have several labels; those without any are labeled with nothing and left out."""
        both = self._with_scored(_single([*self._found, *self._scored_found]))
        labels = np.zeros((len(both), len(self.classes)), np.bool_)
        for index, found in enumerate(both._found):
            labels[index, list(found)] = True
        known = np.flatnonzero(labels.any(axis=1))
        if self.scored is None:
            chosen = held_out(np.where(labels.any(axis=1), 0, -1), self.holdout, "label")
        else:
            chosen = np.arange(len(both)) >= len(self)
        name = f"label/{self.scored or 'holdout'}"
        return both, [
            Task(name, "tag", labels, known[~chosen[known]], known[chosen[known]], self.classes)
        ]

    def _with_scored(self, single: Index) -> "AudioFolder":
        """The files to pretrain on, and behind them those to be scored."""
        both = copy.copy(self)
        both._paths = np.concatenate([self._paths, self._scored_paths])
        both._found = [*self._found, *self._scored_found]
        both.labels = single
        return both

    def _moments(self) -> tuple[float, float]:
        """Mean and deviation of all values of some files, chosen by a fixed key; unreadable ones are left out."""
        count, total, square = 0, 0.0, 0.0
        last: Unreadable | None = None
        for index in sample_order(len(self), 0, 0)[:_MEASURED].tolist():
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
                f"none of the first files can be read, the last is {last}; allowed are audio files"
            )
        mean = total / count
        return mean, max(0.0, square / count - mean**2) ** 0.5 or 1.0


def _single(found: Sequence[tuple[int, ...]]) -> Index:
    """The label of files that have exactly one; -1 for the others."""
    return np.array([labels[0] if len(labels) == 1 else -1 for labels in found], np.int64)
