"""coord-check and transfer-lr from the command line: what they print, write and exit with."""

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from mezzotint.cli.app import run
from tests.tiny import config


@pytest.fixture
def recipe(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.chdir(tmp_path)
    plain: dict[str, Any] = config("simclr", batch_size=64)
    plain["encoder"] = {"kind": "vit", "width": 16, "depth": 2, "heads": 2, "patch": 4}
    plain["optimizer"] = {"kind": "adamw", "lr": 0.003}
    Path("small.yaml").write_text(yaml.safe_dump(plain))
    return "small.yaml"


@pytest.mark.parametrize("sizes", ["--widths 8,16,32", "--depths 2,4,8"])
def test_coord_check(recipe: str, sizes: str, capsys: pytest.CaptureFixture[str]) -> None:
    code = run(["coord-check", recipe, *sizes.split(), "--json"])
    facts = json.loads(capsys.readouterr().out)
    assert code == (0 if facts["passed"] else 1)
    assert facts["verdict"].startswith("Passed: " if facts["passed"] else "Failed: ")
    rows = json.loads(Path("coord-check/rows.json").read_text())
    axis = "depth" if "depths" in sizes else "width"
    assert set(rows) == {"mup", "standard"} and {row[axis] for row in rows["mup"]} == {
        int(size) for size in sizes.split()[1].split(",")
    }
    assert Path(facts["page"]).read_text().count("data:image/png") == 2


def test_transfer_lr_goes_on_where_it_stopped(
    recipe: str, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["transfer-lr", recipe, "run.batch_size=512", "--widths", "8,16", "--out", "grid"]
    assert run([*command, "--rates", "0.001"]) == 0
    first = capsys.readouterr().out
    assert first.count("mup width") == 2 and first.count("standard width") == 1
    assert run([*command, "--rates", "0.001,0.004", "--json"]) == 0
    said = json.loads(capsys.readouterr().out)
    assert said["base_width"] == 8 and said["lr"] in (0.001, 0.004)
    assert set(said["drift"]) == {"mup", "standard"}
    assert len(list(Path("grid/cells").glob("*-*.json"))) == 6
    assert run([*command, "--rates", "0.001,0.004"]) == 0
    assert "mup width" not in capsys.readouterr().out  # every cell is done
