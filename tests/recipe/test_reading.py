"""YAML of strangers: plain data is read as PyYAML reads it, everything else is refused at once."""

import time
from pathlib import Path

import pytest
import yaml
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from mezzotint.recipe.reading import dump_yaml, parse_yaml, read_yaml
from mezzotint.recipe.schema import RecipeError

PLAIN = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(st.characters(categories=["L", "N"])),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text("abc"), inner, max_size=3),
    max_leaves=8,
)


@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])  # on a busy machine
@given(PLAIN)
@example("0E0")
@example(["1e5", "5e-4", 5e-4])
def test_what_is_written_is_read_back(value: object) -> None:
    assert parse_yaml(dump_yaml(value), "x") == value
    assert yaml.safe_load(dump_yaml(value)) == value


def test_a_value_that_stands_twice_is_written_twice() -> None:
    shared = {"kind": "simclr", "sizes": [1, 2]}
    assert parse_yaml(dump_yaml([shared, shared]), "x") == [shared, shared]


@pytest.mark.parametrize(
    ("text", "value"), [("5e-2", 0.05), ("-1E3", -1000.0), (".5e1", 5.0), ("1.e+2", 100.0)]
)
def test_numbers_with_an_exponent_need_no_decimal_point(text: str, value: float) -> None:
    assert parse_yaml(text, "x") == value


def test_a_billion_laughs_are_refused_at_once() -> None:
    levels = "\n".join(f"l{i}: &l{i} [{', '.join([f'*l{i - 1}'] * 9)}]" for i in range(1, 10))
    began = time.monotonic()
    with pytest.raises(RecipeError, match=r"^`x` uses a YAML alias, .* Write the value out\.$"):
        parse_yaml(f"l0: &l0 lol\n{levels}", "x")
    assert time.monotonic() - began < 1


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: {b: 1, b: 2}", r"^`r.yaml` has the key 'b' twice in the mapping of line 1\. Keep one"),
        ("[" * 50 + "]" * 50, r"^`r.yaml` is nested deeper than 20 levels"),
        ("x: " + "a" * (1 << 21), r"^`r.yaml` has 2097155 characters"),
        (
            "a: !!python/object/apply:os.system [ls]",
            r"^`r.yaml` is not plain YAML, line 1, column 4: .*python",
        ),
        ("a: [", r"^`r.yaml` is not plain YAML, line 1, column 5"),
        ("a: 1\n  b: 2", r"^`r.yaml` is not plain YAML, line 2, column 4"),
        ("a: " + "9" * 5000, r"^`r.yaml` has a value that cannot be read"),
        ("? [a]\n: 1", r"^`r.yaml` has a key that is no name in line 1"),
        ("a: !!float x", r"^`r.yaml` has a value that cannot be read"),
    ],
)
def test_everything_else_is_refused_in_one_line(text: str, message: str) -> None:
    with pytest.raises(RecipeError, match=message) as caught:
        parse_yaml(text, "r.yaml")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "text",
    [
        "\n".join(f"k{number}: 1" for number in range(7000)),
        "x: " + "[" * 60_000,
        "{" * 60_000,
        "x: " + "1" * 60_000,
        "x: " + ":".join(["1"] * 30_000),
        "x: '" + "a\n" * 30_000 + "'",
        "- " * 30_000,
        "\n".join("? a" for _ in range(15_000)),
        "x: |\n" + " a\n" * 20_000,
        "&a " * 20_000,
    ],
    ids=[
        "keys",
        "lists",
        "maps",
        "digits",
        "base 60",
        "quoted",
        "items",
        "complex",
        "block",
        "anchors",
    ],
)
def test_small_files_take_no_long_time(text: str) -> None:
    began = time.process_time()
    try:
        parse_yaml(text, "r.yaml")
    except RecipeError:
        pass
    assert time.process_time() - began < 3  # 1 s on a quiet machine


def test_a_large_file_is_refused_before_it_is_read(tmp_path: Path) -> None:
    path = tmp_path / "large.yaml"
    with path.open("wb") as file:
        file.truncate(3 << 30)  # 3 GB, of which nothing is on disk
    began = time.monotonic()
    with pytest.raises(RecipeError, match="has 3221225472 characters, and such a file has at most"):
        read_yaml(path)
    assert time.monotonic() - began < 1
