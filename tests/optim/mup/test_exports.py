"""What is saved and exported of a network in muP computes what the trained network computes."""

import copy
import pickle
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.func import functional_call

from mezzotint import load_encoder, quant
from mezzotint.encoders.onnx import load_exported
from mezzotint.encoders.saving import save_encoder
from mezzotint.export.float_formats import open_torch_export, write_onnx, write_torch_export
from mezzotint.export.packed import save_packed
from mezzotint.export.request import copy_to_fp32
from mezzotint.optim.mup.method import MuP, build, roles_of
from mezzotint.optim.mup.shapes import growth
from mezzotint.quant.bitwidth import Bits
from tests.optim.mup.test_method import ENCODERS, METHODS, views


def encoder(kind: str) -> Any:
    """An encoder whose multipliers are not 1: of inputs, of residual branches, of logits."""
    input, section = ENCODERS[kind]
    config = section(32)
    settings = MuP(base_width=16)
    if kind == "vit":
        config |= {"heads": 2, "depth": 4}
        settings = MuP(base_width=16, base_depth=2, attention="larger_heads")
    torch.manual_seed(0)
    made: Any = settings.apply(build(config, METHODS["byol"](32), input)).encoder
    with torch.no_grad():  # what starts at 0 would hide a lost multiplier
        for p in made.parameters():
            p.add_(0.1 * torch.randn_like(p))
    roles = roles_of(made)
    assert roles is not None and any(roles[key] for key in ("input", "output", "logits"))
    return made.eval()


def features(made: Any, kind: str) -> Any:
    with torch.no_grad():
        return made(views(kind, 4).x[0])


@pytest.mark.parametrize("kind", ["vit", "pointnet"])
def test_a_saved_encoder(kind: str, tmp_path: Path) -> None:
    made = encoder(kind)
    loaded = load_encoder(save_encoder(made, tmp_path))
    assert torch.equal(features(loaded, kind), features(made, kind))
    assert growth(loaded) == growth(made) and roles_of(loaded) == roles_of(made)


@pytest.mark.parametrize("kind", ["vit", "pointnet"])
def test_copies_and_a_compiled_graph_without_a_break(kind: str) -> None:
    made = encoder(kind)
    expected = features(made, kind)
    for twin in (copy.deepcopy(made), pickle.loads(pickle.dumps(made))):
        assert torch.equal(features(twin, kind), expected) and roles_of(twin) == roles_of(made)
    state = dict(made.state_dict())
    x = views(kind, 4).x[0]
    with torch.no_grad():
        assert torch.equal(functional_call(made, state, (x,)), expected)
    compiled = torch.compile(made, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(features(compiled, kind), expected)


@pytest.mark.parametrize("kind", ["vit", "pointnet"])
def test_torch_export(kind: str, tmp_path: Path) -> None:
    made = encoder(kind)
    write_torch_export(made, tmp_path / "encoder.pt2")
    served = open_torch_export(tmp_path / "encoder.pt2")
    torch.testing.assert_close(features(served, kind), features(made, kind))


def test_onnx(tmp_path: Path) -> None:
    made = encoder("vit")
    write_onnx(made, tmp_path / "encoder.onnx")
    served = load_exported(tmp_path / "encoder.onnx")
    torch.testing.assert_close(features(served, "vit"), features(made, "vit"), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("kind", ["vit", "pointnet"])
def test_packed_integers(kind: str, tmp_path: Path) -> None:
    made = encoder(kind)
    expected = features(made, kind)
    quant.quantize_(made, "all")
    quant.calibrate(made, [views(kind).x[0]])
    torch.testing.assert_close(features(copy_to_fp32(made), kind), expected)
    loaded = load_encoder(save_packed(made, tmp_path, Bits(8, 8)))
    with quant.bits(made, weight=8, activation=8):
        assert torch.equal(features(loaded, kind), features(made, kind))
    error = (features(loaded, kind) - expected).norm() / expected.norm()
    assert error < 0.1
