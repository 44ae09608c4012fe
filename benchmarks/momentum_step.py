"""Cost of a step of momentum contrast over its bare forward passes.

Those are, for each view that asks, a pass forward and backward, and for each that answers a pass
forward, through the bare encoder, with the optimizer's step. The rest is heads, queue, loss and the
moving average.

    python benchmarks/momentum_step.py > benchmarks/results/momentum_step.md
"""

import os
import platform
import statistics
import subprocess
import time
from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor, nn

from mezzotint.encoders.encoder import Encoder
from mezzotint.encoders.resnet import resnet8, resnet18
from mezzotint.methods.moco import MoCo
from mezzotint.seeding import Draws, key_of
from mezzotint.types import Input, Views

INPUT = Input((3, 32, 32), (0.5, 0.5, 0.5), (0.25, 0.25, 0.25))
REPEATS = 9
ARMS: dict[str, tuple[Literal["mlp", "symmetric"], bool]] = {
    "MoCo v2": ("mlp", False),
    "S-MoCo v2+": ("symmetric", True),
}


def encoder_of(name: str) -> Encoder:
    torch.manual_seed(0)
    return (
        resnet8(INPUT, stem="patch", width=64)
        if name == "resnet8"
        else resnet18(INPUT, stem="small")
    )


def bare(name: str, asking: int) -> Callable[[tuple[Tensor, ...]], None]:
    """Only the passes: as many views ask as answer."""
    encoder, frozen = encoder_of(name).train(), encoder_of(name).train()
    optimizer = torch.optim.SGD(encoder.parameters(), lr=0.01, momentum=0.9)

    def step(x: tuple[Tensor, ...]) -> None:
        optimizer.zero_grad(set_to_none=True)
        outputs = [encoder(view) for view in x[:asking]]
        with torch.no_grad():
            for view in x[-asking:]:
                frozen(view)
        torch.stack([out.square().mean() for out in outputs]).sum().backward()
        optimizer.step()

    return step


def whole(method: MoCo) -> Callable[[tuple[Tensor, ...]], None]:
    """A step as the loop makes it."""
    trained: list[nn.Parameter] = [p for p in method.parameters() if p.requires_grad]
    optimizer = torch.optim.SGD(trained, lr=0.01, momentum=0.9)

    def step(x: tuple[Tensor, ...]) -> None:
        views = Views(x, ("global", "global"), Draws(torch.arange(len(x[0])), key_of(0)))
        optimizer.zero_grad(set_to_none=True)
        method.before_step()
        method(views).loss.backward()
        optimizer.step()
        method.after_step(0.5)

    return step


def main() -> None:
    commit = subprocess.run(
        ["git", "describe", "--always", "--dirty"], capture_output=True, text=True, check=False
    )
    print("# A step of momentum contrast and its forward passes\n")
    print(f"`python benchmarks/momentum_step.py`, commit {commit.stdout.strip()}, "
          f"{platform.machine()}, "
          f"{os.cpu_count()} cores, torch {torch.__version__}.")  # fmt: skip
    print(
        f"Views of 32 × 32, a queue of 4,096 keys; medians of {REPEATS} (least to most), "
        "alternated.\n"
    )
    print(
        "| encoder | method | batch | passes, ms | step, ms | times the passes "
        "|\n|---|---|---|---|---|---|"
    )
    for name, batch in (("resnet8", 256), ("resnet18", 64)):
        for title, (head, symmetric) in ARMS.items():
            method = MoCo(
                encoder_of(name), head=head, symmetric=symmetric, hidden_dim=512, queue_size=4096
            ).train()
            sides = (bare(name, 2 if symmetric else 1), whole(method))
            found: list[list[float]] = [[], []]
            for repeat in range(REPEATS + 1):
                x = tuple(torch.randn(batch, 3, 32, 32) for _ in range(2))
                for times, step in zip(found, sides, strict=True):
                    began = time.perf_counter()
                    step(x)
                    if repeat:  # the first one warms up
                        times.append((time.perf_counter() - began) * 1e3)
            cells = [f"{statistics.median(t):.0f} ({min(t):.0f} to {max(t):.0f})" for t in found]
            ratio = statistics.median(b / a for a, b in zip(*found, strict=True))
            print(
                f"| {name} | {title} | {batch} | {cells[0]} | {cells[1]} | {ratio:.2f} |",
                flush=True,
            )


if __name__ == "__main__":
    main()
