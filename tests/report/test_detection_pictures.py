"""Pictures of detection samples count correct predictions."""

from typing import Any

import pytest
import torch

from mezzotint.data.detection.source import VOID, DetectionSample
from mezzotint.detection.average_precision import Detections
from mezzotint.report.detection_pictures import found_picture, map_picture, true_picture


def sample(**keys: Any) -> DetectionSample:
    boxes, none = (
        torch.tensor([[4.0, 4, 20, 20], [30, 30, 44, 44]]),
        torch.zeros(2, dtype=torch.bool),
    )
    gray = torch.full((3, 48, 48), 128, dtype=torch.uint8)
    labels = torch.tensor([0, 1])
    defaults = {"id": "s", "image": gray, "boxes": boxes, "labels": labels}
    return DetectionSample(**{**defaults, "ignored": none, "crowd": none, **keys})


@pytest.mark.parametrize(
    ("boxes", "labels", "words"),
    [
        ([[4, 4, 20, 20], [30, 30, 44, 44]], [0, 1], "2 of 2 found"),
        ([[4, 4, 20, 20], [4, 4, 20, 20]], [0, 0], "1 of 2 found"),  # the same object twice
        ([[4, 4, 20, 20], [30, 30, 44, 44]], [1, 1], "1 of 2 found"),  # another class
        ([[4, 4, 20, 11], [30, 30, 44, 44]], [0, 1], "1 of 2 found"),  # less than half of it
        (
            [[0, 40, 5, 45], [0, 40, 5, 45], [4, 4, 20, 20]],
            [0, 0, 0],
            "0 of 2 found",
        ),  # the right one comes third
    ],
)
def test_as_many_are_shown_as_there_are_and_right_is_class_and_overlap(
    boxes: list[list[float]], labels: list[int], words: str
) -> None:
    scores = torch.linspace(0.9, 0.1, len(boxes))
    picture, said = found_picture(
        sample(), Detections(torch.tensor(boxes).float(), scores, torch.tensor(labels)), ("a", "b")
    )
    assert (
        said == words
        and picture.alt == f"s: {words}"
        and (picture.width, picture.height) == (240, 240)
    )


def test_samples_without_objects_and_networks_that_find_none() -> None:
    none = torch.zeros(0, dtype=torch.bool)
    empty = sample(
        boxes=torch.zeros(0, 4),
        labels=torch.zeros(0, dtype=torch.int64),
        ignored=none,
        crowd=none,
    )
    nothing = Detections(torch.zeros(0, 4), torch.zeros(0), torch.zeros(0, dtype=torch.int64))
    one = Detections(
        torch.tensor([[0.0, 0, 9, 9]]), torch.ones(1), torch.zeros(1, dtype=torch.int64)
    )
    assert true_picture(empty, ("a",)).alt == "s: no objects"
    assert [found_picture(empty, found, ("a",))[1] for found in (nothing, one)] == [
        "no objects"
    ] * 2
    assert found_picture(sample(), nothing, ("a", "b"))[1] == "0 of 2 found"


def test_pixels_that_are_not_known_do_not_count() -> None:
    truth = torch.zeros(48, 48, dtype=torch.uint8)
    truth[:24], truth[24:36] = 1, VOID
    predicted = torch.ones(48, 48, dtype=torch.int64)
    assert map_picture(sample(classes=truth), predicted, "predicted")[1] == "pixel accuracy 0.67"
    picture = true_picture(
        sample(masks=torch.zeros(2, 48, 48, dtype=torch.bool)), ("a", "b"), masks=True
    )
    assert picture.alt == "s: a, b"
