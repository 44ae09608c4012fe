"""SSQL equals its published code: grids and their gradients, losses, steps at low bits, PTQ."""

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn.functional import normalize

from mezzotint.encoders.resnet import ResNet, resnet10
from mezzotint.methods.byol import BYOL
from mezzotint.methods.moco import MoCo
from mezzotint.methods.siamese import Siamese
from mezzotint.methods.simclr import nt_xent
from mezzotint.methods.simsiam import SimSiam
from mezzotint.methods.ssql import SSQL
from mezzotint.quant.bitwidth import Quantizers
from mezzotint.quant.convert import make_encoder_quantizable
from mezzotint.quant.fake import ActivationQuantizer, WeightQuantizer
from mezzotint.types import Input
from tests.golden.networks import as_views
from tests.golden.values import check, check_digest, draw, fill, stored

EXPECTED = stored("ssql")
CANCELLED = {"projector.0.bias", "projector.3.bias", "predictor.0.bias"}
"""Biases before a BatchNorm, which the published BYOL does not have."""
STEPS = [key for key in EXPECTED if key.startswith("ssql")]


def backbone() -> ResNet:
    """Blocks 1-1-1-1 with an eighth of the published widths."""
    return resnet10(Input((3, 32, 32), (0.0,) * 3, (1.0,) * 3), stem="small", width=8)


@pytest.mark.parametrize("bits", range(2, 9))
def test_grid_of_weights_and_its_gradient(bits: int) -> None:
    """The largest weight of a channel also gets a gradient through the scale."""
    x = draw(1, 5, 3, 3, 3).requires_grad_()
    quantizer = WeightQuantizer()
    compare(quantizer, x, f"weight {bits}", bits)


@pytest.mark.parametrize("bits", range(2, 9))
def test_grid_of_activations_and_its_gradient(bits: int) -> None:
    x = draw(2, 4, 3, 5, 5)
    x[0] = x[0].relu()
    quantizer = ActivationQuantizer()
    quantizer.mode = "observe"
    quantizer(x)
    compare(quantizer, x.requires_grad_(), f"activation {bits}", bits)


def compare(quantizer: Any, x: Tensor, key: str, bits: int) -> None:
    quantizer.mode = "quantize"
    quantizer.set_bits(bits)
    y = quantizer(x)
    (y * draw(3, *y.shape)).sum().backward()
    assert x.grad is not None
    expected = EXPECTED[key]
    check(y.flatten()[:40], expected["y"], 1e-6)
    check(x.grad.flatten()[:20], expected["gradient"], 1e-5)
    check_digest([y, x.grad], expected["digest"], 1e-5)


def test_losses() -> None:
    """Of SimSiam alone, of SSQL, and with pairs at low bits."""
    method = SimSiam(backbone(), dim=5, hidden_dim=4)
    p, z = [draw(10 + i, 6, 5) for i in range(4)], [draw(20 + i, 6, 5) for i in range(4)]

    def compared(ps: list[Tensor], zs: list[Tensor]) -> Tensor:
        return method.compare(ps, dict(enumerate(zs)), as_views(*ps))[0]

    expected = EXPECTED["losses"]
    base, low = compared(p[:2], z[:2]), compared(p[2:], z[:2])
    check(base, expected["base"], 1e-6)
    check((base + low) / 2, expected["ssql"], 1e-6)
    check((base + low + compared(p[2:], z[2:])) / 3, expected["quantized pairs"], 1e-6)


def test_loss_of_simclr() -> None:
    views = torch.stack([draw(30, 6, 5), draw(31, 6, 5)])
    check(nt_xent(views, 0.5)[0], EXPECTED["nt_xent"], 1e-6)


def build(name: str, bits: str) -> tuple[SSQL, list[torch.nn.Parameter]]:
    base: Siamese
    if name == "simsiam":
        base = SimSiam(backbone(), dim=64, hidden_dim=16)
    elif name == "byol":
        base = BYOL(
            backbone(), hidden_dim=16, dim=64, layers=3, last_norm=True, reduction="mean",
            momentum_schedule="constant",
        )  # fmt: skip
    else:
        base = MoCo(backbone(), hidden_dim=16, dim=16, queue_size=64, momentum=0.99)
        base.queue.copy_(normalize(draw(77, 64, 16), dim=1))
    weight, activation = (int(number) for number in bits.split("/"))
    method = SSQL(
        base.encoder, base=base, weight_bits=(weight,) * 2, activation_bits=(activation,) * 2,
        ties="published",
    )  # fmt: skip
    without = CANCELLED if name == "byol" else set()
    fill([p for key, p in base.named_parameters() if key in without], 0, scale=0.0)
    named = [(key, p) for key, p in base.named_parameters() if key not in without]
    trained = [p for _, p in named if p.requires_grad]
    fill(trained, 100)
    branches = base.branches()
    if "target" in branches:
        online, target = branches["online"], branches["target"]
        assert online.projector is not None and target.projector is not None
        pairs = (online.encoder, target.encoder), (online.projector, target.projector)
        with torch.no_grad():
            for one, copy in pairs:
                for p, k in zip(one.parameters(), copy.parameters(), strict=True):
                    k.copy_(p)
    return method.train(), trained


@pytest.mark.parametrize("key", STEPS)
def test_two_steps_at_low_bits(key: str) -> None:
    _, name, bits = key.split(" ")
    method, trained = build(name, bits)
    expected = EXPECTED[key]
    optimizer = torch.optim.SGD(trained, lr=0.05, momentum=0.9, weight_decay=5e-4)
    for step in range(2):
        optimizer.zero_grad()
        loss = method(as_views(draw(40 + step, 8, 3, 32, 32), draw(50 + step, 8, 3, 32, 32))).loss
        if name == "byol":
            loss = (loss - 2.0) / 2.0  # theirs is minus the mean cosine, ours 2 − 2 cos
        loss.backward()
        assert loss.item() == pytest.approx(expected["losses"][step], abs=1e-6)
        gradients = [p.grad for p in trained if p.grad is not None]
        if step == 0:
            check_digest(gradients, expected["gradients"], 1e-4)
        optimizer.step()
        method.after_step(0.0)
        if step == 0:
            check_digest(trained, expected["weights"], 1e-5)


@pytest.mark.parametrize("bits", ["8/8", "4/4", "2/4"])
def test_features_after_post_training_quantization(bits: str) -> None:
    encoder = backbone()
    fill(encoder.parameters(), 100)
    buffers = [b for b in encoder.buffers() if b.is_floating_point()]
    for index, buffer in enumerate(buffers):
        buffer.copy_(draw(400 + index, *buffer.shape).abs() * 0.5 + 0.5)
    make_encoder_quantizable(encoder.eval(), "ssql")
    quantizers = Quantizers.of(encoder)
    weight, activation = (int(number) for number in bits.split("/"))
    with torch.no_grad():
        quantizers.start_observing()
        encoder(draw(60, 8, 3, 32, 32))
        quantizers.stop_observing()
        quantizers.set_bits(weight, activation)
        y = encoder(draw(61, 4, 3, 32, 32))
    check_digest([y], EXPECTED[f"ptq {bits}"]["features"], 1e-5)
    check(y[0, :16], EXPECTED[f"ptq {bits}"]["first"], 1e-5)
