"""Target networks and projections of a run, read from its checkpoint."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from mezzotint.encoders.resnet import resnet8
from mezzotint.evaluation.results import read_baselines, read_evaluation
from mezzotint.methods.byol import BYOL
from mezzotint.methods.moco import MoCo
from mezzotint.methods.simsiam import SimSiam
from mezzotint.methods.ssql import SSQL
from mezzotint.methods.supervised import Supervised
from mezzotint.recipe.recipe import Recipe
from mezzotint.runs.evaluate import evaluate
from mezzotint.runs.reuse import branch_of
from mezzotint.train.loop import pretrain
from mezzotint.types import Input

INPUT = Input((3, 16, 16), (0.5,) * 3, (0.5,) * 3)


def encoder() -> Any:
    torch.manual_seed(0)
    return resnet8(INPUT, stem="small", width=4)


def test_each_method_names_its_branches() -> None:
    for method, copy in (
        (BYOL(encoder(), hidden_dim=8, dim=6), "target"),
        (MoCo(encoder(), hidden_dim=8, dim=6), "key"),
    ):
        assert branch_of(method) is method.encoder
        assert branch_of(method, "target") is getattr(method, f"{copy}_encoder")
        for branch, name in (("online", "projector"), ("target", f"{copy}_projector")):
            both = branch_of(method, branch, "projector").eval()  # type: ignore[arg-type]
            x = torch.randn(2, 3, 16, 16)
            expected = getattr(method, name).eval()(both.backbone(x))  # type: ignore[operator]
            assert both.dim == 6 and torch.equal(both(x), expected)
    base = BYOL(shared := encoder(), hidden_dim=8, dim=6)
    assert branch_of(SSQL(shared, base=base), "target") is base.target_encoder


def test_what_a_method_has_not_is_refused() -> None:
    with pytest.raises(
        ValueError, match="must be online for SimSiam, which keeps no momentum copy"
    ):
        branch_of(SimSiam(encoder(), hidden_dim=8, dim=6), "target")
    with pytest.raises(ValueError, match="must be backbone for Supervised, which has no projector"):
        branch_of(Supervised(encoder(), num_classes=2), "online", "projector")


def test_a_run_is_evaluated_by_branch_and_part(tmp_path: Path) -> None:
    config = ["data.name=digits", "encoder.width=4", "encoder.grid=1", "method.kind=byol",
              "method.hidden_dim=8", "method.dim=6", "run.epochs=1", "run.log.knn_epochs=0",
              "evaluate.probes=[knn]", "evaluate.seeds=1"]  # fmt: skip
    recipe = Recipe.load("image/emoji_simclr", config)
    run = pretrain(recipe, tmp_path / "run", progress="quiet")
    plain = {row.metric: row.value for row in evaluate(run).rows}
    rows = evaluate(run, ["evaluate.branch=target", "evaluate.part=projector"]).rows
    networks = {(row.protocol.branch, row.protocol.part) for row in read_evaluation(run)}
    assert networks == {("online", "backbone"), ("target", "projector")}, "both are kept apart"
    assert {row.metric for row in rows} == set(plain) and {
        row.metric: row.value for row in rows
    } != plain
    compared = read_baselines(run)
    assert {row.protocol for row in compared.untrained} >= {rows[0].protocol}
    norm = next(m for m in recipe.method.modules() if isinstance(m, nn.BatchNorm2d))
    assert norm.training  # the run's own objects were left alone
