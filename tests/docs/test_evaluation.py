"""The page's snippet runs, and prints what the page says."""

import re
from pathlib import Path

import pytest

from mezzotint.evaluation.knn import KNN
from mezzotint.evaluation.label_free import Rank
from mezzotint.evaluation.linear import Linear
from mezzotint.evaluation.retrieval import Retrieval
from tests import ROOT

PAGE = (ROOT / "docs" / "evaluation.md").read_text(encoding="utf-8")


def test_the_snippet_prints_what_the_page_shows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    code, shown = (re.search(rf"```{kind}\n(.*?)```", PAGE, re.S) for kind in ("python", "text"))
    assert code is not None and shown is not None
    monkeypatch.chdir(tmp_path)
    exec(compile(code[1], "docs/evaluation.md", "exec"), {"__name__": "page"})
    printed, expected = capsys.readouterr().out.splitlines(), shown[1].splitlines()
    number = r"\d+(?:\.\d+)?"
    for line, wanted in zip(printed, expected, strict=True):
        assert re.sub(number, "#", line) == re.sub(number, "#", wanted)
        for value, stated in zip(re.findall(number, line), re.findall(number, wanted), strict=True):
            # another processor rounds differently, and a sample or two of 360 may change sides
            assert float(value) == pytest.approx(
                float(stated), abs=2 if "." not in stated else 0.015
            )


def test_the_page_names_the_protocols_as_they_are() -> None:
    for probe in (KNN(), Linear(), Retrieval(), Rank()):
        assert f"`{str(probe.protocol)}`" in PAGE
