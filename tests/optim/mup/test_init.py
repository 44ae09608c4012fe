"""Initializers: torch's own at the base width, width-free or 1 / √fan_in at any other."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from mezzotint.optim.mup import init, set_base_shapes
from tests.optim.mup.models import MLP

FUNCTIONS: list[tuple[str, dict[str, Any]]] = [
    ("uniform_", {"a": -0.1, "b": 0.1}), ("normal_", {"std": 0.3}), ("trunc_normal_", {"std": 0.3}),
    ("xavier_uniform_", {}), ("xavier_normal_", {"gain": 2.0}),
    ("kaiming_uniform_", {"nonlinearity": "relu"}), ("kaiming_normal_", {"mode": "fan_out"}),
]  # fmt: skip


@pytest.mark.parametrize(("name", "keywords"), FUNCTIONS)
def test_at_the_base_width_torch_draws_the_same(name: str, keywords: dict[str, Any]) -> None:
    model = set_base_shapes(MLP(16), MLP(16), delta=MLP(32))
    theirs: Callable[..., Tensor] = getattr(nn.init, name)
    for p in (p for p in model.parameters() if p.ndim == 2):
        torch.manual_seed(0)
        drawn = getattr(init, name)(p, **keywords).detach().clone()
        torch.manual_seed(0)
        torch.testing.assert_close(drawn, theirs(p, **keywords).detach(), rtol=1e-6, atol=0.0)


@pytest.mark.parametrize(("name", "keywords"), FUNCTIONS)
def test_deviations_scale_by_role(name: str, keywords: dict[str, Any]) -> None:
    def deviations(width: int) -> dict[str, float]:
        torch.manual_seed(0)
        model = set_base_shapes(MLP(width), MLP(128), delta=MLP(256))
        return {
            key: float(getattr(init, name)(p, **keywords).detach().std())
            for key, p in model.named_parameters()
            if p.ndim == 2
        }

    narrow, wide = deviations(128), deviations(512)
    for key, expected in (("first", 1.0), ("second", 0.5), ("third", 0.5), ("readout", 1.0)):
        ratio = wide[f"{key}.weight"] / narrow[f"{key}.weight"]
        assert ratio == pytest.approx(expected, rel=0.1), key


def test_constants() -> None:
    model = set_base_shapes(MLP(16), MLP(8))
    assert not init.zeros_(model.second.weight).any()
    assert init.ones_(model.second.bias).all()
    assert torch.equal(init.eye_(model.readout.weight), torch.eye(10, 16))


def test_hidden_weights_must_be_centered() -> None:
    model = set_base_shapes(MLP(16), MLP(8))
    hidden = model.second.weight
    for draw in (
        lambda: init.uniform_(hidden),
        lambda: init.normal_(hidden, mean=1.0),
        lambda: init.trunc_normal_(hidden, a=0.0),
        lambda: init.ones_(hidden),
        lambda: init.eye_(hidden),
    ):
        with pytest.raises(ValueError, match="must start with mean 0"):
            draw()  # type: ignore[no-untyped-call]


def test_a_parameter_that_was_replaced_does_not_disturb_other_models() -> None:
    """Base shapes are looked up among all live models."""
    changed, other = (set_base_shapes(MLP(32), MLP(8), delta=MLP(16)) for _ in range(2))
    changed.readout.weight = nn.Parameter(torch.zeros(3))
    assert float(init.normal_(other.readout.weight).std().detach()) == pytest.approx(1.0, rel=0.2)
    with pytest.raises(ValueError, match="has no base shape"):
        init.normal_(changed.readout.weight)


def test_tensors_without_base_shapes_are_refused() -> None:
    with pytest.raises(ValueError, match=r"shape \(3, 2\) has no base shape"):
        init.normal_(torch.zeros(3, 2))
