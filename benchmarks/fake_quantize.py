"""Fake quantization, forward and backward, against torch's own operators.

    python benchmarks/fake_quantize.py [--repeats 31]

One thread. The sides take turns on the same tensors: a weight `[512, 512, 3, 3]` with a range for
each output channel, and an activation `[32, 64, 56, 56]` with one range, each at 8 and at 4 bits. A
side takes a tensor that requires a gradient, quantizes it and sends a gradient back; results are
first checked to be equal bit for bit. Compared are medians.
"""

import argparse
import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable

import torch
from torch import Tensor

from mezzotint.quant import fake_quantize

Side = Callable[[], Tensor]


def sides_of(x: Tensor, scale: Tensor, bits: int, per_channel: bool) -> dict[str, Side]:
    """Each returns the gradient of its input."""
    low, high = (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1) if per_channel else (0, 2**bits - 1)
    gradient = torch.randn_like(x)
    zeros = torch.zeros(scale.numel(), dtype=torch.int32)
    one, flat = float(scale.flatten()[0]), scale.flatten()
    step = scale if per_channel else torch.tensor(one)
    bounds = torch.tensor(float(low)), torch.tensor(float(high))

    def ours() -> Tensor:
        leaf = x.detach().requires_grad_()
        fake_quantize(leaf, step, None, *bounds).backward(gradient)
        assert leaf.grad is not None
        return leaf.grad

    def theirs() -> Tensor:
        leaf = x.detach().requires_grad_()
        if per_channel:
            out = torch.fake_quantize_per_channel_affine(leaf, flat, zeros, 0, low, high)
        else:
            out = torch.fake_quantize_per_tensor_affine(leaf, one, 0, low, high)
        out.backward(gradient)
        assert leaf.grad is not None
        return leaf.grad

    assert torch.equal(ours(), theirs()), "the two sides must agree bit for bit"
    name = (
        "torch.fake_quantize_per_channel_affine"
        if per_channel
        else "torch.fake_quantize_per_tensor_affine"
    )
    return {"mezzotint": ours, name: theirs}


def show(title: str, sides: dict[str, Side], repeats: int) -> None:
    seconds: dict[str, list[float]] = {name: [] for name in sides}
    for repeat in range(-2, repeats):
        for name, side in sides.items():
            start = time.perf_counter()
            side()
            if repeat >= 0:
                seconds[name].append(time.perf_counter() - start)
    medians = {name: statistics.median(taken) for name, taken in seconds.items()}
    slowest = max(medians.values())
    for name, taken in seconds.items():
        spread = f"{medians[name] * 1e3:.1f} ({min(taken) * 1e3:.1f} to {max(taken) * 1e3:.1f})"
        print(f"| {title} | {name} | {spread} | {slowest / medians[name]:.2f} |")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--repeats", type=int, default=31)
    repeats = parser.parse_args().repeats
    torch.set_num_threads(1)
    torch.manual_seed(0)
    commit = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=False
    )
    print(
        f"`python {' '.join(sys.argv)}`, commit {commit.stdout.strip()}, {_processor()}, 1 "
        "thread of",
        end=" ",
    )
    print(f"{os.cpu_count()} cores, torch {torch.__version__}.\n")
    print("| tensor | side | ms: median (least to most) | times faster than the slower |")
    print("|---|---|---|---|")
    weight = torch.randn(512, 512, 3, 3)
    activation = torch.randn(32, 64, 56, 56).relu()
    for bits in (8, 4):
        scale = weight.abs().amax((1, 2, 3), keepdim=True) / ((2**bits - 1) / 2)
        show(f"weight, {bits} bits", sides_of(weight, scale, bits, True), repeats)
    for bits in (8, 4):
        scale = activation.max() / (2**bits - 1)
        show(f"activation, {bits} bits", sides_of(activation, scale, bits, False), repeats)


def _processor() -> str:
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as file:
            return next(
                line.split(":")[1].strip() for line in file if line.startswith("model name")
            )
    except (OSError, StopIteration):
        return platform.machine()


if __name__ == "__main__":
    main()
