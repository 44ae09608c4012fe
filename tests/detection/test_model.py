"""Detectors and segmenters: stages of the encoder, training through it, frozen norms."""

from typing import Any

import pytest
import torch
from torch.nn.modules.batchnorm import _BatchNorm

from mezzotint.data.detection.embedded import Pasted
from mezzotint.detection.average_precision import Detections
from mezzotint.detection.deeplab_v3 import DeepLabV3
from mezzotint.detection.faster_rcnn import FasterRCNN
from mezzotint.detection.model import DetectionModel, Stages, channels, stride
from mezzotint.detection.training import Training, recompute_batch_norm
from mezzotint.encoders.resnet import resnet8, resnet10, resnet50
from mezzotint.types import Input

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


@pytest.mark.parametrize("kind", ["c4", "fpn", "c4+masks", "fpn+masks", "deeplab"])
def test_every_network_learns_through_the_whole_encoder_and_finds(kind: str) -> None:
    made = network(kind).train()
    scenes = [SCENES.read("train", i) for i in range(2)]
    images = [s.image.float() / 255.0 for s in scenes]
    parts = made.losses(images, scenes)
    assert ("mask" in parts) is kind.endswith("masks") and all(
        torch.isfinite(v) for v in parts.values()
    )
    torch.stack(list(parts.values())).sum().backward()
    missing = [name for name, p in made.named_parameters() if p.grad is None]
    assert not missing
    names = list(made.named_tensors())
    assert "encoder.conv1.weight" in names and not any(
        ".stages." in name or "stem" in name for name in names
    )
    made.eval()
    with torch.no_grad():
        (one,) = made.predict([images[0][:, :40]])
    if isinstance(one, Detections):
        assert one.boxes.shape[1] == 4 and ((one.labels >= 0) & (one.labels < 10)).all()
        assert one.masks is None or one.masks.shape[1:] == (40, 48)
    else:
        assert one.shape == (40, 48) and int(one.max()) <= 10


def test_stages_are_the_encoders_feature_map() -> None:
    encoder = resnet10(INPUT, stem="imagenet", width=8).eval()
    x = torch.randn(2, 3, 64, 64)
    maps = Stages(encoder, (1, 3, 4))(x)
    assert torch.equal(maps["2"], encoder.feature_map(x))
    for place, stage in enumerate((1, 3, 4)):
        assert maps[str(place)].shape == (
            2,
            channels(encoder, stage),
            *[64 // stride(encoder, stage)] * 2,
        )
    published = resnet50(Input((3, 224, 224), (0.5,) * 3, (0.5,) * 3), width=4)
    assert [stride(published, s) for s in (1, 2, 3, 4)] == [4, 8, 16, 32] and channels(
        published, 4
    ) == 128
    assert FasterRCNN(published, 3, **SMALL).parts.size == 14  # as the papers cut regions


def test_frozen_norms_stay_still() -> None:
    torch.manual_seed(0)
    made = FasterRCNN(
        resnet8(INPUT, stem="patch", width=4), 10, anchors=[16], norm="frozen", **SMALL
    ).train()
    norms = [m for m in made.encoder.modules() if isinstance(m, _BatchNorm)]
    assert not any(m.training or m.weight.requires_grad for m in norms)
    recompute_batch_norm(made, SCENES, Training(steps=1, batch_size=2, precise_bn_batches=1), 0)
    assert all(int(m.num_batches_tracked) == 0 for m in norms if m.num_batches_tracked is not None)


@pytest.mark.parametrize(
    ("neck", "before", "after"),
    [("c4", (12000, 6000), (2000, 1000)), ("fpn", (2000, 1000), (1000, 1000))],
)
def test_proposals_are_detectron2s(
    neck: str, before: tuple[int, int], after: tuple[int, int]
) -> None:
    """PRE_NMS_TOPK and POST_NMS_TOPK, TRAIN and TEST, of Base-RCNN-C4 and Base-RCNN-FPN."""
    encoder = resnet8(INPUT, stem="patch", width=4)
    anchors = [8, 16, 24] if neck == "c4" else [8, 16, 24, 32]
    rpn: Any = FasterRCNN(encoder, 10, neck=neck, anchors=anchors, channels=8).network.rpn  # type: ignore[arg-type]
    assert tuple(rpn._pre_nms_top_n[mode] for mode in ("training", "testing")) == before
    assert tuple(rpn._post_nms_top_n[mode] for mode in ("training", "testing")) == after
