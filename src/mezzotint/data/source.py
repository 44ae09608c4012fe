"""The base class of data sources, and the tasks that data is evaluated on."""

import re
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from mezzotint.data.balance import EpochOrder
from mezzotint.data.formats.columns import ColumnUse, use_lines
from mezzotint.data.listing.groups import grouped, merged, source_of
from mezzotint.modality.modality import modality_of
from mezzotint.recipe.component import Component
from mezzotint.types import CropSampler, Input, Sample

if TYPE_CHECKING:
    from mezzotint.data.image.nvjpeg import Jpeg

Index = npt.NDArray[np.int64]

FOLD = re.compile(r"/fold-\d+(?=/|$)")
"""The part of a name that marks a task, or one of its metrics, as one of several folds."""

_FEW = 20  # classes may be called 0.5, 1.0, … up to this number
_PART = 1 << 20  # samples that are looked at together, to save memory

FOLDER = "folder"
"""The entry of `opens` of a source that opens folders."""


@dataclass(frozen=True)
class Task:
    """A labeled problem for frozen features, with its split fixed by the data.

    Attributes:
        name: what is predicted and how it is split, `"category/across-styles"`.
        kind: `"classify"`: one label per sample. `"tag"`: any number of labels per sample.
            `"retrieve"`: each sample of `test` queries `train` for the one with its own label.
        labels: int64 `[N]`, for tags bool `[N, C]`, for all samples of the source; only the rows of
            `train` and `test` are used.
        train: indices of the samples to learn from.
        test: indices of the samples to score.
        classes: names, by label; empty for retrieval.
        validation: subset of `train` on which a probe may select settings or stop, where the data
            defines one; empty where the probe splits off its own.
    """

    name: str
    kind: Literal["classify", "tag", "retrieve"]
    labels: Index | npt.NDArray[np.bool_]
    train: Index
    test: Index
    classes: Sequence[str] = ()
    validation: Index = field(default_factory=lambda: np.empty(0, np.int64))


def first_classification(tasks: Sequence[Task]) -> Task | None:
    """Return the first task with one label per sample, or `None`."""
    return next((task for task in tasks if task.kind == "classify"), None)


def label_tasks(
    name: str, labels: Index, test: npt.NDArray[np.bool_], classes: Sequence[str]
) -> list[Task]:
    """Return the classification task of labeled samples; none with fewer than two classes.

    There is none either where training samples have fewer than two classes, or no sample is scored.

    Args:
        name: name of the task.
        labels: int64 `[N]`, negative where a sample has no label; those take no part.
        test: bool `[N]`, the samples to score; the others are learned from.
        classes: names, by label.
    """
    if len(classes) < 2:
        return []
    known = labels >= 0
    # Nothing here is as large as the labels but the indices, for data of many samples.
    scored = (known & test).nonzero()[0]
    known &= ~test
    lowest = labels.min(where=known, initial=np.iinfo(np.int64).max)
    if not len(scored) or labels.max(where=known, initial=-1) <= lowest:
        return []
    return [Task(name, "classify", labels, known.nonzero()[0], scored, classes)]


def shared(samples: "Source", task: Task, *, files: bool = False) -> Index:
    """Return the scored samples of a given split whose content or source is trained on, too.

    A split that is made here has none. One that the data define, as by a column `split`, may.

    Args:
        samples: all samples.
        task: task over them.
        files: whether ids are paths, which name the sources, too.
    """
    groups = samples.groups
    if files and task.kind == "classify":
        titles = [task.classes[i] if i >= 0 else None for i in np.asarray(task.labels).tolist()]
        pattern = samples.config.get("group")
        names = [source_of(samples.id_of(i), title, pattern) for i, title in enumerate(titles)]
        groups = grouped(names) if groups is None else merged(groups, grouped(names))
    if samples.held_out is None or groups is None or len(groups) != len(samples):
        return np.empty(0, np.int64)
    known = np.zeros(len(groups), np.bool_)
    known[groups[: samples.held_out[0]]] = True
    scored = np.asarray(task.test, np.int64)
    return scored[known[groups[scored]]]


def _are_measured(classes: Sequence[str]) -> bool:
    """Return whether names of classes are many numbers with decimals, as of a regression."""
    numbers = [re.fullmatch(r"-?[0-9]*(\.[0-9]+)?(e-?[0-9]+)?", name) for name in classes]
    return len(classes) > _FEW and None not in numbers and any("." in name for name in classes)


class Source(Component, ABC, abstract=True):
    """Samples by index.

    `read` runs in loader workers, so a source is picklable and keeps no file open.

    A subclass defines `input`, `__len__`, `read` and `fingerprint`; everything else has a default.

    Attributes:
        modality: what the samples are.
        opens: suffixes of the files (`".npz"`) and `"folder"`, if a user can name such a path
            instead of a recipe; `located` says with which keys.
        opens_one: suffixes of the files of such a folder, if one file can be named alone.
        embedded: short names under which a user can name data of the package.
        input: shape and normalization of the samples.
        labels: int64 `[N]`, negative where a sample has none, or bool `[N, C]`; `None` where labels
            are known only by reading.
        credit: attribution, shown wherever samples are; empty where none is due.
        in_memory: whether `read_batch` only indexes a tensor, so that no workers are needed.
        croppable: whether training crops are cut by `read_crops` while the file is decoded.
        decoder: `nvjpeg` where `read_encoded` leaves JPEG files to a GPU.
        weighting: the order of an epoch, and how often each sample is drawn; `None` visits each
            once, in random order.
        classes: names of the classes, by label; empty for sources without.
        notes: sentences on what was left out or replaced when the source was opened.
        unreadable: id and reason of each file that could not be read when the source was opened,
            and was left out.
        location: keys that say where the data are and how it is split; all others are settings,
            which hold for other data of an encoder too.
        columns: what each column or array of a file is used for; empty for other data.
        groups: int64 `[N]`, the first sample of the group of each, of samples that stay on one
            side of a split; `None` where each is on its own.
        held_out: of the samples that `evaluation` returns, the index of the first one that
            pretraining does not see, and the name of their split; `None` where these do not come
            last, or there are none.
    """

    modality: ClassVar[str] = "image"
    opens: ClassVar[frozenset[str]] = frozenset()
    opens_one: ClassVar[frozenset[str]] = frozenset()
    embedded: ClassVar[tuple[str, ...]] = ()
    location: ClassVar[frozenset[str]] = frozenset(
        {"root", "path", "files", "test_files", "test_fold", "split", "name", "group"}
        | {"allow_outside"}
    )

    input: Input
    classes: Sequence[str] = ()
    notes: Sequence[str] = ()
    unreadable: Sequence[tuple[str, str]] = ()
    groups: Index | None = None
    held_out: tuple[int, str] | None = None
    labels: Index | npt.NDArray[np.bool_] | None = None
    credit: str = ""
    in_memory: bool = False
    croppable: bool = False
    decoder: Literal["pillow", "nvjpeg"] = "pillow"
    weighting: EpochOrder | None = None
    columns: Sequence[ColumnUse] = ()

    @classmethod
    def located(cls, path: str, input: Input) -> dict[str, Any]:
        """Return the keys that open a path of a kind in `opens` for an encoder with this input."""
        raise NotImplementedError(f"{cls.__name__} opens no files")

    @classmethod
    def open_embedded(cls, name: str) -> "Source":
        """Open data of the package by one of the names in `embedded`."""
        return cls()

    def settings(self) -> dict[str, Any]:
        """Return `config` with what was measured filled in, to read other data the same way."""
        return self.config

    def preprocessing(self) -> dict[str, Any]:
        """Describe how a sample is made of a file, as plain data that is kept with the encoder.

        The key `source` has `settings`. All other keys are for whoever serves the encoder.
        """
        return {"source": self.settings()}

    @abstractmethod
    def __len__(self) -> int: ...

    @abstractmethod
    def read(self, index: int) -> Sample:
        """Read one sample, whole, in the shape that `input` states.

        Raises:
            Unreadable: with the sample's id and the reason.
        """

    @abstractmethod
    def fingerprint(self) -> str:
        """Return a short hash of the data: a resumed run must see the same."""

    def id_of(self, index: int) -> str:
        """Return `Sample["id"]`; sources that know it do not read the sample."""
        return self.read(index)["id"]

    def read_batch(self, indices: Tensor) -> Tensor:
        """Read samples, int64 `[B]` → `[B, *input.shape]`."""
        return torch.stack([self.read(index)["x"] for index in indices.tolist()])

    def read_crops(self, index: int, choose: CropSampler) -> list[Tensor]:
        """Cut crops out of one image, opening the file once; only where `croppable`.

        Args:
            index: index of the sample.
            choose: takes height and width of the stored image, returns the crops to cut.

        Returns:
            uint8 `[C, size, size]` for each crop.

        Raises:
            Unreadable: with the sample's id and the reason.
        """
        raise NotImplementedError(f"{type(self).__name__} reads whole samples only")

    def read_encoded(self, index: int, choose: CropSampler) -> "Jpeg | list[Tensor]":
        """Return a plain JPEG's bytes and the crops to cut, or the crops of any other file."""
        return self.read_crops(index, choose)

    def targets(self, indices: Tensor) -> Tensor | None:
        """Return supervised targets: int64 `[B]`, or bool `[B, C]`; `None` if unlabeled."""
        return None

    def described(self) -> list[str]:
        """Say what was decided when the source was opened, in lines for the start of a run."""
        values = [self.input.stated_values()] if self.input.range else []
        return [self.outcome(), *values, *use_lines(self.columns)]

    def evaluation(self) -> tuple["Source", Sequence[Task]]:
        """Return all samples, training and test, and the tasks over their indices."""
        return self, ()

    def everything(self) -> tuple["Source", npt.NDArray[np.str_]]:
        """Return all samples, training and test, and the name of the split of each.

        The names are those of the first labeled task: a sample that it scores is of its split, such
        as `val` or `holdout`. So is one that is held out and has no label. All others are of
        `train`.
        """
        samples, tasks = self.evaluation()
        split = np.full(len(samples), "train", object)
        labeled = [task for task in tasks if task.kind != "retrieve"]
        for task in labeled:
            if FOLD.sub("", task.name) == FOLD.sub("", labeled[0].name):
                split[task.test] = task.name.rpartition("/")[2]
        if samples.held_out is not None:
            first, name = samples.held_out
            split[first:] = name
        return samples, split.astype(np.str_)

    def named_labels(self) -> tuple[Index | npt.NDArray[np.bool_] | None, Sequence[str]]:
        """Return the labels of `everything`, as in a task, and the names of the classes.

        They are those of the first labeled task, or else of the source; `None` where labels are
        known only by reading.
        """
        samples, tasks = self.everything()[0], self.evaluation()[1]
        for task in tasks:
            if task.kind != "retrieve" and len(task.labels) == len(samples):
                return task.labels, task.classes
        return samples.labels, samples.classes

    def outcome(self) -> str:
        """Say in one line what the data is: classes, samples of each part, what is left out."""
        samples, tasks = self.evaluation()
        plural = modality_of(self.input).plural
        task = first_classification(tasks) or next(iter(tasks), None)
        facts = []
        if task is not None and task.classes:
            noun = "classes" if task.kind == "classify" else "tags"
            facts.append(f"{len(task.classes):,} {noun}")
            if _are_measured(task.classes):
                facts.append(
                    "labels are numbers with decimals: if these are measured values, not classes, "
                    "set the key of the labels to null, as regression is not scored"
                )
        if task is None or len(samples) == len(self):
            facts.append(f"{len(self):,} {plural}")
        else:
            name = FOLD.sub("", task.name).rpartition("/")[2]
            facts.append(f"train {len(self):,}, {name} {len(task.test):,} {plural}")
        if task is not None and len(samples) == len(self) and len(task.train):
            facts[-1] += f", {len(task.test):,} of them scored"
        if samples.held_out is not None:
            first, name = samples.held_out
            rest = len(samples) - first - (0 if task is None else len(task.test))
            why = "" if task is None else ", as they have no label"
            more = f"{rest:,} more {plural} of {name} are neither trained on nor scored{why}"
            facts += [more] * (rest > 0)
        torn = 0 if task is None else len(shared(samples, task))
        if torn:
            more = f"{torn:,} {plural} to score have the content or source of training samples"
            facts.append(more)
        del task, tasks  # as large as the groups, for data of many samples
        # The first sample of each group has its own index, so that nothing is sorted. False pairs
        # that only the evaluation makes have no group.
        groups = np.empty(0, np.int64) if samples.groups is None else samples.groups
        size = len(groups)
        together = sum(
            int(np.count_nonzero(groups[i : i + _PART] != np.arange(i, min(i + _PART, size))))
            for i in range(0, size, _PART)
        )
        if together and not torn:
            facts.append(f"{together:,} more of the same content or source are kept together")
        return "; ".join([*facts, *(note.rstrip(".") for note in self.notes)])

    def with_context(self) -> "Source":
        """Return the same samples as training reads them: clips with context, images as stored."""
        return self

    def multi_crop(self, clips: int, crops: int) -> "Source":
        """Return the same samples, each as `[clips · crops, *input.shape]`.

        An evaluation averages the features over them.

        Args:
            clips: clips along time.
            crops: crops along the longer side.

        Raises:
            ValueError: when the source cannot read that many.
        """
        raise ValueError(
            f"`{self.kind}` has no clips or crops to average over, got clips={clips} and "
            f"crops={crops}. `video_folder` has both, `image_folder` has crops. Leave them out."
        )
