"""Video: uint8 clips `[C, T, H, W]`."""

from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.nn.functional import adaptive_avg_pool3d, pad

from mezzotint.modality.modality import Example, Modality
from mezzotint.modality.patches import GridPatches, Patches, PatchSize

if TYPE_CHECKING:
    from mezzotint.types import Input

_FRAMES = 4


class VideoModality(Modality):
    """Clips of frames; each frame is an image."""

    plural = "videos"
    axes = ("channels", "frames", "height", "width")
    recipe = "video/folder_simclr"
    sizes = (
        (),
        ("encoder={kind: vit, width: 96, depth: 3, heads: 3, patch: [2, 16, 16]}",),
    )
    example = Example(
        data={"kind": "rotating_objects"},
        encoder={"kind": "vit", "width": 12, "depth": 1, "heads": 2, "patch": [2, 8, 8]},
        patches={"patch": [2, 8, 8]},
        transforms=[{"kind": "randomized_quantization", "bins": 4, "p": 0.5}],
    )

    def patches(self, input: "Input", dim: int, size: PatchSize) -> Patches:
        return GridPatches(input.shape, size.sides((2, 16, 16)), dim)

    def raw_features(self, x: Tensor, input: "Input") -> Tensor:
        """Average over at most 4 × 16 × 16 areas."""
        frames, height, width = x.shape[2:]
        # As many values as a picture of 32 × 32, for the same reason as there: fewer weights to
        # overfit.
        size = (min(frames, 4), min(height, 16), min(width, 16))
        return adaptive_avg_pool3d(x, size).flatten(1)

    def picture(self, x: Tensor, input: "Input") -> Tensor:
        """Put four frames (or all, if there are fewer) in a row: uint8 `[3, H, 4 W + 3]`."""
        values = self.as_float(x.detach().cpu())
        # First and last frame are always among them.
        chosen = torch.linspace(0, values.shape[1] - 1, min(_FRAMES, values.shape[1]))
        frames = values[:, chosen.round().long()].mul(255.0).round().clamp(0, 255)
        # One white column after each frame separates them; the last one is cut off.
        frames = pad(frames.to(torch.uint8).expand(3, -1, -1, -1), (0, 1), value=255)
        return frames.permute(0, 2, 1, 3).flatten(2)[..., :-1].contiguous()

    def frames(self, x: Tensor) -> Tensor:
        return self.as_float(x.detach().cpu()).transpose(0, 1)
