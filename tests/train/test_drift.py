"""Drift from the start: its measures on known features, and the warning."""

import json
from pathlib import Path

import pytest
import torch

from mezzotint.recipe.recipe import Recipe, resolve_recipe
from mezzotint.train.drift import cka, drift, warning
from mezzotint.train.loop import pretrain
from tests.tiny import config


def test_a_rotation_leaves_the_alignment_and_turns_the_cosine() -> None:
    torch.manual_seed(0)
    x = torch.randn(50, 6)
    rotation = torch.linalg.qr(torch.randn(6, 6))[0]
    same = drift(x, x.clone())
    assert same == pytest.approx({"drift/cosine": 1.0, "drift/cka": 1.0, "drift/rank": 1.0})
    turned = drift(x, 3.0 * x @ rotation)
    assert turned["drift/cka"] == pytest.approx(1.0)
    assert turned["drift/rank"] == pytest.approx(1.0)
    assert turned["drift/cosine"] < 0.9
    assert cka(x, torch.randn(50, 6)) < 0.5
    assert cka(x, torch.ones(50, 3)) == 0.0


def test_features_of_fewer_directions_are_warned_of() -> None:
    torch.manual_seed(0)
    x = torch.randn(50, 6)
    flat = drift(x, x[:, :1] @ torch.ones(1, 6))
    assert flat["drift/rank"] < 0.3
    assert "the effective rank of the features is" in warning(flat)
    assert not warning({"drift/rank": 0.9}) and not warning({"loss": 1.0})


@pytest.mark.filterwarnings("ignore:The linear probe stopped")  # on features of a planted rate
def test_a_run_logs_its_drift_and_warns_once(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    first = pretrain(Recipe.build(config()), tmp_path / "first", progress="quiet")
    plain = config(epochs=2) | {"init": {"path": str(first), "keep": "last"}}
    plain["optimizer"] |= {"lr": 10.0}
    run = pretrain(Recipe.build(resolve_recipe(plain)), tmp_path / "run")
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    measured = [line for line in lines if "drift/cka" in line]
    assert len(measured) == 2 and measured[-1]["drift/cosine"] < 0.9
    said = capsys.readouterr().err
    assert said.count("warning: the effective rank") == (
        min(m["drift/rank"] for m in measured) < 0.8
    )
