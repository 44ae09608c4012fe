"""Encoders of rows: against the same layers by hand, and means of the vectors of n-grams."""

import pytest
import torch

from mezzotint.encoders.rows import NGrams, TableMLP
from mezzotint.types import Input

TEXTS = Input((8,), (), (), "tokens", 30)
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


def test_ngrams_are_weighted_means_of_vectors_whatever_the_padding() -> None:
    torch.manual_seed(0)
    encoder = NGrams(TEXTS, width=16, longest=2, buckets=64).eval()
    x = torch.tensor([[4, 7, 4, 9, 0, 0, 0, 0]])
    vectors = encoder.vectors.weight.T / (2 * 1e-3) ** 0.5  # variances are 1e-3 at first
    pairs = [
        (((a * 2_654_435_761 + b) % 2**32 * 2_654_435_761 % 2**32) // 2**16) % 64
        for a, b in ((4, 7), (7, 4), (4, 9))
    ]
    assert len(set(pairs)) == 3
    expected = (2 / 4) ** 0.5 * vectors[4] + (1 / 4) ** 0.5 * (vectors[7] + vectors[9])
    expected = expected + (1 / 3) ** 0.5 * sum(vectors[30 + pair] for pair in pairs)
    torch.testing.assert_close(encoder(x)[0], expected)
    assert torch.equal(encoder(x), encoder(x[:, :4]))


def test_in_training_features_of_ngrams_are_centered() -> None:
    torch.manual_seed(0)
    encoder = NGrams(TEXTS, width=16)
    features = encoder(torch.randint(2, 30, (32, 8)))
    torch.testing.assert_close(features.mean(dim=0), torch.zeros(16), atol=1e-5, rtol=0.0)


def test_bad_sizes_of_ngrams_are_refused() -> None:
    for key in ("width", "longest", "buckets"):
        with pytest.raises(ValueError, match=rf"`encoder\.{key}` must be 1 or more, got 0"):
            NGrams(TEXTS, **{key: 0})
