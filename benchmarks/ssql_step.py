"""Cost of a step of SSQL over a step of its base.

Four forward passes of the encoder instead of two, and a grid for every tensor.

python benchmarks/ssql_step.py > benchmarks/results/ssql_step.md
"""

import os
import platform
import statistics
import subprocess
import time

import torch

from mezzotint.encoders.resnet import resnet8, resnet18
from mezzotint.methods.method import Method
from mezzotint.methods.siamese import Siamese
from mezzotint.methods.simclr import SimCLR
from mezzotint.methods.simsiam import SimSiam
from mezzotint.methods.ssql import SSQL
from mezzotint.seeding import Draws, key_of
from mezzotint.types import Input, Views

INPUT = Input((3, 32, 32), (0.5, 0.5, 0.5), (0.25, 0.25, 0.25))
REPEATS = 7


def base(name: str, encoder_name: str) -> Siamese:
    torch.manual_seed(0)
    encoder = (
        resnet8(INPUT, stem="patch", width=64)
        if encoder_name == "resnet8"
        else resnet18(INPUT, stem="small")
    )
    if name == "simclr":
        return SimCLR(encoder, hidden_dim=512, dim=128)
    return SimSiam(encoder, dim=512, hidden_dim=128)


def seconds(method: Method, optimizer: torch.optim.Optimizer, views: Views) -> float:
    began = time.perf_counter()
    optimizer.zero_grad(set_to_none=True)
    method(views).loss.backward()
    optimizer.step()
    return time.perf_counter() - began


def main() -> None:
    commit = subprocess.run(
        ["git", "describe", "--always", "--dirty"], capture_output=True, text=True, check=False
    )
    print("# A step of SSQL and a step of its base\n")
    print(f"`python benchmarks/ssql_step.py`, commit {commit.stdout.strip()}, "
          f"{platform.machine()}, "
          f"{os.cpu_count()} cores, torch {torch.__version__}.")  # fmt: skip
    print(
        f"Forward, backward and optimizer on views of 32 × 32; medians of {REPEATS} (least to "
        "most), alternated.\n"
    )
    print(
        "| encoder | base | batch | base, ms | SSQL, ms | times the base "
        "|\n|---|---|---|---|---|---|"
    )
    for encoder, batch in (("resnet8", 256), ("resnet18", 32)):
        for name in ("simclr", "simsiam"):
            plain = base(name, encoder).train()
            inner = base(name, encoder)
            low = SSQL(inner.encoder, base=inner).train()
            sides = [
                (m, torch.optim.SGD(m.parameters(), lr=0.01, momentum=0.9)) for m in (plain, low)
            ]
            found: list[list[float]] = [[], []]
            for step in range(REPEATS + 1):
                x = tuple(torch.randn(batch, 3, 32, 32) for _ in range(2))
                views = Views(x, ("global", "global"), Draws(torch.arange(batch), key_of(0, step)))
                for times, (method, optimizer) in zip(found, sides, strict=True):
                    taken = seconds(method, optimizer, views)
                    if step:  # the first one warms up
                        times.append(taken * 1e3)
            cells = [f"{statistics.median(t):.0f} ({min(t):.0f} to {max(t):.0f})" for t in found]
            ratio = statistics.median(b / a for a, b in zip(*found, strict=True))
            print(
                f"| {encoder} | {name} | {batch} | {cells[0]} | {cells[1]} | {ratio:.2f} |",
                flush=True,
            )


if __name__ == "__main__":
    main()
