"""The answer of a dry run: six facts first, in time, whatever the measuring process does."""

import json
import subprocess
from collections.abc import Callable
from typing import Any

import pytest
import yaml
from typer.testing import CliRunner

from mezzotint.cli.app import app
from mezzotint.recipe.schema import RecipeError
from mezzotint.train import dry_run as module
from mezzotint.train.dry_run import FACTS, SECONDS, dry_run, facts
from tests.tiny import config

KNOWN = {name: f"the {name}" for name in FACTS}


def ending(
    monkeypatch: pytest.MonkeyPatch, out: str, code: int = 0, errors: str = "", late: bool = False
) -> list[dict[str, Any]]:
    """Let the measuring process write and end in some way; returns how it is started."""
    calls: list[dict[str, Any]] = []

    def run(command: Any, **options: Any) -> subprocess.CompletedProcess[str]:
        calls.append(options)
        if late:
            raise subprocess.TimeoutExpired(command, options["timeout"], output=out.encode())
        return subprocess.CompletedProcess(command, code, stdout=out, stderr=errors)

    monkeypatch.setattr(subprocess, "run", run)
    return calls


def line(**known: str) -> str:
    return json.dumps({"known": known, "groups": ["groups 1"]})


def test_the_six_facts_come_first() -> None:
    lines = facts({"views": "2", **KNOWN})
    assert [text.split()[0] for text in lines] == [*FACTS, "views"]


def test_the_last_whole_line_counts_and_the_process_is_stopped_in_time(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    out = "\n".join([line(data="a"), line(data="b", recipe="r", run="c"), line(data="d")[:-9]])
    calls = ending(monkeypatch, out, late=True)
    lines = dry_run(config(), "tiny")
    assert calls[0]["timeout"] == SECONDS <= 12 and json.loads(calls[0]["input"])[1] == "tiny"
    late = f"not known after {SECONDS:.0f} s"
    known = {**dict.fromkeys(FACTS, late), "data": "b", "recipe": "r", "run": "c"}
    assert lines == [*facts(known), "groups 1"]
    ending(monkeypatch, "", late=True)
    assert dry_run(config(), "tiny")[1].split() == ["recipe", "tiny"]


@pytest.mark.parametrize(
    ("known", "memory"),
    [
        ({"data": "a"}, "a step of a few samples already needs more than there is"),
        (KNOWN, "the memory"),
    ],
)
def test_a_process_that_the_system_ended_leaves_an_answer(
    known: dict[str, str], memory: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for code, errors in ((-9, ""), (1, "CUDA out of memory")):
        ending(monkeypatch, line(**known), code, errors)
        assert memory in dry_run(config(), "tiny")[FACTS.index("memory")]


def test_refusals_and_failures_are_those_of_the_process(monkeypatch: pytest.MonkeyPatch) -> None:
    tries: list[tuple[str, int, Callable[..., Any], str]] = [
        (json.dumps({"refused": "No images.", "is_os": False}), 0, RecipeError, "No images."),
        (json.dumps({"refused": "No file.", "is_os": True}), 0, OSError, "No file."),
        ("", 1, ValueError, "The steps of the dry run failed: KeyError: 3"),
    ]
    for out, code, kind, message in tries:
        ending(monkeypatch, out, code, "Traceback\nKeyError: 3")
        with pytest.raises(kind, match=message):  # type: ignore[call-overload]
            dry_run(config(), "tiny")


def test_the_recipe_is_printed_on_request_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "dry_run", lambda config, name: [*facts(KNOWN), "groups 1"])
    command = ["pretrain", "image/emoji_simclr", "--dry-run"]
    plain = CliRunner().invoke(app, command).stdout.splitlines()
    assert plain == [*facts(KNOWN), "groups 1"]
    with_recipe = CliRunner().invoke(app, [*command, "--yaml"]).stdout
    assert with_recipe.splitlines()[:7] == [f"# {text}" for text in plain]
    assert yaml.safe_load(with_recipe)["encoder"]["width"] == 32
