"""The online classifier against torch, and online kNN on held-out training samples."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch.nn.functional import cross_entropy

from mezzotint import load_encoder
from mezzotint.encoders.rows import TableMLP
from mezzotint.evaluation.features import extract
from mezzotint.evaluation.knn import KNN
from mezzotint.recipe.recipe import Recipe, resolve_recipe
from mezzotint.train.checkpoint import CheckpointStore
from mezzotint.train.log import read_metrics
from mezzotint.train.loop import Trainer, pretrain
from mezzotint.train.online import Classifier, OnlineClassifier, OnlineKNN
from mezzotint.train.signals import Interrupted
from mezzotint.types import Features, Input
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
        cross_entropy(head(features), labels).backward()
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
        match="`run.log.classifier` needs a labeled source .*, got data.kind=embedded_images",
    ):
        Trainer(made, torch.device("cpu"))


TRAIN, VALIDATION = slice(40, None), slice(40)


def test_knn_scores_a_held_out_fifth_of_the_training_samples() -> None:
    made = Recipe.build(config())
    online = OnlineKNN(made.data, limit=200)
    source, tasks = made.data.evaluation()
    task = next(t for t in tasks if t.kind == "classify")
    assert len(online.indices) == 200 and set(online.indices.tolist()) <= set(task.train.tolist())
    features = extract(made.encoder, source, indices=online.indices)
    labels = torch.from_numpy(task.labels)[online.indices]
    train, validation = (Features(features[rows], labels[rows]) for rows in (TRAIN, VALIDATION))
    rows = KNN().run(train, validation)
    expected = next(row.value for row in rows if row.metric == "top1")
    assert online.measure(made.encoder) == {f"knn/{task.name}": expected}
