"""Views of tables `[B, F]`: quantization by feature, noise, features left out.

A row of a table has one number a feature, and quantizing one number within its own range changes
nothing. So the range is that of the data: features come standardized, and the bins divide −range …
range standard deviations. Each row has edges and values of its own for every feature, as in
randomized quantization of channels (Wu et al. 2023); no row's view depends on the rows it is
batched with.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from mezzotint.augment.transform import Params, Transform
from mezzotint.seeding import Draws


class FeatureQuantization(Transform):
    """Randomized quantization of standardized features.

    Args:
        bins: of each feature of each row, with random edges.
        range: standard deviations on either side that the bins divide; values beyond belong to the
            outermost bins.
        p: share of the rows that are quantized.
    """

    modalities = frozenset({"table"})

    def __init__(self, *, bins: int = 8, range: float = 3.0, p: float = 1.0) -> None:
        if bins < 2 or not range > 0.0 or not 0.0 <= p <= 1.0:
            raise ValueError(
                f"got bins={bins}, range={range}, p={p}; allowed are 2 bins or more, a range above 0 and a probability:"
                " 8, 3 and 1 are the defaults"
            )
        self.bins, self.range, self.p = bins, range, p

    def draw(self, shape: Sequence[int], draws: Draws) -> Params:
        """`edges` `[B, F, bins − 1]` and `values` `[B, F, bins]`, uniform, and `applied` `[B]`."""
        return {
            "edges": draws.uniform("edges", shape[1], self.bins - 1),
            "values": draws.uniform("values", shape[1], self.bins),
            "applied": draws.chance("applied", self.p),
        }

    def apply(self, x: Tensor, params: Params) -> Tensor:
        """Replace each number by one drawn in its bin."""
        edges = params["edges"].sort(dim=2).values * (2.0 * self.range) - self.range
        index = (x.unsqueeze(2) >= edges).sum(dim=2, keepdim=True)
        ends = (
            torch.nn.functional.pad(edges, (1, 0), value=-self.range),
            torch.nn.functional.pad(edges, (0, 1), value=self.range),
        )
        left, right = (end.gather(2, index) for end in ends)
        y = left + (right - left) * params["values"].gather(2, index)
        return torch.where(params["applied"].unsqueeze(1), y.squeeze(2).to(x.dtype), x)


class FeatureNoise(Transform):
    """Add noise to standardized features.

    Args:
        std: of the noise, in standard deviations of the feature.
    """

    modalities = frozenset({"table"})

    def __init__(self, *, std: float = 0.2) -> None:
        if std < 0.0:
            raise ValueError(
                f"got std={std}; allowed is 0 or more: 0.2 is a fifth of a feature's spread"
            )
        self.std = std

    def draw(self, shape: Sequence[int], draws: Draws) -> Params:
        """`noise` `[B, F]`, standard normal."""
        return {"noise": draws.normal("noise", shape[1])}

    def apply(self, x: Tensor, params: Params) -> Tensor:
        """Add it."""
        return x + self.std * params["noise"].to(x.dtype)


class FeatureDrop(Transform):
    """Replace some standardized features by their mean, which is 0.

    Args:
        p: probability of each feature.
    """

    modalities = frozenset({"table"})

    def __init__(self, *, p: float = 0.3) -> None:
        if not 0.0 <= p < 1.0:
            raise ValueError(f"got p={p}; allowed is 0 to less than 1: 0.3 leaves out a third")
        self.p = p

    def draw(self, shape: Sequence[int], draws: Draws) -> Params:
        """`dropped`, bool `[B, F]`."""
        return {"dropped": draws.uniform("dropped", shape[1]) < self.p}

    def apply(self, x: Tensor, params: Params) -> Tensor:
        """Set them to 0."""
        return x.masked_fill(params["dropped"], 0.0)
