"""Read ARFF, the tables of Weka and of many public archives: names and types, then rows.

Sparse rows and relational attributes are refused. Format: Weka's manual, "ARFF (stable version)".
"""

import re
from dataclasses import dataclass
from pathlib import Path

from mezzotint.data.formats.delimited import lines_of, read_text

_CELL = re.compile(
    r"""\s*(?:'((?:\\.|[^'\\])*)'|"((?:\\.|[^"\\])*)"|([^,]*?))\s*(,|$)""", re.DOTALL
)
_ATTRIBUTE = re.compile(
    r"""@attribute\s+(?:'((?:\\.|[^'\\])*)'|"((?:\\.|[^"\\])*)"|(\S+?))\s+(\{.*|\S.*)$""",
    re.IGNORECASE,
)


@dataclass(frozen=True)
class Arff:
    """The content of an ARFF file.

    Attributes:
        names: names of the attributes.
        numeric: whether each attribute is a number.
        rows: cells of each row, `?` for a missing one.
        lines: number of the line of each row, from 1.
    """

    names: list[str]
    numeric: list[bool]
    rows: list[list[str]]
    lines: list[int]


def read_arff(path: Path) -> Arff:
    """Read an ARFF file.

    Raises:
        ValueError: with the line that cannot be read.
    """
    names: list[str] = []
    numeric: list[bool] = []
    rows: list[list[str]] = []
    numbers: list[int] = []
    data = False
    for number, line in enumerate(lines_of(read_text(path, "an ARFF file")), 1):
        line = line.strip()
        if not line or line.startswith("%"):
            continue
        if data:
            rows.append(_cells(line, len(names), f"`{path}`, line {number},"))
            numbers.append(number)
        elif line.lower().startswith("@data"):
            data = True
        elif line.lower().startswith("@attribute"):
            name, kind = _attribute(line, f"`{path}`, line {number},")
            names.append(name)
            numeric.append(kind in ("numeric", "real", "integer"))
    if not names or not rows or len(set(names)) != len(names):
        raise ValueError(
            f"`{path}` must have @attribute lines with unique names, then @data and rows, got "
            f"{len(names)} attributes and {len(rows)} rows. Check the file."
        )
    return Arff(names, numeric, rows, numbers)


def _attribute(line: str, where: str) -> tuple[str, str]:
    found = _ATTRIBUTE.match(line)
    kind = found[4].split()[0].lower() if found else ""
    if found is None or kind == "relational":
        raise ValueError(
            f"{where} must be `@attribute NAME TYPE` with a type other than relational, got "
            f"{line[:60]!r}. Convert the file to .csv or .npz."
        )
    return _plain(found[1], found[2], found[3]), kind


def _cells(line: str, count: int, where: str) -> list[str]:
    if line.startswith("{"):
        raise ValueError(f"{where} is sparse. Convert the file to dense ARFF, .csv or .npz.")
    cells, position = [], 0
    while True:
        found = _CELL.match(line, position)
        if found is None:
            break
        cells.append(_plain(found[1], found[2], found[3]))
        position = found.end()
        if not found[4]:
            break
    if found is None or len(cells) != count:
        raise ValueError(
            f"{where} must have {count} cells, as there are attributes, got {len(cells)}. Correct "
            "the line."
        )
    return cells


def _plain(single: str | None, double: str | None, bare: str | None) -> str:
    """Return the text of a cell without its quotes and escapes."""
    quoted = single if single is not None else double
    return re.sub(r"\\(.)", r"\1", quoted) if quoted is not None else bare or ""
