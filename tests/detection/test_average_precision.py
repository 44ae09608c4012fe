"""Average precision and IoU, compared with pycocotools and closed forms."""

import contextlib
import io
import math
from typing import Any

import numpy as np
import pytest
import torch

from mezzotint.data.detection.source import VOID, DetectionSample
from mezzotint.detection.average_precision import (
    Detections,
    MeanIoU,
    average_precision,
    box_overlaps,
    mask_overlaps,
)

SIZE = 40


def some_boxes(rng: np.random.Generator, count: int) -> torch.Tensor:
    corner = rng.integers(0, SIZE - 12, (count, 2))
    return torch.from_numpy(
        np.concatenate([corner, corner + rng.integers(4, 12, (count, 2))], axis=1)
    ).float()


def filled(boxes: torch.Tensor) -> torch.Tensor:
    masks = torch.zeros(len(boxes), SIZE, SIZE, dtype=torch.bool)
    for mask, (left, top, right, bottom) in zip(masks, boxes.int().tolist(), strict=True):
        mask[top:bottom, left:right] = True
        mask[top, left] = False  # so that masks and boxes are not the same question
    return masks


def problem(
    seed: int, images: int = 12, classes: int = 3
) -> tuple[list[Detections], list[DetectionSample]]:
    """Make objects, some of them crowds, and detections near most of them, some of equal score."""
    rng = np.random.default_rng(seed)
    found, scenes = [], []
    for number in range(images):
        count = int(rng.integers(0, 6))
        boxes = some_boxes(rng, count)
        labels = torch.from_numpy(rng.integers(0, classes, count))
        crowd = torch.from_numpy(rng.random(count) < 0.15)
        none = torch.zeros(3, SIZE, SIZE, dtype=torch.uint8)
        scenes.append(
            DetectionSample(str(number), none, boxes, labels, crowd, crowd, filled(boxes))
        )
        near = (boxes + torch.from_numpy(rng.integers(-2, 3, (count, 4)))).clamp(0, SIZE)
        near[:, 2:] = torch.maximum(near[:, 2:], near[:, :2] + 1)
        kept = torch.from_numpy(rng.random(count) < 0.8)
        guesses = torch.cat([near[kept], near[kept][:1], some_boxes(rng, 3)])
        named = torch.cat(
            [labels[kept], labels[kept][:1], torch.from_numpy(rng.integers(0, classes, 3))]
        )
        scores = torch.from_numpy(np.round(rng.random(len(guesses)), 1)).float()
        found.append(Detections(guesses, scores, named, filled(guesses)))
    return found, scenes


def by_pycocotools(
    found: list[Detections], scenes: list[DetectionSample], classes: int, kind: str
) -> list[float]:
    coco = pytest.importorskip("pycocotools.coco")
    evaluation = pytest.importorskip("pycocotools.cocoeval")
    encode = pytest.importorskip("pycocotools.mask").encode

    def entries(
        boxes: torch.Tensor, masks: torch.Tensor | None, labels: torch.Tensor, image: int
    ) -> list[Any]:
        assert masks is not None
        return [
            {
                "image_id": image, "category_id": int(label),
                "area": float(mask.sum() if kind == "segm" else (box[2:] - box[:2]).prod()),
                "bbox": [*box[:2].tolist(), *(box[2:] - box[:2]).tolist()],
                "segmentation": encode(np.asfortranarray(mask.numpy().astype(np.uint8))),
            }
            for box, mask, label in zip(boxes, masks, labels, strict=True)
        ]  # fmt: skip

    truth: list[dict[str, Any]] = []
    guesses: list[dict[str, Any]] = []
    for image, (one, scene) in enumerate(zip(found, scenes, strict=True), 1):
        for entry, crowd in zip(
            entries(scene.boxes, scene.masks, scene.labels, image),
            scene.crowd.tolist(),
            strict=True,
        ):
            truth.append({**entry, "iscrowd": int(crowd), "id": len(truth) + 1})
        for entry, score in zip(
            entries(one.boxes, one.masks, one.labels, image), one.scores.tolist(), strict=True
        ):
            if kind == "bbox":
                del entry["segmentation"]
            guesses.append({**entry, "score": score})
    with contextlib.redirect_stdout(io.StringIO()):
        known = coco.COCO()
        known.dataset = {
            "images": [{"id": i + 1, "width": SIZE, "height": SIZE} for i in range(len(scenes))],
            "annotations": truth, "categories": [{"id": c, "name": str(c)} for c in range(classes)],
        }  # fmt: skip
        known.createIndex()
        run = evaluation.COCOeval(known, known.loadRes(guesses), kind)
        run.evaluate()
        run.accumulate()
        run.summarize()
    return [float(v) for v in run.stats[:3]]


@pytest.mark.parametrize("seed", [0, 1, 2])
@pytest.mark.parametrize("kind", ["bbox", "segm"])
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_average_precision_equals_pycocotools(seed: int, kind: str) -> None:
    found, scenes = problem(seed)
    ours = average_precision(found, scenes, 3, masks=kind == "segm")
    assert list(ours.values()) == pytest.approx(by_pycocotools(found, scenes, 3, kind), abs=1e-12)
    assert 0.01 < ours["AP"] < ours["AP50"] < 1.0


def scene(boxes: list[list[float]], ignored: list[bool]) -> DetectionSample:
    flags = torch.tensor(ignored)
    labels = torch.zeros(len(boxes), dtype=torch.int64)
    return DetectionSample(
        "a", torch.zeros(3, 9, 9), torch.tensor(boxes), labels, flags, torch.zeros_like(flags)
    )


def detections(boxes: list[list[float]], scores: list[float]) -> Detections:
    return Detections(
        torch.tensor(boxes).view(-1, 4),
        torch.tensor(scores),
        torch.zeros(len(boxes), dtype=torch.int64),
    )


def test_closed_forms() -> None:
    one, other = [0.0, 0.0, 4.0, 4.0], [5.0, 5.0, 9.0, 9.0]
    truth = [scene([one, other], [False, False])]
    half = average_precision([detections([one], [0.9])], truth, 1)["AP50"]
    assert half == pytest.approx(51 / 101)  # precision 1 up to recall 0.5
    late = average_precision(
        [detections([[0.0, 5.0, 4.0, 9.0], one, other], [0.9, 0.8, 0.7])], truth, 1
    )["AP"]
    assert late == pytest.approx(2 / 3)  # a false one before two right ones
    assert average_precision([detections([], [])], truth, 1)["AP"] == 0.0
    assert math.isnan(
        average_precision([detections([one], [0.9])], [scene([one], [True])], 1)["AP"]
    )
    # A difficult object may be found any number of times and costs nothing.
    twice = detections([one, one, other], [0.9, 0.8, 0.7])
    assert average_precision([twice], [scene([one, other], [True, False])], 1)[
        "AP"
    ] == pytest.approx(1.0)


def test_overlaps_of_crowds_are_shares_of_the_detection() -> None:
    a, b = (
        torch.tensor([[0.0, 0.0, 2.0, 2.0]]),
        torch.tensor([[0.0, 0.0, 4.0, 4.0], [1.0, 0.0, 3.0, 2.0]]),
    )
    assert box_overlaps(a, b, torch.tensor([True, False]))[0].tolist() == pytest.approx(
        [1.0, 1 / 3]
    )
    masks = [torch.zeros(len(x), 4, 4, dtype=torch.bool) for x in (a, b)]
    for stack, boxes in zip(masks, (a, b), strict=True):
        for mask, (left, top, right, bottom) in zip(stack, boxes.int().tolist(), strict=True):
            mask[top:bottom, left:right] = True
    assert mask_overlaps(masks[0], masks[1], torch.tensor([True, False]))[
        0
    ].tolist() == pytest.approx([1.0, 1 / 3])


def test_mean_iou_against_sets_of_pixels() -> None:
    rng = np.random.default_rng(0)
    measure = MeanIoU(4)
    pairs = [
        (torch.from_numpy(rng.integers(0, 3, (7, 5))), torch.from_numpy(rng.integers(0, 3, (7, 5))))
        for _ in "ab"
    ]
    pairs[0][1][0] = VOID
    for predicted, wanted in pairs:
        measure.add(predicted, wanted)
    expected = []
    for label in range(3):
        both = either = 0
        for predicted, wanted in pairs:
            for p, w in zip(predicted.flatten().tolist(), wanted.flatten().tolist(), strict=True):
                both += p == label == w
                either += w != VOID and (p == label or w == label)
        expected.append(both / either)
    assert measure.by_class()[:3].tolist() == pytest.approx(expected)
    assert math.isnan(float(measure.by_class()[3])) and measure.mean() == pytest.approx(
        np.mean(expected)
    )
