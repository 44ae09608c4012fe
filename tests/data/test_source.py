"""The defaults of a source, and the tasks of labeled samples, against plain loops."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from mezzotint.data.source import Source, Task, first_classification, label_tasks
from mezzotint.types import Input, Sample


class Ramp(Source):
    """Five samples that hold their own number."""

    def __init__(self) -> None:
        self.input = Input((1, 2, 2), (0.5,), (0.5,))

    def __len__(self) -> int:
        return 5

    def read(self, index: int) -> Sample:
        x = torch.full((1, 2, 2), index, dtype=torch.uint8)
        return {"x": x, "id": f"ramp/{index}", "label": None}

    def fingerprint(self) -> str:
        return "ramp"


def test_everything_but_reading_has_a_default() -> None:
    source = Ramp()
    assert source.evaluation() == (source, ()) and source.with_context() is source
    assert source.id_of(3) == "ramp/3" and source.targets(torch.arange(2)) is None
    assert source.read_batch(torch.tensor([4, 0]))[:, 0, 0, 0].tolist() == [4, 0]
    assert source.config == {"kind": "ramp"} and source.labels is None and source.credit == ""
    assert not source.in_memory and not source.croppable and source.weighting is None


def test_what_a_source_cannot_do_is_refused() -> None:
    source = Ramp()
    with pytest.raises(NotImplementedError, match="Ramp opens no files"):
        Ramp.located("x", source.input)
    for read in (source.read_crops, source.read_encoded):
        with pytest.raises(NotImplementedError, match="Ramp reads whole samples only"):
            read(0, lambda height, width: [])
    with pytest.raises(
        ValueError, match="`ramp` has no clips or crops .*, got clips=2 and crops=1"
    ):
        source.multi_crop(2, 1)


def test_an_incomplete_source_cannot_be_made() -> None:
    class Incomplete(Source):
        """No samples."""

    with pytest.raises(TypeError, match="abstract"):
        Incomplete()  # type: ignore[abstract]


@given(st.lists(st.tuples(st.integers(-1, 2), st.booleans()), max_size=20))
def test_a_label_task_splits_as_a_loop_does(samples: list[tuple[int, bool]]) -> None:
    labels = np.array([label for label, _ in samples], np.int64)
    test = np.array([is_test for _, is_test in samples], np.bool_)
    tasks = label_tasks("label/x", labels, test, ["a", "b", "c"])
    learned = {label for label, is_test in samples if label >= 0 and not is_test}
    assert bool(tasks) == (len(learned) > 1 and any(t for label, t in samples if label >= 0))
    if not tasks:
        return
    (task,) = tasks
    known = [i for i, (label, _) in enumerate(samples) if label >= 0]
    assert task.train.tolist() == [i for i in known if not samples[i][1]]
    assert task.test.tolist() == [i for i in known if samples[i][1]]
    assert label_tasks("label/x", labels, test, ["a"]) == []


def test_the_first_classification_is_chosen() -> None:
    index = np.arange(2)
    tags = Task("tags", "tag", np.ones((2, 3), np.bool_), index, index)
    found = [Task(name, "classify", index, index, index) for name in ("first", "second")]
    assert first_classification([tags, *found]) is found[0]
    assert first_classification([tags]) is None
