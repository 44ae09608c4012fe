"""Memory and time of a step of SimCLR on a large batch, whole and in parts with a gradient cache.

Each row is a process of its own. Memory is the largest resident set, without what the process had
before its first step; the difference is that of the gradients to those of the whole batch, as a
fraction of the largest.

    python benchmarks/gradient_cache.py > benchmarks/results/gradient_cache.md
"""

import argparse
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch
from torch import nn

from mezzotint.encoders.vit import ViT
from mezzotint.methods.simclr import SimCLR
from mezzotint.seeding import Draws, key_of
from mezzotint.train.gradient_cache import GradientCache
from mezzotint.types import Input, Views

INPUT = Input((3, 64, 64), (0.5, 0.5, 0.5), (0.25, 0.25, 0.25))
BATCH = 512


def step(parts: int, folder: Path) -> None:
    """Make one step, and print its row."""
    torch.manual_seed(0)
    encoder = ViT(INPUT, width=192, depth=6, heads=3, patch=8)
    method = SimCLR(encoder, hidden_dim=512, hidden_norm=False, last_norm=False)
    entered: nn.Module = method if parts == 1 else GradientCache(method, parts)
    generator = torch.Generator().manual_seed(1)
    x = tuple(torch.randn(BATCH, *INPUT.shape, generator=generator) for _ in range(2))
    views = Views(x, ("global", "global"), Draws(torch.arange(BATCH), key_of(0)))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    begin = time.process_time()
    entered(views).loss.backward()
    seconds = time.process_time() - begin
    peak = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024
    gradients = torch.cat([p.grad.flatten() for p in method.parameters() if p.grad is not None])
    path = folder / "whole.pt"
    if parts == 1:
        torch.save(gradients, path)
    whole = torch.load(path, weights_only=True)
    difference = float((gradients - whole).abs().max() / whole.abs().max())
    print(f"| {parts} | {peak:,.0f} | {seconds:.1f} | {difference:.1e} |", flush=True)


def main() -> None:
    arguments = argparse.ArgumentParser()
    arguments.add_argument("--parts", type=int)
    arguments.add_argument("--folder", type=Path)
    given = arguments.parse_args()
    if given.parts:
        step(given.parts, given.folder)
        return
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True)
    print("# Gradient cache\n")
    print(f"SimCLR, a ViT of width 192 and depth 6 on 64 × 64 pixels, {BATCH} samples, two views,")
    print(f"fp32, one thread; commit {commit.stdout.strip()}, {os.cpu_count()} shared cores, torch "
          f"{torch.__version__}.\n")  # fmt: skip
    print("| parts | peak memory of the step, MiB | CPU seconds | difference of the gradient |")
    print("|---|---|---|---|", flush=True)
    with tempfile.TemporaryDirectory() as folder:
        for parts in (1, 4, 16):
            subprocess.run(
                [sys.executable, __file__, "--parts", str(parts), "--folder", folder], check=True,
                env={**os.environ, "OMP_NUM_THREADS": "1"},
            )  # fmt: skip


if __name__ == "__main__":
    main()
