"""The page's snippet runs and prints what its comments say; the settings it names exist."""

import re

import pytest
import torch

from mezzotint import codebooks
from tests import ROOT

PAGE = (ROOT / "docs" / "codebooks.md").read_text(encoding="utf-8")


def test_the_snippet_runs(capsys: pytest.CaptureFixture[str]) -> None:
    code = re.search(r"```python\n(.*?)```", PAGE, re.S)
    assert code is not None
    with torch.random.fork_rng():
        torch.manual_seed(0)
        exec(compile(code[1], "docs/codebooks.md", "exec"), {"__name__": "page"})
    lines = capsys.readouterr().out.splitlines()
    assert lines[:3] == ["(40, 50, 3)", "True", "(40, 50, 32)"]
    logs = {name: float(value) for name, value in (line.split() for line in lines[3:])}
    assert logs["codes/usage_1"] >= 0.9 and logs["codes/residual_1"] > logs["codes/residual_3"]
    assert abs(logs["codes/about_position_1"]) < 0.05


def test_the_settings_of_papers_can_be_made() -> None:
    settings = re.findall(r"\| `((?:VQ|RQ|FSQ|RandomProjection)\(.*\))` \|", PAGE)
    assert len(settings) == 7
    for text in settings:
        made = eval(text, {name: getattr(codebooks, name) for name in dir(codebooks)})
        assert isinstance(made, codebooks.Codebook)
