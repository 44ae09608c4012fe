"""DeepLabV3 (Chen et al. 2017, arXiv 1706.05587) on an encoder: a class for each pixel.

The last stage keeps the size of the one before it and looks further apart instead: dilation 2,
times a factor for each block (multi-grid); a pyramid of dilated convolutions and the average of the
whole image stand on it. Only the hardest share of the pixels of a batch is learned from (hard pixel
mining). Weights, and what the encoder is, stay the same.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, interpolate, pad
from torchvision.models.segmentation.deeplabv3 import DeepLabHead

from mezzotint.data.detection.source import VOID, DetectionSample
from mezzotint.detection.localizer import Localizer, Norm, Stages, channels, residual, stage_of
from mezzotint.encoders.encoder import Encoder
from mezzotint.encoders.resnet import ResNet


class DeepLabV3(Localizer, kind="deeplab_v3"):
    """A segmenter: the background and the classes, for each pixel.

    Args:
        encoder: a residual network.
        num_classes: without the background.
        rates: dilations of the pyramid.
        multi_grid: factors of the dilation of the last stage's blocks, repeated where it has more.
        dropout: before the last convolution.
        hardest: share of the pixels that is learned from.
        scale: smallest and largest factor that a training image is resized by.
        crop: height and width of what is cut out of it; `None` takes whole images.
        norm: let the encoder's norms learn, or keep them `frozen`.
    """

    def __init__(
        self,
        encoder: Encoder,
        num_classes: int,
        *,
        rates: list[int] = [6, 12, 18],  # noqa: B006 - is not changed
        multi_grid: list[int] = [1, 2, 4],  # noqa: B006
        dropout: float = 0.0,
        hardest: float = 0.2,
        scale: tuple[float, float] = (0.5, 2.0),
        crop: tuple[int, int] | None = None,
        norm: Norm = "train",
    ) -> None:
        network = residual(encoder, "segmentation")
        super().__init__(network, norm)
        if (
            not rates
            or not multi_grid
            or not 0.0 < hardest <= 1.0
            or not 0.0 < scale[0] <= scale[1]
        ):
            raise ValueError(
                f"got rates={rates}, multi_grid={multi_grid}, hardest={hardest}, scale={list(scale)}; allowed are one "
                "or more dilations, a share in (0, 1], and factors from small to large"
            )
        self.needs = "classes"
        self.hardest, self.scale, self.crop = hardest, scale, crop
        dilate(network, multi_grid)
        last = network.num_stages
        self.backbone = Stages(network, (last,))
        self.head = DeepLabHead(channels(network, last), num_classes + 1, rates)
        for module in self.head.modules():
            if isinstance(module, nn.Dropout):
                module.p = dropout

    def losses(
        self, images: Sequence[Tensor], scenes: Sequence[DetectionSample]
    ) -> dict[str, Tensor]:
        """Cross-entropy of the hardest pixels."""
        pairs = []
        for image, scene in zip(images, scenes, strict=True):
            assert scene.classes is not None
            pairs.append(self._varied(image, scene.classes.to(image.device)))
        height, width = (max(x.shape[d] for x, _ in pairs) for d in (1, 2))
        mean = (
            images[0].new_tensor(self.encoder.input.mean).view(3, 1, 1)
        )  # what lies outside is 0 when normalized
        x = torch.stack([_padded(one - mean, height, width, 0.0) + mean for one, _ in pairs])
        wanted = torch.stack([_padded(classes, height, width, VOID) for _, classes in pairs]).long()
        each = cross_entropy(self._logits(x), wanted, ignore_index=VOID, reduction="none").flatten()
        count = max(1, int(self.hardest * int((wanted != VOID).sum())))
        return {"pixels": each.topk(min(count, len(each))).values.mean()}

    def find(self, images: Sequence[Tensor]) -> list[Tensor]:
        """The likeliest class of each pixel; images one by one, at their own size."""
        return [self._logits(image[None])[0].argmax(0).cpu() for image in images]

    def _logits(self, x: Tensor) -> Tensor:
        """`[B, 3, H, W]` → `[B, num_classes + 1, H, W]`."""
        low = self.head(self.backbone(self.encoder.input.normalize(x))["0"])
        return interpolate(low, x.shape[2:], mode="bilinear", align_corners=False)

    def _varied(self, image: Tensor, classes: Tensor) -> tuple[Tensor, Tensor]:
        """Resized and cut as training does, with torch's generator, which the loop seeds at each step."""
        factor = float(torch.empty(()).uniform_(*self.scale))
        size = [max(1, round(side * factor)) for side in image.shape[1:]]
        image = interpolate(image[None], size, mode="bilinear", antialias=True)[0]
        classes = interpolate(classes[None, None].float(), size, mode="nearest")[0, 0].to(
            torch.uint8
        )
        if self.crop is None:
            return image, classes
        height, width = (min(own, most) for own, most in zip(size, self.crop, strict=True))
        top, left = (
            int(torch.randint(s - k + 1, ())) for s, k in zip(size, (height, width), strict=True)
        )
        rows, columns = slice(top, top + height), slice(left, left + width)
        return image[:, rows, columns], classes[rows, columns]


def dilate(encoder: ResNet, multi_grid: Sequence[int]) -> None:
    """Let the last stage keep the size of its input, and look further apart; the weights stay the same.

    Args:
        encoder: changed in place.
        multi_grid: factors of the dilation of 2, by block.
    """
    for place, block in enumerate(stage_of(encoder, encoder.num_stages)):
        for module in block.modules():
            if isinstance(module, nn.Conv2d):
                module.stride = (1, 1)
                if module.kernel_size == (3, 3):
                    apart = 2 * multi_grid[place % len(multi_grid)]
                    module.dilation = module.padding = (apart, apart)


def _padded(x: Tensor, height: int, width: int, value: float) -> Tensor:
    return pad(x, (0, width - x.shape[-1], 0, height - x.shape[-2]), value=value)
