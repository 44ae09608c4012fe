"""Hooks find eval mode, consumers, units and what enters and leaves them."""

import pytest
import torch
from torch import Tensor, nn

from mezzotint import quant
from mezzotint.encoders.resnet import ResNet
from mezzotint.quant.convert import quantized_layers
from mezzotint.quant.hooks import (
    evaluating,
    example_of,
    find_consumers,
    hooked,
    record,
    units,
)
from mezzotint.types import Input

Digits = tuple[Tensor, Tensor]


def test_units_of_a_network(trained: ResNet, digits: Digits) -> None:
    quant.quantize_(trained)
    assert units(trained, digits[0][:2], "block") == ["conv1", "layer1.0", "layer2.0", "layer3.0"]
    layers = units(trained, digits[0][:2], "layer")
    assert set(layers) == {name for name, _ in quantized_layers(trained)} and layers[:3] == [
        "conv1", "layer1.0.conv1", "layer1.0.conv2",
    ]  # fmt: skip


def test_units_of_transformers_are_their_blocks() -> None:
    timm = pytest.importorskip("timm")
    for name, blocks in (("vit_tiny_patch16_224", "blocks."), ("convnext_atto", "stages.")):
        model = timm.create_model(
            name, num_classes=0, **({"img_size": 32} if "vit" in name else {})
        ).eval()
        quant.quantize_(model)
        found = units(model, torch.zeros(2, 3, 32, 32), "block")
        assert sum(name.startswith(blocks) for name in found) >= 12 and not any(
            ".mlp" in name for name in found
        )


def test_evaluating_restores_the_mode_of_each_module_even_after_an_error() -> None:
    net = nn.Sequential(nn.Linear(2, 2), nn.Sequential(nn.Dropout(), nn.BatchNorm1d(2)))
    net[1].eval()
    before = [module.training for module in net.modules()]
    with pytest.raises(RuntimeError, match="on purpose"), evaluating(net):
        assert not any(module.training for module in net.modules())
        raise RuntimeError("on purpose")
    assert [module.training for module in net.modules()] == before


def test_hooks_are_removed_even_after_an_error() -> None:
    net, calls = nn.Linear(2, 2), []
    handle = net.register_forward_hook(lambda *_: calls.append(1))
    with pytest.raises(RuntimeError, match="on purpose"), hooked([handle]):
        net(torch.zeros(1, 2))
        raise RuntimeError("on purpose")
    net(torch.zeros(1, 2))
    assert calls == [1]


class Branches(nn.Module):
    """`a` feeds `b` alone, `shared` feeds `c` and `d`, and `twice` runs two times."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.shared = (nn.Linear(2, 2) for _ in range(3))
        self.c, self.d, self.twice, self.e = (nn.Linear(2, 2) for _ in range(4))

    def forward(self, x: Tensor) -> Tensor:
        x = self.shared(self.b(self.a(x)) * 2.0)
        x = self.c(x) + self.d(x)
        out: Tensor = self.e(self.twice(self.twice(x)))
        return out


def test_consumers_take_the_very_tensor_of_their_producer() -> None:
    pairs = find_consumers(Branches(), torch.ones(1, 2), (nn.Linear,), (nn.Linear,))
    # `b` feeds nothing directly, since its output is multiplied first; `twice` runs twice.
    assert pairs == {"a": ["b"], "shared": ["c", "d"]}


def test_record_returns_what_enters_and_leaves_and_stops_there() -> None:
    net = nn.Sequential(nn.Linear(2, 3), nn.ReLU(), nn.Linear(3, 1))
    batches = [torch.randn(4, 2), torch.randn(2, 2)]
    net[2].register_forward_hook(lambda *_: pytest.fail("the rest of the network has run"))
    inputs, outputs, others = record(net, "1", batches)
    with torch.no_grad():
        expected = net[0](torch.cat(batches))
    torch.testing.assert_close(inputs, expected)
    assert torch.equal(outputs, inputs.relu()) and others == ()


def test_record_refuses_units_that_do_not_map_a_tensor_to_a_tensor() -> None:
    class Pair(nn.Module):
        def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
            return x, x

    with pytest.raises(ValueError, match="`0` does not map one tensor to one tensor"):
        record(nn.Sequential(Pair()), "0", [torch.ones(1, 2)])


def test_an_example_has_the_shape_and_type_of_the_encoder() -> None:
    net = nn.Linear(3, 1).double()
    net.input = Input((1, 4, 4), (0.0,), (1.0,))  # type: ignore[assignment]
    made = example_of(net, None)
    assert made.shape == (2, 1, 4, 4) and made.dtype == torch.float64
    assert torch.equal(made, example_of(net, None))
    own = torch.zeros(1)
    assert example_of(net, own) is own
    with pytest.raises(ValueError, match="Linear has no attribute `input`"):
        example_of(nn.Linear(1, 1), None)
