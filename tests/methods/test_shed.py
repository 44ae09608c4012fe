"""ShED: shuffling of embeddings and its detection."""

from typing import Any

import torch
from torch import Tensor

from mezzotint.encoders.domain_agnostic import DomainAgnostic
from mezzotint.methods.shed import ShED, shuffled
from mezzotint.seeding import Draws, key_of
from mezzotint.types import Input, Views

SERIES = Input((3, 20), (0.0,) * 3, (1.0,) * 3, "series")


def encoder(input: Input = SERIES, **keywords: Any) -> DomainAgnostic:
    torch.manual_seed(0)
    keywords = {"width": 16, "depth": 2, "heads": 2, "patch": 4, "dropout": 0.0} | keywords
    return DomainAgnostic(input, **keywords)


def views(x: Tensor, count: int = 1, step: int = 0) -> Views:
    return Views((x,) * count, ("global",) * count, Draws(torch.arange(len(x)), key_of(3, step)))


def test_shuffled_goes_round_among_the_chosen() -> None:
    order = torch.tensor([[4, 1, 3, 0, 2], [2, 0, 1, 3, 4], [0, 1, 2, 3, 4]])
    index, moved = shuffled(order, torch.tensor([[3], [1], [2]]))
    assert index.tolist() == [[0, 3, 2, 4, 1], [0, 1, 2, 3, 4], [1, 0, 2, 3, 4]]
    assert moved.tolist() == [
        [False, True, False, True, True],
        [False] * 5,
        [True, True, False, False, False],
    ]


def test_shed_learns_to_find_what_moved() -> None:
    """Rising series: what is out of order can be seen."""
    model = ShED(encoder(Input((1, 40), (0.0,), (1.0,), "series"), patch=4, width=32), ratio=0.3)
    optimizer = torch.optim.AdamW(model.parameters(), 3e-3)
    for step in range(80):
        start = torch.randn(16, 1, 1, generator=torch.Generator().manual_seed(step))
        x = start * 0.1 + torch.linspace(-2.0, 2.0, 40)
        out = model(views(x, step=step))
        optimizer.zero_grad()
        out.loss.backward()
        optimizer.step()
    assert out.logs["found"] > 0.9 and out.logs["false_alarms"] < 0.05
