"""The running average of weights: what it is, and that it is what a run leaves and what is scored."""

from pathlib import Path

import pytest
import torch

from mezzotint import load_encoder
from mezzotint.encoders.table_mlp import TableMLP
from mezzotint.methods.supervised import Supervised
from mezzotint.recipe.recipe import Recipe, resolve_recipe
from mezzotint.runs.reuse import trained_method
from mezzotint.train.checkpoint import CheckpointStore
from mezzotint.train.loop import pretrain
from mezzotint.train.settings import Compute
from mezzotint.train.state import Average, tensors_of
from mezzotint.types import Input
from tests.tiny import config


def test_the_window_opens_and_buffers_are_the_last() -> None:
    torch.manual_seed(0)
    method = Supervised(
        TableMLP(Input((4,), (0.0,) * 4, (1.0,) * 4, "table")), num_classes=3, logit_norm=True
    )
    average = Average(method, 0.3)
    naive = method.head.weight.detach().clone()
    for step in range(6):
        with torch.no_grad():
            method.head.weight.normal_()
            method.logit_norm.get_buffer("running_mean").fill_(float(step))
        average.follow(method, step)
        decay = [0.1, 2 / 11, 3 / 12, 0.3, 0.3, 0.3][step]
        naive = decay * naive + (1 - decay) * method.head.weight.detach()
        torch.testing.assert_close(average.method.get_parameter("head.weight").detach(), naive)
    assert torch.equal(average.method.get_buffer("logit_norm.running_mean"), torch.full((3,), 5.0))
    assert not any(p.requires_grad for p in average.method.parameters())


def test_a_run_leaves_the_average_and_trains_as_without(tmp_path: Path) -> None:
    plain = config("simclr", batch_size=64)
    data = {"kind": "labeled", "source": plain["data"], "fraction": 0.1}

    def made(average: float | None) -> Recipe:
        run = plain["run"] | {"compute": plain["run"]["compute"] | {"average": average}}
        return Recipe.build(
            resolve_recipe(
                {
                    **plain,
                    "data": data,
                    "method": {"kind": "supervised", "num_classes": 10},
                    "run": run,
                }
            )
        )

    runs = {
        value: pretrain(made(value), tmp_path / str(value), progress="quiet")
        for value in (None, 0.9)
    }
    last, beside = (CheckpointStore(run / "checkpoints").latest()[0] for run in runs.values())
    assert last is not None and beside is not None and not tensors_of(last, "average")
    assert all(torch.equal(beside.model[name], tensor) for name, tensor in last.model.items())
    average = tensors_of(beside, "average")
    for name, tensor in load_encoder(runs[0.9]).state_dict().items():
        assert torch.equal(tensor, average[f"encoder.{name}"])
    assert not torch.equal(average["encoder.conv1.weight"], last.model["encoder.conv1.weight"])
    scored = trained_method(made(0.9), runs[0.9]).method.state_dict()
    assert all(torch.equal(scored[name], tensor) for name, tensor in average.items())


@pytest.mark.parametrize("decay", [0.0, 1.0, -0.5])
def test_decays_out_of_range_are_refused(decay: float) -> None:
    with pytest.raises(
        ValueError,
        match=r"run.compute.average: got .*; allowed is a decay in \(0, 1\), or null for none",
    ):
        Compute(average=decay)
