"""The page's snippet runs, and learning does what the page says."""

import re
from pathlib import Path

import pytest
import torch

from mezzotint import save_encoder
from mezzotint.data.image.embedded import EmbeddedImages
from mezzotint.encoders.resnet import resnet8
from tests import ROOT

PAGE = (ROOT / "docs" / "quantizers.md").read_text(encoding="utf-8")


def test_the_snippet_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    code = re.search(r"```python\n(.*?)```", PAGE, re.S)
    assert code is not None
    with torch.random.fork_rng():
        torch.manual_seed(0)
        save_encoder(
            resnet8(EmbeddedImages(name="emoji").input, stem="patch", width=8),
            tmp_path / "runs" / "demo",
        )
    monkeypatch.chdir(tmp_path)
    exec(
        compile(code[1].replace("steps=300", "steps=60"), "docs/quantizers.md", "exec"),
        {"__name__": "page"},
    )
    nearest, learned = (float(line.split()[1]) for line in capsys.readouterr().out.splitlines())
    assert learned < nearest


def test_the_names_in_the_tables_exist() -> None:
    import importlib

    for module, name in re.findall(r"^\| `(\w+)\.(\w+)`", PAGE, re.M):
        assert callable(getattr(importlib.import_module(f"mezzotint.quant.{module}"), name))
