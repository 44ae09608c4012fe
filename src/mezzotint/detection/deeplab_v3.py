"""DeepLabV3 (Chen et al. 2017, arXiv 1706.05587) on an encoder: a class for each pixel.

The last stage keeps the size of the stage before it and is dilated instead: by 2, times a factor
for each block (multi-grid). A pyramid of dilated convolutions and the average of the whole image
follow. The loss is taken over the hardest pixels of a batch (online hard example mining). Weights
and architecture of the encoder stay the same.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, interpolate, pad
from torchvision.models.segmentation.deeplabv3 import DeepLabHead

from mezzotint.data.detection.source import VOID, DetectionSample
from mezzotint.detection.model import (
    DetectionModel,
    Norm,
    Stages,
    channels,
    require_resnet,
    stage_of,
)
from mezzotint.encoders.encoder import Encoder
from mezzotint.encoders.resnet import ResNet


class DeepLabV3(DetectionModel, kind="deeplab_v3"):
    """Predict a class or the background for each pixel.

    Args:
        encoder: ResNet, to be fine-tuned.
        num_classes: number of classes without the background.
        rates: dilations of the pyramid.
        multi_grid: factors of the dilation of the last stage's blocks, repeated as needed.
        dropout: probability of dropout before the last convolution.
        ohem_fraction: fraction of pixels that is trained on, by largest loss.
        scale: smallest and largest factor that a training image is resized by.
        crop: height and width of a training crop; `None` for whole images.
        norm: `train` the encoder's BatchNorms, or keep them `frozen`.
    """

    def __init__(
        self,
        encoder: Encoder,
        num_classes: int,
        *,
        rates: list[int] = [6, 12, 18],  # noqa: B006 - is not changed
        multi_grid: list[int] = [1, 2, 4],  # noqa: B006
        dropout: float = 0.0,
        ohem_fraction: float = 0.2,
        scale: tuple[float, float] = (0.5, 2.0),
        crop: tuple[int, int] | None = None,
        norm: Norm = "train",
    ) -> None:
        network = require_resnet(encoder, "segmentation")
        super().__init__(network, norm)
        if not rates or not multi_grid:
            raise ValueError(
                f"`model.rates` and `model.multi_grid` must not be empty, got {rates} and "
                f"{multi_grid}."
            )
        if min(*rates, *multi_grid, *(crop or ())) < 1:
            raise ValueError(
                "`model.rates`, `model.multi_grid` and `model.crop` must be at least 1, got "
                f"{rates}, {multi_grid} and {crop}. Leave them out for the defaults."
            )
        if not 0.0 <= dropout < 1.0:
            raise ValueError(
                f"`model.dropout` must be 0 or more and below 1, got {dropout}. Try 0.1."
            )
        if not 0.0 < ohem_fraction <= 1.0:
            raise ValueError(
                f"`model.ohem_fraction` must be in (0, 1], got {ohem_fraction}. Try 0.2."
            )
        if not 0.0 < scale[0] <= scale[1]:
            raise ValueError(
                f"`model.scale` must be positive factors, the smaller first, got {list(scale)}. "
                "Try [0.5, 2.0]."
            )
        self.needs = "classes"
        self.ohem_fraction, self.scale, self.crop = ohem_fraction, scale, crop
        dilate(network, multi_grid)
        last = network.num_stages
        self.backbone = Stages(network, (last,))
        self.head = DeepLabHead(channels(network, last), num_classes + 1, rates)
        for module in self.head.modules():
            if isinstance(module, nn.Dropout):
                module.p = dropout

    def losses(
        self, images: Sequence[Tensor], samples: Sequence[DetectionSample]
    ) -> dict[str, Tensor]:
        """Compute the cross-entropy of the pixels with the largest loss."""
        pairs = []
        for image, sample in zip(images, samples, strict=True):
            assert sample.classes is not None
            pairs.append(self._augmented(image, sample.classes.to(image.device)))
        height, width = (max(x.shape[d] for x, _ in pairs) for d in (1, 2))
        mean = (
            images[0].new_tensor(self.encoder.input.mean).view(3, 1, 1)
        )  # what lies outside is 0 when normalized
        x = torch.stack([_padded(one - mean, height, width, 0.0) + mean for one, _ in pairs])
        target = torch.stack([_padded(classes, height, width, VOID) for _, classes in pairs]).long()
        each = cross_entropy(self._logits(x), target, ignore_index=VOID, reduction="none").flatten()
        count = max(1, int(self.ohem_fraction * int((target != VOID).sum())))
        return {"pixels": each.topk(min(count, len(each))).values.mean()}

    def predict(self, images: Sequence[Tensor]) -> list[Tensor]:
        """Predict the class of each pixel; images one by one, at their own size."""
        return [self._logits(image[None])[0].argmax(0).cpu() for image in images]

    def _logits(self, x: Tensor) -> Tensor:
        """`[B, 3, H, W]` → `[B, num_classes + 1, H, W]`."""
        low = self.head(self.backbone(self.encoder.input.normalize(x))["0"])
        return interpolate(low, x.shape[2:], mode="bilinear", align_corners=False)

    def _augmented(self, image: Tensor, classes: Tensor) -> tuple[Tensor, Tensor]:
        """Resize and crop with torch's generator, which the loop seeds at each step."""
        factor = float(torch.empty(()).uniform_(*self.scale))
        size = [max(1, round(side * factor)) for side in image.shape[1:]]
        image = interpolate(image[None], size, mode="bilinear", antialias=True)[0]
        classes = interpolate(classes[None, None].float(), size, mode="nearest")[0, 0].to(
            torch.uint8
        )
        if self.crop is None:
            return image, classes
        height, width = (min(own, largest) for own, largest in zip(size, self.crop, strict=True))
        top, left = (
            int(torch.randint(s - k + 1, ())) for s, k in zip(size, (height, width), strict=True)
        )
        rows, columns = slice(top, top + height), slice(left, left + width)
        return image[:, rows, columns], classes[rows, columns]


def dilate(encoder: ResNet, multi_grid: Sequence[int]) -> None:
    """Dilate the last stage so that it keeps the size of its input; the weights stay the same.

    Args:
        encoder: ResNet that is changed in place.
        multi_grid: factors of the dilation of 2, by block.
    """
    for index, block in enumerate(stage_of(encoder, encoder.num_stages)):
        for module in block.modules():
            if isinstance(module, nn.Conv2d):
                module.stride = (1, 1)
                if module.kernel_size == (3, 3):
                    dilation = 2 * multi_grid[index % len(multi_grid)]
                    module.dilation = module.padding = (dilation, dilation)


def _padded(x: Tensor, height: int, width: int, value: float) -> Tensor:
    return pad(x, (0, width - x.shape[-1], 0, height - x.shape[-2]), value=value)
