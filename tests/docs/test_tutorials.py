"""Tutorials: their commands are parsed and their recipes resolve; followed literally when slow."""

import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer

from mezzotint.cli import app
from mezzotint.recipe.recipe import read_recipe
from tests import ROOT

START = ROOT / "docs" / "start"
# Pages that go on with each other's files, in order.
CHAINS = {
    "images": ("own-images.md", "few-labels.md", "int8.md"),
    "audio": ("audio-and-sensors.md",),
    "research": ("research.md",),
    "continue": ("continue.md",),
}
PAGES = sorted(path.name for path in START.glob("*.md") if path.name != "install.md")
_BLOCK = re.compile(
    r"(?:Save this as `([\w.]+)`[^\n]*\n(?:[^`\n][^\n]*\n)*?\n?)?```(\w+)\n(.*?)```", re.S
)


def steps(page: str) -> Iterator[tuple[str, str]]:
    """What a reader does: `("save:NAME", text)`, `("python", code)` and `("command", line)`."""
    for name, language, text in _BLOCK.findall((START / page).read_text(encoding="utf-8")):
        if language == "python":
            yield (f"save:{name}" if name else "python"), text
        elif language == "console":
            yield from (("command", line) for line in re.findall(r"^\$ (.+)$", text, re.M))
        elif language == "bash":
            yield from (("shown", line) for line in re.findall(r"^(mezzotint .+)$", text, re.M))
    if page == "research.md":
        yield "command", "python study.py"


@pytest.mark.parametrize("page", PAGES)
def test_commands_are_parsed_and_recipes_resolve(page: str) -> None:
    group: Any = typer.main.get_command(app)
    lines = [line for kind, line in steps(page) if kind in ("command", "shown")]
    assert lines
    for line in lines:
        program, *arguments = shlex.split(line)
        if program == "python":
            continue
        assert program == "mezzotint"
        verb, *rest = arguments
        assert group.commands[verb].make_context(verb, [*rest]).params
        if verb == "pretrain" and "/" in rest[0]:
            overrides = [word for word in rest[1:] if "=" in word]
            epochs = read_recipe(rest[0], overrides)["run"]["epochs"]
            assert epochs <= 60 or "--minutes" in rest
    for kind, code in steps(page):
        if kind not in ("command", "shown"):
            compile(code, page, "exec")


def test_every_page_is_followed_or_is_the_demo() -> None:
    assert {page for chain in CHAINS.values() for page in chain} | {"demo.md"} == set(PAGES)


@pytest.mark.slow
@pytest.mark.parametrize("chain", CHAINS)
def test_a_reader_who_follows_literally_gets_there(chain: str, tmp_path: Path) -> None:
    program = tmp_path / "bin" / "mezzotint"
    program.parent.mkdir()
    program.write_text(f'#!/bin/sh\nexec {sys.executable} -m mezzotint "$@"\n')
    program.chmod(0o755)
    paths = {"PATH": f"{program.parent}:{os.environ['PATH']}", "PYTHONPATH": str(ROOT / "src")}
    environment = os.environ | paths | {"MPLBACKEND": "Agg"}
    for page in CHAINS[chain]:
        todo = list(steps(page))
        if page == "research.md":  # the study runs before its table
            todo.insert(2, todo.pop())
        for kind, text in todo:
            if kind.startswith("save:"):
                (tmp_path / kind[5:]).write_text(text, encoding="utf-8")
                continue
            if kind == "shown":
                continue
            command = [sys.executable, "-c", text] if kind == "python" else shlex.split(text)
            if command[0] == "python":
                command[0] = sys.executable
            done = subprocess.run(
                command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
            )
            assert done.returncode == 0, f"{page}: {text}\n{done.stdout}{done.stderr}"
    if chain == "images":
        assert (tmp_path / "runs/photos/report.html").is_file()
        assert (tmp_path / "runs/photos/exports/onnx-W8A8/verification.json").is_file()
    if chain == "research":
        assert "barlow" in (tmp_path / "comparison/table.md").read_text(encoding="utf-8")
        assert (tmp_path / "plot.svg").is_file()
