"""The examples of CONTRIBUTING.md run as they stand."""

import json
import re
from pathlib import Path

import pytest

from mezzotint.train.log import read_metrics
from tests import ROOT

TEXT = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")


def test_the_worked_examples_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    blocks = re.findall(r"```python\n(.*?)```", TEXT, re.S)
    assert len(blocks) == 4
    exec(compile("\n".join(blocks), "CONTRIBUTING.md", "exec"), {"__name__": "example"})
    for name, steps in (("decorrelated", 14), ("stripes", 4)):
        run = tmp_path / "runs" / name
        lines = read_metrics(run / "metrics.jsonl")
        assert lines[-1]["step"] == steps and lines[-1]["loss"] is not None
        assert "a class of your own" in (run / "recipe.yaml").read_text()
    environment = json.loads((tmp_path / "runs" / "stripes" / "environment.json").read_text())
    assert environment["unreadable"] == {"stripes/13": "broken: an example"}
