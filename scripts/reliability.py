"""Run the tests of the table of faults, and write their outcomes and docs/reliability.md.

    python scripts/reliability.py                      run all tests of the table
    python scripts/reliability.py --rows 19,25         run those of some rows, keep the others
    python scripts/reliability.py --soak build/soak    take the numbers of a soak in, run nothing
    python scripts/reliability.py --report junit.xml   take the outcomes of another run of the tests
    python scripts/reliability.py --page               write the page again, run nothing

The report is written by `pytest -o junit_family=xunit1 --junit-xml=junit.xml`.

The table is tests/faults/rows.yaml, the outcomes are tests/faults/outcomes.yaml.
"""

import argparse
import json
import re
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import yaml

ROOT = Path(__file__).resolve().parent.parent
ROWS = ROOT / "tests/faults/rows.yaml"
OUTCOMES = ROOT / "tests/faults/outcomes.yaml"
PAGE = ROOT / "docs/reliability.md"
_FUNCTION = re.compile(r"\w+")  # without parameters and the group of a process
_WORSE = ("skipped", "passed", "failed")
_HEAD = """# Reliability

What can go wrong, what happens then, and the tests that prove it, with real files, signals and
processes. `scripts/reliability.py` writes this page from the outcomes of the tests. Paths are below
`tests/`; **not run** marks a test that the script has not run since the table has it.

| fault | promise | tests and outcome |
|---|---|---|
"""
_SOAK = """`make soak` kills long commands at random times, and runs them again until they end.
Most victims are forked from a process that has imported everything, so that a kill costs no
import; a fifth are new interpreters, and half of these are killed while they import. The soak
flips bits in every file of a run, its exports and its bundle, and gives damaged files to every
reader. `make soak SOAK="--kills 50"` is shorter. A soak that was stopped goes on, and a seed
repeats it.

"""
_KILLS = """| command | kills | of new interpreters | lost | stuck | orphans |
|---|---|---|---|---|---|
"""


def read_rows(path: Path) -> list[dict[str, Any]]:
    """Read the table of faults."""
    rows: list[dict[str, Any]] = yaml.safe_load(path.read_text(encoding="utf-8"))
    return rows


def run(tests: Sequence[str]) -> dict[str, str]:
    """Run tests, and return the outcome of each: failed if it fails with any parameter."""
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "report.xml"
        command = [
            sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-o",
            "junit_family=xunit1", f"--junit-xml={report}", *tests,
        ]  # fmt: skip
        subprocess.run(command, cwd=ROOT, check=False)
        found = outcomes_of(report)
    return {name: found.get(name, "not run") for name in tests}


def outcomes_of(report: Path) -> dict[str, str]:
    """Read the outcome of each test from a report in JUnit's format (xunit1)."""
    found: dict[str, str] = {}
    for case in ElementTree.parse(report).iter("testcase"):
        function = _FUNCTION.match(str(case.get("name")))
        name = f"{case.get('file')}::{function[0] if function else ''}"
        kinds = {child.tag for child in case}
        now = "passed"
        if kinds & {"failure", "error"}:
            now = "failed"
        elif "skipped" in kinds:
            now = "skipped"
        found[name] = max(found.get(name, "skipped"), now, key=_WORSE.index)
    return found


def soak_of(folder: Path) -> dict[str, Any]:
    """Summarize the outcomes of a soak."""
    facts = json.loads((folder / "soak.json").read_text(encoding="utf-8"))
    return {
        "kills": [list(row) for row in facts["kills"]],
        "moments": facts["moments"],
        "flips": facts["flips"]["all"],
        "files": facts["files"]["all"],
    }


def page(rows: Sequence[Mapping[str, Any]], outcomes: Mapping[str, Any]) -> str:
    """Write the page as Markdown."""
    lines = [_HEAD]
    for row in rows:
        tests = "; ".join(
            f"`{name.removeprefix('tests/')}` {_shown(outcomes['tests'].get(name, 'not run'))}"
            for name in row["tests"]
        )
        lines.append(f"| {row['fault']} | {row['promise']} | {tests} |\n")
    return "".join(lines) + "".join(_soak_lines(outcomes.get("soak") or {}))


def _shown(outcome: str) -> str:
    return outcome if outcome == "passed" else f"**{outcome}**"


def _soak_lines(soak: Mapping[str, Any]) -> list[str]:
    if not soak:
        return []
    flips, files = (
        ", ".join(f"{count:,} {word}" for word, count in sorted(soak[name].items()))
        for name in ("flips", "files")
    )
    lines = [
        "\n## Soak\n\n",
        _SOAK,
        _KILLS,
        *(f"| {' | '.join(map(str, row))} |\n" for row in soak["kills"]),
        f"\nMoments of the kills, in fifths of the processor time of a command that nobody kills: "
        f"{', '.join(map(str, soak['moments']['fifths']))}; {soak['moments']['groups']} kills hit "
        "the whole process group.\n",
        f"\nFlipped bits: {flips or 'none'}. Damaged files: {files or 'none'}.\n",
    ]
    if "measured" in soak:
        lines.append(f"\n{soak['measured']}\n")
    return lines


def main() -> None:
    """Run what was asked for, and write outcomes and page."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", help="numbers of rows, such as 19,25")
    parser.add_argument("--report", type=Path, help="a report of pytest; runs no tests")
    parser.add_argument("--soak", type=Path, help="the folder of a soak; runs no tests")
    parser.add_argument("--measured", default="", help="a sentence on where the soak ran")
    parser.add_argument("--page", action="store_true", help="write the page, and run no tests")
    given = parser.parse_args()
    rows = read_rows(ROWS)
    stored: dict[str, Any] = {}
    if OUTCOMES.is_file():
        stored = yaml.safe_load(OUTCOMES.read_text(encoding="utf-8"))
    tests: dict[str, str] = stored.get("tests", {})
    if given.soak is not None:
        stored["soak"] = soak_of(given.soak) | (
            {"measured": given.measured} if given.measured else {}
        )
    elif given.report is not None:
        tests |= outcomes_of(given.report)
    elif not given.page:
        chosen = {int(number) for number in given.rows.split(",")} if given.rows else None
        named = [n for row in rows if chosen is None or row["row"] in chosen for n in row["tests"]]
        tests |= run(list(dict.fromkeys(named)))
    named_all = {name for row in rows for name in row["tests"]}
    stored["tests"] = {name: tests[name] for name in sorted(named_all & tests.keys())}
    OUTCOMES.write_text(yaml.safe_dump(stored, sort_keys=True, width=99), encoding="utf-8")
    PAGE.write_text(page(rows, stored), encoding="utf-8")


if __name__ == "__main__":
    main()
