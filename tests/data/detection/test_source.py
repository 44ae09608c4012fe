"""Scenes that are pasted together here, and folders in VOC and COCO format."""

import torch

from mezzotint.data.detection.source import paint


def test_later_objects_cover_earlier_ones() -> None:
    masks = torch.ones(2, 2, 2, dtype=torch.bool)
    masks[1, 0] = False
    assert paint(masks, torch.tensor([4, 1]), torch.tensor([False, False])).tolist() == [
        [5, 5],
        [2, 2],
    ]
