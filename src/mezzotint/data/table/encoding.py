"""Turn the columns of a table into features, as it was fitted to training rows.

Each numeric column becomes one feature; missing values take the column's mean. Each categorical
column is one-hot encoded; a missing, rare or unknown category is all zeros. All features are then
standardized over the training rows, so that each has mean 0 and std 1, and the transforms of tables
(`augment/table.py`) know its range without other rows.

A column of text is categorical, and so is a numeric one that is named so. An encoding is plain data
(`as_json`), is kept with the encoder, and applies to any table with these columns, in any order.
"""

import json
import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from mezzotint.data.memory import usable_std
from mezzotint.data.table.files import Column, words_of
from mezzotint.files import read_json

Floats = npt.NDArray[np.float64]

_WHOLE = re.compile(r"^(-?[0-9]+)\.0+$")
_DESCRIPTIONS = ("packed.json", "encoder.json", "encoder/encoder.json")
"""Files with the description of an encoder, in a run, an encoder or a packed export."""

RULE = (
    "Columns are matched by name. A number becomes (value - mean) / std; a missing number is the "
    "mean, so 0. A time is a number of seconds since 1970-01-01 00:00 UTC. A category becomes one "
    "number for each entry of `categories`, 1 where it is equal and else 0, then (value - mean) / "
    "std; a missing or unknown one is 0 everywhere before that."
)


@dataclass(frozen=True)
class ColumnCode:
    """How one column becomes features.

    Attributes:
        name: name of the column.
        categories: categories; each is a feature; `None` for a column of numbers.
        mean: mean of each feature over the training rows; missing numbers take it.
        std: standard deviation of each feature, 1 for a constant one.
        constant: whether all features are constant in the training rows.
        time: whether the numbers are times, in seconds since 1970.
    """

    name: str
    categories: tuple[str, ...] | None
    mean: tuple[float, ...]
    std: tuple[float, ...]
    constant: bool = False
    time: bool = False

    @property
    def features(self) -> list[str]:
        """Names of the features, `column` or `column=category`."""
        if self.categories is None:
            return [self.name]
        return [f"{self.name}={category}" for category in self.categories]

    def values(self, column: Column) -> Floats:
        """Return the features before standardization, `[N, F]`; missing numbers are NaN."""
        if self.categories is None:
            return numbers(column)[:, None]
        words = self.known_words(column)
        return np.stack([words == name for name in self.categories], axis=1).astype(np.float64)

    def known_words(self, column: Column) -> npt.NDArray[np.str_]:
        """Return a column as words, as the categories write them.

        `36` and `36.0` are one category unless both are known: a file of whole numbers, or one with
        a missing cell, may have either.
        """
        kept = self.categories or ()
        known = {_WHOLE.sub(r"\1", name): name for name in reversed(kept)}
        known |= {name: name for name in kept}
        found, member = np.unique(words_of(column), return_inverse=True)
        same = [known.get(w, known.get(_WHOLE.sub(r"\1", w), w)) for w in map(str, found)]
        return np.array(same, np.str_)[member.reshape(-1)]


@dataclass(frozen=True)
class Encoding:
    """How the columns of a table become features.

    Attributes:
        columns: the columns, in the order of the features.
    """

    columns: Sequence[ColumnCode]

    @property
    def features(self) -> list[str]:
        """Names of the features, `column` or `column=category`."""
        return [name for column in self.columns for name in column.features]

    def __call__(self, columns: Mapping[str, Column]) -> npt.NDArray[np.float32]:
        """Encode the columns of a table, `[N, F]`."""
        parts = []
        for code in self.columns:
            values, mean = code.values(columns[code.name]), np.array(code.mean)
            values = np.where(np.isfinite(values), values, mean)
            parts.append((values - mean) / np.array(code.std))
        return np.concatenate(parts, axis=1).astype(np.float32)

    def check(
        self, columns: Mapping[str, Column], path: str, times: Collection[str] = ()
    ) -> list[str]:
        """Check that a table has the columns of the encoding, and say what is left out.

        Args:
            columns: columns by name.
            path: path of the table, for messages.
            times: names of the columns that are times.

        Returns:
            Sentences on columns that are left out, and on categories that are unknown.

        Raises:
            ValueError: when a column is missing, or has text or times instead of numbers, or
                numbers instead of times.
        """
        needed = [code.name for code in self.columns]
        missing = [name for name in needed if name not in columns]
        if missing:
            raise ValueError(
                f"`{path}` lacks the columns {', '.join(map(repr, missing))}, which the encoder "
                f"was trained on; it has {', '.join(map(repr, columns)) or 'none'}. Add them, or "
                "rename its columns."
            )
        notes = []
        extra = [name for name in columns if name not in needed]
        if extra:
            names = ", ".join(map(repr, extra))
            notes.append(f"`{path}`: columns the encoder was not trained on are left out: {names}.")
        for code in self.columns:
            column = columns[code.name]
            if code.categories is None:
                if column.dtype.kind == "U" and (column != "").any():
                    raise ValueError(
                        f"`{path}`: the column {code.name!r} must be numbers, as in training, got "
                        f"{str(column[column != ''][0])!r}. Correct the column."
                    )
                if code.time is not (code.name in times) and np.isfinite(numbers(column)).any():
                    noun, other = ("times", "numbers") if code.time else ("numbers", "times")
                    raise ValueError(
                        f"`{path}`: the column {code.name!r} must be {noun}, as in training, got "
                        f"{other}. Times are dates or ISO 8601 in text, or of a type of times. "
                        "Convert the column."
                    )
                continue
            words = code.known_words(column)
            unknown = words[(words != "") & ~np.isin(words, code.categories)]
            if unknown.size:
                names = ", ".join(map(repr, np.unique(unknown)[:3].tolist()))
                notes.append(
                    f"`{path}`: {unknown.size} rows have a category of {code.name!r} that the "
                    f"encoder does not know, such as {names}. They count as missing."
                )
        return notes

    def as_json(self) -> dict[str, Any]:
        """Return the encoding as plain data, with the rule in words."""
        columns = []
        for code in self.columns:
            kind: dict[str, Any] = {"kind": "time" if code.time else "number"}
            if code.categories is not None:
                kind = {"kind": "category", "categories": list(code.categories)}
            columns.append(
                {"name": code.name, **kind, "mean": list(code.mean), "std": list(code.std)}
            )
        return {"columns": columns, "rule": RULE}

    @classmethod
    def read(cls, path: str | Path) -> "Encoding":
        """Read the encoding that is kept with an encoder.

        Args:
            path: a run, an encoder's directory, a packed export, or an ONNX file that was exported.

        Raises:
            ValueError: when there is no encoder, or it has no encoding of columns.
        """
        stored = _stored(Path(path))
        if "columns" not in stored:
            raise ValueError(
                f"`fitted` must be an encoder of a table, with the encoding of its columns, and "
                f"`{path}` has none. Train it again with this version, or leave it out."
            )
        return cls.from_json(stored)

    @classmethod
    def from_json(cls, stored: Mapping[str, Any]) -> "Encoding":
        """Read what `as_json` returned."""
        return cls(
            [
                ColumnCode(
                    column["name"],
                    tuple(column["categories"]) if column["kind"] == "category" else None,
                    tuple(column["mean"]),
                    tuple(column["std"]),
                    time=column["kind"] == "time",
                )
                for column in stored["columns"]
            ]
        )


def fit(
    columns: Mapping[str, Column],
    training: npt.NDArray[np.bool_],
    *,
    categorical: set[str],
    max_categories: int,
    times: Collection[str] = (),
) -> Encoding:
    """Fit an encoding to the training rows of a table.

    Args:
        columns: columns by name: float64 with NaN for missing values, or strings, empty if missing.
        training: bool `[N]`, the rows that define categories, their order, means and stds.
        categorical: numeric columns to treat as categories.
        max_categories: categories kept per column.
        times: columns of numbers that are times.

    Raises:
        ValueError: when no feature is left.
    """
    codes = []
    for name, column in columns.items():
        if column.dtype.kind == "f" and name not in categorical:
            code = ColumnCode(name, None, (0.0,), (1.0,), time=name in times)
        else:
            words = words_of(column)
            seen, counts = np.unique(words[training & (words != "")], return_counts=True)
            kept = seen[np.argsort(-counts, kind="stable")][:max_categories]
            if not len(kept):
                continue
            ones = (1.0,) * len(kept)
            code = ColumnCode(name, tuple(str(word) for word in kept), ones, ones)
        codes.append(_standardized(code, column, training))
    if not codes:
        raise ValueError(
            "No feature is left. The table needs a column besides the labels. Check `data.ignore` "
            "and `data.y`."
        )
    return Encoding(codes)


def _standardized(code: ColumnCode, column: Column, training: npt.NDArray[np.bool_]) -> ColumnCode:
    """Return the code with the mean and std of its features over the training rows."""
    values = code.values(column)
    finite = np.isfinite(values)
    known = values[training & finite.all(axis=1)]
    mean = known.mean(axis=0) if len(known) else np.zeros(values.shape[1])
    # Missing numbers take the mean, and so count in the std.
    std = np.where(finite, values, mean)[training].std(axis=0)
    largest = np.where(finite, np.abs(values), 0.0)[training].max(axis=0, initial=0.0)
    usable = usable_std(std, largest)
    constant = bool((usable != std).all())
    return replace(code, mean=tuple(mean.tolist()), std=tuple(usable.tolist()), constant=constant)


def numbers(column: Column) -> Floats:
    """Return a column as numbers; text counts as missing."""
    if column.dtype.kind == "U":
        return np.full(len(column), np.nan)
    return column.astype(np.float64)


def _stored(path: Path) -> Mapping[str, Any]:
    """Read the preprocessing from the description of an encoder, which is JSON."""
    if path.suffix == ".onnx" and path.is_file():
        return _stored_in_onnx(path)
    file = next((f for name in _DESCRIPTIONS if (f := path / name).is_file()), None)
    if file is None:
        raise ValueError(
            f"`{path}` has no encoder.json. It must be an encoder or a run directory, as "
            "`mezzotint pretrain` writes it. Check the path."
        )
    stored: Mapping[str, Any] = read_json(file)
    return stored.get("preprocessing") or {}


def _stored_in_onnx(path: Path) -> Mapping[str, Any]:
    try:
        import onnxruntime  # optional: only ONNX files need it
    except ImportError:
        raise ValueError(
            f"`{path}` is read with onnxruntime, which is not installed. Run `pip install "
            "'mezzotint[onnx]'`."
        ) from None
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    text = session.get_modelmeta().custom_metadata_map.get("preprocessing", "{}")
    stored: Mapping[str, Any] = json.loads(text)
    return stored
