"""The warm-up, frozen blocks, and which encoder a run hands over."""

import json
import math
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from mezzotint.encoders.encoder import Encoder
from mezzotint.encoders.saving import load_encoder
from mezzotint.evaluation.before_after import StartComparison
from mezzotint.files import write_json
from mezzotint.methods.simclr import SimCLR
from mezzotint.recipe.recipe import Recipe, resolve_recipe
from mezzotint.runs.reuse import load_branch
from mezzotint.train import continued
from mezzotint.train.checkpoint import CheckpointStore
from mezzotint.train.continued import StartOutcome, cka, drift, drift_warning, read_outcome
from mezzotint.train.log import Meter
from mezzotint.train.loop import Trainer, pretrain
from mezzotint.types import Batch, Input
from tests.tiny import config


def build(method: str = "simclr", init: dict[str, Any] | None = None, **run: Any) -> Recipe:
    plain = config(method, **run)
    return Recipe.build(resolve_recipe(plain | ({"init": init} if init else {})))


@pytest.fixture(scope="module")
def first(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("continued") / "run"
    return pretrain(build(epochs=4), folder, progress="quiet")


def spoil(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let every step end with an encoder whose features are the same for all samples."""
    step = Trainer.step

    def spoiled(
        self: Trainer, number: int, batch: Batch, meter: Meter, *, wait: bool
    ) -> dict[str, float]:
        logs = step(self, number, batch, meter, wait=wait)
        with torch.no_grad():
            self.method.get_parameter("encoder.conv1.weight").zero_()
        return logs

    monkeypatch.setattr(Trainer, "step", spoiled)


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return load_encoder(folder).state_dict()


def test_the_encoder_stays_bit_for_bit_in_the_warm_up(first: Path, tmp_path: Path) -> None:
    recipe = build("byol", {"path": str(first), "warmup_steps": 100, "keep": "last"})
    run = pretrain(recipe, tmp_path / "run", progress="quiet")
    for name, tensor in weights(run).items():
        assert torch.equal(tensor, weights(first)[name]), name
    heads = CheckpointStore(run / "checkpoints").latest()[0]
    fresh = build("byol").method.state_dict()
    assert heads is not None
    assert not torch.equal(heads.model["projector.0.weight"], fresh["projector.0.weight"])


def test_frozen_blocks_never_change_and_the_rest_learns(first: Path, tmp_path: Path) -> None:
    recipe = build(init={"path": str(first), "freeze_blocks": 4, "keep": "last"})
    run = pretrain(recipe, tmp_path / "run", progress="quiet")
    before, after = weights(first), weights(run)
    same = {name for name in before if torch.equal(before[name], after[name])}
    assert {n for n in before if n.startswith(("conv1", "bn1", "layer1", "layer2"))} <= same
    assert "layer4.1.conv2.weight" not in same and "layer4.1.bn2.running_mean" not in same


def test_too_many_blocks_are_refused(first: Path) -> None:
    recipe = build(init={"path": str(first), "freeze_blocks": 9})
    with pytest.raises(ValueError, match="`init.freeze_blocks` must be below 9 for this encoder"):
        continued.begin(recipe)


def test_a_run_with_lora_resumes_and_saves_a_plain_encoder(first: Path, tmp_path: Path) -> None:
    init = {"path": str(first), "lora": {"rank": 1}, "keep": "last"}
    whole = pretrain(build("byol", init, epochs=2), tmp_path / "whole", progress="quiet")
    part = tmp_path / "part"
    pretrain(build("byol", init, epochs=2, checkpoints={"every_steps": 3}), part, progress="quiet")
    for folder in sorted((part / "checkpoints").glob("step-*"))[1:]:
        shutil.rmtree(folder)
    shutil.rmtree(part / "encoder")
    shutil.move(first, first.with_name("moved"))  # a resumed run needs its start no more
    try:
        pretrain(build("byol", init, epochs=2), part, resume=True, progress="quiet")
    finally:
        shutil.move(first.with_name("moved"), first)
    assert weights(part).keys() == weights(first).keys()
    for name, tensor in weights(whole).items():
        assert torch.equal(tensor, weights(part)[name]), name
    assert not torch.equal(weights(whole)["layer1.0.conv1.weight"], weights(first)["conv1.weight"])


def test_a_worse_encoder_is_not_handed_over(
    first: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    spoil(monkeypatch)
    run = pretrain(build(init={"path": str(first)}), tmp_path / "run")
    outcome = read_outcome(run)
    assert outcome is not None and outcome.kept == "start"
    assert [one.labels for one in outcome.comparisons] == [None, 10]
    assert all(one.after < one.before and one.high < 0.0 for one in outcome.comparisons)
    said = capsys.readouterr().err
    assert "training made it worse with all labels and with 10 labels per class; the" in said
    assert "On training samples of digit/" in said and str(outcome.comparisons[1]) in said
    for name, tensor in weights(run).items():
        assert torch.equal(tensor, weights(first)[name])
    assert not torch.equal(
        weights(run / "encoder_trained")["conv1.weight"], weights(run)["conv1.weight"]
    )


def test_a_good_encoder_is_handed_over_and_last_never_refuses(
    first: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = pretrain(build(init={"path": str(first)}), tmp_path / "good", progress="quiet")
    outcome = read_outcome(run)
    assert outcome is not None and outcome.kept == "trained" and not outcome.worse
    assert "although" not in str(outcome) and outcome.comparisons[0].samples > 100
    spoil(monkeypatch)
    last = build(init={"path": str(first), "keep": "last"})
    run = pretrain(last, tmp_path / "last", progress="quiet")
    outcome = read_outcome(run)
    assert outcome is not None and outcome.kept == "trained" and outcome.worse
    assert str(outcome).startswith("encoder: trained, although training made it worse with all")


def test_a_changed_outcome_is_refused(first: Path, tmp_path: Path) -> None:
    run = pretrain(build(init={"path": str(first)}), tmp_path / "run", progress="quiet")
    assert json.loads((run / "start.json").read_text())["kept"] == "trained"
    (run / "start.json").write_text("{}")
    with pytest.raises(ValueError, match="changed after it was written"):
        read_outcome(run)


def test_the_outcome_of_an_earlier_version_is_read_and_that_of_a_later_one_refused(
    tmp_path: Path,
) -> None:
    earlier = {"kept": "start", "task": "digit/test", "samples": 899, "before": 0.97}
    earlier |= {"after": 0.94, "low": -0.04, "high": -0.01}
    write_json(tmp_path / "start.json", earlier, sealed=True)
    one = StartComparison(None, 899, 0.97, 0.94, -0.04, -0.01)
    assert read_outcome(tmp_path) == StartOutcome("start", "digit/test", (one,))
    unlabeled = {"kept": "trained", "task": "", "samples": 0, "before": 0.0, "after": 0.0}
    write_json(tmp_path / "start.json", unlabeled | {"low": 0.0, "high": 0.0}, sealed=True)
    assert read_outcome(tmp_path) == StartOutcome("trained")
    write_json(tmp_path / "start.json", {"kept": "start", "score": 1}, sealed=True)
    with pytest.raises(ValueError, match="written by another version of mezzotint"):
        read_outcome(tmp_path)


def test_the_line_says_which_comparison_decided() -> None:
    assert "without ten training samples of known classes" in str(StartOutcome("trained"))
    level = StartComparison(None, 899, 0.970, 0.961, -0.023, 0.006)
    better = StartComparison(None, 899, 0.950, 0.970, 0.010, 0.030)
    worse = StartComparison(10, 899, 0.919, 0.870, -0.070, -0.030)
    text = str(StartOutcome("start", "digit/half", (level, worse)))
    assert text.startswith(
        "encoder: the start is kept, because training made it worse with 10 labels per class; the "
        "trained one is in encoder_trained/. On training samples of digit/half: with all labels "
        "0.970 → 0.961 (−0.009, 95 % interval −0.023 to +0.006; 899 samples), with 10 labels per "
    )
    text = str(StartOutcome("start", "digit/half", (better, worse)))
    assert "made it worse with 10 labels per class, but better with all labels; the" in text


def test_a_run_from_a_quantizable_start_resumes(tmp_path: Path) -> None:
    start = pretrain(build("ssql"), tmp_path / "start", progress="quiet")
    init = {"path": str(start), "keep": "last"}
    part = tmp_path / "part"
    pretrain(build(init=init, checkpoints={"every_steps": 3}), part, progress="quiet")
    for folder in sorted((part / "checkpoints").glob("step-*"))[1:]:
        shutil.rmtree(folder)
    done = load_encoder(part).state_dict()
    shutil.rmtree(part / "encoder")
    pretrain(build(init=init), part, resume=True, progress="quiet")
    assert any("_quantizer" in name for name in done)
    for name, tensor in done.items():
        assert torch.equal(tensor, weights(part)[name]), name


def test_the_momentum_copy_of_a_run_with_lora_is_measured(first: Path, tmp_path: Path) -> None:
    init = {"path": str(first), "lora": {"rank": 1}, "keep": "last"}
    run = pretrain(build("byol", init), tmp_path / "run", progress="quiet")
    target = load_branch(run, Recipe.load(run), "target", "backbone")
    assert target.state_dict().keys() == weights(run).keys()
    assert not torch.equal(target.state_dict()["conv1.weight"], weights(run)["conv1.weight"])


class Own(Encoder, kind="own"):
    """An encoder that only Python can make."""

    def __init__(self, input: Input) -> None:
        super().__init__(input, 8)
        self.body = nn.Sequential(nn.Flatten(), nn.Linear(math.prod(input.shape), 8))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        features: torch.Tensor = self.body(x)
        return features


def test_an_encoder_of_ones_own_class_is_compared_too(tmp_path: Path) -> None:
    data = build().data
    torch.manual_seed(0)
    start = Own(data.input)
    save_file(start.state_dict(), tmp_path / "own.safetensors")
    recipe = build(init={"path": str(tmp_path / "own.safetensors")})
    recipe.method = SimCLR(Own(data.input), hidden_dim=16, dim=8)
    run = pretrain(recipe, tmp_path / "run", progress="quiet")
    outcome = read_outcome(run)
    assert outcome is not None and outcome.comparisons[0].samples > 100
    lines = (run / "metrics.jsonl").read_text().splitlines()
    assert "drift/cka" in json.loads(lines[-1])


def test_a_kill_while_the_start_is_put_back_never_hands_over_a_worse_encoder(
    first: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing says that the start was kept before it is there; a resumed run decides again."""
    broken: dict[str, Any] = {"init": {"path": str(first)}}
    spoil(monkeypatch)

    def killed(*_: Any) -> None:
        raise KeyboardInterrupt

    run = tmp_path / "run"
    with monkeypatch.context() as patch:
        patch.setattr(continued, "_swap", killed)
        with pytest.raises(KeyboardInterrupt):
            pretrain(build(**broken), run, progress="quiet")
    assert read_outcome(run) is None
    pretrain(build(**broken), run, resume=True, progress="quiet")
    outcome = read_outcome(run)
    assert outcome is not None and outcome.kept == "start"
    assert all(torch.equal(t, weights(first)[name]) for name, t in weights(run).items())


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
    assert "the effective rank of the features is" in drift_warning(flat)
    assert not drift_warning({"drift/rank": 0.9}) and not drift_warning({"loss": 1.0})


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
