"""Measurements: features once, samples and tasks once for all encoders, and calibration batches."""

from collections.abc import Sequence

import torch

from mezzotint.data.source import Source, Task
from mezzotint.encoders.encoder import Encoder
from mezzotint.evaluation.calibration import calibration_order, read_calibration
from mezzotint.evaluation.features import Kept, Reading, extract, raw_features
from mezzotint.evaluation.measurement import Measurement, limited
from mezzotint.types import Sample
from tests.evaluation.stripes import COUNT, INPUT, Net, Stripes


class Counted(Stripes):
    """Counts the calls of `evaluation`."""

    calls = 0

    def evaluation(self) -> tuple[Source, list[Task]]:
        self.calls += 1
        samples, tasks = super().evaluation()
        return samples, list(tasks)


class Tokens(Encoder):
    """Three tokens per sample: the rows of the image, two by two."""

    def tokens(self, x: torch.Tensor) -> torch.Tensor:
        return x.reshape(len(x), 3, 12)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.tokens(x).mean(dim=1)


def test_features_are_extracted_once_and_the_source_is_evaluated_once(trained: Net) -> None:
    source = Counted()
    measurement = Measurement(trained, source)
    assert measurement.features is measurement.features and measurement.raw is measurement.raw
    assert torch.equal(measurement.features.x, extract(trained, source))
    assert torch.equal(measurement.raw.x, raw_features(source).x)
    assert measurement.handmade is measurement.handmade is measurement.of(Net()).handmade
    other = measurement.of(Net())
    assert other.samples is measurement.samples and len(other.tasks) == 2
    assert other.reading is measurement.reading and source.calls == 1
    assert not torch.equal(other.features.x, measurement.features.x)


def test_patches_are_tokens_by_sample() -> None:
    patches = Measurement(Tokens(INPUT, 12), Stripes()).patches
    assert patches.x.shape == (COUNT, 3, 12)
    features = Measurement(Tokens(INPUT, 12), Stripes()).features
    torch.testing.assert_close(patches.x.mean(dim=1), features.x)


def test_calibration_is_read_in_order_and_limited_only_by_default(trained: Net) -> None:
    source = Stripes()
    measurement = Measurement(trained, source, Reading(16))
    order = calibration_order(measurement.tasks, COUNT)
    batches = measurement.calibration(measurement.tasks, 40)
    assert [len(x) for x in batches] == [16, 16, 8]
    expected = torch.cat(read_calibration(source, INPUT, order, 40))
    assert torch.equal(torch.cat(batches), expected)
    assert sum(map(len, measurement.calibration(measurement.tasks, most=20))) == 20
    assert sum(map(len, measurement.calibration(measurement.tasks, 30, most=20))) == 30


class Files(Source):
    """The same stripes as if they were files; counts what is read."""

    def __init__(self) -> None:
        self.whole, self.input, self.reads = Stripes(), INPUT, 0

    def __len__(self) -> int:
        return len(self.whole)

    def read(self, index: int) -> Sample:
        self.reads += 1
        return self.whole.read(index)

    def fingerprint(self) -> str:
        return "stripes"

    def evaluation(self) -> tuple[Source, Sequence[Task]]:
        return self, self.whole.evaluation()[1]


def test_files_are_read_once_for_all_encoders(trained: Net) -> None:
    source = Files()
    measurement = Measurement(trained, source)
    expected = extract(trained, Stripes())
    for _ in range(2):
        assert torch.equal(measurement.of(trained).features.x, expected)
    assert torch.equal(measurement.raw.x, raw_features(Stripes()).x)
    assert source.reads == COUNT
    kept = Kept(most=10)  # bytes: nothing fits
    small = Measurement(trained, source, Reading(kept=kept))
    assert torch.equal(small.features.x, expected) and torch.equal(small.raw.x, measurement.raw.x)
    assert source.reads == 3 * COUNT


def test_fewer_samples_are_the_same_part_of_each_task_for_every_encoder(trained: Net) -> None:
    source = Files()
    whole = source.evaluation()[1]
    measurement = Measurement(trained, source, most=20)
    for task, full in zip(measurement.tasks, whole, strict=True):
        assert len(task.train) == min(20, len(full.train))
        assert {*task.train} <= {*full.train} and {*task.test} <= {*full.test}
        assert (task.labels == full.labels).all()
    needed = {int(i) for task in measurement.tasks for i in (*task.train, *task.test)}
    assert {*measurement.features.indices.tolist()} == needed and source.reads == len(needed)
    assert torch.equal(measurement.raw.indices, measurement.features.indices)
    again = Measurement(Net(), source, most=20)
    assert all(
        (a.test == b.test).all() for a, b in zip(again.tasks, measurement.tasks, strict=True)
    )
    assert limited(whole, COUNT, COUNT) == (whole, None)
    tasks, indices = limited([], 100, 20)
    assert not tasks and indices is not None and len(indices) == 40 == len(indices.unique())
