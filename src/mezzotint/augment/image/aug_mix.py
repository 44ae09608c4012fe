"""AugMix (Hendrycks et al. 2019, arXiv 1912.02781): several chains of operations, mixed with each other and the image.

Weights of the chains are drawn from Dirichlet(1, …, 1), that of their mixture from Beta(1, 1),
which is uniform; the paper's α is 1 throughout. Equal to torchvision's for the same draws.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from mezzotint.augment.image.operations import IDENTITY, apply_operations, to_levels
from mezzotint.augment.image.rand_augment import RAND_AUGMENT, Range, Strategy, magnitudes
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


class AugMix(Strategy):
    """Mix the image with chains of operations.

    Args:
        severity: magnitudes are drawn from so many of the ten weakest bins.
        width: chains.
        depth: operations in a chain; 0 draws 1, 2 or 3.
        all_operations: also brightness, color, contrast and sharpness, which overlap with
            corruptions that the paper tests on.
        interpolation: of shears, translations and rotations.
        fill: level of what they bring into the image, 0 to 255.
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
            raise ValueError(f"got severity={severity}; allowed is 1 to {_BINS}: 3 is published")
        if width < 1 or depth < 0:
            raise ValueError(
                f"got width={width} and depth={depth}; allowed are one chain or more, and a depth from 0 on: "
                "3 and 0 are published"
            )
        self.severity, self.width, self.depth = severity, width, depth
        self.names_drawn = [name for name in _SPACE if all_operations or name not in _COLORS]

    def operations(self, shape: Sequence[int], draws: Draws) -> tuple[Tensor, Tensor]:
        """The operations of all chains, one chain after the other; short chains end with identity."""
        longest = self.depth or 3
        stages = self.width * longest
        which = draws.integers("operation", stages, high=len(self.names_drawn))
        level = draws.integers("level", stages, high=self.severity).double() / (_BINS - 1)
        op, magnitude = magnitudes(_SPACE, self.names_drawn, which, level, draws, shape)
        if self.depth:
            return op, magnitude
        depth = draws.integers("depth", self.width, low=1, high=longest + 1)
        left_out = (torch.arange(longest) >= depth.unsqueeze(2)).flatten(1)
        return op.masked_fill(left_out, IDENTITY), magnitude.masked_fill(left_out, 0.0)

    def draw(self, shape: Sequence[int], draws: Draws) -> Params:
        """Beside the operations `[B, chains · depth]` the `weights` of image and chains, `[B, 1 + chains]`."""
        params = super().draw(shape, draws)
        exponential = (1.0 - draws.uniform("chains", self.width)).log().neg()
        chains = exponential / exponential.sum(dim=1, keepdim=True).clamp(min=1e-30)
        mixed = draws.uniform("mixture", 1)
        params["weights"] = torch.cat([1.0 - mixed, mixed * chains], dim=1)
        return params

    def apply(self, x: Tensor, params: Params) -> Tensor:
        """Apply all chains at once, and mix."""
        rows = len(x) * self.width
        op, magnitude = (
            params[name].view(rows, params[name].shape[1] // self.width)
            for name in ("op", "magnitude")
        )
        place = params["place"].view(rows, op.shape[1], 2)
        chains = apply_operations(
            x.float().repeat_interleave(self.width, dim=0),
            op,
            magnitude,
            place,
            interpolation=self.interpolation,
            fill=float(self.fill),
        )
        weights = params["weights"].view(len(x), 1 + self.width, 1, 1, 1)
        mixed = to_levels(x.float()).mul_(weights[:, 0])
        for place_, part in enumerate(chains.view(len(x), self.width, *x.shape[1:]).unbind(1)):
            mixed.addcmul_(part, weights[:, place_ + 1])
        return mixed.clamp_(0.0, 255.0).floor_().mul_(1.0 / 255.0).to(x.dtype)
