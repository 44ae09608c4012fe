"""Images `[C, H, W]`: uint8 pixels, or floats in [0, 1] that a range was mapped to."""

import math
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.nn.functional import adaptive_avg_pool2d, avg_pool2d, normalize, pad

from mezzotint.modality.modality import Example, Modality
from mezzotint.modality.patches import GridPatches, Patches, PatchSize

if TYPE_CHECKING:
    from mezzotint.types import Input

_LARGE = 64
_POOLED = 32
_CELLS, _ORIENTATIONS = 8, 9  # of the gradients: cells along each side, and directions
_CLIP = 0.2
_AREAS, _BINS, _RANGE = 4, 8, 2.5  # of the colors: areas along each side, bins, standard deviations


def pooled_pixels(x: Tensor) -> Tensor:
    """Flatten `[B, C, H, W]`; a side above 64 is first averaged over areas to at most 32.

    At 32 × 32 a linear probe of pixels is about as good, and has fewer weights to overfit with.
    """
    height, width = x.shape[-2:]
    if max(height, width) > _LARGE:
        x = adaptive_avg_pool2d(x, (min(_POOLED, height), min(_POOLED, width)))
    return x.flatten(1)


def image_statistics(x: Tensor, side: int = _LARGE) -> Tensor:
    """Describe normalized images `[B, C, H, W]` by colors and by gradient orientations: `[B, F]`.

    Args:
        x: images with any number of channels.
        side: longer sides are first averaged over areas to this many pixels.
    """
    if max(x.shape[-2:]) > side:
        x = adaptive_avg_pool2d(x, (min(side, x.shape[-2]), min(side, x.shape[-1])))
    means = adaptive_avg_pool2d(x, _AREAS)
    squares = adaptive_avg_pool2d(x.square(), _AREAS)
    layout = torch.cat([means, (squares - means.square()).clamp(min=0.0).sqrt()], dim=1).flatten(1)
    return torch.cat(
        [
            normalize(orientations(x).flatten(1)),
            layout / math.sqrt(layout.shape[1]),
            histogram(x.flatten(2), -_RANGE, _RANGE, _BINS).flatten(1) / math.sqrt(x.shape[1]),
        ],
        dim=1,
    )


def histogram(x: Tensor, low: float, high: float, bins: int) -> Tensor:
    """Return the square root of the fraction of values in each bin: `[..., N]` → `[..., bins]`.

    The outer bins take all values beyond them. A vector of square roots has a norm of 1, and the
    distance of two is Hellinger's.
    """
    index = ((x - low) * (bins / (high - low))).nan_to_num(0.0).clamp(0, bins - 1).long()
    counts = x.new_zeros(*x.shape[:-1], bins)
    counts.scatter_add_(-1, index, torch.ones_like(x))
    return (counts / x.shape[-1]).sqrt()


def orientations(x: Tensor) -> Tensor:
    """Compute histograms of oriented gradients (Dalal and Triggs, CVPR 2005): `[B, 9, 8, 8]`.

    Differs from the paper: the number of cells is fixed instead of their size, so that images of
    any size have the same features; and a cell is the mean of its values in its four normalized
    blocks instead of all four (as Felzenszwalb et al., TPAMI 2010), for fewer features.

    Args:
        x: images `[B, C, H, W]`; at each pixel the channel with the largest gradient counts.
    """
    wide = pad(x, (1, 1, 1, 1), mode="replicate")
    dx = wide[..., 1:-1, 2:] - wide[..., 1:-1, :-2]
    dy = wide[..., 2:, 1:-1] - wide[..., :-2, 1:-1]
    strength, channel = (dx.square() + dy.square()).max(dim=1, keepdim=True)
    dx, dy, strength = dx.gather(1, channel), dy.gather(1, channel), strength.sqrt()
    # A light edge on dark and a dark one on light count alike: angles are modulo half a turn.
    angle = torch.atan2(dy, dx).remainder(math.pi) * (_ORIENTATIONS / math.pi)
    below = angle.floor()
    votes = x.new_zeros(x.shape[0], _ORIENTATIONS, *x.shape[2:])
    for index, weight in ((below, 1.0 - (angle - below)), (below + 1.0, angle - below)):
        votes.scatter_add_(1, index.long() % _ORIENTATIONS, weight * strength)
    cells = adaptive_avg_pool2d(votes, _CELLS)
    # Sums of squares over the blocks of 2 × 2 cells; those at the border repeat the last cell.
    energy = pad(cells.square().sum(dim=1, keepdim=True), (1, 1, 1, 1), mode="replicate")
    norms = (4.0 * avg_pool2d(energy, 2, stride=1)).sqrt() + 1e-6
    corners = [norms[..., i : i + _CELLS, j : j + _CELLS] for i in (0, 1) for j in (0, 1)]
    return torch.stack([(cells / norm).clamp(max=_CLIP) for norm in corners]).mean(dim=0)


class ImageModality(Modality):
    """Pictures, of any number of channels."""

    plural = "images"
    axes = ("channels", "height", "width")
    is_picture = True
    thumbnails = True
    values = "uint8 / 255, then (x - mean) / std"
    handmade = "color statistics by area and gradient orientations"
    recipe = "image/folder_simclr"
    large_recipe = "image/folder_simclr_large"
    sizes = (
        ("encoder.width=48", "data.size=96"),
        ("data.size=64",),
        ("data.size=48",),
        ("data.size=32",),
        ("encoder.width=16", "data.size=32"),
    )
    finetune_recipe = "supervised/finetune"
    example = Example(
        data={"kind": "embedded_images", "name": "digits"},
        encoder={"kind": "vit", "width": 12, "depth": 1, "heads": 2, "patch": 2},
        patches={"patch": 2},
        transforms=[{"kind": "randomized_quantization", "bins": 4, "p": 0.5}],
    )

    def check(self, input: "Input") -> None:
        """Also refuse names and ranges that do not have one entry a channel, and empty ranges."""
        super().check(input)
        for key, value in (("channels", input.channels), ("range", input.range)):
            if value and len(value) != input.shape[0]:
                raise ValueError(
                    f"`{key}` must have {input.shape[0]} entries for images of shape "
                    f"{input.shape}, got {len(value)}."
                )
        if not all(math.isfinite(low) and low < high < math.inf for low, high in input.range):
            raise ValueError(
                "`range` must be a finite low and a larger high for each channel, got "
                f"{[list(ends) for ends in input.range]}."
            )

    def patches(self, input: "Input", dim: int, size: PatchSize) -> Patches:
        return GridPatches(input.shape, size.sides((16, 16)), dim)

    def raw_features(self, x: Tensor, input: "Input") -> Tensor:
        return pooled_pixels(x)

    def handmade_features(self, x: Tensor, input: "Input") -> Tensor:
        return image_statistics(x)

    def picture(self, x: Tensor, input: "Input") -> Tensor:
        """Show gray and RGB as they are, and other channels as `composite` says."""
        shown = self.composite(input)
        return x[list(shown)] if shown else x

    def composite(self, input: "Input") -> tuple[int, ...]:
        """Return the channels that pictures show as red, green and blue; empty for all as they are.

        They are those of these names, or the first and the second of two (as magenta and green), or
        the first three.
        """
        names = [name.lower() for name in input.channels]
        if {"red", "green", "blue"} <= set(names):
            return tuple(map(names.index, ("red", "green", "blue")))
        return {1: (), 2: (0, 1, 0), 3: ()}.get(input.shape[0], (0, 1, 2))

    def picture_note(self, input: "Input") -> str:
        shown = self.composite(input)
        names = input.channels or [f"channel {index}" for index in range(input.shape[0])]
        colors = f" show {', '.join(names[i] for i in shown)} as red, green, blue" if shown else ""
        mapped = "values by the range that became 0 … 1" if input.range else ""
        joined = f"{colors}{',' * bool(colors)} {'with' if colors else 'show'} {mapped}"
        return f"Pictures{joined if mapped else colors}." if colors or mapped else ""
