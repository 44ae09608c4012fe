"""Gaussian blur with one sigma per sample, as two depthwise convolutions.

SimCLR (Chen et al. 2020, appendix A) blurs half of the images with sigma from U(0.1, 2) and a
kernel as wide as a tenth of the image's height.

On a CPU a depthwise convolution is vectorized over channels: 16 at a time with AVX-512. Small
images are batched, with their channels as the channels of the convolution. A large image is
blurred alone, with its rows or columns as channels, and needs only as many taps as its own sigma
requires. The choice depends only on the size of the image, so a sample's pixels do not depend on
the other samples of its batch.
"""

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from mezzotint.augment.image.geometry import probability
from mezzotint.augment.transform import IMAGES, SPECTROGRAMS, Params, Transform, chance, where_rows
from mezzotint.seeding import Draws

_LARGE = 2**14
"""Number of pixels from which an image is blurred alone."""

_REACH = 5.5
"""Taps beyond this many standard deviations are dropped; together they weigh 4e-8."""


class GaussianBlur(Transform):
    """Blur some of the images, reflecting at the border.

    Equal to `torchvision.transforms.v2.functional.gaussian_blur` on float images within 1e-6.

    Args:
        kernel: width of the kernel in pixels, odd. `None` for a tenth of the image's height, made
            odd: 23 at 224 pixels, 9 at 96, 3 at 32, and no blur below 20.
        sigma: range of the standard deviation in pixels, drawn uniformly.
        p: probability that an image is blurred.
    """

    layouts = (IMAGES, SPECTROGRAMS)
    scaled = {"p": chance}
    decisions = frozenset({"chosen"})

    def __init__(
        self, *, kernel: int | None = None, sigma: tuple[float, float] = (0.1, 2.0), p: float = 0.5
    ) -> None:
        if kernel is not None and (kernel < 1 or kernel % 2 == 0):
            raise ValueError(
                f"`kernel` must be an odd number of pixels, got {kernel}. Try {max(1, kernel + 1)}."
            )
        if not 0.0 < sigma[0] <= sigma[1]:
            raise ValueError(
                f"`sigma` must be pixels with 0 < low <= high, got {tuple(sigma)}. Try [0.1, 2.0]."
            )
        self.kernel = kernel
        self.sigma = (float(sigma[0]), float(sigma[1]))
        self.p = probability(p, "p")

    def draw(self, shape: Sequence[int], draws: Draws) -> Params:
        """Draw `chosen`, bool `[B]`, and `sigma`, float32 `[B]`."""
        sigma = draws.uniform("sigma", low=self.sigma[0], high=self.sigma[1])
        return {"chosen": draws.chance("chosen", self.p), "sigma": sigma}

    def apply(self, x: Tensor, params: Params) -> Tensor:
        radius = x.shape[-2] // 10 // 2 if self.kernel is None else self.kernel // 2
        if radius == 0:
            return x
        if radius >= min(x.shape[-2:]):
            raise ValueError(
                "`kernel` must be less than twice the shorter side of the image, got "
                f"{2 * radius + 1} pixels for images of {tuple(x.shape[-2:])}. "
                "Use a smaller kernel."
            )
        sigma = params["sigma"].to(x.dtype)
        return where_rows(
            x, params["chosen"], lambda part, rows: blurred(part, sigma[rows], radius)
        )


def blurred(x: Tensor, sigma: Tensor, radius: int) -> Tensor:
    """Blur `x` `[K, C, H, W]` with its `sigma` `[K]` and a kernel of `2 · radius + 1` pixels."""
    alone = x.device.type == "cpu" and x.shape[-2] * x.shape[-1] >= _LARGE
    return (_blur_alone if alone else _blur_together)(x, sigma, radius)


def _kernel(sigma: Tensor, radius: int) -> Tensor:
    """`[K]` → `[K, 2 · radius + 1]`, rows that sum to one."""
    offset = torch.arange(-radius, radius + 1, device=sigma.device, dtype=sigma.dtype)
    return torch.softmax((offset / sigma.unsqueeze(1)).square_().mul_(-0.5), dim=1)


def _blur_together(x: Tensor, sigma: Tensor, radius: int) -> Tensor:
    """Blur `x` `[K, C, H, W]` with `sigma` `[K]`; every channel is a group of the convolution."""
    count, channels, height, width = x.shape
    groups = count * channels
    if groups == 1:
        # For a single group torch takes another algorithm, which rounds differently.
        return _blur_together(x.expand(2, -1, -1, -1), sigma.expand(2), radius)[:1]
    kernel = _kernel(sigma, radius).repeat_interleave(channels, dim=0)
    y = F.pad(x, (radius,) * 4, mode="reflect").view(
        1, groups, height + 2 * radius, width + 2 * radius
    )
    y = F.conv2d(y, kernel.view(groups, 1, 1, -1), groups=groups)
    y = F.conv2d(y, kernel.view(groups, 1, -1, 1), groups=groups)
    return y.view(x.shape)


def _blur_alone(x: Tensor, sigma: Tensor, radius: int) -> Tensor:
    """Blur large images one after the other; the result equals `_blur_together`'s."""
    reaches = [min(radius, math.ceil(_REACH * value)) for value in sigma.tolist()]
    parts = zip(torch.split(x, 1), torch.split(sigma, 1), reaches, strict=True)
    return torch.cat(
        [_blur_one(image, _kernel(value, reach), reach) for image, value, reach in parts]
    )


def _blur_one(x: Tensor, kernel: Tensor, radius: int) -> Tensor:
    """Blur `x` `[1, C, H, W]` with one kernel `[1, 2 · radius + 1]`."""
    _, channels, height, width = x.shape
    # Along the rows: bundles of rows are the groups, which needs no copy.
    bundles = math.gcd(height, 16) * channels
    y = F.pad(x, (radius, radius, 0, 0), mode="reflect").view(1, bundles, -1, width + 2 * radius)
    y = F.conv2d(y, kernel.expand(bundles, -1).view(bundles, 1, 1, -1), groups=bundles).view(
        x.shape
    )
    # Along the columns: every column is a group, so the memory already is "channels last".
    y = (
        F.pad(y, (0, 0, radius, radius), mode="reflect")
        .view(channels, -1, 1, width)
        .permute(0, 3, 1, 2)
    )
    y = F.conv2d(y, kernel.expand(width, -1).view(width, 1, -1, 1), groups=width)
    return y.permute(0, 2, 3, 1).reshape(x.shape)
