"""Views with a mask of pairs, and the siamese methods that compare them."""

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from mezzotint.encoders.encoder import Encoder
from mezzotint.methods.siamese import Siamese
from mezzotint.seeding import Draws
from mezzotint.types import Input, Views

INPUT = Input((3, 8, 8), (0.5, 0.5, 0.5), (0.25, 0.25, 0.25))


def make_views(count: int, batch: int) -> Views:
    generator = torch.Generator().manual_seed(1)
    x = tuple(torch.randn(batch, 3, 8, 8, generator=generator) for _ in range(count))
    return Views(x, ("global",) * count, Draws(torch.arange(batch), 3))


class Tiny(Encoder):
    """One layer on the mean color and its spread, for images of any size."""

    def __init__(self) -> None:
        super().__init__(INPUT, dim=12)
        self.layer = torch.nn.Linear(6, 12)

    def forward(self, x: Tensor) -> Tensor:
        found: Tensor = self.layer(torch.cat([x.mean(dim=(2, 3)), x.std(dim=(2, 3))], dim=1)).tanh()
        return found


PAIRS = ((1, 0), (0, 1), (2, 0), (3, 0), (3, 1))


WEIGHTS = [0.3, 0.3, 0.7, 0.7, 0.2]


def masked(count: int = 4, *, weights: bool = True) -> Views:
    views = make_views(count, 6)
    return replace(views, pairs=PAIRS, weights=torch.tensor(WEIGHTS) if weights else None)


def build(cls: type[Siamese], **keywords: Any) -> Siamese:
    torch.manual_seed(0)
    small: dict[str, Any] = {"hidden_dim": 24, "dim": 16, **keywords}
    return cls(Tiny(), **small).train()
