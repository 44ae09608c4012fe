"""The examples of CONTRIBUTING.md run as they stand, and a new method is two files."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from mezzotint.train.log import read_metrics
from tests import ROOT

TEXT = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", TEXT, re.S)


def test_the_worked_examples_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert len(blocks("python")) == 4
    code = compile("\n".join(blocks("python")), "CONTRIBUTING.md", "exec")
    exec(code, {"__name__": "example"})
    for name, steps in (("vicreg", 14), ("stripes", 4)):
        run = tmp_path / "runs" / name
        lines = read_metrics(run / "metrics.jsonl")
        assert lines[-1]["step"] == steps and lines[-1]["loss"] is not None
        assert "a class of your own" in (run / "recipe.yaml").read_text()
    environment = json.loads((tmp_path / "runs" / "stripes" / "environment.json").read_text())
    assert environment["unreadable"] == {"stripes/13": "broken: an example"}


PASSES_AND_TRAINS = """
import json, sys, pytest
from mezzotint.cli.app import run
tests, command = json.loads(sys.argv[1])
sys.exit(pytest.main(tests) or run(command))
"""


def test_a_new_method_is_two_files(tmp_path: Path) -> None:
    """A copy of the repository with two more files passes the contract and trains."""
    for name in ("src", "tests"):  # with their bytecode, which is valid by time and size
        shutil.copytree(ROOT / name, tmp_path / name, ignore=shutil.ignore_patterns("*.egg-info"))
    shutil.copy2(ROOT / "pyproject.toml", tmp_path)
    method, recipe = re.findall(r"`(src/mezzotint/[\w/]*vicreg\w*\.\w+)`", TEXT)
    for path, text in ((method, blocks("python")[0]), (recipe, blocks("yaml")[0])):
        assert not (tmp_path / path).exists()
        (tmp_path / path).write_text(text, encoding="utf-8")
    chosen = ["-k", "(VICReg or vicreg or kinds) and not compiled", "-p", "no:cacheprovider", "-q"]
    small = ["run.epochs=1", "run.batch_size=512", "run.log.knn_epochs=0", "--train-only"]
    words = [
        ["tests/test_contract_methods.py", "tests/recipe", *chosen],
        ["pretrain", "image/vicreg_digits", *small, "--out=out"],
    ]
    done = subprocess.run(
        [sys.executable, "-c", PASSES_AND_TRAINS, json.dumps(words)],
        cwd=tmp_path, env={**os.environ, "PYTHONPATH": str(tmp_path / "src")},
        capture_output=True, text=True, timeout=300, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    passed = re.search(r"(\d+) passed", done.stdout)
    assert passed is not None and int(passed[1]) >= 30
    assert read_metrics(tmp_path / "out" / "metrics.jsonl")[-1]["step"] == 3
