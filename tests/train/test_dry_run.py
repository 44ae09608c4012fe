"""The answer of a dry run: six facts first, in time, whatever the measuring process does."""

import json
import math
import os
import subprocess
import time
from collections.abc import Callable
from typing import Any

import pytest
import yaml
from typer.testing import CliRunner

from mezzotint.cli.app import app
from mezzotint.recipe.schema import RecipeError
from mezzotint.train import dry_run as module
from mezzotint.train.dry_run import FACTS, SECONDS, dry_run, facts, processor_seconds
from tests.tiny import config

KNOWN = {name: f"the {name}" for name in FACTS}


class Ended:
    """A process that writes and ends, or that goes on writing and does not end by itself."""

    pid = 0

    def __init__(self, out: str, code: int, errors: str, late: bool) -> None:
        self.out, self.returncode, self.errors, self.late = out, code, errors, late
        self.timeouts: list[float] = []
        self.input, self.killed = b"", False

    def __enter__(self) -> "Ended":
        return self

    def __exit__(self, *_: object) -> None:
        assert self.killed == self.late

    def communicate(self, text: bytes | None, timeout: float) -> tuple[bytes, bytes]:
        self.timeouts.append(timeout)
        self.input += text or b""
        if self.late:
            raise subprocess.TimeoutExpired("python", timeout, output=self.out.encode())
        return self.out.encode(), self.errors.encode()

    def kill(self) -> None:
        self.killed = True


def ending(
    monkeypatch: pytest.MonkeyPatch,
    out: str,
    code: int = 0,
    errors: str = "",
    *,
    late: bool = False,
    used: float = SECONDS,
) -> Ended:
    """Let the measuring process write and end in some way, after some processor time."""
    process = Ended(out, code, errors, late)
    monkeypatch.setattr(subprocess, "Popen", lambda command, **_: process)
    monkeypatch.setattr(module, "processor_seconds", lambda pid: used)
    return process


def line(**known: str) -> str:
    return json.dumps({"known": known, "groups": ["groups 1"]})


def test_the_six_facts_come_first() -> None:
    lines = facts({"views": "2", **KNOWN})
    assert [text.split()[0] for text in lines] == [*FACTS, "views"]


def test_the_last_whole_line_counts_and_the_process_is_stopped_in_time(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    out = "\n".join([line(data="a"), line(data="b", recipe="r", run="c"), line(data="d")[:-9]])
    process = ending(monkeypatch, out, late=True)
    lines = dry_run(config(), "tiny")
    assert process.timeouts == [SECONDS] and SECONDS <= 12
    assert json.loads(process.input)[1] == "tiny"
    late = "not known in the time of a dry run"
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
    as_json = json.loads(CliRunner().invoke(app, [*command, "--yaml", "--json"]).stdout)
    assert as_json["facts"] == plain and as_json["recipe"] == yaml.safe_load(with_recipe)


def test_on_a_busy_machine_the_process_gets_more_time(monkeypatch: pytest.MonkeyPatch) -> None:
    busy = ending(monkeypatch, line(data="a"), late=True, used=1.0)
    assert dry_run(config(), "tiny")[0].split() == ["data", "a"]
    assert SECONDS < sum(busy.timeouts) < 60
    known = ending(monkeypatch, line(**KNOWN), late=True, used=1.0)
    assert dry_run(config(), "tiny") == [*facts(KNOWN), "groups 1"]
    assert known.timeouts == [SECONDS]


def test_the_processor_time_of_a_process_is_read() -> None:
    before = time.process_time()
    assert processor_seconds(os.getpid()) == pytest.approx(before, abs=1.0)
    assert processor_seconds(2**30) == math.inf
