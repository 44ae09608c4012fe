"""Measurements: features once, samples and tasks once for all encoders, and calibration batches."""

import torch

from mezzotint.data.source import Source, Task
from mezzotint.encoders.encoder import Encoder
from mezzotint.evaluation.calibration import calibration_order, read_calibration
from mezzotint.evaluation.features import Reading, extract, raw_features
from mezzotint.evaluation.measurement import Measurement
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
