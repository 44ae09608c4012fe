"""Read tables of numeric and categorical columns from CSV, `.npz` or parquet.

Each numeric column becomes one feature; missing values take the column's mean. Each categorical
column is one-hot encoded; a missing or rare category is all zeros. All features are then
standardized over the training rows, so that each has mean 0 and std 1, and the transforms of tables
(`augment/table.py`) know its range without other rows.

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
    """Read the rows of a table, `[features]`.

    Args:
        path: path of a `.csv`, `.npz` or `.parquet` file. An `.npz` has a matrix `x` `[N, F]`, or
            one array per column.
        y: column of the labels; without it, or with `null`, rows are unlabeled.
        categorical: numeric columns that name categories.
        ignore: columns to ignore, such as an identifier.
        max_categories: categories kept per column; rarer ones count as missing.
        holdout: fraction of each class to score; pretraining never sees these rows.

    Attributes:
        classes: names of the classes; a label is an index into this list.
        features: names of the features, `column` or `column=category`.

    Raises:
        ValueError: when the file cannot be read, or has no column besides labels.
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
                f"`max_categories` must be 1 or more, got {max_categories}. 50 is the default."
            )
        columns = read_table(Path(path), y)
        unknown = sorted({*(categorical or ()), *(ignore or ())} - set(columns))
        if unknown:
            raise ValueError(
                f"`{path}` has no column {unknown[0]!r}, only {', '.join(columns)}. Correct "
                "`data.categorical` or `data.ignore`."
            )
        labels = columns.pop(y, None) if y is not None else None
        for name in ignore or ():
            columns.pop(name, None)
        self._store(
            columns, labels, Path(path).stem, set(categorical or ()), max_categories, holdout
        )

    def _store(
        self,
        columns: Columns,
        labels: npt.NDArray[np.str_] | npt.NDArray[np.float64] | None,
        name: str,
        categorical: set[str],
        max_categories: int,
        holdout: float,
    ) -> None:
        """Encode the columns, split the rows, and standardize by the training rows."""
        count = len(next(iter(columns.values()))) if columns else 0
        if count == 0:
            raise ValueError(
                f"The table {name} has no rows, or no columns besides labels. Check the file and "
                "`data.y`."
            )
        whole, self.classes = named_labels(labels, count)
        if len(self.classes) > 1:
            test = held_out(whole, holdout, "row")
        else:
            test = np.zeros(count, np.bool_)
        values, self.features = encoded(columns, ~test, categorical, max_categories)
        order = test.argsort(
            kind="stable"
        )  # test rows come last, so that pretraining takes a prefix
        mean, std = values[~test].mean(axis=0), values[~test].std(axis=0)
        standard = (values - mean) / np.where(std > 0.0, std, 1.0)
        self._all, self._labels = torch.from_numpy(standard[order].astype(np.float32)), whole[order]
        self.ids = [f"{name}/{row:06d}" for row in order.tolist()]
        seen = int((~test).sum())
        self.images, self.labels = self._all[:seen], self._labels[:seen]
        size = len(self.features)
        self.input = Input((size,), (0.0,) * size, (1.0,) * size, "table")

    @classmethod
    def open(cls, path: str, input: Input) -> Source:
        return cls(path=path)

    def evaluation(self) -> tuple[Source, Sequence[Task]]:
        """Return all rows, and the task; with fewer than two classes there is none."""
        everything = self.with_samples(self._all, self._labels)
        test = np.arange(len(self._all)) >= len(self.images)
        return everything, label_tasks("label/holdout", self._labels, test, self.classes)


class TableSample(Table):
    """Use a table of scikit-learn: `breast_cancer` (569 rows of 30 numbers) or `wine` (178 of 13).

    Args:
        name: name of the table.
        holdout: fraction of each class to score; pretraining never sees these rows.
    """

    opens = frozenset()

    def __init__(self, *, name: Embedded = "breast_cancer", holdout: float = 0.3) -> None:
        if name not in ("breast_cancer", "wine"):
            raise ValueError(f"`name` must be breast_cancer or wine, got {name!r}. Choose one.")
        columns, labels = sample_table(name)
        self._store(columns, labels, name, set(), 50, holdout)


def encoded(
    columns: Columns, training: npt.NDArray[np.bool_], categorical: set[str], max_categories: int
) -> tuple[npt.NDArray[np.float64], list[str]]:
    """Encode columns as features.

    Args:
        columns: columns by name: float64 with NaN for missing values, or strings, empty if missing.
        training: bool `[N]`, the rows that define categories, their order and the means.
        categorical: numeric columns to treat as categories.
        max_categories: categories kept per column.

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
        for word in seen[np.argsort(-counts, kind="stable")][:max_categories]:
            features.append((words == word).astype(np.float64))
            names.append(f"{name}={word}")
    if not features:
        raise ValueError(
            "No feature is left. The table needs a column besides the labels. Check `data.ignore` "
            "and `data.y`."
        )
    return np.stack(features, axis=1), names


def named_labels(
    values: npt.NDArray[np.str_] | npt.NDArray[np.float64] | None, count: int
) -> tuple[Index, list[str]]:
    """Turn labels into indices of sorted names; an empty cell or NaN is unlabeled."""
    if values is None:
        return np.full(count, -1, np.int64), []
    words = (
        values
        if values.dtype.kind == "U"
        else np.array([f"{v:g}" if v == v else "" for v in values])
    )
    names, indices = np.unique(words[words != ""], return_inverse=True)
    labels = np.full(count, -1, np.int64)
    labels[words != ""] = indices
    return labels, [str(name) for name in names]
