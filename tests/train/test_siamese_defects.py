"""Defects of the code behind Revisiting AIRL that concern a run: where it is written, ranks, epochs, the classifier.

Those of methods, heads and optimizers are in `methods/test_siamese_factors.py`;
`docs/siamese-factors.md` lists all."""

import os
import shutil
import socket
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.multiprocessing.spawn import spawn
from torch.nn.functional import cross_entropy

from mezzotint import dist, load_encoder
from mezzotint.data.loader import BatchPlan
from mezzotint.encoders.table_mlp import TableMLP
from mezzotint.optim.schedules import Cosine
from mezzotint.recipe.recipe import Recipe, resolve_recipe
from mezzotint.train.checkpoint import CheckpointStore
from mezzotint.train.guard import Interrupted
from mezzotint.train.log import read_metrics
from mezzotint.train.loop import Trainer, pretrain
from mezzotint.train.online import Classifier, OnlineClassifier
from mezzotint.train.settings import Compute
from mezzotint.types import Batch, Input
from tests.tiny import METHODS, config

FAMILY: dict[str, dict[str, Any]] = {
    "v2": {"head": "mlp", "hidden_dim": 16, "dim": 8, "queue_size": 300},
    "v2plus": {
        "head": "byol",
        "symmetric": True,
        "hidden_dim": 16,
        "dim": 8,
        "queue_size": 300,
    },
}


def labeled(method: dict[str, Any], **run: Any) -> Recipe:
    """A recipe on a part of the embedded digits that come with their labels."""
    plain = config("simclr", **{"batch_size": 64} | run)
    data = {"kind": "labeled", "source": plain["data"], "fraction": 0.1}
    encoder, views = (
        {"kind": "resnet8", "stem": "small", "width": 2},
        {"kind": "two_views", "policy": "identity"},
    )
    parts = {"data": data, "method": method, "encoder": encoder, "views": views}
    return Recipe.build(resolve_recipe({**plain, **parts}))


# ---------------------------------------------------------------------- 5: the directory of a run


def test_a_run_goes_on_in_the_directory_it_is_given_and_nowhere_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)

    def made() -> Recipe:
        return labeled({"kind": "simclr", **METHODS["simclr"]}, epochs=2)

    whole = pretrain(made(), "elsewhere/whole", progress="quiet")
    Path("elsewhere/parts").mkdir()  # one that exists, and is empty, is as good as none
    monkeypatch.setenv("MEZZOTINT_FAULT", "loop.after_backward:step=2:sigterm")
    with pytest.raises(Interrupted):
        pretrain(made(), "elsewhere/parts", progress="quiet")
    monkeypatch.delenv("MEZZOTINT_FAULT")
    shutil.move("elsewhere/parts", "moved")
    out = pretrain(made(), "moved", resume=True, progress="quiet")
    assert out == Path("moved") and {p.name for p in tmp_path.iterdir()} == {"elsewhere", "moved"}
    steps = [line["step"] for line in read_metrics(out / "metrics.jsonl")]
    assert steps == [1, 2, 3, 4]
    for name, tensor in load_encoder(whole).state_dict().items():
        assert torch.equal(load_encoder(out).state_dict()[name], tensor)


# ---------------------------------------------------------------------- 6: ranks over machines


def _environment(machine: int, port: int) -> dict[str, str]:
    """What `torchrun` gives the only process of one of two machines."""
    return {
        "RANK": str(machine), "LOCAL_RANK": "0", "GROUP_RANK": str(machine), "WORLD_SIZE": "2",
        "LOCAL_WORLD_SIZE": "1", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port),
    }  # fmt: skip


def _second_machine(_: int, folder: str, port: int) -> None:
    torch.set_num_threads(1)
    os.environ |= _environment(1, port)
    _on_a_machine(1, folder)


def _on_a_machine(machine: int, folder: str) -> None:
    with dist.process_group(torch.device("cpu"), timeout_s=60.0):
        ranks = dist.gather(torch.tensor([dist.rank()]))
        plan = BatchPlan(40, 8, 0, dist.rank(), dist.world_size())
        seen = dist.gather(
            torch.stack([plan.indices(step) for step in range(plan.steps_per_epoch)]).flatten()
        )
        torch.save({"ranks": ranks, "seen": seen, "main": dist.is_main()}, f"{folder}/{machine}.pt")


def test_machines_have_ranks_of_their_own_and_share_the_samples(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    other = spawn(_second_machine, args=(str(tmp_path), port), nprocs=1, join=False)  # type: ignore[no-untyped-call]
    for key, value in _environment(0, port).items():
        monkeypatch.setenv(key, value)
    _on_a_machine(0, str(tmp_path))
    assert other.join(60.0)
    found = [torch.load(tmp_path / f"{machine}.pt", weights_only=True) for machine in range(2)]
    assert [one["main"] for one in found] == [True, False]
    for one in found:
        assert one["ranks"].tolist() == [0, 1] and sorted(one["seen"].tolist()) == list(range(40))


def test_the_device_is_the_place_on_the_machine_and_not_the_rank(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setenv("RANK", "9")  # the second process of the fifth machine of two each
    monkeypatch.setenv("LOCAL_RANK", "1")
    assert Compute(device="cuda").torch_device() == torch.device("cuda", 1)


# ---------------------------------------------------------------------- 8: with the online
# classifier, and without it


@pytest.mark.parametrize("method", FAMILY)
def test_the_classifier_is_optional_and_leaves_the_encoder_alone(
    tmp_path: Path, method: str
) -> None:
    """The authors' MoCo v2 and v2+ fail without theirs."""
    runs = {}
    for name, classifier in (("with", Classifier(lr=1.0)), ("without", None)):
        made = labeled({"kind": "moco", **FAMILY[method]})
        made.run.log.classifier = classifier
        runs[name] = pretrain(made, tmp_path / name, progress="quiet")
    saved = [CheckpointStore(run / "checkpoints").latest()[0] for run in runs.values()]
    assert (
        saved[0] is not None
        and saved[1] is not None
        and saved[0].model.keys() == saved[1].model.keys()
    )
    assert all(torch.equal(tensor, saved[1].model[name]) for name, tensor in saved[0].model.items())
    curves = [
        [line.get("classifier/top1") for line in read_metrics(run / "metrics.jsonl")]
        for run in runs.values()
    ]
    assert None not in curves[0] and set(curves[1]) == {None}


def test_the_classifier_is_torchs_on_the_features_of_the_last_view() -> None:
    made = labeled({"kind": "simclr", **METHODS["simclr"]})
    settings = Classifier(lr=0.5, weight_decay=1e-2)
    torch.manual_seed(0)
    encoder = TableMLP(Input((4,), (0.0,) * 4, (1.0,) * 4, "table")).train()
    online = OnlineClassifier(settings, made.data, encoder)
    head = torch.nn.Linear(encoder.dim, 10)
    torch.nn.init.zeros_(head.weight)
    torch.nn.init.zeros_(head.bias)
    sgd = torch.optim.SGD(head.parameters(), lr=0.5, momentum=0.9, weight_decay=1e-2)
    for step in range(4):
        generator = torch.Generator().manual_seed(step)
        first, last = (torch.randn(6, 4, generator=generator) for _ in range(2))
        labels = torch.randint(10, (6,), generator=generator)
        encoder(torch.cat([first, last]))  # as methods do that encode all views in one pass
        online.note(labels)
        with torch.no_grad():
            features = TableMLP.forward(encoder, torch.cat([first, last]))[6:]
        right = (head(features).argmax(1) == labels).float().mean()
        assert online.learn((step, 100, 10))["classifier/top1"] == pytest.approx(float(right))
        sgd.zero_grad()
        cross_entropy(head(features), labels).backward()  # type: ignore[no-untyped-call]
        sgd.step()
    torch.testing.assert_close(online.weight, head.weight.detach())
    torch.testing.assert_close(online.bias, head.bias.detach())


def test_classifier_and_average_go_on_after_a_stop(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def made() -> Recipe:
        built = labeled({"kind": "byol", **METHODS["byol"]}, epochs=2, compute={"average": 0.99})
        built.run.log.classifier = Classifier(lr=0.5)
        return built

    whole = pretrain(made(), tmp_path / "whole", progress="quiet")
    monkeypatch.setenv("MEZZOTINT_FAULT", "loop.after_backward:step=2:sigterm")
    with pytest.raises(Interrupted):
        pretrain(made(), tmp_path / "parts", progress="quiet")
    monkeypatch.delenv("MEZZOTINT_FAULT")
    parts = pretrain(made(), tmp_path / "parts", resume=True, progress="quiet")
    curves = [
        [line["classifier/top1"] for line in read_metrics(run / "metrics.jsonl")]
        for run in (whole, parts)
    ]
    assert len(curves[0]) == 4 and curves[0] == curves[1]
    one, other = (load_encoder(run).state_dict() for run in (whole, parts))
    assert all(torch.equal(one[name], other[name]) for name in one)


def test_without_classes_a_classifier_is_refused() -> None:
    made = Recipe.build(config())
    made.run.log.classifier = Classifier()
    with pytest.raises(
        ValueError,
        match="got run.log.classifier with data.kind=embedded_images, .*allowed is labeled data",
    ):
        Trainer(made, torch.device("cpu"))


# ---------------------------------------------------------------------- 10: where an epoch ends


def test_an_epoch_ends_where_the_rate_and_the_log_say(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """So many samples are four whole batches and a rest: no epoch repeats one, or runs into the next."""
    seen: list[Tensor] = []
    step = Trainer.step

    def watched(self: Trainer, number: int, batch: Batch, *rest: Any) -> dict[str, float]:
        seen.append(batch.ids)
        return step(self, number, batch, *rest)

    monkeypatch.setattr(Trainer, "step", watched)
    made = labeled({"kind": "simclr", **METHODS["simclr"]}, epochs=3, batch_size=32)
    count = len(made.data)
    assert 4 * 32 < count < 5 * 32
    made.schedule = Cosine(warmup_epochs=1.0)
    lines = read_metrics(pretrain(made, tmp_path / "run", progress="quiet") / "metrics.jsonl")
    assert [line["epoch"] for line in lines] == [n / 4 for n in range(1, 13)]
    epochs = [torch.cat(seen[first : first + 4]) for first in (0, 4, 8)]
    assert all(len(set(epoch.tolist())) == 4 * 32 for epoch in epochs)
    left_out = [set(range(count)) - set(epoch.tolist()) for epoch in epochs]
    assert all(len(rest) == count - 4 * 32 for rest in left_out) and left_out[0] != left_out[1]
    rates = [line["lr"] for line in lines]
    assert (
        rates[0] == 0.0
        and rates[3] < 1e-3
        and rates[4] == pytest.approx(1e-3)
        and rates[8] == pytest.approx(5e-4)
    )
