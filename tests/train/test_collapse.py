"""The alarm of a collapse: its scalars, when it goes off, and that it does in a run."""

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import normalize

from mezzotint.data.image.embedded import EmbeddedImages
from mezzotint.encoders.resnet import resnet8
from mezzotint.encoders.vit import ViT
from mezzotint.methods.method import Method
from mezzotint.optim.optimizer import AdamW
from mezzotint.recipe.recipe import Recipe
from mezzotint.train.checkpoint import CheckpointStore
from mezzotint.train.collapse import (
    LOWEST_RANK,
    LOWEST_STD,
    PROJECTED,
    RANK,
    STD,
    CollapseAlarm,
    Collapsed,
    spread_and_rank,
)
from mezzotint.train.log import collapsed_at, read_metrics
from mezzotint.train.loop import pretrain
from mezzotint.train.settings import Checkpoints, Guard, Log, Run
from mezzotint.types import Input, Step, Views
from tests.tiny import METHODS, config


@pytest.mark.parametrize(("rows", "dim"), [(5, 12), (40, 6)])
def test_the_scalars_are_those_of_the_eigenvalues(rows: int, dim: int) -> None:
    x = torch.randn(rows, dim, generator=torch.Generator().manual_seed(1))
    units = (x / x.norm(dim=1, keepdim=True)).double().numpy()
    eigenvalues = np.linalg.eigvalsh(np.cov(units.T, bias=True))
    std, rank = spread_and_rank(x).tolist()
    assert std == pytest.approx(units.std(axis=0).mean() * math.sqrt(dim), rel=1e-5)
    assert rank == pytest.approx(eigenvalues.sum() ** 2 / (eigenvalues**2).sum(), rel=1e-4)


def test_the_extremes_are_far_from_the_limits() -> None:
    draws = torch.Generator().manual_seed(0)
    std, rank = spread_and_rank(torch.randn(512, 32, generator=draws)).tolist()
    assert std == pytest.approx(1.0, abs=0.02) and rank > 25
    same = torch.randn(1, 32, generator=draws).expand(64, 32)
    std, _ = spread_and_rank(same + 1e-3 * torch.randn(64, 32, generator=draws)).tolist()
    assert std < LOWEST_STD
    line = torch.ones(32) + torch.randn(64, 1, generator=draws) * torch.arange(32.0) / 32
    _, rank = spread_and_rank(line).tolist()
    assert rank < 1.3
    assert spread_and_rank(torch.zeros(4, 3)).tolist() == [0.0, 0.0]


def alarm(*, stop: bool = False) -> CollapseAlarm:
    encoder = resnet8(Input((3, 8, 8), (0.5,) * 3, (0.5,) * 3), stem="small", width=2)
    return CollapseAlarm(encoder, every=2, stop=stop)


def test_it_goes_off_once_after_three_in_a_row_and_again_after_a_recovery() -> None:
    one = alarm()
    good, bad = {STD: 0.5, RANK: 9.0}, {STD: 0.001, RANK: 9.0}
    said = [one.check(n, m) for n, m in enumerate([good, bad, bad, good, bad, bad, bad, bad, bad])]
    assert [text is not None for text in said] == [False] * 6 + [True, False, False]
    assert "collapsed by step 6" in str(said[6]) and "0.0010" in str(said[6])
    assert [one.check(n, m) is None for n, m in enumerate([good, bad, bad, bad])] == [
        True, True, True, False,
    ]  # fmt: skip


@pytest.mark.parametrize(
    "bad",
    [{STD: 0.5, RANK: LOWEST_RANK - 0.01}, {STD: 0.5, RANK: 9.0, PROJECTED: 0.001}],
    ids=["rank", "projections"],
)
def test_rank_and_projections_count_too_and_nan_does_not(bad: dict[str, float]) -> None:
    one = alarm()
    assert [one.check(n, bad) is None for n in range(3)] == [True, True, False]
    other = alarm()
    for number in range(5):
        assert other.check(number, {STD: math.nan, RANK: math.nan}) is None
        assert other.check(number, {"loss": 1.0}) is None


def test_only_logged_steps_are_measured_and_the_most_varied_pass_counts() -> None:
    one = alarm()
    x = torch.randn(6, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    one.start(0)
    one.encoder(x)
    assert not one.encoder._forward_hooks and one.finish({}) == {}
    one.start(1)
    one.encoder(x[:1].expand(6, 3, 8, 8))
    features = one.encoder(x)
    found = one.finish({PROJECTED: torch.tensor(0.25)})
    assert not one.encoder._forward_hooks
    torch.testing.assert_close(torch.stack([found[STD], found[RANK]]), spread_and_rank(features))
    assert found[PROJECTED] == 0.25


class Attract(Method):
    """Pull all samples together: the constant solution is the best one."""

    def forward(self, views: Views) -> Step:
        units = normalize(self.encoder(views.x[0]), dim=1)
        return Step(-(units @ units.mean(dim=0)).mean(), {})


def collapsing(*, stop: bool, late: bool = False) -> Recipe:
    data = EmbeddedImages(name="digits")
    with torch.random.fork_rng():
        torch.manual_seed(0)
        # BatchNorm would keep the features apart.
        encoder = ViT(data.input, width=16, depth=1, heads=2, patch=4)
    run = Run(
        epochs=2, batch_size=64, log=Log(every_steps=4, knn_epochs=0),
        guard=Guard(stop_on_collapse=stop, late=late), checkpoints=Checkpoints(every_steps=1000),
    )  # fmt: skip
    return Recipe(data=data, method=Attract(encoder), optimizer=AdamW(lr=0.02), run=run)


def test_a_planted_collapse_is_said_in_terminal_and_log(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = pretrain(collapsing(stop=False), tmp_path / "run")
    lines = read_metrics(out / "metrics.jsonl")
    steps = collapsed_at(lines)
    assert len(steps) == 1 and lines[0][STD] > 3 * LOWEST_STD and steps[0] < lines[-1]["step"]
    assert f"The features collapsed by step {steps[0]}: " in capsys.readouterr().err


@pytest.mark.parametrize("late", [False, True])
def test_a_run_stops_on_a_collapse_if_the_recipe_says_so(tmp_path: Path, *, late: bool) -> None:
    with pytest.raises(Collapsed, match="The features collapsed by step") as caught:
        pretrain(collapsing(stop=True, late=late), tmp_path / "run", progress="quiet")
    saved, _ = CheckpointStore(tmp_path / "run" / "checkpoints").latest()
    assert saved is not None
    assert collapsed_at(read_metrics(tmp_path / "run" / "metrics.jsonl")) == [saved.step]
    assert any("continue with --resume" in note for note in caught.value.__notes__)


@pytest.mark.parametrize(
    "method",
    [m if m in ("simclr", "dino") else pytest.param(m, marks=pytest.mark.slow) for m in METHODS],
)
def test_a_healthy_run_raises_no_alarm(method: str, tmp_path: Path) -> None:
    out = pretrain(Recipe.build(config(method, epochs=2)), tmp_path / "run", progress="quiet")
    lines = read_metrics(out / "metrics.jsonl")
    assert len(lines) == 14 and all(STD in line for line in lines)
    assert not collapsed_at(lines)


def test_features_that_are_no_vectors_of_samples_are_left_alone() -> None:
    one = alarm()
    one._measure(nn.Identity(), (), torch.zeros(1, 4))
    one._measure(nn.Identity(), (), torch.zeros(2, 4, 4))
    outputs: list[Tensor] = [torch.zeros(2, 4)]
    one._measure(nn.Identity(), (), outputs)
    assert not one._found
