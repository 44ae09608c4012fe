"""SmoothQuant leaves float outputs equal and helps at low bits; attention on powers of two."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from mezzotint import quant
from mezzotint.encoders.resnet import ResNet
from mezzotint.quant.convert import named_activation_quantizers
from mezzotint.quant.transformers import Log2, quantize_softmax_, smooth_

timm = pytest.importorskip("timm")


def vit() -> tuple[Any, Tensor]:
    """A ViT with a few channels twenty times as large as the others, as in trained ones."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        net = timm.create_model(
            "vit_tiny_patch16_224", num_classes=0, img_size=32, patch_size=8, depth=3
        ).eval()
        x = torch.randn(16, 3, 32, 32)
        with torch.no_grad():
            for module in net.modules():
                if isinstance(module, nn.LayerNorm):
                    module.weight.uniform_(0.5, 1.5)
                    module.bias.normal_(0.0, 0.1)
                    module.weight[:4] *= 20.0
                    module.bias[4] = 15.0
    return net, x


def error(net: Any, x: Tensor, exact: Tensor, **widths: int) -> float:
    quant.calibrate(net, [x])
    with quant.bits(net, **widths), torch.no_grad():
        return float((net(x) - exact).square().mean() / exact.var())


@pytest.mark.parametrize("quantized_before", [False, True])
def test_smoothing(quantized_before: bool) -> None:
    net, x = vit()
    plain, _ = vit()
    exact = net(x).detach()
    quant.quantize_(plain, "all")
    if quantized_before:
        quant.quantize_(net, "all")
    pairs = smooth_(net, x.split(4), alpha=0.5)
    assert pairs["blocks.0.norm1"] == ["blocks.0.attn.qkv"] and pairs["blocks.2.norm2"] == [
        "blocks.2.mlp.fc1"
    ]
    assert len(pairs) == 6
    torch.testing.assert_close(net(x), exact, rtol=1e-3, atol=1e-4)
    if not quantized_before:
        quant.quantize_(net, "all")
    assert error(net, x, exact, weight=8, activation=6) < 0.5 * error(
        plain, x, exact, weight=8, activation=6
    )


def test_what_was_balanced_is_what_the_formula_says() -> None:
    net, x = vit()
    seen: list[Tensor] = []
    block = net.blocks[0]
    handle = block.norm1.register_forward_hook(lambda m, a, out: seen.append(out.detach()))
    net(x)
    weight = block.attn.qkv.weight.detach().clone()
    smooth_(net, [x], alpha=0.75)
    net(x)
    handle.remove()
    peaks, widest = seen[0].abs().amax((0, 1)), weight.abs().amax(0)
    scale = peaks**0.75 / widest**0.25
    torch.testing.assert_close(block.attn.qkv.weight, weight * scale, rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(seen[-1].abs().amax((0, 1)), peaks / scale, rtol=1e-3, atol=1e-5)


class Shared(nn.Module):
    """A norm whose output is also added to the result."""

    def __init__(self) -> None:
        super().__init__()
        self.norm, self.linear = nn.LayerNorm(6), nn.Linear(6, 6)

    def forward(self, x: Tensor) -> Tensor:
        out = self.norm(x)
        return out + self.linear(out)  # type: ignore[no-any-return]


def test_what_cannot_be_smoothed(trained: ResNet) -> None:
    net = Shared()
    x = torch.randn(5, 6, generator=torch.Generator().manual_seed(0))
    before = net(x).detach()
    with pytest.raises(ValueError, match="Smoothing changes the outputs of Shared"):
        smooth_(net, [x])
    torch.testing.assert_close(net(x), before)
    with pytest.raises(ValueError, match="ResNet has no LayerNorm that feeds a linear layer"):
        smooth_(trained, [torch.zeros(2, 1, 8, 8)])
    with pytest.raises(ValueError, match="calibration set is empty"):
        smooth_(net, [])
    with pytest.raises(ValueError, match="`alpha` must be 0 to 1"):
        smooth_(net, [x], alpha=1.5)


@pytest.mark.parametrize("bits", [1, 2, 4, 8])
def test_powers_of_two(bits: int) -> None:
    x = torch.cat(
        [torch.tensor([0.0, 1.0, 0.5, 0.36, 2.0**-14]), torch.linspace(1e-3, 1, 97)]
    ).requires_grad_()
    log2 = Log2()
    log2.mode = "quantize"
    log2.set_bits(bits)
    out = log2(x)
    codes = (-torch.log2(x.detach().clamp_min(1e-38))).round()
    expected = torch.where(codes < 2**bits - 1, 2.0**-codes, 0.0)
    torch.testing.assert_close(out, expected)
    assert len(out.unique()) <= 2**bits and (out[0], out[1]) == (0.0, 1.0)
    out.sum().backward()
    assert x.grad is not None
    torch.testing.assert_close(x.grad[1:], (expected / x.detach())[1:])
    assert x.grad[0] == 0.0


def test_attention_on_powers_of_two() -> None:
    net, x = vit()
    exact = net(x).detach()
    with pytest.raises(ValueError, match="Call `quantize_"):
        quantize_softmax_(net)
    quant.quantize_(net, "all")
    assert quantize_softmax_(net) == [f"blocks.{i}.attn" for i in range(3)]
    torch.testing.assert_close(net(x), exact, rtol=1e-3, atol=1e-4)
    quant.calibrate(net, [x])
    attention = [q for name, q in named_activation_quantizers(net) if name.endswith("attn_drop")]
    assert len(attention) == 3 and all(isinstance(q, Log2) for q in attention)
    seen: list[Tensor] = []
    handle = net.blocks[1].attn.attn_drop.register_forward_hook(lambda m, a, out: seen.append(out))
    with quant.bits(net, weight=8, activation=4), torch.no_grad():
        net(x)
    handle.remove()
    assert len(seen[0].unique()) <= 16 and (torch.log2(seen[0][seen[0] > 0]) % 1 == 0).all()
    assert net.state_dict().keys() == {k for k in net.state_dict() if "attn_drop" not in k}
    with pytest.raises(ValueError, match="has no attention with timm's attributes"):
        quantize_softmax_(nn.Linear(2, 2))
