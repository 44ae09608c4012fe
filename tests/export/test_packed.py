"""Packed encoders compute exactly what the simulation computes."""

import json
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from mezzotint import load_encoder, quant
from mezzotint.encoders.encoder import Encoder
from mezzotint.encoders.resnet import resnet10
from mezzotint.encoders.timm import timm
from mezzotint.export.packed import save_packed
from mezzotint.quant.bitwidth import Bits
from mezzotint.quant.convert import QuantizationPolicy
from mezzotint.quant.fake import Layout, WeightQuantizer
from mezzotint.types import Input

INPUT = Input((3, 16, 16), (0.5, 0.5, 0.5), (0.25, 0.25, 0.25))
GROUPS = QuantizationPolicy("groups", weight=partial(WeightQuantizer, Layout("group", group=20)))


def made(policy: str | QuantizationPolicy, network: str = "resnet") -> Encoder:
    torch.manual_seed(0)
    encoder: Any = resnet10(INPUT, width=4) if network == "resnet" else timm(INPUT, name="test_vit")
    for module in encoder.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.get_buffer("running_mean").normal_(0.0, 0.2)
            module.get_buffer("running_var").uniform_(0.5, 1.5)
    quant.quantize_(encoder, policy)
    quant.calibrate(encoder, [torch.randn(16, 3, 16, 16)])
    done: Encoder = encoder.eval()
    return done


@pytest.mark.parametrize("policy", ["ssql", "all", "first_last_8", GROUPS], ids=str)
@pytest.mark.parametrize(
    ("weight", "activation"), [(2, 32), (3, 8), (4, 4), (5, 32), (6, 2), (7, 3), (8, 8)]
)
def test_outputs_equal_the_simulation(
    policy: str | QuantizationPolicy, weight: int, activation: int, tmp_path: Path
) -> None:
    encoder = made(policy)
    x = torch.randn(7, 3, 16, 16)
    loaded = load_encoder(save_packed(encoder, tmp_path, Bits(weight, activation)))
    with torch.no_grad():
        with quant.bits(encoder, weight=weight, activation=activation):
            simulated = encoder(x)
        assert torch.equal(loaded(x), simulated)
        assert not torch.equal(encoder(x), simulated)


def test_a_vision_transformer_too(tmp_path: Path) -> None:
    encoder = made("all", "vit")
    x = torch.randn(3, 3, 16, 16)
    loaded = load_encoder(save_packed(encoder, tmp_path, Bits(3, 6)))
    with torch.no_grad(), quant.bits(encoder, weight=3, activation=6):
        assert torch.equal(loaded(x), encoder(x))


def test_the_file_is_as_small_as_its_bits(tmp_path: Path) -> None:
    save_packed(made(GROUPS), tmp_path, Bits(3))
    tensors = load_file(tmp_path / "packed.safetensors")
    layer = made("ssql").get_submodule("layer2.0.conv1")
    shape = layer.get_parameter("weight").shape  # [8, 4, 3, 3]
    assert tensors["layer2.0.conv1.weight.codes"].numel() == shape.numel() * 3 // 8
    # 36 weights per channel are two groups of 20
    assert tensors["layer2.0.conv1.weight.scale"].shape == (8 * 2, 1)
    assert "layer2.0.conv1.weight" not in tensors
    assert not [name for name in tensors if "quantizer" in name]


def test_layers_with_their_own_bit_width_keep_it(tmp_path: Path) -> None:
    save_packed(made("first_last_8"), tmp_path, Bits(2))
    entries = json.loads((tmp_path / "packed.json").read_text())["weights"]
    bits = [entry["bits"] for entry in entries.values()]
    assert (bits[0], bits[-1], set(bits[1:-1])) == (8, 8, {2})


def test_damage_is_detected(tmp_path: Path) -> None:
    save_packed(made("ssql"), tmp_path, Bits(4))
    file = tmp_path / "packed.safetensors"
    data = bytearray(file.read_bytes())
    data[-1] ^= 1
    file.write_bytes(data)
    with pytest.raises(
        ValueError, match=r"is damaged: its SHA-256 is .* Restore the file, or export it again"
    ):
        load_encoder(tmp_path)


def test_a_directory_without_a_packed_encoder_is_refused(tmp_path: Path) -> None:
    from mezzotint.export import load_packed

    with pytest.raises(ValueError, match=r"has no packed.json. It must be a packed encoder"):
        load_packed(tmp_path)


@pytest.mark.parametrize("bits", [Bits(32, 32), Bits(32, 8)])
def test_weights_in_full_precision_are_refused(bits: Bits, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="`bits` must have weights of 1 to 8 bits, got"):
        save_packed(made("ssql"), tmp_path, bits)
