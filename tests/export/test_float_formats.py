"""Other libraries open the fp32 formats and compute the same features."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import onnx
import pytest
import torch

from mezzotint import load_encoder
from mezzotint.data.source import Source
from mezzotint.encoders.encoder import Encoder
from mezzotint.encoders.onnx import load_exported
from mezzotint.encoders.resnet import resnet18
from mezzotint.encoders.timm import timm
from mezzotint.export import export
from mezzotint.export.float_formats import (
    open_timm,
    open_torchvision,
    write_onnx,
    write_timm,
    write_torchvision,
)
from mezzotint.modality.modality import modality_names, modality_of
from mezzotint.quant.bitwidth import FP32
from mezzotint.recipe.schema import construct, resolve
from mezzotint.types import Input
from tests.untrained_run import make_run, read_verification

RGB = Input((3, 32, 32), (0.5, 0.5, 0.5), (0.25, 0.25, 0.25))
GRAY = Input((1, 32, 32), (0.5,), (0.25,))


@pytest.mark.parametrize("kind", ["audio_ntt", "vit"])
def test_audio_of_any_length_after_an_export(kind: str, tmp_path: Path) -> None:
    """A convolution takes any length; a transformer's patches fix it, and windows are averaged."""
    own = {"audio_ntt": {"width": 2, "dim": 16}, "vit": {"width": 12, "depth": 1, "heads": 2}}
    input = Input((1, 64, 32), (-7.0,), (4.0,), "audio")
    torch.manual_seed(0)
    config = resolve({"kind": kind, **own[kind]}, "Encoder", "encoder")
    encoder: Encoder = construct(config, "Encoder", {"Encoder": (input,)}).eval()
    encoder.preprocessing = {"source": {"kind": "audio_folder"}}
    write_onnx(encoder, tmp_path / "encoder.onnx")
    served = load_exported(tmp_path / "encoder.onnx")
    assert served.input == input and served.preprocessing == encoder.preprocessing
    x = torch.randn(2, 1, 64, 80)
    with torch.no_grad():
        if kind == "audio_ntt":
            expected = encoder(x)
        else:  # three windows of 32 frames, spread evenly over 80
            expected = torch.stack([encoder(x[..., s : s + 32]) for s in (0, 24, 48)]).mean(dim=0)
        torch.testing.assert_close(served(x), expected, atol=1e-5, rtol=1e-5)
        short = torch.cat([x[..., :20], x[..., :12]], dim=3) if kind == "vit" else x[..., :20]
        torch.testing.assert_close(served(x[..., :20]), encoder(short), atol=1e-5, rtol=1e-5)


def test_fp32_onnx_describes_its_input_and_has_no_paths_of_the_machine(run: Path) -> None:
    folder = export(run, "onnx", FP32)
    model = onnx.load(folder / "encoder.onnx")
    onnx.checker.check_model(model, full_check=True)
    properties = {entry.key: entry.value for entry in model.metadata_props}
    described = json.loads(properties["input"])
    assert described["shape"] == [1, 8, 8] and described["mean"] == [0.3053]
    assert model.opset_import[0].version == 20
    assert b"/site-packages/" not in model.SerializeToString()
    assert {node.op_type for node in model.graph.node}.isdisjoint({"BatchNormalization"})
    assert read_verification(folder)["knn"]["artifact"] == read_verification(folder)["knn"]["float"]


def test_torch_export(run: Path) -> None:
    folder = export(run, "torch_export")
    module = torch.export.load(folder / "encoder.pt2").module()
    x = torch.randn(5, 1, 8, 8)
    with torch.no_grad():
        assert torch.allclose(module(x), load_encoder(run)(x), atol=1e-5)


def test_timm_opens_a_run(tmp_path: Path) -> None:
    folder = export(
        make_run(tmp_path / "run", {"kind": "timm", "name": "test_vit"}, "emoji"), "timm"
    )
    assert read_verification(folder)["runtime"]["name"] == "timm"
    assert read_verification(folder)["to_simulation"]["max_error"] < 1e-5


@pytest.mark.parametrize(
    ("build", "input"),
    [
        (lambda i: resnet18(i), RGB),
        (lambda i: resnet18(i), GRAY),
        (lambda i: timm(i, name="vit_tiny_patch16_224"), RGB),
        (lambda i: timm(i, name="mobilenetv2_050"), RGB),
    ],
)
def test_timm_loads_the_same_network(
    build: Callable[[Input], Encoder], input: Input, tmp_path: Path
) -> None:
    library: Any = pytest.importorskip("timm")
    encoder = build(input).eval()
    write_timm(encoder, tmp_path)
    x = torch.randn(2, *input.shape)
    with torch.no_grad():
        assert torch.equal(open_timm(tmp_path)(x), encoder(x))
        hub = library.create_model(f"local-dir:{tmp_path}", pretrained=True).eval()
        assert torch.equal(hub(x), encoder(x))
    assert list(library.data.resolve_model_data_config(hub)["mean"]) == list(input.mean)


def test_timm_is_told_how_samples_were_resized(tmp_path: Path) -> None:
    pytest.importorskip("timm")
    encoder = timm(RGB, name="test_vit")
    for preprocessing, crop, filter_ in (
        ({}, 1.0, "bilinear"),
        ({"crop_fraction": 0.875, "resize": "bicubic, antialiased"}, 0.875, "bicubic"),
    ):
        encoder.preprocessing = preprocessing
        write_timm(encoder, tmp_path)
        told = json.loads((tmp_path / "config.json").read_text())["pretrained_cfg"]
        assert (told["crop_pct"], told["interpolation"]) == (crop, filter_)


def test_torchvision_loads_the_same_network(tmp_path: Path) -> None:
    encoder = resnet18(RGB).eval()
    write_torchvision(encoder, tmp_path)
    x = torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        assert torch.allclose(open_torchvision(tmp_path)(x), encoder(x), rtol=1e-5, atol=1e-6)
    with pytest.raises(
        ValueError, match="take 3 channels, but the encoder has 1. Use `--format timm`"
    ):
        write_torchvision(resnet18(GRAY), tmp_path)


@pytest.mark.parametrize(
    "name",
    [pytest.param(n, marks=() if n == "tokens" else pytest.mark.slow) for n in modality_names()],
)
def test_every_modality_is_served_as_it_was_trained(name: str, tmp_path: Path) -> None:
    """Token ids are integers in the file, too."""
    example = modality_of(name).example
    data: Source = construct(resolve(example.data, "Source", "data"), "Source", {})
    torch.manual_seed(0)
    config = resolve(example.encoder, "Encoder", "encoder")
    encoder: Encoder = construct(config, "Encoder", {"Encoder": (data.input,)}).eval()
    write_onnx(encoder, tmp_path / "encoder.onnx")
    served = load_exported(tmp_path / "encoder.onnx")
    x = data.input.prepare(torch.stack([data.read(i)["x"] for i in range(3)]))
    assert data.input.blank(2).dtype == x.dtype and data.input.blank(2).shape == (2, *x.shape[1:])
    with torch.no_grad():
        torch.testing.assert_close(served(x), encoder(x), atol=1e-4, rtol=1e-4)
