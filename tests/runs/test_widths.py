"""A recipe at several widths: the coordinate check and the transfer of learning rates."""

import json
from pathlib import Path
from typing import Any

import pytest

from mezzotint.recipe.schema import RecipeError
from mezzotint.report.widths import proposal, write_coordinate_check, write_rate_transfer
from mezzotint.runs.widths import (
    CoordinateCheck,
    RateTransfer,
    at,
    check_coordinates,
    transfer_rates,
)
from tests.tiny import config


def recipe(**run: Any) -> dict[str, Any]:
    plain = config("byol", **run)
    plain["encoder"] = {"kind": "resnet8", "stem": "patch", "width": 4}
    plain["optimizer"] = {"kind": "adamw", "lr": 0.01}
    return plain


def test_a_recipe_at_another_width_scales_its_heads() -> None:
    wide = at(recipe(), 16, 8)
    assert wide["encoder"]["width"] == 16 and wide["mup"]["base_width"] == 8
    assert (wide["method"]["hidden_dim"], wide["method"]["dim"]) == (64, 32)
    assert "mup" not in at(wide, 16, None)
    odd = recipe()
    odd["method"]["hidden_dim"] = 6
    with pytest.raises(RecipeError, match="`method.hidden_dim` of 6 would be 4.5"):
        at(odd, 3, None)


def test_the_check_passes_and_its_control_fails(tmp_path: Path) -> None:
    check = check_coordinates(recipe(batch_size=32), [16, 32, 64])
    assert check.passed, check.verdict()
    assert check.has_power and "Passed: no output depends on the width in muP" in check.verdict()
    page = write_coordinate_check(check, tmp_path / "index.html").read_text()
    for text in (
        "projector:cosine",
        "spectral norms",
        "data:image/png;base64",
        "Passed: no output",
    ):
        assert text in page
    assert "encoder.layer1.0.conv1.weight" in page


def rows(slope: float, **facts: Any) -> list[dict[str, Any]]:
    return [{"module": "a", "t": 2, "l1": w**slope, "width": w, **facts} for w in (8, 16)]


def test_verdicts_in_words() -> None:
    failed = CoordinateCheck({"mup": rows(0.4), "standard": rows(0.2)}, [8, 16])
    assert not failed.passed and not failed.has_power
    assert "Failed: `a` has slope +0.40 at step 2" in failed.verdict()
    assert "The control does not fail" in failed.verdict()
    flat = [{**row, "module": "b"} for row in rows(0.0)]
    shrinking = {"mup": rows(-0.5, readout=True) + flat, "standard": rows(1.0)}
    assert CoordinateCheck(shrinking, [8, 16]).passed  # a readout may


def test_a_grid_is_trained_once_and_proposes_a_rate(tmp_path: Path) -> None:
    said: list[str] = []
    settings = recipe(batch_size=256)
    first = transfer_rates(settings, [4, 8], [1e-3, 1e-2], tmp_path, say=said.append)
    assert len(said) == 6  # both parametrizations are the same at the base width
    again = transfer_rates(settings, [4, 8], [1e-3, 1e-2], tmp_path, say=said.append)
    assert len(said) == 6 and again.cells == first.cells
    assert len(list((tmp_path / "cells").iterdir())) == 6
    page = write_rate_transfer(again, tmp_path / "index.html").read_text()
    assert "Use optimizer.lr=" in page and "Wider is always better" in page
    with pytest.raises(RecipeError, match="is of another recipe"):
        transfer_rates(recipe(batch_size=128), [4, 8], [1e-3], tmp_path)


def test_best_rates_and_their_drift() -> None:
    losses: dict[tuple[str, int], list[float]]
    losses = {("mup", 4): [3, 1, 2], ("mup", 8): [3, 1, 2], ("standard", 4): [3, 1, 2],
              ("standard", 8): [1, 2, float("inf")]}  # fmt: skip
    cells = [
        {"parametrization": p, "width": w, "rate": r, "seed": 0, "loss": loss, "curve": [loss]}
        for (p, w), values in losses.items()
        for r, loss in zip((1.0, 2.0, 4.0), values, strict=True)
    ]
    transfer = RateTransfer(cells, [4, 8], [1.0, 2.0, 4.0], {4: 100, 8: 400})
    assert transfer.best("mup", 8) == 2.0 and transfer.best("standard", 8) == 1.0
    assert (transfer.drift("mup"), transfer.drift("standard")) == (0.0, 1.0)
    assert "Use optimizer.lr=2 with mup.base_width=4 at width 8. A step there costs about 4.0" in (
        proposal(transfer)
    )


def test_the_cells_hold_their_recipe(tmp_path: Path) -> None:
    transfer_rates(recipe(batch_size=256), [4, 8], [1e-3], tmp_path, say=lambda _: None)
    cell = json.loads((tmp_path / "cells" / "mup-8-0.001-0.json").read_text())
    assert cell["recipe"]["mup"] == {"base_width": 4, "base_depth": None}
    assert cell["loss"] == pytest.approx(sum(cell["curve"][-5:]) / len(cell["curve"][-5:]))
