"""Calibration samples: which, how many, and what is refused."""

import numpy as np
import pytest
import torch

from mezzotint.data.image.embedded import EmbeddedImages
from mezzotint.evaluation.calibration import calibration_order, read_calibration
from mezzotint.evaluation.features import Reading
from tests.evaluation.stripes import COUNT, INPUT, Stripes


def test_calibration_is_of_training_samples_alone_and_of_the_number_asked() -> None:
    source, count = EmbeddedImages(name="emoji"), 512
    samples, tasks = source.evaluation()
    order = calibration_order(tasks, len(samples))
    tested = np.unique(np.concatenate([task.test for task in tasks]))
    trained_on = np.unique(np.concatenate([task.train for task in tasks]))
    assert (
        len(np.intersect1d(order.numpy(), tested)) == 0 and np.isin(order.numpy(), trained_on).all()
    )
    assert len(set(order.tolist())) == len(order) and not torch.equal(order, order.sort().values)
    assert torch.equal(order, calibration_order(tasks, len(samples)))
    assert not torch.equal(order, calibration_order(tasks, len(samples), seed=1))
    batches = read_calibration(samples, source.input, order, count, Reading(100))
    assert [len(batch) for batch in batches] == [100] * 5 + [12]
    mean, std = (torch.tensor(v).view(-1, 1, 1) for v in (source.input.mean, source.input.std))
    torch.testing.assert_close(
        torch.cat(batches), (source.read_batch(order[:count]) / 255.0 - mean) / std
    )


def test_calibration_passes_over_what_cannot_be_read() -> None:
    source = Stripes()
    order = calibration_order(source.evaluation()[1], COUNT)
    assert len(order) == 60  # 80 training samples less 20 that the other task tests on
    bad = tuple(order[[0, 3, 30]].tolist())
    kept = [index for index in order.tolist() if index not in bad]
    broken = Stripes(bad).evaluation()[0]
    found = torch.cat(read_calibration(broken, INPUT, order, 32, Reading(8)))
    assert torch.equal(found, torch.cat(read_calibration(source, INPUT, torch.tensor(kept), 32)))
    assert sum(map(len, read_calibration(broken, INPUT, order))) == 57, (
        "all that can be read, by default"
    )
    with pytest.raises(
        ValueError,
        match="`evaluate.calibration_samples` must be at most 57, the readable .* 60, got 58",
    ):
        read_calibration(broken, INPUT, order, 58)
    for count in (0, 61):
        with pytest.raises(ValueError, match=f"`--calibration` must be 1 to 60, .* got {count}"):
            read_calibration(source, INPUT, order, count, option="--calibration")
    with pytest.raises(ValueError, match="There are no calibration samples"):
        read_calibration(source, INPUT, order[:0])
    with pytest.raises(ValueError, match="There are no calibration samples: 3 are trained on"):
        read_calibration(broken, INPUT, torch.tensor(bad))
