"""Tables: rows of numeric and categorical columns, from CSV, `.npz` or parquet.

Each numeric column becomes one feature; missing values take the column's mean. Each categorical
column becomes one feature a category, 1 in its own and 0 elsewhere; a missing or rare category is 0
everywhere. All features are then standardized over the training rows, so that what the views and
the encoder see has a mean of 0 and a spread of 1 in every feature, and the transforms of tables
(`augment/table.py`) know its range without looking at other rows.

A column of text is categorical, and so is a numeric one that is named in `categorical`.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import numpy as np
import numpy.typing as npt
import torch

from mezzotint.data.memory import InMemory
from mezzotint.data.sampling import held_out
from mezzotint.data.source import Index, Source, Task, label_tasks
from mezzotint.data.table.files import Columns, read_table, sample_table
from mezzotint.types import Input

Embedded = Literal["breast_cancer", "wine"]


class Table(InMemory):
    """Rows of a table, `[features]`.

    Args:
        path: of a `.csv`, `.npz` or `.parquet` file. An `.npz` holds a matrix `x` `[N, F]`, or one
            array a column.
        y: name of the column of labels; without it, or with `null`, there are none.
        categorical: numeric columns that name categories.
        ignore: columns that are left out, such as an identifier.
        max_categories: of a column; rarer ones count as missing.
        holdout: part of each class to be scored. These rows are not pretrained on.

    Attributes:
        classes: names of the classes; a label is a place in this list.
        features: names, `column` or `column=category`.

    Raises:
        ValueError: when the file cannot be read, or no column is left.
    """

    modality = "table"
    opens = frozenset({".csv", ".npz", ".parquet"})

    def __init__(
        self,
        *,
        path: str,
        y: str | None = "label",
        categorical: list[str] | None = None,
        ignore: list[str] | None = None,
        max_categories: int = 50,
        holdout: float = 0.3,
    ) -> None:
        if max_categories < 1:
            raise ValueError(
                f"got max_categories={max_categories}; allowed is 1 or more: 50 is the default"
            )
        columns = read_table(Path(path), y)
        unknown = sorted({*(categorical or ()), *(ignore or ())} - set(columns))
        if unknown:
            raise ValueError(
                f"{path} has no column {unknown[0]!r}; it has {', '.join(columns)}: correct categorical or ignore"
            )
        labels = columns.pop(y, None) if y is not None else None
        for name in ignore or ():
            columns.pop(name, None)
        self._hold(
            columns, labels, Path(path).stem, set(categorical or ()), max_categories, holdout
        )

    def _hold(
        self,
        columns: Columns,
        labels: npt.NDArray[np.str_] | npt.NDArray[np.float64] | None,
        name: str,
        categorical: set[str],
        most: int,
        holdout: float,
    ) -> None:
        """Encode, split, standardize."""
        count = len(next(iter(columns.values()))) if columns else 0
        if count == 0:
            raise ValueError(
                f"{name} has no rows or no columns but labels; allowed is a table of both: check the file"
            )
        whole, self.classes = named_labels(labels, count)
        if len(self.classes) > 1:
            test = held_out(whole, holdout, "row")
        else:
            test = np.zeros(count, np.bool_)
        values, self.features = encoded(columns, ~test, categorical, most)
        order = test.argsort(
            kind="stable"
        )  # rows to be scored stand behind what pretraining counts
        mean, std = values[~test].mean(axis=0), values[~test].std(axis=0)
        standard = (values - mean) / np.where(std > 0.0, std, 1.0)
        self._all, self._labels = torch.from_numpy(standard[order].astype(np.float32)), whole[order]
        self.ids = [f"{name}/{row:06d}" for row in order.tolist()]
        seen = int((~test).sum())
        self.images, self.labels = self._all[:seen], self._labels[:seen]
        width = len(self.features)
        self.input = Input((width,), (0.0,) * width, (1.0,) * width, "table")

    @classmethod
    def open(cls, path: str, input: Input) -> Source:
        return cls(path=path)

    def evaluation(self) -> tuple[Source, Sequence[Task]]:
        """All rows, and the task where there are at least two classes."""
        everything = self.with_samples(self._all, self._labels)
        test = np.arange(len(self._all)) >= len(self.images)
        return everything, label_tasks("label/holdout", self._labels, test, self.classes)


class TableSample(Table):
    """A table that comes with scikit-learn: `breast_cancer` (569 rows of 30 numbers) or `wine` (178 of 13).

    Args:
        name: of the table.
        holdout: part of each class to be scored. These rows are not pretrained on.
    """

    opens = frozenset()

    def __init__(self, *, name: Embedded = "breast_cancer", holdout: float = 0.3) -> None:
        if name not in ("breast_cancer", "wine"):
            raise ValueError(
                f"got name={name!r}; allowed is breast_cancer or wine: choose one of them"
            )
        columns, labels = sample_table(name)
        self._hold(columns, labels, name, set(), 50, holdout)


def encoded(
    columns: Columns, training: npt.NDArray[np.bool_], categorical: set[str], most: int
) -> tuple[npt.NDArray[np.float64], list[str]]:
    """Columns as features.

    Args:
        columns: by name: float64 with NaN where a value is missing, or strings, empty where one is.
        training: bool `[N]`, the rows that categories, their order and the means are taken from.
        categorical: numeric columns to be treated as categories.
        most: categories of a column.

    Returns:
        `[N, F]`, and the names of the features.
    """
    features, names = [], []
    for name, column in columns.items():
        if column.dtype.kind == "f" and name not in categorical:
            known = training & np.isfinite(column)
            mean = column[known].mean() if known.any() else 0.0
            features.append(np.where(np.isfinite(column), column, mean))
            names.append(name)
            continue
        words = (
            column
            if column.dtype.kind == "U"
            else np.array([f"{v:g}" if v == v else "" for v in column])
        )
        seen, counts = np.unique(words[training & (words != "")], return_counts=True)
        for word in seen[np.argsort(-counts, kind="stable")][:most]:
            features.append((words == word).astype(np.float64))
            names.append(f"{name}={word}")
    if not features:
        raise ValueError(
            "no feature is left; allowed is a table with a column besides the labels: check ignore and y"
        )
    return np.stack(features, axis=1), names


def named_labels(
    values: npt.NDArray[np.str_] | npt.NDArray[np.float64] | None, count: int
) -> tuple[Index, list[str]]:
    """Labels as places in a sorted list of names; an empty cell or NaN is no label."""
    if values is None:
        return np.full(count, -1, np.int64), []
    words = (
        values
        if values.dtype.kind == "U"
        else np.array([f"{v:g}" if v == v else "" for v in values])
    )
    names, place = np.unique(words[words != ""], return_inverse=True)
    labels = np.full(count, -1, np.int64)
    labels[words != ""] = place
    return labels, [str(name) for name in names]
