"""Convolutions whose gradients torch gets wrong on a CPU: channels-last, and bf16 on small maps."""

import subprocess
import sys
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from mezzotint.encoders.convolutions import autocast, keep_contiguous, to_channels_last

CPU = torch.device("cpu")

# The smallest script that corrupts the heap of torch 2.14.1 on processors with AVX2 or AVX-512.
SCRIPT = """
import sys, torch
from mezzotint.encoders.convolutions import to_channels_last
torch.set_num_threads(1)
layer = torch.nn.Conv2d(2, 2, 1, stride=2, bias=False)
if sys.argv[1] == "guarded":
    to_channels_last(layer, torch.device("cpu"))
else:
    layer.to(memory_format=torch.channels_last)
for _ in range(20):
    x = torch.randn(16, 2, 48, 48).to(memory_format=torch.channels_last).requires_grad_()
    layer(x).sum().backward()
    assert torch.equal(x.grad[:, :, 1::2], torch.zeros_like(x.grad[:, :, 1::2]))
"""


def run(mode: str) -> int:
    command = [sys.executable, "-c", SCRIPT, mode]
    return subprocess.run(command, capture_output=True, timeout=60, check=False).returncode


@pytest.mark.parametrize(
    ("layer", "kept"),
    [
        (nn.Conv2d(2, 4, 1, stride=2), True),
        (nn.Conv2d(15, 64, 1, stride=4), True),
        (nn.Conv2d(8, 16, 1, stride=(1, 2)), True),
        (nn.Conv2d(16, 32, 1, stride=2), False),
        (nn.Conv2d(2, 4, 1), False),
        (nn.Conv2d(2, 4, 3, stride=2), False),
        (nn.Conv2d(4, 8, 1, stride=2, groups=2), False),
        (nn.Conv1d(2, 4, 1, stride=2), False),
        (nn.Linear(2, 4), False),
    ],
)
def test_the_layers_that_stay_contiguous(layer: nn.Module, kept: bool) -> None:
    assert keep_contiguous(layer) == kept


@pytest.mark.parametrize("channels", [1, 3])
def test_the_convolution_runs_contiguous_and_its_gradients_are_those_of_a_contiguous_network(
    channels: int,
) -> None:
    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv2d(3, channels, 3), nn.Conv2d(channels, 5, 1, stride=2))
    twin = nn.Sequential(nn.Conv2d(3, channels, 3), nn.Conv2d(channels, 5, 1, stride=2))
    twin.load_state_dict(network.state_dict())
    [note] = to_channels_last(network, CPU)
    assert note.startswith("1 kept contiguous")
    seen: list[tuple[int, ...]] = []
    # The input of the operator itself, after the hook that converts it.
    narrow: Any = network[1]
    forward = narrow._conv_forward

    def noted(x: Tensor, *rest: Any) -> Any:
        seen.append(x.stride())
        return forward(x, *rest)

    narrow._conv_forward = noted
    x = torch.randn(2, 3, 50, 50)
    for model, given in ((twin, x), (network, x.contiguous(memory_format=torch.channels_last))):
        model(given).square().sum().backward()
    assert seen == [(channels * 48 * 48, 48 * 48, 48, 1)]
    for one, other in zip(network.parameters(), twin.parameters(), strict=True):
        torch.testing.assert_close(one.grad, other.grad, rtol=1e-4, atol=1e-3)


def test_nothing_is_kept_without_need() -> None:
    wide = nn.Sequential(nn.Conv2d(3, 16, 3), nn.Conv2d(16, 32, 1, stride=2))
    assert to_channels_last(wide, CPU) == []
    kernel = wide.state_dict()["0.weight"]
    assert kernel.is_contiguous(memory_format=torch.channels_last)
    narrow = nn.Conv2d(2, 4, 1, stride=2)
    assert to_channels_last(narrow, torch.device("cuda")) == [] and not narrow._forward_pre_hooks


def test_the_smallest_script_runs_with_the_guard() -> None:
    assert run("guarded") == 0


@pytest.mark.slow
def test_the_smallest_script_breaks_the_heap_or_by_chance_does_not() -> None:
    assert run("bare") in (0, 1, -6, -11)


def _filled() -> None:
    """Fill memory and free it, so that what is not written shows."""
    for size in (8, 64, 512, 1152, 4608, 18432, 73728):
        torch.full((size,), 1e30)
        torch.full((size,), 1e30, dtype=torch.bfloat16)


SMALL: dict[str, tuple[Any, tuple[int, ...]]] = {
    "1d": (lambda: nn.Conv1d(16, 32, 3, stride=2, padding=1), (1,)),
    "2d": (lambda: nn.Conv2d(16, 32, 3, stride=2, padding=1), (1, 1)),
    "2d, one side": (lambda: nn.Conv2d(16, 32, 3, stride=2, padding=1), (1, 6)),
    "2d, stride 4": (lambda: nn.Conv2d(16, 32, 2, stride=4, padding=1), (3, 3)),
    "2d, dilated": (lambda: nn.Conv2d(16, 32, 2, stride=2, padding=1, dilation=2), (2, 2)),
    "3d": (lambda: nn.Conv3d(16, 32, 5, padding=2), (4, 4, 4)),
    "2d, not small": (lambda: nn.Conv2d(16, 32, 3, stride=2, padding=1), (3, 3)),
}


@pytest.mark.parametrize(
    ("name", "compiled"),
    [*((name, False) for name in SMALL), ("2d", True), ("2d, not small", True)],
)
def test_bf16_gradients_on_small_maps_are_those_of_fp32(name: str, compiled: bool) -> None:
    torch.manual_seed(0)
    made, size = SMALL[name]
    layer = made().to(memory_format=torch.channels_last) if len(size) == 2 else made()
    x = torch.randn(8, 16, *size)
    layer(x).square().mean().backward()
    expected = layer.weight.grad.clone()
    torch._dynamo.reset()
    call = torch.compile(layer, backend="aot_eager") if compiled else layer
    for _ in range(3):
        layer.zero_grad()
        _filled()
        with autocast(CPU, torch.bfloat16):
            out = call(x)
            assert out.dtype == torch.bfloat16
            loss = out.float().square().mean()
            _filled()
            loss.backward()
        torch.testing.assert_close(layer.weight.grad, expected, rtol=0.1, atol=0.01)


def test_autocast_is_torchs_where_nothing_is_small() -> None:
    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv2d(3, 8, 3), nn.Flatten(), nn.Linear(128, 4))
    x = torch.randn(2, 3, 6, 6)
    for dtype in (torch.bfloat16, torch.float16):
        with torch.autocast("cpu", dtype):
            expected = network(x)
        with autocast(CPU, dtype):
            assert torch.equal(network(x), expected) and expected.dtype == dtype
    with autocast(CPU, torch.float32):
        assert torch.equal(network(x), network(x)) and network(x).dtype == torch.float32
