"""Video: uint8 clips `[C, T, H, W]`."""

import math
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.nn.functional import adaptive_avg_pool2d, adaptive_avg_pool3d, pad

from mezzotint.modality.image import histogram, image_statistics
from mezzotint.modality.modality import Example, Modality
from mezzotint.modality.patches import GridPatches, Patches, PatchSize

if TYPE_CHECKING:
    from mezzotint.types import Input

_FRAMES = 4
_SIDE, _AREAS, _BINS, _LARGEST = 32, 4, 8, 2.0  # of frames and of their differences


class VideoModality(Modality):
    """Clips of frames; each frame is an image."""

    plural = "videos"
    axes = ("channels", "frames", "height", "width")
    thumbnails = True
    values = "uint8 / 255, then (x - mean) / std"
    handmade = "color statistics, gradient orientations and differences of frames"
    recipe = "video/folder_simclr"
    large_recipe = "video/folder_simclr_large"
    sizes = ((), ("data.size=48", "data.context=16"))
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

    def handmade_features(self, x: Tensor, input: "Input") -> Tensor:
        """Average the statistics of four frames, and describe how each differs from the next one.

        The differences have mean and std by area, and a histogram.
        """
        channels, frames, height, width = x.shape[1:]
        # One frame is followed by itself: it does not move.
        first = torch.linspace(0, max(frames - 2, 0), min(_FRAMES, max(frames - 1, 1))).round()
        pairs = torch.stack([first, (first + 1).clamp(max=frames - 1)]).long()
        size = (min(height, _SIDE), min(width, _SIDE))
        now, then = (
            torch.stack([adaptive_avg_pool2d(x[:, :, t], size) for t in times.tolist()], dim=1)
            for times in pairs
        )  # [B, 4, C, H, W] each
        still = image_statistics(now.flatten(0, 1), _SIDE).unflatten(0, (len(x), -1)).mean(dim=1)
        moved = (then - now).abs()
        areas = adaptive_avg_pool2d(moved.flatten(1, 2), _AREAS).unflatten(1, (-1, channels))
        motion = torch.stack([areas.mean(dim=1), areas.std(dim=1, correction=0)], dim=1).flatten(1)
        spread = histogram(moved.transpose(1, 2).flatten(2), 0.0, _LARGEST, _BINS).flatten(1)
        blocks = [motion / math.sqrt(motion.shape[1]), spread / math.sqrt(channels)]
        return torch.cat([still, *blocks], dim=1)

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
