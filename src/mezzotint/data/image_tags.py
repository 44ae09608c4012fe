"""Read images with several labels each from a table, such as radiographs with findings.

A CSV with a header has one column of files and a column for each label: 1 is yes, 0 or an empty
cell is no, and −1 is uncertain, as in CheXpert (Irvin et al. 2019, arXiv 1901.07031). Pixels are
read as by `image_folder`; the task predicts all labels, and is scored by mean average precision and
the mean area under the ROC curve.
"""

import copy
import os
from collections.abc import Sequence
from typing import Literal

import numpy as np
import numpy.typing as npt

from mezzotint.data.formats.delimited import read_text_table
from mezzotint.data.image.folder import ImageFolder, PathList, check_image_options, input_of
from mezzotint.data.image.losses import notes_on_losses
from mezzotint.data.listing.file_list import FileList, as_list
from mezzotint.data.listing.groups import (
    check_pattern,
    column_of_groups,
    grouped,
    merged,
    overlap,
    same_files,
    source_of,
)
from mezzotint.data.listing.sampling import held_out
from mezzotint.data.source import Source, Task

Uncertain = Literal["no", "yes"]

CHEXPERT = ("Atelectasis", "Cardiomegaly", "Consolidation", "Edema", "Pleural Effusion")
"""The five findings on which CheXpert is scored."""

_VALUES = {"1": 1, "1.0": 1, "0": 0, "0.0": 0, "": 0, "-1": -1, "-1.0": -1}


class ImageTags(ImageFolder):
    """Read the images of a table, with any number of labels each.

    The task is `finding/test` with a second table, `finding/holdout` without.

    Args:
        root: folder of the images; paths in the table are relative to it, and stay below it.
        files: the table, a CSV, by its path or with settings.
        test_files: table of the images to score; pretraining never sees them.
        path: column of the files.
        labels: columns of the labels; by default CheXpert's five.
        uncertain: the label that −1 counts as.
        size: height and width of a whole sample, in pixels.
        holdout: fraction of the images to score, without a second table.
        group: regular expression that finds the patient in the path of an image; by default a
            column such as `patient_id`, or a folder such as `patient00012`. Images of one patient
            are held out together.
        max_pixels: images with more pixels are unreadable; checked before decoding.

    Attributes:
        tags: bool `[N, C]`.

    Raises:
        ValueError: when a table cannot be read, lacks a column, or has another value.
    """

    opens = frozenset()

    def __init__(
        self,
        *,
        root: str,
        files: str | FileList,
        test_files: str | FileList | None = None,
        path: str = "Path",
        labels: Sequence[str] = CHEXPERT,
        uncertain: Uncertain = "no",
        size: int = 224,
        holdout: float = 0.2,
        group: str | None = None,
        max_pixels: int = 50_000_000,
    ) -> None:
        check_image_options(size, holdout, max_pixels)
        if uncertain not in ("no", "yes") or len(labels) < 1:
            raise ValueError(
                "`uncertain` must be no or yes, and `labels` name a column or more, got "
                f"uncertain={uncertain!r} and labels={list(labels)}. Correct `data.labels`."
            )
        self.root, self.size, self.holdout, self.max_pixels = (
            os.fspath(root),
            size,
            holdout,
            max_pixels,
        )
        self.input = input_of(size)
        self.split, self.scored, self.classes = None, "test" if test_files else None, list(labels)
        check_pattern(group)
        self.group = group
        own, self.tags, self._who = _table(as_list(files), self.root, path, labels, uncertain)
        scored = as_list(test_files)
        other, self._scored_tags, _ = (
            _table(scored, self.root, path, labels, uncertain)
            if scored is not None
            else ([], self.tags[:0], [])
        )
        self.notes = (*overlap(own, other), *notes_on_losses(self.root, own, max_pixels))
        self._paths, self._scored_paths = PathList(own), PathList(other)
        self.labels = np.full(len(own), -1, np.int64)

    def evaluation(self) -> tuple[Source, Sequence[Task]]:
        """Return the images of both tables, and the task."""
        count = len(self)
        if self.scored is None:
            if self.groups is None:
                names = [
                    who if who and self.group is None else source_of(name, None, self.group)
                    for name, who in zip(self._paths, self._who, strict=True)
                ]
                self.groups = merged(same_files(self.root, self._paths), grouped(names))
            chosen = held_out(np.zeros(count, np.int64), self.holdout, "finding", self.groups)
            train, test = (~chosen).nonzero()[0], chosen.nonzero()[0]
            return self, [Task("finding/holdout", "tag", self.tags, train, test, self.classes)]
        both = copy.copy(self)
        both._paths = PathList([*self._paths, *self._scored_paths])
        both.tags = np.concatenate([self.tags, self._scored_tags])
        both.labels = np.full(len(both.tags), -1, np.int64)
        train, test = np.arange(count), np.arange(count, len(both.tags))
        return both, [Task("finding/test", "tag", both.tags, train, test, self.classes)]


def _table(
    listed: FileList | None, root: str, path: str, labels: Sequence[str], uncertain: Uncertain
) -> tuple[list[str], npt.NDArray[np.bool_], list[str | None]]:
    """Read the paths of a table, its labels, bool `[N, C]`, and who each image is of."""
    assert listed is not None
    file = listed.path
    if listed.labels is not None or listed.test_fold is not None:
        raise ValueError(
            f"`{file}`: `data.files` takes path and allow_outside here, got "
            f"labels={listed.labels!r} and test_fold={listed.test_fold}. Leave these out."
        )
    table = read_text_table(file)
    missing = [name for name in (path, *labels) if not table.rows or name not in table.header]
    if missing:
        found = ", ".join(table.header) if table.rows else "no rows"
        raise ValueError(
            f"`{file}` has no column {missing[0]!r}, only {found}. Name the column of files with "
            "`data.path`, and the columns of labels with `data.labels`."
        )
    rows = table.records()
    values = np.zeros((len(rows), len(labels)), np.int64)
    for number, row in enumerate(rows):
        for column, name in enumerate(labels):
            value = _VALUES.get(row[name])
            if value is None or not row[path]:
                raise ValueError(
                    f"`{file}`, line {table.lines[number]}, must have a path, and 1, 0, -1 or "
                    f"nothing for each label, got {name}={row[name]!r} and the path {row[path]!r}. "
                    "Correct the line."
                )
            values[number, column] = value
    listed.check(root, [row[path] for row in rows])
    named = column_of_groups(name for name in table.header if name not in (path, *labels))
    who = [row[named] or None if named else None for row in rows]
    return [row[path] for row in rows], values > 0 if uncertain == "no" else values != 0, who
