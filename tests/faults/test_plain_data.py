"""Plain data of any shape, where a reader expects its own: read, or refused in words."""

import json
import tempfile
from pathlib import Path
from typing import Any

import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.faults import fuzz, isolated

_LEAVES = st.one_of(
    st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=8),
    st.sampled_from([-1, 0, 2**63, 1e308, "nan", "../a", "image_folder", "resnet8", "W4A4"]),
)  # fmt: skip
_VALUES = st.recursive(
    _LEAVES,
    lambda inner: st.one_of(
        st.lists(inner, max_size=3), st.dictionaries(st.text(max_size=6), inner, max_size=3)
    ),
    max_leaves=6,
)


def nodes(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """List the paths of all parts of plain data."""
    inner: Any = ()
    if isinstance(value, dict):
        inner = value.items()
    elif isinstance(value, list):
        inner = enumerate(value)
    return [path, *(found for key, part in inner for found in nodes(part, (*path, key)))]


def replaced(value: Any, path: tuple[Any, ...], other: Any) -> Any:
    """Replace the part of plain data at a path."""
    if not path:
        return other
    key, *rest = path
    part = replaced(value[key], tuple(rest), other)
    if isinstance(value, dict):
        return {**value, key: part}
    return [*value[:key], part, *value[key + 1 :]]


def test_parts_are_replaced() -> None:
    value = {"a": [1, {"b": 2}]}
    assert nodes(value) == [(), ("a",), ("a", 0), ("a", 1), ("a", 1, "b")]
    assert replaced(value, ("a", 1, "b"), None) == {"a": [1, {"b": None}]}


def test_any_part_may_be_anything() -> None:
    plain = [one for one in fuzz.readers() if one.file.endswith((".json", ".yaml"))]
    assert len(plain) >= 10
    for reader in plain:
        try_parts(reader)


def try_parts(reader: fuzz.Reader) -> None:
    """Replace one part of a good file by any value, many times."""
    good = yaml.safe_load(reader.good)
    paths = nodes(good)

    @settings(max_examples=25, deadline=None, database=None, derandomize=True)
    @given(position=st.integers(0, len(paths) - 1), other=_VALUES)
    def replace_one(position: int, other: Any) -> None:
        changed = replaced(good, paths[position], other)
        text = json.dumps(changed)
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            reader.prepare(folder)
            path = folder / reader.file
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text, encoding="utf-8")
            try:
                reader.read(folder)
            except Exception as error:
                result = isolated.refusal(error)
                assert result["outcome"] == "refused", (result, paths[position], other)

    replace_one()
