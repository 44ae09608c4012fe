"""Codebooks against vector-quantize-pytorch with the same settings: time, memory, code usage.

    pip install vector-quantize-pytorch==1.32.0
    python benchmarks/codebooks.py [--repeats 15]

One thread. The sides take turns on the same vectors, `[8192, 256]`, with the same codebooks; their
codes are first checked to be equal. A training step is forward, moving averages, and backward to
the vectors; neither side expires codes. An evaluation is a forward pass without gradient. Compared
are medians. Memory is how far a fresh process (Linux) grows in one step on `[32768, 256]` with
codebooks of 1024 codes. Usage and energies are ours alone.
"""

import argparse
import importlib
import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor

from mezzotint.codebooks import EMA, RQ, VQ, measure_health
from mezzotint.codebooks.learned import LearnedCodebook
from mezzotint.seeding import Draws, key_of

N, D = 8192, 256
Side = Callable[[], None]


def vectors(rows: int, clusters: int, spread: float) -> Tensor:
    draws = Draws(torch.arange(rows), key_of("bench", rows))
    centers = Draws(torch.arange(clusters), key_of("centers")).normal("x", D)
    return centers[draws.integers("member", high=clusters)] + spread * draws.normal("noise", D)


def pair(kind: str, num_codes: int, rotation: bool) -> tuple[LearnedCodebook, Any]:
    """Ours and theirs."""
    theirs = importlib.import_module("vector_quantize_pytorch")
    ema = EMA(expire_below=0.0)
    settings: dict[str, Any] = {
        "dim": D,
        "codebook_size": num_codes,
        "decay": 0.99,
        "commitment_weight": 0.25,
        "rotation_trick": rotation,
        "use_cosine_sim": "cosine" in kind,
        "threshold_ema_dead_code": 0,
    }
    gradient: Any = "rotation" if rotation else "straight_through"
    ours: LearnedCodebook
    if kind.startswith("VQ"):
        metric: Any = "cosine" if "cosine" in kind else "euclidean"
        ours = VQ(
            dim=D, num_codes=num_codes, metric=metric, init="data", ema=ema, gradient=gradient
        )
        return ours, theirs.VectorQuantize(**settings)
    residual: Any = "bridle" if "cosine" in kind else "plain"
    ours = RQ(
        dim=D, num_codes=num_codes, residual=residual, init="data", ema=ema, gradient=gradient
    )
    return ours, theirs.ResidualVQ(num_quantizers=4, **settings)


def start(ours: LearnedCodebook, theirs: Any, x: Tensor) -> None:
    """The same codebooks on both sides, and a check that they give the same codes."""
    ours.initialize(x)
    for codebook, layer in zip(
        ours.books.vectors, getattr(theirs, "layers", [theirs]), strict=True
    ):
        layer._codebook.embed.data.copy_(codebook)
        layer._codebook.embed_avg.data.copy_(codebook)
    found, expected = ours.eval()(x).indices, theirs.eval()(x[None])[1][0].view(len(x), -1)
    assert torch.equal(found, expected), "the two sides must agree on every code"


def step(codebook: Any, x: Tensor) -> None:
    z = x.clone().requires_grad_()
    if isinstance(codebook, LearnedCodebook):
        codes = codebook(z)
        (codes.quantized.sum() + codes.loss).backward()
    else:
        quantized, _, loss = codebook(z[None])
        (quantized.sum() + loss.mean()).backward()


@torch.no_grad()
def evaluate(codebook: Any, x: Tensor) -> None:
    codebook(x if isinstance(codebook, LearnedCodebook) else x[None])


def show(title: str, ours: Side, theirs: Side, repeats: int) -> None:
    seconds: tuple[list[float], list[float]] = [], []
    for repeat in range(-2, repeats):
        for taken, side in zip(seconds, (ours, theirs), strict=True):
            begin = time.perf_counter()
            side()
            if repeat >= 0:
                taken.append(time.perf_counter() - begin)
    own, other = (statistics.median(taken) for taken in seconds)
    spread = [
        f"{statistics.median(t) * 1e3:.0f} ({min(t) * 1e3:.0f} to {max(t) * 1e3:.0f})"
        for t in seconds
    ]
    print(f"| {title} | {spread[0]} | {spread[1]} | {other / own:.2f} |", flush=True)


def memory(side: str) -> None:
    """Print the growth of this process over one training step, in MiB."""
    torch.manual_seed(0)
    x = torch.randn(32768, D)
    ours, theirs = pair("RQ Euclidean, 4", 1024, False)
    codebook: Any = theirs
    if side == "mezzotint":
        ours.initialize(x[:1024])
        codebook = ours
    step(codebook, x[:64])
    with open("/proc/self/clear_refs", "w", encoding="ascii") as file:
        file.write("5")  # forget the peak that imports have left
    before = _resident("VmRSS")
    step(codebook, x)
    print((_resident("VmHWM") - before) // 1024)


def _resident(name: str) -> int:
    """A size of this process in KiB, as Linux reports it."""
    with open("/proc/self/status", encoding="ascii") as file:
        return next(int(line.split()[1]) for line in file if line.startswith(name))


def quality() -> None:
    """Usage and residual energies, after the start and after 100 steps."""
    print(
        "\n| RQ `plain`, 4 × 256, k-means, 256 clusters | usage by level | perplexity / K | "
        "residual energy by level |"
    )
    print("|---|---|---|---|")
    codebook = RQ(dim=D, num_codes=256)
    x = vectors(N, 256, 0.5)
    codebook.initialize(x)
    for steps in (0, 100):
        for _ in range(steps):
            with torch.no_grad():
                codebook.train()(x)
        found = measure_health(codebook.eval()(x))
        shown = (
            " ".join(f"{v:.3f}" for v in m) for m in (found.usage, found.perplexity, found.residual)
        )
        print(f"| after {steps} steps | {' | '.join(shown)} |", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--repeats", type=int, default=15)
    parser.add_argument(
        "--memory", choices=["mezzotint", "vector-quantize-pytorch"], help=argparse.SUPPRESS
    )
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    if arguments.memory:
        memory(arguments.memory)
        return
    commit = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=False
    )
    print(
        f"`python {' '.join(sys.argv)}`, commit {commit.stdout.strip()}, {_processor()}, 1 "
        "thread of",
        end=" ",
    )
    print(f"{os.cpu_count()} cores, torch {torch.__version__}.\n")
    print(
        "| what | mezzotint, ms: median (least to most) | vector-quantize-pytorch, ms | times "
        "faster |"
    )
    print("|---|---|---|---|")
    x = vectors(N, 300, 0.5)
    for kind, num_codes in (
        ("RQ Euclidean, 4", 256),
        ("RQ cosine, 4", 256),
        ("VQ cosine, 1", 1024),
    ):
        for rotation in (False, True):
            ours, theirs = pair(kind, num_codes, rotation)
            start(ours, theirs, x)
            title = f"{kind} × {num_codes}, {'rotation' if rotation else 'straight through'}"
            for module in (ours, theirs):
                module.train()
            show(
                f"{title}, training step",
                partial(step, ours, x),
                partial(step, theirs, x),
                arguments.repeats,
            )
            if not rotation:
                for module in (ours, theirs):
                    module.eval()
                show(
                    f"{title}, evaluation",
                    partial(evaluate, ours, x),
                    partial(evaluate, theirs, x),
                    arguments.repeats,
                )
    print("\n| memory of a training step, RQ Euclidean, 4 × 1024, N = 32768 | MiB |\n|---|---|")
    for side in ("mezzotint", "vector-quantize-pytorch"):
        out = subprocess.run(
            [sys.executable, __file__, "--memory", side], capture_output=True, text=True, check=True
        )
        print(f"| {side} | {out.stdout.strip()} |", flush=True)
    quality()


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
