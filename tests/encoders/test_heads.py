"""The builder of projectors and predictors."""

import pytest
import torch
from torch import nn

from mezzotint.encoders.heads import mlp


def test_layers_in_order() -> None:
    kinds = [type(m) for m in mlp([3, 5, 7, 2])]
    assert kinds == [nn.Linear, nn.BatchNorm1d, nn.ReLU] * 2 + [nn.Linear]
    assert [type(m) for m in mlp([3, 2])] == [nn.Linear]
    plain = [type(m) for m in mlp([3, 5, 7, 2], hidden_norm=False)]
    assert plain == [nn.Linear, nn.ReLU] * 2 + [nn.Linear]
    assert mlp([3, 5, 2])(torch.randn(4, 3)).shape == (4, 2)


@pytest.mark.parametrize("hidden_bias", [True, False])
@pytest.mark.parametrize("last_bias", [True, False])
@pytest.mark.parametrize("last_norm", [True, False])
def test_parameter_count(hidden_bias: bool, last_bias: bool, last_norm: bool) -> None:
    head = mlp([3, 5, 7, 2], hidden_bias=hidden_bias, last_bias=last_bias, last_norm=last_norm)
    linears = 3 * 5 + 5 * 7 + 7 * 2
    expected = (
        linears + 2 * (5 + 7) + (5 + 7) * hidden_bias + 2 * last_bias
    )  # a last norm learns nothing
    assert sum(p.numel() for p in head.parameters()) == expected


def test_last_norm_standardizes_the_batch() -> None:
    out = mlp([3, 5, 2], last_norm=True)(
        torch.randn(64, 3, generator=torch.Generator().manual_seed(0))
    )
    torch.testing.assert_close(out.mean(dim=0), torch.zeros(2), atol=1e-5, rtol=0.0)
    torch.testing.assert_close(out.var(dim=0, correction=0), torch.ones(2), atol=1e-2, rtol=0.0)


def test_byol_heads_have_the_published_sizes() -> None:
    """On 2048 features: projector 9.45 M, predictor 2.11 M (BYOL, section 3.3)."""
    assert sum(p.numel() for p in mlp([2048, 4096, 256]).parameters()) == 9_449_728
    assert sum(p.numel() for p in mlp([256, 4096, 256]).parameters()) == 2_109_696


@pytest.mark.parametrize("dims", [[3], [], [3, 0, 2], [3, -1]])
def test_bad_widths_are_refused(dims: list[int]) -> None:
    with pytest.raises(ValueError, match="at least two positive numbers, got"):
        mlp(dims)
