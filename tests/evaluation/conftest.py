"""A trained encoder for tests of evaluation at low bits."""

import pytest
import torch
from torch import nn
from torch.nn import functional

from tests.evaluation.stripes import Net, Stripes


@pytest.fixture(scope="module")
def trained() -> Net:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        net, head, source = Net(), nn.Linear(16, 4), Stripes()
        optimizer = torch.optim.Adam([*net.parameters(), *head.parameters()], lr=0.01)
        x = (source.images[:80].float() / 255 - 0.5) / 0.25
        y = torch.from_numpy(source.labels[:80])
        for _ in range(60):
            optimizer.zero_grad()
            functional.cross_entropy(head(net(x)), y).backward()
            optimizer.step()
    return net
