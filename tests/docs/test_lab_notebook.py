"""The notebook of the augmentation lab runs as it is, and is stored with what it showed."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import matplotlib
import pytest

from tests import ROOT

NOTEBOOK = ROOT / "docs" / "augmentation_lab.ipynb"


@pytest.fixture
def cells(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[list[dict[str, Any]]]:
    """Yield the code cells; plots are discarded and matplotlib's settings restored."""
    with matplotlib.rc_context():
        matplotlib.use("agg")
        import matplotlib.pyplot as plt

        monkeypatch.chdir(tmp_path)  # it must need nothing beside the package
        cells = json.loads(NOTEBOOK.read_text(encoding="utf-8"))["cells"]
        yield [cell for cell in cells if cell["cell_type"] == "code"]
        plt.close("all")


def test_each_cell_runs_after_those_before_it(
    cells: list[dict[str, Any]], capsys: pytest.CaptureFixture[str]
) -> None:
    import matplotlib.pyplot as plt

    names: dict[str, Any] = {}
    for number, cell in enumerate(cells):
        exec(compile("".join(cell["source"]), f"{NOTEBOOK.name}[{number}]", "exec"), names)
    figures = [
        output
        for cell in cells
        for output in cell["outputs"]
        if "image/png" in output.get("data", {})
    ]
    assert len(plt.get_fignums()) == len(figures) == 4
    assert names["rows"] and set(names["untrained"]) == {row.metric for row in names["rows"]}
    printed = [line.split()[0] for line in capsys.readouterr().out.splitlines()]
    assert printed == [line.split()[0] for line in cells[-1]["outputs"][0]["text"]]


def test_it_is_stored_with_what_it_showed_and_small(cells: list[dict[str, Any]]) -> None:
    assert [cell["execution_count"] for cell in cells] == list(range(1, len(cells) + 1))
    assert all(cell["outputs"] for cell in cells[1:])
    assert not any(output["output_type"] == "error" for cell in cells for output in cell["outputs"])
    assert NOTEBOOK.stat().st_size < 300_000
