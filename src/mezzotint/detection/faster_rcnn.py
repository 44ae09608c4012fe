"""Faster R-CNN and Mask R-CNN on an encoder.

(Ren et al. 2015, arXiv 1506.01497; He et al. 2017, arXiv 1703.06870.)

`c4` proposes regions on the feature map of the last stage but one and runs the last stage on each
region, with one norm after it, as the transfer benchmarks of the field do: the whole encoder is
used, and regions are pooled to the size that the stage had in pretraining. `fpn` puts a feature
pyramid on all stages (Lin et al. 2016, arXiv 1612.03144). The networks are torchvision's, with the
encoder's own input normalization; numbers of proposals are detectron2's. They differ in details:
box losses are smooth L1 with a threshold of 1/9 for proposals.
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
from mezzotint.detection.average_precision import Detections
from mezzotint.detection.model import (
    DetectionModel,
    Norm,
    Stages,
    channels,
    require_resnet,
    stage_of,
    stride,
)
from mezzotint.encoders.encoder import Encoder
from mezzotint.encoders.resnet import ResNet
from mezzotint.recipe.component import require_sizes


class FasterRCNN(DetectionModel, kind="faster_rcnn"):
    """Detect boxes, and masks with `masks: true`.

    Args:
        encoder: ResNet, to be fine-tuned.
        num_classes: number of classes without the background.
        neck: `c4`, or `fpn` for a feature pyramid.
        masks: predict masks too: Mask R-CNN.
        anchors: sides of the anchor boxes in pixels; with `fpn` one for each level, the last of
            which is the last stage at half its size.
        min_size: sizes that the shorter side of an image is resized to: one of them in training,
            the last one in evaluation.
        max_size: largest size of the longer side.
        roi_size: side of a pooled region; by default the side of the stage's map in pretraining
            with `c4`, and 7 with `fpn`.
        proposals: regions kept after NMS, in training and in evaluation; by default 2000 and 1000
            with `c4`, 1000 and 1000 with `fpn`. With `c4`, 6 times as many enter NMS; with `fpn`,
            twice as many in training and as many in evaluation, from each level.
        samples: regions per image that the head is trained on.
        norm: `train` the encoder's BatchNorms, or keep them `frozen`.
        channels: width of the pyramid and its heads.
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
        proposals: tuple[int, int] | None = None,
        samples: int = 512,
        norm: Norm = "train",
        channels: int = 256,
    ) -> None:
        network = require_resnet(encoder, "detection")
        super().__init__(network, norm)
        self.needs = "masks" if masks else "boxes"
        proposals = proposals or ((2000, 1000) if neck == "c4" else (1000, 1000))
        _check(
            anchors,
            min_size,
            max_size,
            proposals,
            network.num_stages + 1 if neck == "fpn" else None,
        )
        require_sizes(
            "model",
            max_size=max_size,
            roi_size=1 if roi_size is None else roi_size,
            samples=samples,
            channels=channels,
        )
        self.parts = (
            _C4(network, roi_size) if neck == "c4" else _Pyramid(network, roi_size or 7, channels)
        )
        ratios = (0.5, 1.0, 2.0)
        levels = [tuple(anchors)] if neck == "c4" else [(side,) for side in anchors]
        before = (6, 6) if neck == "c4" else (2, 1)
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
            rpn_pre_nms_top_n_train=before[0] * proposals[0],
            rpn_pre_nms_top_n_test=before[1] * proposals[1],
            rpn_post_nms_top_n_train=proposals[0], rpn_post_nms_top_n_test=proposals[1],
            box_batch_size_per_image=samples, **heads,
        )  # fmt: skip

    def losses(
        self, images: Sequence[Tensor], samples: Sequence[DetectionSample]
    ) -> dict[str, Tensor]:
        """Compute the losses of proposals, classes, boxes and masks."""
        targets = []
        for image, sample in zip(images, samples, strict=True):
            counted = ~sample.ignored
            target = {"boxes": sample.boxes[counted], "labels": sample.labels[counted] + 1}
            if self.needs == "masks":
                assert sample.masks is not None
                target["masks"] = sample.masks[counted].to(torch.uint8)
            targets.append({name: t.to(image.device) for name, t in target.items()})
        losses: dict[str, Tensor] = self.network(list(images), targets)
        return {name.removeprefix("loss_"): loss for name, loss in losses.items()}

    def predict(self, images: Sequence[Tensor]) -> list[Detections]:
        """Predict boxes, masks, classes and scores; at most 100 per image."""
        return [_detections(one) for one in self.network(list(images))]


def _detections(one: dict[str, Tensor]) -> Detections:
    masks = (one["masks"][:, 0] > 0.5).cpu() if "masks" in one else None
    return Detections(one["boxes"].cpu(), one["scores"].cpu(), one["labels"].cpu() - 1, masks)


class _Parts:
    """Parts of a detector that depend on its neck.

    Attributes:
        backbone: network that returns feature maps by name, with `out_channels`.
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
        """Make the module that pools regions from the maps."""
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
        self.names = [str(level) for level in range(len(taken))]
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
    if min(anchors, default=1) < 1:
        raise ValueError(
            f"`model.anchors` must be 1 pixel or more, got {anchors}. Try 32, 64, 128."
        )
    if not anchors or (levels is not None and len(anchors) != levels):
        count = "one or more sides" if levels is None else f"{levels} sides, one for each level"
        raise ValueError(
            f"`model.anchors` must be {count}, in pixels, got {anchors}. Try 32, 64, 128."
        )
    if not min_size or min(min_size) < 1 or max(min_size) > max_size or min(proposals) < 1:
        raise ValueError(
            "`model.min_size` must be positive sizes up to `max_size`, and `proposals` at least "
            "1, got "
            f"min_size={min_size}, max_size={max_size}, proposals={list(proposals)}."
        )
