"""Views of tables `[B, F]`: quantization by feature, noise, dropped features.

A row of a table has one number per feature, and quantizing one number within its own range changes
nothing. So the range comes from the data: features are standardized, and the bins divide −range …
range standard deviations. Each row draws its own edges and values for every feature, as in
randomized quantization of channels (Wu et al. 2023). A row's view does not depend on its batch.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from mezzotint.augment.transform import BatchLayout, Params, Transform, amount, chance, most
from mezzotint.seeding import Draws

TABLES = BatchLayout("table", ("B", "F"))


class FeatureQuantization(Transform):
    """Quantize standardized features at random.

    Args:
        bins: number of bins of each feature of each row, with random edges.
        range: standard deviations on either side that the bins divide; values beyond belong to the
            outermost bins.
        p: probability that a row is quantized.
    """

    layouts = (TABLES,)
    scaled = {"p": chance}

    def __init__(self, *, bins: int = 8, range: float = 3.0, p: float = 1.0) -> None:
        if bins < 2 or not range > 0.0 or not 0.0 <= p <= 1.0:
            raise ValueError(
                "`bins` must be 2 or more, `range` above 0 and `p` a probability, "
                f"got {bins}, {range} and {p}. Try 8, 3 and 1."
            )
        self.bins, self.range, self.p = bins, range, p

    def draw(self, shape: Sequence[int], draws: Draws) -> Params:
        """Draw `edges` `[B, F, bins − 1]` and `values` `[B, F, bins]`, uniform; `applied` `[B]`."""
        return {
            "edges": draws.uniform("edges", shape[1], self.bins - 1),
            "values": draws.uniform("values", shape[1], self.bins),
            "applied": draws.chance("applied", self.p),
        }

    def apply(self, x: Tensor, params: Params) -> Tensor:
        """Replace each number by the value drawn in its bin."""
        _check_features(x)
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
        std: standard deviation of the noise, in standard deviations of the feature.
    """

    layouts = (TABLES,)
    scaled = {"std": amount}

    def __init__(self, *, std: float = 0.2) -> None:
        if std < 0.0:
            raise ValueError(f"`std` must be 0 or more, got {std}. Try 0.2.")
        self.std = std

    def draw(self, shape: Sequence[int], draws: Draws) -> Params:
        """Draw `noise` `[B, F]`, standard normal."""
        return {"noise": draws.normal("noise", shape[1])}

    def apply(self, x: Tensor, params: Params) -> Tensor:
        _check_features(x)
        return x + self.std * params["noise"].to(x.dtype)


class FeatureDrop(Transform):
    """Replace some standardized features by their mean, which is 0.

    Args:
        p: probability that a feature is replaced.
    """

    layouts = (TABLES,)
    scaled = {"p": most}

    def __init__(self, *, p: float = 0.3) -> None:
        if not 0.0 <= p < 1.0:
            raise ValueError(f"`p` must be 0 or more and below 1, got {p}. Try 0.3.")
        self.p = p

    def draw(self, shape: Sequence[int], draws: Draws) -> Params:
        """Draw `dropped`, bool `[B, F]`."""
        return {"dropped": draws.uniform("dropped", shape[1]) < self.p}

    def apply(self, x: Tensor, params: Params) -> Tensor:
        _check_features(x)
        return x.masked_fill(params["dropped"], 0.0)


def _check_features(x: Tensor) -> None:
    if not x.is_floating_point():
        raise ValueError(
            f"Transforms of tables take floats [B, F], got {x.dtype} {list(x.shape)}. "
            "Choose transforms of the data's modality."
        )
