"""The suite: every task by its probes, and both baselines."""

import json
from collections.abc import Iterator, Sequence
from dataclasses import fields
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from mezzotint.data.memory import InMemory
from mezzotint.data.source import Source, Task
from mezzotint.encoders.encoder import Encoder
from mezzotint.evaluation.features import extract, raw_features
from mezzotint.evaluation.knn import KNN
from mezzotint.evaluation.label_free import Rank, alignment
from mezzotint.evaluation.linear import Linear
from mezzotint.evaluation.measurement import Measurement
from mezzotint.evaluation.probe import Row
from mezzotint.evaluation.results import (
    read_baselines,
    read_evaluation,
    write_evaluation,
)
from mezzotint.evaluation.retrieval import Retrieval
from mezzotint.evaluation.suite import baselines, evaluate_encoder
from mezzotint.modality.image import image_statistics
from mezzotint.types import Features, Input, Sample, Unreadable
from tests.evaluation.test_results import KEYS


class Blobs(InMemory):
    """Sixty images in three classes: each has a noisy copy thirty indices later."""

    def __init__(self, overlap: int = 0, bad: tuple[int, ...] = ()) -> None:
        g = torch.Generator().manual_seed(0)
        self.input = Input((1, 4, 4), (0.5,), (0.25,))
        label = torch.arange(30) % 3
        once = 60 * label.view(-1, 1, 1, 1) + torch.randint(100, (30, 1, 4, 4), generator=g)
        noise = torch.randint(-9, 10, (30, 1, 4, 4), generator=g)
        self.images = torch.cat((once, once + noise)).clamp(0, 255).to(torch.uint8)
        self.labels = np.tile(label.numpy(), 2)
        self.ids = "blobs"
        self.overlap, self.bad = overlap, bad

    def evaluation(self) -> tuple[Source, Sequence[Task]]:
        first, second = np.arange(30), np.arange(30 - self.overlap, 60)
        return (self if not self.bad else Broken(self)), [
            Task("class", "classify", self.labels, first, second, ["a", "b", "c"]),
            Task("same", "retrieve", np.tile(np.arange(30), 2), first, second),
        ]


class Broken(Source):
    """The same samples through `read`; some fail."""

    def __init__(self, whole: Blobs) -> None:
        self.whole, self.input = whole, whole.input

    def __len__(self) -> int:
        return len(self.whole)

    def read(self, index: int) -> Sample:
        if index in self.whole.bad:
            raise Unreadable(str(index), "broken")
        return self.whole.read(index)

    def fingerprint(self) -> str:
        return "0"


class Net(Encoder):
    def __init__(self, seed: int) -> None:
        super().__init__(Input((1, 4, 4), (0.5,), (0.25,)), dim=8)
        self.linear = nn.Linear(16, 8)
        generator = torch.Generator().manual_seed(seed)
        nn.init.normal_(self.linear.weight, generator=generator)
        nn.init.zeros_(self.linear.bias)

    def forward(self, x: Tensor) -> Tensor:
        features: Tensor = torch.relu(self.linear(x.flatten(1)))
        return features


def by_metric(rows: Sequence[Row]) -> dict[tuple[str, str, int], float]:
    found = {(row.probe, row.metric, row.seed): row.value for row in rows}
    assert len(found) == len(rows)  # no result twice
    return found


def test_every_task_by_every_probe_that_answers_it() -> None:
    source = Blobs()
    found = evaluate_encoder(Measurement(Net(0), source), seeds=2)
    x, y = extract(Net(0), source), torch.from_numpy(source.labels)
    train, test = Features(x[:30], y[:30]), Features(x[30:], y[30:])
    identity = torch.arange(30)
    expected = {("knn", f"class/{r.metric}", 0): r.value for r in KNN().run(train, test)}
    expected |= {
        ("linear", f"class/{r.metric}", r.seed): r.value for r in Linear().run(train, test, seeds=2)
    }
    retrieved = Retrieval().run(Features(x[:30], identity), Features(x[30:], identity))
    expected |= {("retrieval", f"same/{r.metric}", 0): r.value for r in retrieved}
    expected |= {
        ("rank", f"all/{r.metric}", 0): r.value for r in Rank().run(Features(x), Features(x))
    }
    expected["rank", "same/alignment", 0] = alignment(x[:30], x[30:])
    assert by_metric(found.rows) == pytest.approx(expected)
    assert found.verdict.startswith("healthy")
    assert all(
        str(row.protocol).endswith(" train=30 test=30")
        for row in found.rows
        if not row.metric.startswith("all/")
    )


def test_only_the_probes_that_were_asked() -> None:
    rows = evaluate_encoder(Measurement(Net(0), Blobs()), probes=[KNN(k=3), Rank()]).rows
    assert {row.probe for row in rows} == {"knn", "rank"}
    assert sum(row.metric == "all/rankme" for row in rows) == 1


def test_a_rank_probe_is_measured_once_for_the_baselines_too() -> None:
    probes = [KNN(k=3), Rank()]
    compared = baselines(Measurement(Net(0), Blobs()), Net, probes=probes, seeds=2)
    for rows, seeds in ((compared.raw, 1), (compared.untrained, 2)):
        assert sum(row.metric == "all/rankme" for row in rows) == seeds


class Patched(Net):
    """The four rows of an image as patch tokens."""

    def tokens(self, x: Tensor) -> Tensor:
        return x.squeeze(1)

    def __init__(self, seed: int = 0) -> None:
        super().__init__(seed)
        self.dim = 4


class Folded(Blobs):
    """Two folds."""

    def evaluation(self) -> tuple[Source, Sequence[Task]]:
        halves = np.arange(30), np.arange(30, 60)
        return self, [
            Task(f"class/fold-{n}", "classify", self.labels, halves[1 - n], halves[n], list("abc"))
            for n in range(2)
        ]


def test_probes_of_patches_are_averaged_over_folds_like_all_others() -> None:
    class Middle(KNN):
        name = "middle"
        tokens = True

        def run(self, train: Features, test: Features, *, seeds: int = 1) -> Iterator[Row]:
            yield self.row("top1", train.x[:, 1].mean().item())

    encoder = Patched()
    found = evaluate_encoder(Measurement(encoder, Folded()), probes=[Middle()], seeds=1).rows
    compared = baselines(Measurement(encoder, Folded()), Patched, probes=[Middle()], seeds=1)
    for rows in (found, compared.untrained):
        values = {row.metric: row.value for row in rows if row.probe == "middle"}
        assert values.keys() == {f"class/{part}/top1" for part in ("fold-0", "fold-1", "folds")}
        mean = (values["class/fold-0/top1"] + values["class/fold-1/top1"]) / 2
        assert values["class/folds/top1"] == pytest.approx(mean)


def test_without_tasks_the_label_free_measures_remain() -> None:
    found = evaluate_encoder(Measurement(Net(0), Broken(Blobs())))
    assert {row.metric.split("/")[0] for row in found.rows} == {"all"}


def test_a_sample_in_both_parts_is_refused() -> None:
    with pytest.raises(ValueError, match="Task `class` has 2 samples in both training and test"):
        evaluate_encoder(Measurement(Net(0), Blobs(overlap=2)))


def test_unreadable_samples_leave_their_tasks() -> None:
    found = evaluate_encoder(Measurement(Net(0), Blobs(bad=(1, 59))), probes=[KNN(), Retrieval()])
    assert [bad.id for bad in found.bad] == ["1", "59"]
    protocol = {
        row.probe: str(row.protocol) for row in found.rows if not row.metric.startswith("all/")
    }
    assert protocol["knn"].endswith("train=29 test=29")
    whole = evaluate_encoder(Measurement(Net(0), Blobs()), probes=[KNN(), Retrieval()])
    assert by_metric(found.rows)["retrieval", "same/top1", 0] == pytest.approx(
        by_metric(whole.rows)["retrieval", "same/top1", 0], abs=0.1
    )


def test_the_baselines_are_raw_input_handmade_features_and_untrained_encoders() -> None:
    source = Blobs()
    compared = baselines(Measurement(Net(0), source), Net, seeds=3)
    raw, untrained = by_metric(compared.raw), by_metric(compared.untrained)
    for seed in range(3):
        alone = by_metric(evaluate_encoder(Measurement(Net(seed), source), seeds=1).rows)
        assert {k: v for k, v in untrained.items() if k[2] == seed} == {
            (p, m, seed): v for (p, m, _), v in alone.items()
        }
    x = raw_features(source).x
    y = torch.from_numpy(source.labels)
    for row in KNN().run(Features(x[:30], y[:30]), Features(x[30:], y[30:])):
        assert raw["knn", f"class/{row.metric}", 0] == row.value
    x = image_statistics(source.input.prepare(source.images))
    handmade = by_metric(compared.handmade)
    for probe in (KNN(), Linear()):
        found = probe.run(Features(x[:30], y[:30]), Features(x[30:], y[30:]), seeds=3)
        for row in found:
            assert handmade[probe.name, f"class/{row.metric}", row.seed] == pytest.approx(row.value)
    assert handmade.keys() == raw.keys()  # the same probes, tasks, samples and seeds


def test_the_files_have_exactly_the_agreed_keys_and_read_back(tmp_path: Path) -> None:
    found, compared = (
        evaluate_encoder(Measurement(Net(0), Blobs()), seeds=2),
        baselines(Measurement(Net(0), Blobs()), Net, seeds=2),
    )
    write_evaluation(tmp_path, found, compared)
    rows = json.loads((tmp_path / "evaluation.json").read_text())
    parts = json.loads((tmp_path / "baselines.json").read_text())
    assert {field.name for field in fields(Row)} == KEYS
    assert set(parts) == {"raw", "untrained", "handmade"} and all(parts.values())
    assert all(
        set(row) == KEYS for row in [*rows, *(row for part in parts.values() for row in part)]
    )
    assert repr(read_evaluation(tmp_path)) == repr(
        found.rows
    )  # by repr, since NaN is not equal to itself
    assert repr(read_baselines(tmp_path)) == repr(compared)
    assert sorted(p.name for p in tmp_path.iterdir()) == [
        "baselines.json",
        "evaluation.json",
        "seals.json",
    ]
