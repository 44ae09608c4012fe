"""Columns of tables and arrays of files: chosen by their exact names, and what each is used for."""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from mezzotint.recipe.schema import nearest

_INDEX_NAMES = frozenset(["", "index", "id", "row", "row_id", "rowid", "rownames", "nr", "no"])
_CLOCK = re.compile(
    r"((elapsed|relative)[ _]?)?(time|timestamp|t|secs?|seconds?|ms|milliseconds?|step|frame)"
    r"[ _]*[(\[]?(s|secs?|seconds?|ms|us|ns)?[)\]]?",
    re.IGNORECASE,
)
_SHOWN = 30  # lines of a table of columns


@dataclass(frozen=True)
class ColumnUse:
    """What a column is used for.

    Attributes:
        name: name of the column.
        use: `number`, `time`, `categories`, `label`, `left out` and so on.
        detail: the reason, or counts, in words.
    """

    name: str
    use: str
    detail: str = ""


class MissingName(ValueError):
    """A file has no column or array of this name.

    Attributes:
        key: key of the source that names it.
    """

    def __init__(self, key: str, message: str) -> None:
        super().__init__(message)
        self.key = key


def use_lines(columns: Iterable[ColumnUse]) -> list[str]:
    """Return the uses of columns as an aligned table, a line each; many are cut to thirty."""
    rows = [(repr(column.name), column.use, column.detail) for column in columns]
    shown = rows if len(rows) <= _SHOWN else rows[:_SHOWN]
    wide = [max((len(row[i]) for row in shown), default=0) for i in range(2)]
    lines = [f"{name:<{wide[0]}}  {use:<{wide[1]}}  {rest}".rstrip() for name, use, rest in shown]
    return lines + [f"… and {len(rows) - _SHOWN} more columns"] * (len(rows) > _SHOWN)


def chosen_name(
    name: str | None, names: Sequence[str], *, default: str, key: str, path: object, noun: str
) -> str | None:
    """Return the name of an optional column or array, or `None` where there is none.

    Only the default name may be missing: any other was written by someone who needs it.

    Args:
        name: the wanted name; `None` for none.
        names: names in the file.
        default: the name that is wanted where nobody asked for one.
        key: key of the recipe, such as `data.y`.
        path: path of the file, for messages.
        noun: `column` or `array`.

    Raises:
        MissingName: when the name is missing; or when the default is missing, and another name
            differs from it by case or spaces alone.
    """
    if name is None or name in names:
        return name
    alike = [other for other in names if other.strip().lower() == default.lower()]
    if name == default and not alike:
        return None
    hint = f" Did you mean {alike[0]!r}?" if alike else nearest(name, names)
    raise MissingName(
        key.removeprefix("data."),
        f"`{path}` has no {noun} {name!r}, only {', '.join(map(repr, names)) or 'none'}. Set "
        f"`{key}` to one of them, or to null.{hint}",
    )


def is_row_number(name: str, values: npt.NDArray[np.generic] | Sequence[str]) -> bool:
    """Return whether a column only numbers the rows, as pandas and R write it.

    Args:
        name: name of the column. pandas' own names for an index are enough; a column named `id` and
            so on must also count the rows from 0 or 1.
        values: its cells, as numbers or text.
    """
    if name == "" or name.startswith("__index_level_"):
        return True
    if not (name.lower() in _INDEX_NAMES or name.startswith("Unnamed: ")):
        return False
    try:
        numbers = np.array([float(value) for value in values])
    except (TypeError, ValueError):
        return False
    counted = np.arange(len(numbers))
    return bool((numbers == counted).all() or (numbers == counted + 1).all())


def is_clock(name: str, values: npt.NDArray[np.float64], starts: Sequence[int]) -> bool:
    """Return whether a column of series is their clock: named so, and rising in each series.

    Args:
        name: name of the column, such as `time` or `t (ms)`.
        values: its numbers.
        starts: first row of each series.
    """
    inside = np.delete(np.diff(values), np.array(starts[1:], np.int64) - 1)
    return bool(_CLOCK.fullmatch(name.strip()) and inside.size and (inside > 0).all())
