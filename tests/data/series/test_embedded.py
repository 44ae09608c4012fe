import numpy as np
import pytest
import torch

from mezzotint.augment.series import SeriesCrop
from mezzotint.augment.views import Transformed, ViewContext
from mezzotint.data.series.embedded import Smartwatch
from mezzotint.data.source import Source
from mezzotint.types import Batch


def test_windows_are_those_of_the_recordings() -> None:
    source = Smartwatch()
    assert isinstance(source, Source) and source.in_memory and source.evaluation()[1]
    everything, (task,) = source.evaluation()
    assert len(everything) == 3605 and len(source) == len(task.train) == 2460
    assert source.images.shape == (2460, 6, 128) and source.images.dtype == torch.float32
    assert len(task.classes) == 7 and set(np.unique(task.labels)) == set(range(7))
    # Windows overlap by half: the second half of one is the first half of the next of its
    # recording.
    assert torch.equal(source.images[0, :, 64:], source.images[1, :, :64])
    # The first values of the package's first recording that subject 7 made, to half a step of
    # int16.
    first = source.images[0, :, 0].double()
    expected = torch.tensor(
        [-1.083608, -0.018609, -0.02726, 0.41141, -1.603097, -2.488642]
    ).double()
    assert ((first - expected).abs() < torch.tensor([1e-4] * 3 + [5e-4] * 3)).all()


def test_the_held_out_subjects_are_seen_by_nothing_else() -> None:
    source = Smartwatch(test_subjects=[3, 5])
    everything, (task,) = source.evaluation()
    assert set(source.subject[task.test]) == {3, 5} and not set(source.subject[task.train]) & {3, 5}
    assert len(source) == len(task.train) and not set(task.train) & set(task.test)
    assert everything.read(int(task.test[0]))["label"] == task.labels[task.test[0]]
    assert len(set(everything.ids)) == len(everything)  # type: ignore[attr-defined]
    mean = source.images.double().mean(dim=(0, 2))
    torch.testing.assert_close(torch.tensor(source.input.mean).double(), mean, atol=1e-6, rtol=1e-6)
    assert Smartwatch().input.mean != source.input.mean


def test_settings_are_chosen_without_the_test_subjects() -> None:
    source = Smartwatch(subjects=[1, 2, 3, 4, 5, 6, 7], test_subjects=[2, 4, 6])
    assert set(source.subject) == set(range(1, 8))
    assert len(source.evaluation()[0]) == len(Smartwatch())


def test_pretraining_may_see_longer_stretches_than_the_evaluation() -> None:
    source = Smartwatch(context=512)
    everything, (task,) = source.evaluation()
    assert source.images.shape[1:] == (6, 512) and source.input.shape == (6, 128)
    assert len(everything) == 3605 and everything.read(0)["x"].shape == (6, 128)
    assert torch.equal(source.images[0, :, :128], everything.read(0)["x"]) and len(source) < len(
        task.train
    )
    assert source.input == Smartwatch().input and len(source.ids) == len(source.labels) == len(
        source
    )
    views = Transformed(transforms=[SeriesCrop(low=0.25, high=0.25, steps=128)])
    batch = Batch((source.read_batch(torch.arange(8)),), torch.arange(8))
    a, b = views.render(batch, ViewContext(source.input, 0, 0))
    assert a.shape == b.shape == (8, 6, 128) and not torch.equal(a, b)


def test_other_windows() -> None:
    source = Smartwatch(window=256, stride=256, test_subjects=[1])
    assert source.images.shape[1:] == (6, 256) and source.input.shape == (6, 256)


@pytest.mark.parametrize(
    "keywords",
    [
        {"window": 1},
        {"window": 5000},
        {"stride": 0},
        {"context": 64},
        {"context": 1000},
        {"test_subjects": [11]},
        {"subjects": [1, 2], "test_subjects": [3]},
        {"subjects": [1, 2], "test_subjects": [1, 2]},
    ],
)
def test_settings_that_mean_nothing_are_refused(keywords: dict[str, object]) -> None:
    with pytest.raises(ValueError, match="^`.* must be .*, got .*. (Try|Correct) "):
        Smartwatch(**keywords)  # type: ignore[arg-type]
