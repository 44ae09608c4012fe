"""AugMix (Hendrycks et al. 2019, arXiv 1912.02781): chains of operations, mixed with the image.

The chains' weights are drawn from Dirichlet(1, …, 1), and the weight of their mixture from
Beta(1, 1), which is uniform; the paper's α is 1 throughout. Equal to torchvision's for the same
draws.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from mezzotint.augment.image.operations import IDENTITY, apply_operations, to_levels
from mezzotint.augment.image.rand_augment import RAND_AUGMENT, RandomPolicy, Range, magnitudes
from mezzotint.augment.image.resample import Sampling
from mezzotint.augment.transform import Params
from mezzotint.seeding import Draws

_BINS = 10
_COLORS = ("brightness", "color", "contrast", "sharpness")
_SPACE: dict[str, Range] = {
    **{name: RAND_AUGMENT[name] for name in ("shear_x", "shear_y")},
    "translate_x": Range(0.0, 1.0 / 3.0, signed=True, of="width"),
    "translate_y": Range(0.0, 1.0 / 3.0, signed=True, of="height"),
    "rotate": RAND_AUGMENT["rotate"],
    "posterize": Range(4.0, 0.0, whole="nearest"),
    **{name: RAND_AUGMENT[name] for name in ("solarize", "auto_contrast", "equalize", *_COLORS)},
}


class AugMix(RandomPolicy):
    """Mix the image with chains of operations.

    Args:
        severity: number of weakest bins, of ten, from which magnitudes are drawn.
        width: number of chains.
        depth: number of operations of a chain; 0 draws 1, 2 or 3.
        all_operations: use brightness, color, contrast and sharpness too, which overlap with
            corruptions that the paper tests on.
        interpolation: interpolation of shears, translations and rotations.
        fill: level of pixels from outside the image, 0 to 255.
    """

    def __init__(
        self,
        *,
        severity: int = 3,
        width: int = 3,
        depth: int = 0,
        all_operations: bool = True,
        interpolation: Sampling = "bilinear",
        fill: int = 0,
    ) -> None:
        super().__init__(interpolation=interpolation, fill=fill)
        if not 1 <= severity <= _BINS:
            raise ValueError(
                f"`severity` must be 1 to {_BINS}, got {severity}. Try 3, as published."
            )
        if width < 1 or depth < 0:
            raise ValueError(
                f"`width` must be 1 or more and `depth` 0 or more, got {width} and {depth}. "
                "Try 3 and 0, as published."
            )
        self.severity, self.width, self.depth = severity, width, depth
        self.names_drawn = [name for name in _SPACE if all_operations or name not in _COLORS]

    def operations(self, shape: Sequence[int], draws: Draws) -> tuple[Tensor, Tensor]:
        """Draw the operations of all chains, chain by chain; identity fills short chains."""
        longest = self.depth or 3
        stages = self.width * longest
        which = draws.integers("operation", stages, high=len(self.names_drawn))
        level = draws.integers("level", stages, high=self.severity).double() / (_BINS - 1)
        op, magnitude = magnitudes(_SPACE, self.names_drawn, which, level, draws, shape)
        if self.depth:
            return op, magnitude
        depth = draws.integers("depth", self.width, low=1, high=longest + 1)
        unused = (torch.arange(longest) >= depth.unsqueeze(2)).flatten(1)
        return op.masked_fill(unused, IDENTITY), magnitude.masked_fill(unused, 0.0)

    def draw(self, shape: Sequence[int], draws: Draws) -> Params:
        """Draw operations `[B, chains · depth]`, and `weights` of image and chains."""
        params = super().draw(shape, draws)
        exponential = (1.0 - draws.uniform("chains", self.width)).log().neg()
        chains = exponential / exponential.sum(dim=1, keepdim=True).clamp(min=1e-30)
        mixed = draws.uniform("mixture", 1)
        params["weights"] = torch.cat([1.0 - mixed, mixed * chains], dim=1)
        return params

    def apply(self, x: Tensor, params: Params) -> Tensor:
        rows = len(x) * self.width
        op, magnitude = (
            params[name].view(rows, params[name].shape[1] // self.width)
            for name in ("op", "magnitude")
        )
        center = params["center"].view(rows, op.shape[1], 2)
        chains = apply_operations(
            x.float().repeat_interleave(self.width, dim=0),
            op,
            magnitude,
            center,
            interpolation=self.interpolation,
            fill=float(self.fill),
        )
        weights = params["weights"].view(len(x), 1 + self.width, 1, 1, 1)
        mixed = to_levels(x.float()).mul_(weights[:, 0])
        for index, part in enumerate(chains.view(len(x), self.width, *x.shape[1:]).unbind(1)):
            mixed.addcmul_(part, weights[:, index + 1])
        return mixed.clamp_(0.0, 255.0).floor_().mul_(1.0 / 255.0).to(x.dtype)
