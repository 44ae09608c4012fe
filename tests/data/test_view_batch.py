"""A batch of chosen samples equals the loader's, and its boxes are the crops that views show."""

from pathlib import Path

import numpy as np
import torch
from PIL import Image

from mezzotint.augment.image.geometry import RandomResizedCrop
from mezzotint.augment.image.policies import identity
from mezzotint.augment.image.views import TwoViews
from mezzotint.data.image.embedded import EmbeddedImages
from mezzotint.data.image.folder import ImageFolder
from mezzotint.data.loader import BatchPlan, batches
from mezzotint.data.view_batch import view_batch
from mezzotint.types import Crop


def views() -> TwoViews:
    return TwoViews(policy=identity(), crop=RandomResizedCrop(scale=(0.2, 0.8)), flip=0.0)


def folder(root: Path, count: int = 6) -> ImageFolder:
    for number in range(count):
        pixels = np.random.default_rng(number).integers(
            0, 255, (40 + number, 30, 3), dtype=np.uint8
        )
        Image.fromarray(pixels).save(root / f"{number}.png")
    return ImageFolder(root=str(root), size=16)


def test_crops_and_boxes_are_those_of_the_loader(tmp_path: Path) -> None:
    source, generator = folder(tmp_path), views()
    (loaded,) = batches(source, generator, BatchPlan(6, 6, seed=4), start=0, stop=1)
    batch, boxes = view_batch(source, generator, loaded.ids, input=source.input, seed=4)
    assert batch.cropped and torch.equal(batch.ids, loaded.ids)
    assert all(map(torch.equal, batch.x, loaded.x)) and len(batch.x) == 2
    assert boxes is not None and boxes.shape == (6, 2, 4)
    assert (boxes >= 0.0).all() and (boxes[..., :2] + boxes[..., 2:] <= 1.0).all()
    for row, index in enumerate(batch.ids.tolist()):
        height, width = 40 + index, 30
        top, left, h, w = (boxes[row, 1] * torch.tensor([height, width] * 2)).round().int().tolist()
        (crop,) = source.read_crops(index, lambda *_: [Crop((top, left, h, w), 16)])  # noqa: B023
        assert torch.equal(crop, batch.x[1][row])


def test_images_in_memory_are_whole_and_their_boxes_are_drawn() -> None:
    source, generator = EmbeddedImages(name="digits"), views()
    ids = torch.tensor([5, 900])
    batch, boxes = view_batch(source, generator, ids, input=source.input, seed=0)
    assert not batch.cropped and torch.equal(batch.x[0], source.read_batch(ids))
    assert boxes is not None and boxes.shape == (2, 2, 4) and (boxes[..., 2:] < 1.0).all()
    _, again = view_batch(source, generator, ids.flip(0), input=source.input, seed=0)
    assert again is not None and torch.equal(again.flip(0), boxes)


def test_unreadable_samples_are_dropped(tmp_path: Path) -> None:
    source = folder(tmp_path)
    (tmp_path / "2.png").write_bytes(b"no image")
    batch, boxes = view_batch(source, views(), torch.arange(6), input=source.input, seed=0)
    assert batch.ids.tolist() == [0, 1, 3, 4, 5] and boxes is not None and len(boxes) == 5
