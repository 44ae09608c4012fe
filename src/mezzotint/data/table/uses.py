"""What the columns of a table are used for, in words: shown in the log and by the doctor."""

from collections.abc import Sequence

import numpy as np

from mezzotint.data.formats.columns import ColumnUse
from mezzotint.data.table.encoding import ColumnCode, Encoding
from mezzotint.data.table.files import Column, Columns, words_of

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
