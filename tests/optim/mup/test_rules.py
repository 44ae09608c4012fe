"""The table of muP, row by row, and what it is for: the size of one step's effect."""

import pytest
import torch

from mezzotint.optim.lars import LARSOptimizer
from mezzotint.optim.muon import MuonOptimizer
from mezzotint.optim.mup.rules import Factors, adam, lars, muon, scaled_groups, sgd
from mezzotint.optim.mup.shapes import Growth

HIDDEN = Growth("hidden", fan_in=4.0, fan_out=2.0, rows=32, columns=64)
INPUT = Growth("input", fan_out=4.0, rows=64, columns=3)
OUTPUT = Growth("output", fan_in=4.0, rows=3, columns=64)
VECTOR, SCALAR = Growth("vector", fan_out=4.0, rows=64), Growth("scalar")


def test_adam() -> None:
    assert adam(HIDDEN, {}) == Factors(0.25, 4.0, 0.25)
    assert adam(INPUT, {}) == adam(OUTPUT, {}) == adam(VECTOR, {}) == Factors(1.0, 1.0, 0.25)
    assert adam(SCALAR, {}) == Factors()


def test_sgd() -> None:
    assert sgd(HIDDEN, {}) == Factors(0.5, 2.0)
    assert sgd(INPUT, {}) == sgd(OUTPUT, {}) == sgd(VECTOR, {}) == Factors(4.0, 0.25)
    assert sgd(SCALAR, {}) == Factors()


def test_lars() -> None:
    assert lars(HIDDEN, {"excluded": False}) == Factors(0.5)
    assert lars(INPUT, {"excluded": False}) == lars(OUTPUT, {}) == Factors(1.0, 0.25)
    assert lars(VECTOR, {"excluded": True}) == Factors(4.0, 0.25)
    assert lars(SCALAR, {"excluded": True}) == lars(SCALAR, {}) == Factors()


def test_muon() -> None:
    square = Growth("hidden", fan_in=4.0, fan_out=4.0, rows=64, columns=64)
    assert muon(square, {"scaling": "original"}) == Factors()
    assert muon(square, {"scaling": "match_rms_adamw"}) == Factors(0.5, 2.0)
    assert muon(INPUT, {"scaling": "original"}).lr == pytest.approx(1.0)
    assert muon(INPUT, {"scaling": "match_rms_adamw"}).lr == pytest.approx(1.0)
    assert muon(OUTPUT, {"scaling": "original"}).lr == pytest.approx(2.0)
    assert muon(VECTOR, {"scaling": "original", "orthogonal": False}) == adam(VECTOR, {})


def test_depth_makes_gradients_smaller_and_rates_larger() -> None:
    deep = Growth("hidden", fan_in=4.0, fan_out=4.0, depth=3.0)
    assert sgd(deep, {}) == Factors(3.0, 1 / 3)
    assert adam(deep, {}) == Factors(0.25, 4.0, 0.25 / 3)


def effect(kind: str, role: str, m: int, decay: float = 0.0) -> float:
    """How far one step moves a layer's output on the input that caused it, coordinate-wise."""
    torch.manual_seed(0)
    n, k = 64 * m, 16
    rows, columns = {"hidden": (n, n), "input": (n, k), "output": (k, n)}[role]
    std = n**-0.5 if role == "hidden" else 1.0
    weight = torch.nn.Parameter(torch.randn(rows, columns) * std)
    x = torch.randn(8, columns)
    delta = torch.randn(8, rows) / (1 if role == "output" else m)  # gradients of outputs shrink
    multiplier = m if role == "output" else 1
    weight.grad = (delta.T @ x) / multiplier
    fans = {"fan_in": 1.0 if role == "input" else m, "fan_out": 1.0 if role == "output" else m}
    grown = Growth(role, **fans, rows=rows, columns=columns)  # type: ignore[arg-type]
    group = {"params": [weight], "lr": 0.1, "weight_decay": decay, "eps": 1e-8}
    group |= {"excluded": False, "orthogonal": True, "scaling": kind.removeprefix("muon ")}
    rule = {"adam": adam, "sgd": sgd, "lars": lars}.get(kind, muon)
    (scaled,) = scaled_groups([group], rule, lambda *_: grown)
    before = weight.detach().clone()
    if kind == "adam":
        torch.optim.AdamW([scaled]).step()
    elif kind == "sgd":
        torch.optim.SGD([scaled]).step()
    elif kind == "lars":
        LARSOptimizer([scaled], lr=0.1, trust=0.1).step()
    else:
        MuonOptimizer([scaled], lr=0.1).step()
    return float((x @ (weight.detach() - before).T).abs().mean()) / multiplier


@pytest.mark.parametrize("kind", ["adam", "sgd", "lars", "muon original", "muon match_rms_adamw"])
@pytest.mark.parametrize("role", ["hidden", "input", "output"])
def test_a_step_moves_outputs_equally_far_at_every_width(kind: str, role: str) -> None:
    sizes = [effect(kind, role, m) for m in (1, 4, 16)]
    assert max(sizes) / min(sizes) < 1.35, sizes


def test_groups_stay_themselves_where_nothing_scales() -> None:
    group = {"params": [torch.zeros(2)], "lr": 0.1}
    assert scaled_groups([group], adam, lambda *_: Growth("scalar")) == [group]
    assert scaled_groups([group], adam, lambda *_: None)[0].keys() == {"params", "lr"}


def test_named_parameters_keep_their_names_and_rates_of_schedules_scale_too() -> None:
    first, second = torch.zeros(2, 2), torch.zeros(2)
    group = {
        "params": [("a", first), ("b", second)],
        "lr": 0.4,
        "base_lr": 0.4,
        "weight_decay": 0.1,
    }
    hidden, vector = scaled_groups([group], adam, lambda name, _: HIDDEN if name == "a" else VECTOR)
    assert [name for name, _ in hidden["params"]] == ["a"]
    assert (hidden["lr"], hidden["base_lr"]) == (pytest.approx(0.1), pytest.approx(0.1))
    assert hidden["weight_decay"] == pytest.approx(0.4)
    assert (hidden["lr_factor"], vector["lr_factor"]) == (0.25, 1.0)
