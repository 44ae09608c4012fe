"""The page on bits: its snippet runs and prints what it says, and its tables name what there is."""

import re

import pytest

from mezzotint.evaluation import calibration
from mezzotint.quant.bitwidth import Bits
from mezzotint.recipe.signatures import index
from tests import ROOT

PAGE = (ROOT / "docs" / "bits.md").read_text(encoding="utf-8")


def test_the_snippet_prints_what_the_page_shows(capsys: pytest.CaptureFixture[str]) -> None:
    import torch

    code = re.search(r"```python\n(.*?)```\n", PAGE, re.S)
    assert code is not None
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        exec(compile(code[1], "docs/bits.md", "exec"), {"__name__": "page"})
    printed = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert [(bits, probe) for bits, probe, _ in printed] == [
        ("fp32", "knn"),
        ("W8A8", "knn"),
        ("W2A2", "knn"),
    ]
    assert all(0.1 < float(value) <= 1.0 for _, _, value in printed)


def test_the_page_names_the_keys_and_their_defaults() -> None:
    keys = index().members("Evaluate")["evaluate"].keys
    assert keys["calibration_samples"].default is None
    assert f"| `calibration_samples` | {calibration.DEFAULT}, or all there are |" in PAGE
    for name in ("bits", "ptq", "reconstruction_steps"):
        default = keys[name].default
        shown = f"[{default[0]}]" if isinstance(default, list) else str(default)
        assert f"| `{name}` | {f'`{shown}`' if isinstance(default, list) else shown} |" in PAGE


def test_the_command_on_the_page_is_read() -> None:
    command = re.search(r"'evaluate\.bits=\[(.*?)\]'", PAGE)
    assert command is not None and len([Bits.parse(text) for text in command[1].split(",")]) == 9
