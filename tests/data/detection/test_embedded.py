"""Emoji pasted on photographs, with boxes, masks and class maps."""

import pytest
import torch

from mezzotint.data.detection.embedded import Pasted, boxes_of


def test_pasted_samples_are_a_function_of_seed_part_and_index() -> None:
    data, again, other = (
        Pasted(images=4, test_images=3),
        Pasted(images=9, test_images=3),
        Pasted(seed=1),
    )
    for part, index in (("train", 3), ("test", 2)):
        a, b, c = (source.read(part, index) for source in (data, again, other))  # type: ignore[arg-type]
        assert torch.equal(a.image, b.image) and torch.equal(a.boxes, b.boxes) and a.id == b.id
        assert not torch.equal(a.image, c.image)
    assert (data.count("train"), data.count("test")) == (4, 3) and len(data.classes) == 10
    assert Pasted(one_class=True).classes == ("emoji",)


def test_pasted_boxes_masks_and_classes_agree() -> None:
    data = Pasted(images=12, objects=(2, 3))
    for index in range(12):
        sample = data.read("train", index)
        assert sample.image.shape == (3, 96, 96) and sample.image.dtype == torch.uint8
        assert (
            sample.masks is not None and sample.classes is not None and 1 <= len(sample.labels) <= 3
        )
        assert (
            torch.equal(sample.boxes, boxes_of(sample.masks))
            and int(sample.masks.sum(0).max()) == 1
        )
        sides = sample.boxes[:, 2:] - sample.boxes[:, :2]
        assert float(sides.max()) <= 48 and float(sides.min()) >= 2
        for mask, label in zip(sample.masks, sample.labels, strict=True):
            assert set(sample.classes[mask].tolist()) == {int(label) + 1}
        assert not sample.classes[~sample.masks.any(0)].any()


def test_emoji_of_test_samples_are_never_learned() -> None:
    data = Pasted()
    train, test = (set(data._pools[part].tolist()) for part in ("train", "test"))
    assert not train & test and len(train | test) == 3822
    assert {i % 1911 for i in train}.isdisjoint(i % 1911 for i in test)  # in neither style
    with pytest.raises(
        ValueError, match=r"maximum of at most `size`, got size=96 and scale=\[24, 200\]"
    ):
        Pasted(scale=(24, 200))
