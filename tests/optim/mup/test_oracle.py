"""The `mup` package of the authors against ours: multipliers, groups, initialization and steps.

`golden.json` keeps the numbers of the package (1.0.0, torch 2.14.1, CPU), so that the comparison
says something where the package is not installed; `python -m tests.optim.mup.test_oracle` writes it
again.
"""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from mezzotint.optim import mup as ours
from mezzotint.optim.mup.shapes import growth
from tests.optim.mup.models import ARCHITECTURES, batch

GOLDEN = Path(__file__).with_name("golden.json")
CASES = [(name, kind) for name in ARCHITECTURES for kind in ("sgd", "adam", "adamw")]
SETTINGS = {"sgd": {"lr": 0.05}, "adam": {"lr": 1e-3}, "adamw": {"lr": 1e-3}}
FUNCTIONS: dict[str, dict[str, Any]] = {
    "normal_": {"std": 0.3}, "uniform_": {"a": -0.2, "b": 0.2}, "trunc_normal_": {"std": 0.5},
    "xavier_normal_": {}, "xavier_uniform_": {}, "kaiming_uniform_": {},
    "kaiming_normal_": {"mode": "fan_out"},
}  # fmt: skip
OWN: dict[str, Any] = {"sgd": ours.MuSGD, "adam": ours.MuAdam, "adamw": ours.MuAdamW}


def made(name: str, package: Any, width: int = 128) -> nn.Module:
    """A model at four times the base width, by either package."""
    architecture = ARCHITECTURES[name]

    def at(size: int) -> nn.Module:
        model: nn.Module = architecture(size, readout=package.MuReadout)
        return model

    base, delta = at(32), at(64)
    torch.manual_seed(0)
    model: nn.Module = package.set_base_shapes(at(width), base, delta=delta)
    return model


def step(name: str, model: nn.Module, optimizer: torch.optim.Optimizer) -> float:
    x, y = batch(name)
    loss = F.cross_entropy(model(x), y)
    torch.autograd.backward(loss)
    optimizer.step()
    return loss.item()


def groups_of(model: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, list[float]]:
    """Learning rate and weight decay of each parameter."""
    names = {id(p): name for name, p in model.named_parameters()}
    return {
        names[id(p)]: [group["lr"], group["weight_decay"]]
        for group in optimizer.param_groups
        for p in group["params"]
    }


def facts_of(model: nn.Module, optimizer: torch.optim.Optimizer, name: str) -> dict[str, Any]:
    groups = groups_of(model, optimizer)
    start = {key: p.detach().double().norm().item() for key, p in model.named_parameters()}
    loss = step(name, model, optimizer)
    end = {key: p.detach().double().norm().item() for key, p in model.named_parameters()}
    return {
        "loss": loss, "groups": groups, "start": start, "end": end,
        "multiplier": model.get_submodule("readout").width_mult(),  # type: ignore[operator]
    }  # fmt: skip


def own_optimizer(kind: str, model: nn.Module) -> torch.optim.Optimizer:
    keywords = {} if kind == "sgd" else {"scale_eps": False}  # the package leaves eps as it is
    built: torch.optim.Optimizer = OWN[kind](
        model.parameters(), weight_decay=0.1, **SETTINGS[kind], **keywords
    )
    return built


@pytest.mark.parametrize(("name", "kind"), CASES)
def test_recorded_numbers_of_the_package(name: str, kind: str) -> None:
    expected = json.loads(GOLDEN.read_text())[f"{name}/{kind}"]
    model = made(name, ours)
    found = facts_of(model, own_optimizer(kind, model), name)
    assert found["multiplier"] == expected["multiplier"] == 4.0
    assert found["groups"].keys() == expected["groups"].keys()
    for key, pair in found["groups"].items():
        assert pair == pytest.approx(expected["groups"][key]), key
    assert found["loss"] == pytest.approx(expected["loss"], rel=1e-5)
    for when in ("start", "end"):
        assert found[when] == pytest.approx(expected[when], rel=1e-5)


@pytest.mark.parametrize(("name", "kind"), CASES)
def test_initialization_groups_and_a_step_are_those_of_the_package(name: str, kind: str) -> None:
    theirs = pytest.importorskip("mup")
    model, other = made(name, ours), made(name, theirs)
    for (key, own), reference in zip(model.named_parameters(), other.parameters(), strict=True):
        assert torch.equal(own, reference), key
    make = {"sgd": theirs.MuSGD, "adam": theirs.MuAdam, "adamw": theirs.MuAdamW}[kind]
    optimizer = own_optimizer(kind, model)
    reference_optimizer = make(other.parameters(), weight_decay=0.1, **SETTINGS[kind])
    assert groups_of(model, optimizer) == groups_of(other, reference_optimizer)
    assert step(name, model, optimizer) == step(name, other, reference_optimizer)
    for (key, own), reference in zip(model.named_parameters(), other.parameters(), strict=True):
        assert torch.equal(own, reference), key


@pytest.mark.parametrize("name", list(ARCHITECTURES))
def test_width_multipliers_are_those_of_the_package(name: str) -> None:
    theirs = pytest.importorskip("mup")
    other, grown = made(name, theirs), growth(made(name, ours))
    for key, p in other.named_parameters():
        infinite = p.infshape.ninf()  # type: ignore[attr-defined]
        roles = {0: {"scalar"}, 1: {"vector", "input", "output"}, 2: {"hidden"}}[infinite]
        assert grown[key].role in roles, key
        if infinite:
            assert grown[key].width == p.infshape.width_mult(), key  # type: ignore[attr-defined]


@pytest.mark.parametrize("function", FUNCTIONS)
@pytest.mark.parametrize("name", ["mlp", "cnn"])
def test_initializers_draw_what_those_of_the_package_draw(name: str, function: str) -> None:
    theirs = pytest.importorskip("mup")
    import mup.init as their_init

    keywords = FUNCTIONS[function]
    model, other = made(name, ours), made(name, theirs)
    for (key, own), reference in zip(model.named_parameters(), other.parameters(), strict=True):
        if own.ndim < 2:
            continue
        torch.manual_seed(1)
        getattr(ours.init, function)(own, **keywords)
        torch.manual_seed(1)
        getattr(their_init, function)(reference, **keywords)
        torch.testing.assert_close(own, reference, rtol=1e-6, atol=0.0, msg=f"{key}")


def test_base_shape_files_of_the_package_are_read(tmp_path: Path) -> None:
    theirs = pytest.importorskip("mup")
    base, delta = (ARCHITECTURES["cnn"](w, readout=theirs.MuReadout) for w in (32, 64))
    file = tmp_path / "base.bsh"
    theirs.make_base_shapes(base, delta, str(file))
    assert ours.load_base_shapes(file) == ours.make_base_shapes(base, delta)


@pytest.mark.parametrize("mup", [True, False])
def test_coordinates_are_those_of_the_package(mup: bool) -> None:
    theirs = pytest.importorskip("mup")
    import mup.coord_check as their_check

    def models(package: Any) -> dict[int, Any]:
        return {width: lambda width=width: made("mlp", package, width) for width in (64, 128)}

    settings: dict[str, Any] = {"optimizer": "adam", "lr": 1e-3, "mup": mup, "nsteps": 3}
    settings |= {"nseeds": 2, "cuda": False, "show_progress": False}
    rows = ours.coord_check.get_coord_data(models(ours), [batch("mlp")], **settings)
    frame = their_check.get_coord_data(models(theirs), [batch("mlp")], **settings)
    keys = ("width", "module", "t")
    expected = [(tuple(row[k] for k in keys), row["l1"]) for row in frame.to_dict("records")]
    found = [(tuple(row[k] for k in keys), row["l1"]) for row in rows]
    assert [key for key, _ in found] == [key for key, _ in expected]
    assert [size for _, size in found] == pytest.approx([size for _, size in expected], rel=1e-4)


if __name__ == "__main__":
    import mup

    makers = {"sgd": mup.MuSGD, "adam": mup.MuAdam, "adamw": mup.MuAdamW}
    golden = {}
    for name, kind in CASES:
        model = made(name, mup)
        optimizer = makers[kind](model.parameters(), weight_decay=0.1, **SETTINGS[kind])
        golden[f"{name}/{kind}"] = facts_of(model, optimizer, name)
    GOLDEN.write_text(json.dumps(golden, indent=1) + "\n")
