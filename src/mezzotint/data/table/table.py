"""Read tables of numeric and categorical columns from CSV, ARFF, `.npz`, parquet or Arrow.

`encoding.py` turns columns into features, standardized over the training rows. An encoder keeps
this encoding (`Table.preprocessing`), and `fitted` applies it to another table: a row then gives
the same features in any file.

A column of text is categorical, and so is a numeric one that is named in `categorical`. A column of
numbers with a cell that is none is refused, and row numbers are left out. `columns` says what was
decided for each column, in words that the log and the doctor show.
"""

from collections.abc import Callable, Collection, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import torch

from mezzotint.data.formats.columns import ColumnUse, chosen_name
from mezzotint.data.listing.groups import column_of_groups, grouped, merged, same_rows
from mezzotint.data.listing.layout import SPLIT_COLUMN, notes_on_splits, roles_of, rows_of_splits
from mezzotint.data.listing.sampling import check_holdout, held_out
from mezzotint.data.memory import InMemory
from mezzotint.data.source import Index, Source, Task, label_tasks
from mezzotint.data.table.encoding import ColumnCode, Encoding, fit
from mezzotint.data.table.files import SUFFIXES, Column, Columns, read_table, sample_table, words_of
from mezzotint.types import Input

Embedded = Literal["breast_cancer", "wine"]

_PEOPLE = 5  # fewer different entries of a column are kinds of rows, not people


class Table(InMemory):
    """Read the rows of a table, `[features]`.

    Args:
        path: path of a `.csv`, `.tsv`, `.arff`, `.npz`, `.parquet` or `.arrow` file, or of a folder
            of parquet or Arrow files. An `.npz` has a matrix `x` `[N, F]`, or one array per column.
        y: column of the labels; without a column `label`, or with `null`, rows are unlabeled.
        categorical: numeric columns that name categories.
        ignore: columns to ignore, such as an identifier.
        max_categories: categories kept per column; rarer ones count as missing.
        holdout: fraction of each class to score; pretraining never sees these rows. Equal rows are
            held out together. A column `split` of train, val and test replaces it.
        fitted: a run or an encoder whose encoding of the columns is used, instead of one fitted to
            this file. Columns are matched by name.
        group: column of the person or other source of a row, which is no feature; rows of one are
            held out together. By default a column such as `patient_id` or `subject`, if it has five
            entries or more and repeats one.

    Attributes:
        classes: names of the classes; a label is an index into this list.
        features: names of the features, `column` or `column=category`.
        encoding: how columns become features.
        columns: what each column of the file is used for.

    Raises:
        ValueError: when the file cannot be read, has no column besides labels, or lacks a column
            that was named or that `fitted` needs.
    """

    modality = "table"
    opens = SUFFIXES

    def __init__(
        self,
        *,
        path: str,
        y: str | None = "label",
        categorical: list[str] | None = None,
        ignore: list[str] | None = None,
        max_categories: int = 50,
        holdout: float = 0.3,
        fitted: str | None = None,
        group: str | None = None,
    ) -> None:
        if max_categories < 1:
            raise ValueError(
                f"`max_categories` must be 1 or more, got {max_categories}. 50 is the default."
            )
        check_holdout(holdout)
        encoding = None if fitted is None else Encoding.read(fitted)
        codes = [] if encoding is None else encoding.columns
        categories = {*(categorical or ()), *(code.name for code in codes if code.categories)}
        columns = read_table(
            Path(path),
            y,
            {*categories, *(ignore or ()), *([] if group is None else [group])},
            None if encoding is None else {code.name for code in codes if not code.categories},
        )
        unknown = sorted({*(categorical or ()), *(ignore or ())} - {*columns, *columns.left_out})
        if unknown and encoding is None:
            raise ValueError(
                f"`{path}` has no column {unknown[0]!r}, only {', '.join(columns)}. Correct "
                "`data.categorical` or `data.ignore`."
            )
        y = chosen_name(y, list(columns), default="label", key="data.y", path=path, noun="column")
        if y is not None and y in {code.name for code in codes}:
            raise ValueError(
                f"`data.y` must name a column that is no feature, got {y!r}, which the encoder was "
                "trained on. Name another column, or set it to null."
            )
        labels = None if y is None else columns.pop(y)
        for name in ignore or ():
            columns.leave_out(name, "named in data.ignore")
        known = {code.name for code in codes}
        roles = _roles(columns) if SPLIT_COLUMN not in known else None
        who = _sources(columns, group, known, path)
        if encoding is None:
            encode = partial(
                fit, categorical=categories, max_categories=max_categories, times=columns.times
            )
        else:
            self.notes = encoding.check(columns, path, columns.times)
            for name in [name for name in columns if name not in known]:
                columns.leave_out(name, "the encoder was not trained on it")
            encode = partial(_fitted, encoding)
        self._store(columns, labels, Path(path).stem, encode, holdout, who, roles)
        self.columns = column_uses(columns, self.encoding, y, self.classes, labels)

    def _store(
        self,
        columns: Columns,
        labels: npt.NDArray[np.str_] | npt.NDArray[np.float64] | None,
        name: str,
        encode: Callable[[Columns, npt.NDArray[np.bool_]], Encoding],
        holdout: float,
        who: Sequence[str] | None = None,
        roles: Sequence[str | None] | None = None,
    ) -> None:
        """Split the rows, and encode the columns by the training rows."""
        count = len(next(iter(columns.values()))) if columns else 0
        if count == 0:
            raise ValueError(
                f"The table {name} has no rows, or no columns besides labels. Check the file and "
                "`data.y`."
            )
        whole, self.classes = named_labels(labels, count)
        groups = same_rows(_codes(columns))
        if who is not None:
            groups = merged(groups, grouped([name or None for name in who]))
        rows, scored, self.split = rows_of_splits(roles, (whole >= 0).tolist())
        used, test = np.array(rows, np.bool_), np.array(scored, np.bool_)
        if self.split is None and len(self.classes) > 1:
            test = held_out(np.where(used, whole, -1), holdout, "row", groups)
        self.notes = [*self.notes, *notes_on_splits(int((~used).sum()))]
        self.encoding = encode(columns, used & ~test)
        self.features = self.encoding.features
        # Test rows come last, so that pretraining takes a prefix.
        order = np.concatenate([np.flatnonzero(used & ~test), np.flatnonzero(used & test)])
        self._groups = grouped(list(map(str, groups[order])))
        values = self.encoding(columns)[order]
        self._all, self._labels = torch.from_numpy(values), whole[order]
        self.ids = [f"{name}/{row:06d}" for row in order.tolist()]
        seen = int((used & ~test).sum())
        self.images, self.labels = self._all[:seen], self._labels[:seen]
        size = len(self.features)
        self.input = Input((size,), (0.0,) * size, (1.0,) * size, "table")

    @classmethod
    def located(cls, path: str, input: Input) -> dict[str, Any]:
        return {"path": path}

    def settings(self) -> dict[str, Any]:
        return {key: value for key, value in self.config.items() if key != "fitted"}

    def preprocessing(self) -> dict[str, Any]:
        return {**super().preprocessing(), **self.encoding.as_json()}

    def evaluation(self) -> tuple[Source, Sequence[Task]]:
        """Return all rows, and the task; with fewer than two classes there is none."""
        everything = self.with_samples(self._all, self._labels)
        everything.groups = self._groups
        everything.held_out = len(self.images), self.split or "holdout"
        test = np.arange(len(self._all)) >= len(self.images)
        name = f"label/{self.split or 'holdout'}"
        return everything, label_tasks(name, self._labels, test, self.classes)


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
        check_holdout(holdout)
        columns, labels = sample_table(name)
        encode = partial(fit, categorical=set(), max_categories=50)
        self._store(columns, labels, name, encode, holdout)


def _roles(columns: Columns) -> list[str | None] | None:
    """Take the column of splits out of a table; `None` if it has none."""
    column = columns.get(SPLIT_COLUMN)
    roles = None if column is None else roles_of(words_of(column).tolist())
    if roles is not None:
        columns.leave_out(SPLIT_COLUMN, "the split of each row")
    return roles


def _sources(
    columns: Columns, name: str | None, known: Collection[str], path: str
) -> list[str] | None:
    """Take the column of people or other sources out of a table; `None` if there is none."""
    if name is not None and name not in columns and name not in known:
        raise ValueError(
            f"`{path}` has no column {name!r}, only {', '.join(columns)}. Correct `data.group`."
        )
    if name is None:
        found = column_of_groups(columns)
        several = found is not None and found not in known and _is_identity(columns[found])
        name = found if several else None
    if name is None or name not in columns:
        return None
    who = [str(word) for word in words_of(columns[name])]
    given = SPLIT_COLUMN in columns.left_out
    why = "the source of a row" if given else "rows of one stay on one side of the split"
    columns.leave_out(name, why)
    return who


def _is_identity(column: Column) -> bool:
    """Return whether a column names people or the like, rather than a few kinds of rows."""
    words = words_of(column)
    counts = np.unique(words[words != ""], return_counts=True)[1]
    return len(counts) >= _PEOPLE and int(counts.max()) > 1


def _codes(columns: Columns) -> Index:
    """Number the values of each column, `[N, columns]`: equal rows have equal numbers."""
    return np.stack([np.unique(c, return_inverse=True)[1].reshape(-1) for c in columns.values()], 1)


def _fitted(encoding: Encoding, columns: Columns, training: npt.NDArray[np.bool_]) -> Encoding:
    return encoding


def named_labels(
    values: npt.NDArray[np.str_] | npt.NDArray[np.float64] | None, count: int
) -> tuple[Index, list[str]]:
    """Turn labels into indices of sorted names; an empty cell or NaN is unlabeled."""
    if values is None:
        return np.full(count, -1, np.int64), []
    words = words_of(values)
    names, indices = np.unique(words[words != ""], return_inverse=True)
    labels = np.full(count, -1, np.int64)
    labels[words != ""] = indices
    return labels, [str(name) for name in names]


_NAMED = 3  # categories and classes that are named


def column_uses(
    columns: Columns,
    encoding: Encoding,
    y: str | None,
    classes: Sequence[str],
    labels: Column | None,
) -> list[ColumnUse]:
    """Say what each column of a table is used for.

    Args:
        columns: columns that may become features.
        encoding: how they become features.
        y: name of the labels.
        classes: names of the classes.
        labels: labels of the rows; `None` without any.
    """
    uses = []
    if y is not None and labels is not None:
        missing = int((words_of(labels) == "").sum())
        detail = f"{len(classes)} classes: {_some(classes)}{_missing(missing)}"
        uses.append(ColumnUse(y, "label", detail))
    codes = {code.name: code for code in encoding.columns}
    for name, column in columns.items():
        if name not in codes:
            uses.append(ColumnUse(name, "left out", "no value in the training rows"))
        elif codes[name].categories is None:
            use = "time" if name in columns.times else "number"
            uses.append(ColumnUse(name, use, _number(codes[name], column, use)))
        else:
            uses.append(ColumnUse(name, "categories", _categories(codes[name], column)))
    return uses + [ColumnUse(name, "left out", why) for name, why in columns.left_out.items()]


def _number(code: ColumnCode, column: Column, use: str) -> str:
    values = code.values(column)[:, 0]
    known = values[np.isfinite(values)]
    missing = _missing(len(values) - len(known))
    if not len(known):
        return f"no value{missing}"
    unit = "seconds since 1970, " if use == "time" else ""
    constant = ", constant in the training rows" if code.constant else ""
    return f"{unit}{known.min():.6g} to {known.max():.6g}{constant}{missing}"


def _categories(code: ColumnCode, column: Column) -> str:
    words = words_of(column)
    missing = _missing(int((words == "").sum()))
    kept = code.categories or ()
    known = words[words != ""]
    lost = int((~np.isin(known, kept)).sum())
    others = len(np.unique(known[~np.isin(known, kept)]))
    if not lost:
        return f"{len(kept)}: {_some(kept)}{missing}"
    return (
        f"{len(kept)} of {len(kept) + others}: {_some(kept)}; the others count as missing, in "
        f"{lost} of {len(words)} rows{missing}"
    )


def _some(names: Sequence[str]) -> str:
    shown = ", ".join(repr(name) for name in names[:_NAMED])
    return shown + ", …" * (len(names) > _NAMED)


def _missing(count: int) -> str:
    return f"; {count} missing" if count else ""
