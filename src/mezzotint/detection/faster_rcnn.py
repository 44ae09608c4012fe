"""Faster R-CNN and Mask R-CNN (Ren et al. 2015, arXiv 1506.01497; He et al. 2017, arXiv 1703.06870) on an encoder.

`c4` looks for objects on the map of the last stage but one and runs the last stage on each region,
with one norm after it, as the field's transfer benchmarks do: the whole encoder is used, and the
region is cut to the size that this stage saw in pretraining. `fpn` puts a pyramid on all stages
(Lin et al. 2016, arXiv 1612.03144). The networks are torchvision's, with the encoder's own
normalization. They differ from detectron2's in details: box losses are smooth L1 with a threshold
of 1/9 for proposals, and a pyramid keeps as many proposals in training before NMS as after it.
"""

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor, nn
from torchvision.models.detection import FasterRCNN as TorchvisionFasterRCNN
from torchvision.models.detection import MaskRCNN
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.faster_rcnn import FastRCNNConvFCHead, FastRCNNPredictor
from torchvision.models.detection.mask_rcnn import MaskRCNNHeads, MaskRCNNPredictor
from torchvision.ops import FeaturePyramidNetwork, MultiScaleRoIAlign
from torchvision.ops.feature_pyramid_network import LastLevelMaxPool

from mezzotint.data.detection.source import DetectionSample
from mezzotint.detection.average_precision import Found
from mezzotint.detection.localizer import (
    Localizer,
    Norm,
    Stages,
    channels,
    residual,
    stage_of,
    stride,
)
from mezzotint.encoders.encoder import Encoder
from mezzotint.encoders.resnet import ResNet


class FasterRCNN(Localizer, kind="faster_rcnn"):
    """A detector of boxes, and of masks if wanted.

    Args:
        encoder: a residual network.
        num_classes: without the background.
        neck: `c4`, or a pyramid, `fpn`.
        masks: find masks too: Mask R-CNN.
        anchors: sides of the boxes that are started from, in pixels; with `fpn` one for each level,
            the last of which is a stage's map at half its size.
        min_size: what the shorter side of an image is resized to; in training one of these, in
            scoring the last.
        max_size: of the longer side.
        roi_size: places a side that a region is cut into; by default as many as the stage saw in
            pretraining with `c4`, and 7 with `fpn`.
        proposals: regions that are kept after NMS, in training and in scoring; before it 6 times as
            many with `c4`.
        samples: regions of an image that the head learns from.
        norm: let the encoder's norms learn, or keep them `frozen`.
        channels: width of the pyramid and the heads on it.
    """

    def __init__(
        self,
        encoder: Encoder,
        num_classes: int,
        *,
        neck: Literal["c4", "fpn"] = "c4",
        masks: bool = False,
        anchors: list[int] = [32, 64, 128, 256, 512],  # noqa: B006 - is not changed
        min_size: list[int] = [480, 512, 544, 576, 608, 640, 672, 704, 736, 768, 800],  # noqa: B006
        max_size: int = 1333,
        roi_size: int | None = None,
        proposals: tuple[int, int] = (2000, 1000),
        samples: int = 512,
        norm: Norm = "train",
        channels: int = 256,
    ) -> None:
        network = residual(encoder, "detection")
        super().__init__(network, norm)
        self.needs = "masks" if masks else "boxes"
        _check(
            anchors,
            min_size,
            max_size,
            proposals,
            network.num_stages + 1 if neck == "fpn" else None,
        )
        self.parts = (
            _C4(network, roi_size) if neck == "c4" else _Pyramid(network, roi_size or 7, channels)
        )
        ratios = (0.5, 1.0, 2.0)
        levels = [tuple(anchors)] if neck == "c4" else [(side,) for side in anchors]
        before = 6 if neck == "c4" else 1
        heads = {
            "box_roi_pool": self.parts.pool(), "box_head": self.parts.box_head,
            "box_predictor": FastRCNNPredictor(self.parts.box_dim, num_classes + 1),
        }  # fmt: skip
        if masks:
            heads |= {
                "mask_roi_pool": self.parts.pool(mask=True), "mask_head": self.parts.mask_head,
                "mask_predictor": MaskRCNNPredictor(self.parts.mask_dim, channels, num_classes + 1),
            }  # fmt: skip
        self.network = (MaskRCNN if masks else TorchvisionFasterRCNN)(
            self.parts.backbone,
            min_size=tuple(min_size), max_size=max_size,
            image_mean=list(encoder.input.mean), image_std=list(encoder.input.std),
            rpn_anchor_generator=AnchorGenerator(tuple(levels), (ratios,) * len(levels)),
            rpn_pre_nms_top_n_train=before * proposals[0], rpn_pre_nms_top_n_test=before * proposals[1],
            rpn_post_nms_top_n_train=proposals[0], rpn_post_nms_top_n_test=proposals[1],
            box_batch_size_per_image=samples, **heads,
        )  # fmt: skip

    def losses(
        self, images: Sequence[Tensor], scenes: Sequence[DetectionSample]
    ) -> dict[str, Tensor]:
        """Of proposals, classes, boxes and masks."""
        targets = []
        for image, scene in zip(images, scenes, strict=True):
            kept = ~scene.ignored
            target = {"boxes": scene.boxes[kept], "labels": scene.labels[kept] + 1}
            if self.needs == "masks":
                assert scene.masks is not None
                target["masks"] = scene.masks[kept].to(torch.uint8)
            targets.append({name: t.to(image.device) for name, t in target.items()})
        found: dict[str, Tensor] = self.network(list(images), targets)
        return {name.removeprefix("loss_"): loss for name, loss in found.items()}

    def find(self, images: Sequence[Tensor]) -> list[Found]:
        """Boxes, masks, classes and scores; at most 100 an image."""
        return [_found(one) for one in self.network(list(images))]


def _found(one: dict[str, Tensor]) -> Found:
    masks = (one["masks"][:, 0] > 0.5).cpu() if "masks" in one else None
    return Found(one["boxes"].cpu(), one["scores"].cpu(), one["labels"].cpu() - 1, masks)


class _Parts:
    """What a neck gives to the detector.

    Attributes:
        backbone: maps by name, with `out_channels`.
        box_head: regions `[R, C, S, S]` → `[R, box_dim]`.
        mask_head: regions → `[R, mask_dim, S', S']`.
    """

    backbone: nn.Module
    box_head: nn.Module
    mask_head: nn.Module
    box_dim: int
    mask_dim: int
    names: list[str]
    size: int

    def pool(self, *, mask: bool = False) -> MultiScaleRoIAlign:
        """What cuts regions out of the maps."""
        return MultiScaleRoIAlign(
            self.names, 2 * self.size if mask and len(self.names) > 1 else self.size, 2
        )


class _C4(_Parts):
    def __init__(self, encoder: ResNet, roi_size: int | None) -> None:
        last = encoder.num_stages
        self.backbone = Stages(encoder, (last - 1,))
        self.names = ["0"]
        self.size = roi_size or -(-encoder.input.shape[-1] // stride(encoder, last - 1))
        self.box_dim = self.mask_dim = channels(encoder, last)
        self.mask_head = nn.Sequential(stage_of(encoder, last), nn.BatchNorm2d(self.mask_dim))
        self.box_head = nn.Sequential(self.mask_head, nn.AdaptiveAvgPool2d(1), nn.Flatten())


class _Pyramid(_Parts):
    def __init__(self, encoder: ResNet, roi_size: int, width: int) -> None:
        taken = tuple(range(1, encoder.num_stages + 1))
        pyramid = FeaturePyramidNetwork(
            [channels(encoder, s) for s in taken],
            width,
            LastLevelMaxPool(),
            norm_layer=nn.BatchNorm2d,
        )
        self.backbone = nn.Sequential(Stages(encoder, taken), pyramid)
        self.backbone.out_channels = width  # type: ignore[assignment]
        self.names = [str(place) for place in range(len(taken))]
        self.size, self.box_dim, self.mask_dim = roi_size, 4 * width, width
        convolutions = [width] * 4
        self.box_head = FastRCNNConvFCHead(
            (width, roi_size, roi_size), convolutions, [4 * width], nn.BatchNorm2d
        )
        self.mask_head = MaskRCNNHeads(width, convolutions, 1, nn.BatchNorm2d)


def _check(
    anchors: list[int],
    min_size: list[int],
    max_size: int,
    proposals: tuple[int, int],
    levels: int | None,
) -> None:
    if not anchors or min(anchors) < 1 or (levels is not None and len(anchors) != levels):
        wanted = "one or more" if levels is None else f"{levels}, one for each level of the pyramid"
        raise ValueError(
            f"got anchors={anchors}; allowed are {wanted}, in pixels: such as 32, 64, 128"
        )
    if not min_size or min(min_size) < 1 or max(min_size) > max_size or min(proposals) < 1:
        raise ValueError(
            f"got min_size={min_size}, max_size={max_size}, proposals={list(proposals)}; allowed are positive sizes up "
            "to max_size, and 1 proposal or more"
        )
