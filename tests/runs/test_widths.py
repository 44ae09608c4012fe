"""A recipe at several widths: the coordinate check and the transfer of learning rates."""

import json
from pathlib import Path
from typing import Any

import pytest

from mezzotint.optim.mup import rules
from mezzotint.optim.mup.measure import train_and_measure
from mezzotint.optim.mup.rules import Factors
from mezzotint.optim.optimizer import SGD, Optimizer
from mezzotint.recipe.recipe import resolve_recipe
from mezzotint.recipe.schema import RecipeError
from mezzotint.report.widths import (
    proposal,
    wider,
    write_coordinate_check,
    write_rate_transfer,
)
from mezzotint.runs import widths
from mezzotint.runs.widths import (
    CoordinateCheck,
    RateTransfer,
    at,
    at_depth,
    check_coordinates,
    final_loss,
    transfer_rates,
)
from mezzotint.train.guard import NotFinite
from tests.optim.mup.test_method import made, views
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


def test_changes_alone_can_fail_and_tokens_explain_those_of_muon() -> None:
    moved = [{**row, "change": row["width"] ** -0.5} for row in rows(0.0)]
    check = CoordinateCheck({"mup": moved, "standard": rows(1.0)}, [8, 16])
    assert not check.passed
    assert (
        "Failed: the change of `a` has slope -0.50 at step 2 in muP; the limit is 0.4. A large"
        in (check.verdict())
    )
    for tokens, explained in ((8, True), (2, False)):
        facts = {"module": "a.weight", "t": 2, "weight": 1.0, "channels": 8, "tokens": tokens}
        more = [*moved, {**facts, "width": 8}, {**facts, "width": 16, "channels": 16}]
        text = CoordinateCheck({"mup": more, "standard": rows(1.0)}, [8, 16]).verdict()
        assert (
            "`a.weight` has 8 channels at width 8 and meets 8 tokens (positions" in text
        ) is explained


def test_rates_of_sgd_that_do_not_grow_are_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Outputs stay what they were at the start then: what tells is how far training moves them."""
    monkeypatch.setattr(rules, "sgd", lambda growth, group: Factors())
    planted = [
        {**row, "width": width}
        for width in (64, 128)
        for row in train_and_measure(
            *trained("audio", "infonce", width, SGD(lr=0.02)), views("audio"), steps=2
        )
    ]
    check = CoordinateCheck({"mup": planted, "standard": rows(1.0)}, [64, 128])
    assert abs(check.worst("mup")[2]) < 0.2  # outputs alone hardly tell
    assert not check.passed and check.worst("mup", "change")[2] < -0.8


def trained(encoder: str, method: str, width: int, settings: Optimizer) -> tuple[Any, Any]:
    built = made(encoder, method, width, 64)
    return built, settings.build(built, 16)


def test_a_grid_is_trained_once_and_proposes_a_rate(tmp_path: Path) -> None:
    said: list[str] = []
    settings = recipe(batch_size=256)
    first = transfer_rates(settings, [4, 8], [1e-3, 1e-2], tmp_path, say=said.append)
    assert len(said) == 6  # both parametrizations are the same at the base width
    again = transfer_rates(settings, [4, 8], [1e-2, 1e-3, 1e-2], tmp_path, say=said.append)
    assert len(said) == 6 and again.cells == first.cells
    assert len(list((tmp_path / "cells").glob("*-0.json"))) == 6
    page = write_rate_transfer(again, tmp_path / "index.html").read_text()
    assert "st of the grid" in page and "Wider is always better" in page
    with pytest.raises(RecipeError, match="is of another recipe"):
        transfer_rates(recipe(batch_size=128), [4, 8], [1e-3], tmp_path)


def test_a_run_that_diverges_loses_and_any_other_failure_is_raised(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(error: Exception) -> Any:
        def train(*_: Any, **__: Any) -> None:
            raise error

        return train

    settings = recipe(batch_size=256)
    monkeypatch.setattr(widths, "pretrain", fail(RuntimeError("out of memory")))
    with pytest.raises(RuntimeError, match="out of memory"):
        transfer_rates(settings, [4, 8], [1e-3], tmp_path, say=lambda _: None)
    assert not list((tmp_path / "cells").iterdir())
    monkeypatch.setattr(widths, "pretrain", fail(NotFinite("loss")))
    found = transfer_rates(settings, [4, 8], [1e-3], tmp_path, say=lambda _: None)
    assert found.losses("mup", 8) == [float("inf")]
    assert "<td>diverged</td>" in write_rate_transfer(found, tmp_path / "x.html").read_text()


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
    assert transfer.at_edge() == [] and transfer.at_edge("standard") == [8]
    assert "Use optimizer.lr=2 with mup.base_width=4 at width 8. A step there costs about 4.0" in (
        proposal(transfer)
    )


def test_wider_is_compared_with_narrower_in_each_tenth() -> None:
    curves = {4: [3.0] * 20, 8: [4.0] * 4 + [2.0] * 16, 16: [1.0] * 20}
    cells = [
        {"parametrization": "mup", "width": w, "rate": 1.0, "seed": s, "loss": 1.0, "curve": curve}
        for w, curve in curves.items()
        for s in (0, 1)
    ]
    transfer = RateTransfer(cells, [4, 8, 16], [1.0], {4: 1, 8: 4, 16: 16})
    assert transfer.worse_when_wider() == [(8, 0), (8, 1)]
    assert "Wider was worse in muP at: width 8 in tenth 1, width 8 in tenth 2." in wider(transfer)
    better = RateTransfer(cells[:2] + cells[4:], [4, 16], [1.0], {4: 1, 16: 16})
    assert wider(better) == "Wider was better in every tenth of training in muP."
    diverged = RateTransfer([{**cell, "curve": []} for cell in cells], [4, 8], [1.0], {})
    assert diverged.worse_when_wider() == []
    assert "the smallest of the grid" in proposal(transfer)


def test_the_cells_hold_their_recipe(tmp_path: Path) -> None:
    found = transfer_rates(recipe(batch_size=256), [4, 8], [1e-3], tmp_path, say=lambda _: None)
    cell = json.loads((tmp_path / "cells" / "mup-8-0.001-0.json").read_text())
    assert cell["recipe"]["mup"]["base_width"] == 4
    assert found.losses("mup", 8) == [final_loss(cell["curve"])]


def test_the_final_loss_is_a_mean_of_the_last_tenth() -> None:
    assert final_loss([9.0, 1.0, 2.0, 3.0, 4.0, 5.0]) == 3.0
    assert final_loss([9.0] * 90 + [1.0] * 10) == 1.0
    assert final_loss([]) == float("inf")


def deep(depth: int = 2, **mup: Any) -> dict[str, Any]:
    plain = config("simclr", batch_size=64)
    plain["encoder"] = {"kind": "vit", "width": 16, "depth": depth, "heads": 2, "patch": 4}
    plain["optimizer"] = {"kind": "adamw", "lr": 0.003}
    return resolve_recipe(plain | ({"mup": mup} if mup else {}))


def test_a_recipe_keeps_its_settings_of_mup_at_another_width_and_depth() -> None:
    settings: dict[str, Any] = {"base_width": 8, "base_depth": 1, "attention": "larger_heads"}
    wide = at(deep(**settings), 32, 16)
    assert wide["mup"] == {**settings, "base_width": 16} and wide["encoder"]["heads"] == 2
    assert at(deep(), 32, 16)["encoder"]["heads"] == 4
    tall = at_depth(deep(**settings), 8, 4)
    assert tall["mup"] == {**settings, "base_depth": 4} and tall["encoder"]["depth"] == 8
    assert at_depth(deep(), 8, None)["mup"]["base_width"] == 16
    with pytest.raises(RecipeError, match="`encoder.kind: resnet8` has no `depth`"):
        at_depth(recipe(), 4, 2)


def test_depths_pass_where_branches_are_scaled_and_fail_where_not(tmp_path: Path) -> None:
    check = check_coordinates(deep(), [2, 4, 8, 16], axis="depth")
    assert check.passed, check.verdict()
    assert check.has_power, check.verdict()
    assert "Passed: no output depends on the depth in muP" in check.verdict()
    names = {row["module"] for row in check.rows["mup"] if "l1" in row}
    assert "encoder.blocks.last" in names and "projector:cosine" in names
    assert not any(name.startswith("encoder.blocks.0") for name in names)
    grown = check.slopes("standard")["encoder.blocks.last", 2]
    assert grown > 0.3, check.slopes("standard")
    page = write_coordinate_check(check, tmp_path / "index.html").read_text()
    assert "Mean absolute output by depth" in page and "log2 depth" in page
    with pytest.raises(RecipeError, match="Depths must be two or more rising numbers"):
        check_coordinates(deep(), [4, 2], axis="depth")
    with pytest.raises(RecipeError, match="two or more rising numbers"):
        check_coordinates(deep(), [2, 4, 4], axis="depth")
