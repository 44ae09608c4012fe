"""Readouts divide their input by the width multiplier; hooks do the same for any module."""

import copy
import pickle
from typing import Any

import pytest
import torch
from torch import nn

from mezzotint.optim.mup import MuReadout, make_readout, set_base_shapes
from mezzotint.optim.mup.readout import is_readout, multiply_input, multiply_output


def test_a_readout_in_closed_form() -> None:
    torch.manual_seed(0)
    model = set_base_shapes(
        MuReadout(12, 2, output_mult=3.0), MuReadout(4, 2), delta=MuReadout(8, 2)
    )
    x = torch.randn(5, 12)
    torch.testing.assert_close(model(x), x @ model.weight.T + model.bias)  # 3 · x / 3


def test_it_starts_as_a_linear_or_at_zero() -> None:
    torch.manual_seed(0)
    plain = nn.Linear(6, 3)
    torch.manual_seed(0)
    readout = MuReadout(6, 3)
    assert torch.equal(plain.weight, readout.weight) and torch.equal(plain.bias, readout.bias)
    zero = MuReadout(6, 3, readout_zero_init=True)
    assert not zero.weight.any() and not zero.bias.any()
    assert not MuReadout(6, 3, bias=False, readout_zero_init=True).weight.any()


@pytest.mark.parametrize("readout", [MuReadout(4, 2), make_readout(nn.Linear(4, 2))])
def test_it_must_have_base_shapes_before_its_first_use(readout: nn.Module) -> None:
    with pytest.raises(ValueError, match=r"Call set_base_shapes\(model, base\)"):
        readout(torch.zeros(1, 4))


@pytest.mark.parametrize("through", ["as made", "deepcopy", "pickle"])
def test_hooks_multiply_once_and_survive_copies(through: str) -> None:
    layer = nn.Linear(3, 3)
    for factor in (9.0, 0.5):  # the second call replaces the first
        multiply_input(layer, factor)
        multiply_output(layer, 2 * factor)
    if through != "as made":
        layer = copy.deepcopy(layer) if through == "deepcopy" else pickle.loads(pickle.dumps(layer))
    x = torch.randn(2, 3)
    expected = nn.functional.linear(0.5 * x, layer.weight, layer.bias)
    torch.testing.assert_close(layer(x), expected)
    assert is_readout(layer) and not is_readout(nn.Linear(2, 2)) and is_readout(MuReadout(2, 2))


@pytest.mark.parametrize("layer", [nn.Linear, nn.Conv1d, nn.ConvTranspose2d])
def test_any_layer_becomes_a_readout(layer: Any) -> None:
    def made(width: int) -> Any:
        torch.manual_seed(0)
        return make_readout(layer(width, 3, *(() if layer is nn.Linear else (1,))))

    drawn, readout = made(48), set_base_shapes(made(48), made(12), delta=made(24))
    # Torch draws transposed convolutions by their outputs, which are no width.
    factor = 1.0 if layer is nn.ConvTranspose2d else 2.0
    torch.testing.assert_close(readout.weight, factor * drawn.weight)
    x = torch.randn(2, 48, *[4] * (readout.weight.ndim - 2))
    weight, bias = factor * drawn.weight / 4.0, factor * drawn.bias
    multiply_input(drawn, 1.0)
    drawn.load_state_dict({"weight": weight, "bias": bias})
    torch.testing.assert_close(readout(x), drawn(x))
    assert torch.equal(readout(input=x), readout(x))
    twin = pickle.loads(pickle.dumps(copy.deepcopy(readout)))
    assert torch.equal(twin(x), readout(x))
