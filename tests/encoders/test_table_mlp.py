"""The perceptron for rows of a table: against the same layers by hand."""

import pytest
import torch

from mezzotint.encoders.table_mlp import TableMLP
from mezzotint.types import Input

ROWS = Input((9,), (0.0,) * 9, (1.0,) * 9, "table")


def test_features_are_linear_norm_and_relu_in_turn() -> None:
    torch.manual_seed(0)
    encoder, x = TableMLP(ROWS, width=16, layers=2), torch.randn(32, 9)
    expected = x
    for layer in (0, 1):
        expected = expected @ encoder.get_parameter(f"layers.{layer}.0.weight").T
        std = (expected.var(dim=0, correction=0) + 1e-5).sqrt()
        expected = ((expected - expected.mean(dim=0)) / std).relu()
    torch.testing.assert_close(encoder(x), expected, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("layers", [1, 3])
def test_width_and_layers_give_the_size(layers: int) -> None:
    encoder = TableMLP(ROWS, width=16, layers=layers)
    assert encoder.dim == 16 and len(encoder.layers) == layers
    weights = 9 * 16 + (layers - 1) * 16 * 16 + layers * 2 * 16
    assert sum(p.numel() for p in encoder.parameters()) == weights


def test_every_weight_has_a_gradient() -> None:
    encoder = TableMLP(ROWS, width=16)
    encoder(torch.randn(8, 9)).square().sum().backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in encoder.parameters())


def test_bad_sizes_are_refused() -> None:
    for keywords in ({"width": 0}, {"layers": 0}):
        with pytest.raises(ValueError, match="`width` and `layers` must be at least 1, got"):
            TableMLP(ROWS, **keywords)
