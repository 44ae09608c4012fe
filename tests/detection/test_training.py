"""The training loop of detectors: flips, resuming, learning."""

import signal
from pathlib import Path
from typing import Any

import pytest
import torch

from mezzotint.data.detection.embedded import Pasted, boxes_of
from mezzotint.data.detection.source import DetectionSample, Part
from mezzotint.detection import training
from mezzotint.detection.deeplab_v3 import DeepLabV3
from mezzotint.detection.faster_rcnn import FasterRCNN
from mezzotint.detection.model import DetectionModel
from mezzotint.detection.training import Training, mirrored, score, train
from mezzotint.encoders.resnet import resnet8
from mezzotint.optim.optimizer import SGD, AdamW
from mezzotint.optim.schedules import Constant
from mezzotint.train.log import read_metrics
from mezzotint.train.signals import Interrupted
from mezzotint.types import Input, Unreadable

INPUT = Input((3, 32, 32), (0.5, 0.4, 0.3), (0.25, 0.25, 0.2))

SCENES = Pasted(images=4, test_images=2, size=48, scale=(16, 24))

SMALL: dict[str, Any] = {
    "min_size": [48], "max_size": 48, "proposals": (20, 10), "samples": 8, "channels": 8,
}  # fmt: skip


def network(kind: str, seed: int = 0) -> DetectionModel:
    torch.manual_seed(seed)
    encoder = resnet8(INPUT, stem="patch", width=4)
    if kind == "deeplab":
        return DeepLabV3(encoder, 10, crop=(32, 40), ohem_fraction=0.5)
    neck, masks = kind.split("+") if "+" in kind else (kind, "")
    anchors = [8, 16, 24] if neck == "c4" else [8, 16, 24, 32]
    return FasterRCNN(encoder, 10, neck=neck, masks=bool(masks), anchors=anchors, **SMALL)  # type: ignore[arg-type]


def test_mirroring_twice_is_nothing_and_boxes_follow_masks() -> None:
    scene = SCENES.read("train", 0)
    other = mirrored(scene)
    assert other.masks is not None and torch.equal(boxes_of(other.masks), other.boxes)
    assert torch.equal(mirrored(other).boxes, scene.boxes) and torch.equal(
        mirrored(other).image, scene.image
    )


def run(folder: Path, steps: int, seed: int = 0) -> dict[str, torch.Tensor]:
    made = network("c4")
    settings = Training(steps=steps, batch_size=2, warmup_steps=2, precise_bn_batches=0)
    train(made, SCENES, SGD(lr=0.01), Constant(), settings, folder, seed=seed, progress="quiet")
    return {name: t.clone() for name, t in made.named_tensors().items()}


def test_an_interrupted_run_ends_where_an_uninterrupted_one_does(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("whole", "parts"):
        (tmp_path / name).mkdir()
    whole = run(tmp_path / "whole", 4)
    original = training._step

    def stopped(*args: Any) -> dict[str, float]:
        if args[7] == 1:
            signal.raise_signal(signal.SIGTERM)
        return original(*args)

    monkeypatch.setattr(training, "_step", stopped)
    with pytest.raises(Interrupted):
        run(tmp_path / "parts", 4)
    monkeypatch.setattr(training, "_step", original)
    resumed = run(tmp_path / "parts", 4)
    assert all(torch.equal(resumed[name], tensor) for name, tensor in whole.items())
    assert [line["step"] for line in read_metrics(tmp_path / "parts" / "metrics.jsonl")] == [4]


def test_learning_a_few_scenes_by_heart_finds_them_again(tmp_path: Path) -> None:
    torch.manual_seed(0)
    scenes = Pasted(
        images=2, test_images=1, size=48, scale=(20, 24), objects=(1, 1), one_class=True
    )
    made = FasterRCNN(
        resnet8(INPUT, stem="patch", width=8),
        1,
        anchors=[16, 24],
        **(SMALL | {"proposals": (40, 20)}),
    )
    settings = Training(steps=150, batch_size=2, warmup_steps=5, flip=0.0, precise_bn_batches=2)
    train(made, scenes, AdamW(lr=2e-3), Constant(), settings, tmp_path, seed=0, progress="quiet")
    scenes._made = {("test", 0): scenes.read("train", 0)}
    assert score(made, scenes, settings).metrics["boxes/AP50"] == pytest.approx(1.0)


class Torn(Pasted):
    """Scenes of which the second image of each part cannot be read."""

    def read(self, part: Part, index: int) -> DetectionSample:
        if index == 1:
            raise Unreadable(f"{part}/1", "truncated: half of it")
        return super().read(part, index)


def test_unreadable_images_are_named_and_left_out(tmp_path: Path) -> None:
    """The next training image takes the place of one; a test image is not scored."""
    torn = Torn(images=4, test_images=2, size=48, scale=(16, 24))
    made = network("c4")
    settings = Training(steps=2, batch_size=2, warmup_steps=2, precise_bn_batches=0)
    arguments = (SGD(lr=0.01), Constant(), settings, tmp_path)
    found = train(made, torn, *arguments, seed=0, progress="quiet")
    assert found == {"train/1": "truncated: half of it"}
    scores = score(made, torn, settings)
    assert scores.unreadable == {"test/1": "truncated: half of it"}
    assert sum(line["objects"] for line in scores.by_class) == len(SCENES.read("test", 0).labels)
