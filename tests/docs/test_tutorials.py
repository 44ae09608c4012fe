"""Tutorials: their commands are parsed and their recipes resolve; followed literally when slow."""

import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

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
    r"(?:Save this as `([\w.]+)`[^\n]*\n(?:[^`\n][^\n]*\n)*?\n?)?```(\w+)\n(.*?)```"
    r"(?:\n\n```text\n(.*?)```)?",
    re.S,
)


class Step(NamedTuple):
    """What a reader does, and what the page says is printed then."""

    kind: str  # "save:NAME", "python", "command", or "shown" if the page goes on without it
    text: str
    printed: tuple[str, ...] = ()


def steps(page: str) -> Iterator[Step]:
    for name, language, text, below in _BLOCK.findall((START / page).read_text(encoding="utf-8")):
        if language == "python":
            yield Step(f"save:{name}" if name else "python", text, tuple(below.splitlines()))
        elif language == "console":
            for one in text.removeprefix("$ ").split("\n$ "):
                command, *printed = one.splitlines()
                yield Step("command", command, tuple(printed))
        elif language == "bash":
            yield from (Step("shown", line) for line in re.findall(r"^(mezzotint .+)$", text, re.M))
    if page == "research.md":
        yield Step("command", "python study.py")


def shape(line: str) -> str:
    """A line without what another machine may print: numbers, samples, best probe, verdict."""
    line = re.sub(r"^(This encoder is|Fine-tuning scores|encoder: trained).*", r"\1", line)
    line = re.sub(r"\((?:knn|linear)(?: and (?:knn|linear))?\)", "(PROBE)", line)
    line = re.sub(r"[\w &/-]+\.png", "FILE.png", line)
    return " ".join(re.sub(r"[+−-]?\d[\d.,+\w]*", "#", line).split())


def not_printed(shown: tuple[str, ...], output: str) -> list[str]:
    """The lines of a page that the program did not print, apart from `…`."""
    printed = {shape(line) for line in output.splitlines()}
    return [line for line in shown if line.strip(" …") and shape(line) not in printed]


def test_lines_are_compared_without_their_numbers() -> None:
    shown = ("step 50/171  loss 3.5", "…", " kNN  0.632 (0.582 – 0.679)", "This encoder is behind")
    output = "step 60/171  loss 3.25\n kNN 0.5 (0.4 – 0.62)\nThis encoder is ahead of all\n"
    assert not_printed(shown, output) == []
    assert not_printed(("step 50/171  184 img/s",), "step 50/171  184 samples/s") != []
    own = {step.kind: step for step in steps("own-images.md")}
    assert own["python"].printed[0].endswith(".png") and own["command"].printed


@pytest.mark.parametrize("page", PAGES)
def test_commands_are_parsed_and_recipes_resolve(page: str) -> None:
    group: Any = typer.main.get_command(app)
    lines = [step.text for step in steps(page) if step.kind in ("command", "shown")]
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
            assert epochs <= 60 or "--minutes" in rest or rest[0] == "image/emoji_demo"
    for step in steps(page):
        if step.kind not in ("command", "shown"):
            compile(step.text, page, "exec")


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
    environment = os.environ | paths | {"MPLBACKEND": "Agg", "COLUMNS": "200"}
    wrong = []
    for page in CHAINS[chain]:
        todo = list(steps(page))
        if page == "research.md":  # the study runs before its table
            todo.insert(2, todo.pop())
        for kind, text, shown in todo:
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
            output = f"{done.stderr}{done.stdout}"
            print(f"$ {text}\n{output}")
            assert done.returncode == 0, f"{page}: {text}\n{output}"
            wrong += [f"{page}: {line}" for line in not_printed(shown, output)]
    assert not wrong, "not printed:\n" + "\n".join(wrong)
    if chain == "images":
        assert (tmp_path / "runs/photos/report.html").is_file()
        assert (tmp_path / "runs/photos/exports/onnx-W8A8/verification.json").is_file()
    if chain == "research":
        assert "barlow" in (tmp_path / "comparison/table.md").read_text(encoding="utf-8")
        assert (tmp_path / "plot.svg").is_file()
