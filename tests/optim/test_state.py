"""An optimizer's state as named tensors: what is saved, bit-exact resuming, refusals."""

import copy

import pytest
import torch
from torch import nn

from mezzotint.optim.optimizer import LARS, SGD, AdamW, Optimizer
from mezzotint.optim.state import load_optimizer_state, optimizer_state


def steps(model: nn.Module, optimizer: torch.optim.Optimizer, seeds: range) -> None:
    for seed in seeds:
        x = torch.randn(8, 4, generator=torch.Generator().manual_seed(seed))
        optimizer.zero_grad()
        model(x).square().mean().backward()
        optimizer.step()


@pytest.mark.parametrize("settings", [SGD(lr=0.1), AdamW(lr=0.01), LARS(lr=0.1)])
def test_a_loaded_state_continues_to_the_bit(settings: Optimizer) -> None:
    torch.manual_seed(0)
    model = nn.Linear(4, 3)
    optimizer = settings.build(model, 8)
    steps(model, optimizer, range(3))
    saved = optimizer_state(optimizer)
    assert {name.partition("/")[0] for name in saved} == {"weight", "bias"}
    resumed = copy.deepcopy(model)
    other = settings.build(resumed, 8)
    load_optimizer_state(other, saved)
    steps(model, optimizer, range(3, 6))
    steps(resumed, other, range(3, 6))
    for one, two in zip(model.parameters(), resumed.parameters(), strict=True):
        assert torch.equal(one, two)


def test_state_of_an_unknown_parameter_is_refused() -> None:
    optimizer = SGD(lr=0.1).build(nn.Linear(4, 3), 8)
    with pytest.raises(ValueError, match=r"state of 'head\.weight', but the method has no such"):
        load_optimizer_state(optimizer, {"head.weight/momentum_buffer": torch.zeros(3, 4)})
