"""Images: uint8 pixels `[C, H, W]`."""

from typing import TYPE_CHECKING

from torch import Tensor
from torch.nn.functional import adaptive_avg_pool2d

from mezzotint.modality.modality import Example, Modality
from mezzotint.modality.patches import GridPatches, Patches, PatchSize

if TYPE_CHECKING:
    from mezzotint.types import Input

_LARGE = 64
_POOLED = 32


def pooled_pixels(x: Tensor) -> Tensor:
    """Flatten `[B, C, H, W]`; a side above 64 is first averaged over areas to at most 32.

    At 32 × 32 a linear probe of pixels is about as good, and has fewer weights to overfit with.
    """
    height, width = x.shape[-2:]
    if max(height, width) > _LARGE:
        x = adaptive_avg_pool2d(x, (min(_POOLED, height), min(_POOLED, width)))
    return x.flatten(1)


class ImageModality(Modality):
    """Pictures, of any number of channels."""

    plural = "images"
    axes = ("channels", "height", "width")
    is_picture = True
    recipe = "image/folder_simclr"
    sizes = (
        ("data.size=96",),
        ("encoder={kind: resnet8, stem: patch, width: 48, grid: 2}", "data.size=96"),
        ("encoder={kind: resnet8, stem: patch, width: 32, grid: 2}", "data.size=64"),
        ("encoder={kind: resnet8, stem: patch, width: 32, grid: 2}", "data.size=48"),
        ("encoder={kind: resnet8, stem: patch, width: 32, grid: 2}", "data.size=32"),
        ("encoder={kind: resnet8, stem: patch, width: 16, grid: 2}", "data.size=32"),
    )
    finetune_recipe = "supervised/finetune"
    example = Example(
        data={"kind": "embedded_images", "name": "digits"},
        encoder={"kind": "vit", "width": 12, "depth": 1, "heads": 2, "patch": 2},
        patches={"patch": 2},
        transforms=[{"kind": "randomized_quantization", "bins": 4, "p": 0.5}],
    )

    def patches(self, input: "Input", dim: int, size: PatchSize) -> Patches:
        return GridPatches(input.shape, size.sides((16, 16)), dim)

    def raw_features(self, x: Tensor, input: "Input") -> Tensor:
        return pooled_pixels(x)

    def picture(self, x: Tensor, input: "Input") -> Tensor:
        return x
