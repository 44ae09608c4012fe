"""LoRA: nothing changes at first, only the updates learn, and merging keeps the function."""

import copy
from typing import Any

import pytest
import torch
from torch import nn

from mezzotint.encoders.encoder import Encoder
from mezzotint.encoders.lora import LoRA, has_lora, merge_lora
from mezzotint.encoders.resnet import resnet18
from mezzotint.encoders.vit import ViT
from mezzotint.quant.convert import make_encoder_quantizable
from mezzotint.types import Input

IMAGES = Input((3, 16, 16), (0.5,) * 3, (0.25,) * 3)


def encoders() -> list[Encoder]:
    torch.manual_seed(0)
    return [
        resnet18(IMAGES, stem="small", width=8),
        ViT(IMAGES, width=16, depth=2, heads=2, patch=4),
    ]


@pytest.mark.parametrize("encoder", encoders(), ids=["resnet", "vit"])
def test_a_merged_encoder_computes_the_same(encoder: Encoder) -> None:
    x = torch.randn(4, 3, 16, 16)
    encoder.eval()
    before, names = encoder(x), list(encoder.state_dict())
    LoRA(rank=4).add(encoder)
    assert torch.equal(encoder(x), before)  # B starts at zero

    optimizer = torch.optim.SGD([p for p in encoder.parameters() if p.requires_grad], lr=0.1)
    for _ in range(3):
        optimizer.zero_grad()
        encoder(x).square().mean().backward()
        optimizer.step()
    trained = encoder(x)
    assert (trained - before).abs().max() > 1e-3

    merged = merge_lora(encoder)
    assert list(merged.state_dict()) == names
    assert not has_lora(merged) and has_lora(encoder)
    assert (merged(x) - trained).abs().max() < 1e-5
    assert torch.equal(encoder(x), trained)  # the original still trains


def test_only_updates_norms_and_biases_learn() -> None:
    encoder = encoders()[1]
    chosen = LoRA(rank=2, targets=["blocks.*.attn.qkv"]).add(encoder)
    assert chosen == ["blocks.0.attn.qkv", "blocks.1.attn.qkv"]
    trained = {name for name, p in encoder.named_parameters() if p.requires_grad}
    assert "blocks.0.attn.qkv.parametrizations.weight.0.up" in trained
    assert "blocks.0.attn.proj.weight" not in trained
    assert "blocks.0.norm1.weight" in trained and "blocks.0.mlp.0.bias" in trained

    alone = encoders()[1]
    LoRA(rank=2, targets=["blocks.*.attn.qkv"], norms=False).add(alone)
    learning = [name for name, p in alone.named_parameters() if p.requires_grad]
    assert learning and all(name.endswith((".up", ".down")) for name in learning)


def test_an_update_is_alpha_over_rank_times_the_product() -> None:
    encoder = encoders()[1]
    layer: Any = encoder.get_submodule("blocks.0.attn.proj")
    before = layer.weight.detach().clone()
    LoRA(rank=2, alpha=6.0, targets=["blocks.0.attn.proj"]).add(encoder)
    update: Any = layer.get_submodule("parametrizations.weight.0")
    nn.init.ones_(update.up)
    nn.init.constant_(update.down, 0.5)
    assert torch.allclose(layer.weight, before + 3.0 * 2 * 0.5)


def test_a_copy_has_its_own_updates() -> None:
    encoder = encoders()[0]
    LoRA(rank=2).add(encoder)
    twin = copy.deepcopy(encoder)
    merge_lora(twin)
    x = torch.randn(2, 3, 16, 16)
    assert torch.equal(encoder.eval()(x), twin.eval()(x))


def test_what_cannot_be_updated_is_refused() -> None:
    with pytest.raises(ValueError, match=r"`lora.targets` must name layers .*'blocks.9.qkv'"):
        LoRA(targets=["blocks.9.qkv"]).add(encoders()[1])
    with pytest.raises(ValueError, match=r"`lora.rank` must be at most 8 for the layer conv1"):
        LoRA(rank=9).add(encoders()[0])
    with pytest.raises(ValueError, match=r"`lora.rank` must be at least 1, got 0"):
        LoRA(rank=0)
    with pytest.raises(ValueError, match=r"`lora.targets` must name layers, got none"):
        LoRA(targets=[])
    with pytest.raises(ValueError, match=r"`lora.alpha` must be positive"):
        LoRA(alpha=0.0)
    quantizable = encoders()[0]
    make_encoder_quantizable(quantizable, "ssql")
    with pytest.raises(ValueError, match="LoRA cannot train a network at low bits"):
        LoRA(rank=2).add(quantizable)
