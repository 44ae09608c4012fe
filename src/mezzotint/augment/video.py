"""Views of video `[B, C, T, H, W]`: clips in time, image transforms of all frames, erased tubes.

A transform of images that drew its parameters again for each frame would flicker. `PerFrame` draws
once per sample and applies the draw to all frames, so any image transform or policy fits video.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from mezzotint.augment.image.geometry import probability
from mezzotint.augment.transform import IMAGES, SPECTROGRAMS, VIDEOS, Compose, Params, Transform
from mezzotint.seeding import Draws


class RandomClip(Transform):
    """Cut a random clip out of a longer video: `frames` frames, `stride` frames apart.

    The last frame of a video that is too short is repeated (VideoMAE, Tong et al. 2022, arXiv
    2203.12602).

    Args:
        frames: number of frames of the clip.
        stride: distance between two frames of the clip.
    """

    layouts = (VIDEOS,)

    def __init__(self, *, frames: int = 16, stride: int = 1) -> None:
        if frames < 1 or stride < 1:
            raise ValueError(
                f"`frames` and `stride` must be 1 or more, got {frames} and {stride}. "
                "Try 16 and 4, as on Kinetics."
            )
        self.frames, self.stride = frames, stride

    def draw(self, shape: Sequence[int], draws: Draws) -> Params:
        """Draw the `first` frame, int64 `[B]`."""
        return {
            "first": draws.integers("first", high=max(0, shape[2] - self.frames * self.stride) + 1)
        }

    def apply(self, x: Tensor, params: Params) -> Tensor:
        steps = torch.arange(self.frames, device=x.device) * self.stride
        index = (params["first"].unsqueeze(1) + steps).clamp(max=x.shape[2] - 1)
        rows = torch.arange(len(x), device=x.device).unsqueeze(1)
        return x.transpose(1, 2)[rows, index].transpose(1, 2).contiguous()

    def output_shape(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        return (*shape[:2], self.frames, *shape[3:])


class PerFrame(Compose):
    """Apply transforms of images to a video, with equal parameters for all frames of a sample.

    Args:
        transforms: transforms in order, such as `random_resized_crop`, `horizontal_flip`, or a
            policy.
    """

    layouts = (VIDEOS,)

    def __init__(self, *, transforms: list[Transform]) -> None:
        super().__init__(transforms=transforms)

    def draw(self, shape: Sequence[int], draws: Draws) -> Params:
        """Draw the parameters of all transforms, for images of the frames' size."""
        drawn: Params = {}
        size = (*shape[:2], *shape[3:])
        for name, transform in zip(self.names(), self.transforms, strict=True):
            transform.check(size)
            own = transform.draw(size, draws.fold(name))
            drawn |= {f"{name}.{key}": value for key, value in own.items()}
            size = transform.output_shape(size)
        return drawn

    def apply(self, x: Tensor, params: Params) -> Tensor:
        count, _, frames = x.shape[:3]
        images = x.transpose(1, 2).flatten(0, 1)
        repeated = {key: value.repeat_interleave(frames, dim=0) for key, value in params.items()}
        changed = super().apply(images, repeated)
        return changed.view(count, frames, *changed.shape[1:]).transpose(1, 2).contiguous()

    def output_shape(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        size = (*shape[:2], *shape[3:])
        for transform in self.transforms:
            size = transform.output_shape(size)
        return (*size[:2], shape[2], *size[2:])


class RandomErasing(Transform):
    """Fill a box with noise (Zhong et al. 2017, arXiv 1708.04896).

    Works on images `[B, C, H, W]` and on videos, where the box is the same in all frames.

    Args:
        p: probability that a sample is changed.
        area: range of the box's area, as a fraction of the frame's.
        ratio: range of the box's height over its width; its logarithm is drawn uniformly.
    """

    layouts = (IMAGES, SPECTROGRAMS, VIDEOS)

    def __init__(
        self,
        *,
        p: float = 0.25,
        area: tuple[float, float] = (0.02, 0.33),
        ratio: tuple[float, float] = (0.3, 3.3333333333333335),
    ) -> None:
        if not 0.0 < area[0] <= area[1] < 1.0 or not 0.0 < ratio[0] <= ratio[1]:
            raise ValueError(
                "`area` and `ratio` must be ranges with 0 < low <= high, and `area` below 1, got "
                f"{tuple(area)} and {tuple(ratio)}. Leave them out for the paper's ranges."
            )
        self.p, self.area, self.ratio = probability(p, "p"), area, ratio

    def draw(self, shape: Sequence[int], draws: Draws) -> Params:
        """Draw `chosen`, bool `[B]`; `box` `[B, 4]`; and `noise`, standard normal.

        A box is its area, the logarithm of its ratio, and top and left in [0, 1).
        """
        low, high = torch.tensor(self.ratio).log().tolist()
        box = torch.stack(
            [
                draws.uniform("area", low=self.area[0], high=self.area[1]),
                draws.uniform("ratio", low=low, high=high),
                draws.uniform("top"),
                draws.uniform("left"),
            ],
            dim=1,
        )
        return {
            "chosen": draws.chance("chosen", self.p),
            "box": box,
            "noise": draws.normal("noise", *shape[1:]),
        }

    def apply(self, x: Tensor, params: Params) -> Tensor:
        """Fill the boxes with noise that has the sample's mean and std of each channel."""
        if len(x) == 0:
            return x
        height, width = x.shape[-2:]
        area, ratio, top, left = params["box"].unbind(1)
        h = (area * height * width * ratio.exp()).sqrt().clamp(1, height).round()
        w = (area * height * width / ratio.exp()).sqrt().clamp(1, width).round()
        first_row, first_column = (top * (height - h + 1)).floor(), (left * (width - w + 1)).floor()
        rows, columns = torch.arange(height, device=x.device), torch.arange(width, device=x.device)
        inside_rows = (rows >= first_row.unsqueeze(1)) & (rows < (first_row + h).unsqueeze(1))
        inside_columns = (columns >= first_column.unsqueeze(1)) & (
            columns < (first_column + w).unsqueeze(1)
        )
        inside = (
            inside_rows.unsqueeze(2) & inside_columns.unsqueeze(1) & params["chosen"].view(-1, 1, 1)
        )
        inside = inside.view(len(x), *(1 for _ in x.shape[1:-2]), height, width)
        dims = tuple(range(2, x.ndim))
        mean, std = x.mean(dim=dims, keepdim=True), x.std(dim=dims, keepdim=True, correction=0)
        return torch.where(inside, mean + std * params["noise"].to(x.dtype), x)
