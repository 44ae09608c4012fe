"""Labeled training samples: the right fraction, readable like their source."""

import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from mezzotint.augment.image.views import OneView
from mezzotint.augment.views import ViewContext
from mezzotint.data.image.embedded import EmbeddedImages
from mezzotint.data.image.folder import ImageFolder
from mezzotint.data.labeled import Labeled
from mezzotint.data.loader import BatchPlan, batches
from mezzotint.data.source import Task
from mezzotint.types import Batch

DIGITS = EmbeddedImages(name="digits")


def counts(data: Labeled) -> list[int]:
    return torch.bincount(data.targets(torch.arange(len(data)))).tolist()


def test_training_samples_alone_with_their_labels() -> None:
    data = Labeled(source=DIGITS)
    _, (task,) = DIGITS.evaluation()
    assert data.chosen.tolist() == task.train.tolist() and data.num_classes == 10
    assert not set(data.chosen.tolist()) & set(task.test.tolist())
    assert (
        data.targets(torch.tensor([3])).item()
        == task.labels[task.train[3]]
        == data.read(3)["label"]
    )
    assert torch.equal(data.read_batch(torch.tensor([3]))[0], data.read(3)["x"])
    assert data.in_memory and data.targets(torch.arange(1)) is not None and not data.croppable
    _, (own,) = data.evaluation()
    assert own.test.tolist() == task.test.tolist()


def test_shares_are_of_each_class_alike_and_nested() -> None:
    everything, tenth, hundredth = (Labeled(source=DIGITS, fraction=f) for f in (1.0, 0.1, 0.01))
    assert (
        counts(tenth) == [round(0.1 * n) for n in counts(everything)]
        and counts(hundredth) == [1] * 10
    )
    assert (
        set(hundredth.chosen.tolist())
        < set(tenth.chosen.tolist())
        < set(everything.chosen.tolist())
    )
    assert counts(Labeled(source=DIGITS, per_class=5)) == [5] * 10
    other = Labeled(source=DIGITS, fraction=0.1, seed=1)
    assert other.fingerprint() != tenth.fingerprint() != everything.fingerprint()
    assert Labeled(source=DIGITS, fraction=0.1).fingerprint() == tenth.fingerprint()


def test_a_list_of_names_is_followed_exactly(tmp_path: Path) -> None:
    data = Labeled(source=DIGITS)
    assert True
    wanted = [DIGITS.id_of(int(i)) for i in data.chosen[[4, 9, 2]]]
    (tmp_path / "list.txt").write_text(
        "\n".join([wanted[0], wanted[1].rpartition("/")[2], wanted[2]]) + "\n"
    )
    listed = Labeled(source=DIGITS, files=str(tmp_path / "list.txt"))
    assert listed.chosen.tolist() == sorted(data.chosen[[4, 9, 2]].tolist())
    test = DIGITS.id_of(int(DIGITS.evaluation()[1][0].test[0]))
    (tmp_path / "list.txt").write_text(test)
    with pytest.raises(
        ValueError,
        match="must list ids of training samples such as .*1 of 1 names are not among them",
    ):
        Labeled(source=DIGITS, files=str(tmp_path / "list.txt"))
    with pytest.raises(ValueError, match="cannot be read"):
        Labeled(source=DIGITS, files=str(tmp_path / "none.txt"))


@pytest.mark.parametrize(
    "keys, message",
    [
        ({"fraction": 0.0}, r"`fraction` must be in \(0, 1\]"),
        ({"per_class": 0}, "`per_class` 1 or more, got fraction=1.0 and per_class=0"),
        (
            {"fraction": 0.5, "per_class": 2},
            "Only one of `fraction`, `per_class` and `files` can be set",
        ),
        ({"per_class": 900}, r"must be at most \d+, the training samples of class 0, got 900"),
        ({"task": "color"}, "`task` must be one of digit/holdout, got 'color'"),
    ],
)
def test_what_cannot_be_is_refused(keys: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Labeled(source=DIGITS, **keys)


def test_tags_are_bool_rows_and_a_share_of_them_is_drawn_as_one() -> None:
    class Tagged(EmbeddedImages):
        def evaluation(self) -> Any:
            rows = np.arange(len(self))
            tags = np.stack([rows % 2 == 0, rows % 3 == 0], axis=1)
            return self, [
                Task("tags/holdout", "tag", tags, rows[:100], rows[100:], ("even", "third"))
            ]

    data = Labeled(source=Tagged(name="digits"), fraction=0.25)
    assert len(data) == 25 and data.num_classes == 2 and data.task.kind == "tag"
    expected = [[i % 2 == 0, i % 3 == 0] for i in data.chosen.tolist()]
    assert data.targets(torch.arange(25)).tolist() == expected
    with pytest.raises(ValueError, match="`per_class` must be null for tags, got 2"):
        Labeled(source=Tagged(name="digits"), per_class=2)


def folder(root: Path) -> Path:
    rng = np.random.default_rng(0)
    for number in range(12):
        position = root / ("train" if number < 8 else "val") / ("cats" if number % 2 else "dogs")
        position.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 255, (20, 24, 3), dtype=np.uint8)).save(
            position / f"{number}.png"
        )
    return root


def test_labels_follow_the_samples_that_were_really_read(tmp_path: Path) -> None:
    """A file that cannot be read is replaced by the next one, whose label may be another."""
    data = Labeled(source=ImageFolder(root=str(folder(tmp_path)), size=16))
    assert pickle.loads(pickle.dumps(data)).croppable  # workers get a copy
    assert data.targets(torch.arange(8)).tolist() == [0, 0, 0, 0, 1, 1, 1, 1]
    (tmp_path / "train" / "cats" / "7.png").write_bytes(b"no image")  # index 3; the next is a dog
    plan = BatchPlan(8, 8, 0)
    (batch,) = batches(data, OneView(), plan, start=0, stop=1)
    expected = [1 if index == 3 else int(index > 3) for index in plan.indices(0).tolist()]
    assert batch.labels is not None and batch.labels.tolist() == expected and len(batch.bad) == 1


def test_micro_batches_keep_their_labels() -> None:
    batch = Batch((torch.arange(6).view(6, 1, 1, 1),), torch.arange(6), labels=torch.arange(6) * 10)
    parts = [part.labels for part in batch.split(3)]
    assert [part.tolist() for part in parts if part is not None] == [[0, 10], [20, 30], [40, 50]]
    (views,) = (
        OneView()(
            Batch(
                (torch.zeros(2, 1, 8, 8, dtype=torch.uint8),), torch.arange(2), labels=torch.ones(2)
            ),
            ViewContext(DIGITS.input, 0, 0),
            step=0,
        ),
    )
    assert views.labels is not None and views.labels.tolist() == [1, 1]
