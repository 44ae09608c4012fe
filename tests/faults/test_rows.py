"""The table of faults: its tests exist, its outcomes are recorded, and the page is made of both."""

import ast
import importlib.util
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests import ROOT

NEEDED = {
    1, 2, 3, 4, 5, 6, 7, 8, 9, 11, 12, 13, 14, 15, 16, 17, 18, 19, 20, 21, 22, 24, 25, 26, 27, 28,
    29, 30, 31, 32, 33, 34, 35, 36, 37, 38, 39, 40, 41, 42, 43, 44, 45, 46, 47, 48, 49, 53, 55,
}  # fmt: skip
"""Faults that a first release must survive; 50 and 51 are of servers, which there are none of."""
TABLE: list[dict[str, Any]] = yaml.safe_load(
    (ROOT / "tests/faults/rows.yaml").read_text(encoding="utf-8")
)


def page(outcomes: dict[str, Any]) -> str:
    """The page as the script writes it."""
    path = ROOT / "scripts/reliability.py"
    spec = importlib.util.spec_from_file_location("reliability", path)
    assert spec is not None and spec.loader is not None
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)
    text: str = script.page(TABLE, outcomes)
    return text


def recorded() -> dict[str, Any]:
    text = (ROOT / "tests/faults/outcomes.yaml").read_text(encoding="utf-8")
    found: dict[str, Any] = yaml.safe_load(text)
    return found


def functions_of(path: Path) -> set[str]:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    return {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}


def test_every_fault_has_a_promise_and_tests() -> None:
    numbers = [row["row"] for row in TABLE]
    assert numbers == sorted(numbers) and set(numbers) >= NEEDED
    assert all(row["fault"] and row["promise"] and row["tests"] for row in TABLE)


@pytest.mark.parametrize("row", TABLE, ids=[str(row["row"]) for row in TABLE])
def test_the_tests_of_a_row_exist(row: dict[str, Any]) -> None:
    for name in row["tests"]:
        file, _, function = name.partition("::")
        assert (ROOT / file).is_file(), name
        assert function in functions_of(ROOT / file), name


def test_no_recorded_outcome_is_a_failure() -> None:
    outcomes = recorded()["tests"]
    assert outcomes.keys() <= {name for row in TABLE for name in row["tests"]}
    assert len(outcomes) > 50 and set(outcomes.values()) <= {"passed", "skipped"}, outcomes


def test_the_page_is_made_of_the_table_and_its_outcomes() -> None:
    outcomes = recorded()
    assert (ROOT / "docs/reliability.md").read_text(encoding="utf-8") == page(outcomes)
    assert "reliability.md" in (ROOT / "README.md").read_text(encoding="utf-8")


def test_a_failure_is_shown_as_one() -> None:
    outcomes = {"tests": {name: "passed" for row in TABLE for name in row["tests"]}, "soak": {}}
    broken = TABLE[0]["tests"][0]
    text = page({**outcomes, "tests": {**outcomes["tests"], broken: "failed"}})
    assert f"`{broken.removeprefix('tests/')}` **failed**" in text
    assert "**failed**" not in page(outcomes)
