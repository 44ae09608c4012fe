"""Randomized quantization against a copy of the same tensor, and memory against the number of bins.

    python benchmarks/randomized_quantization.py [--threads 2] [--repeats 15] [--batch 128]

The sides take turns on one tensor `[batch, 3, 224, 224]`, each allocating its own result; what is
compared is the median wall time. The formula as published tests every number against every bin,
which takes much memory: it runs on a few images, against the copy's time for as many. Memory is the
growth of the process's peak (`VmHWM`, so on Linux only) during one call, beyond the result itself,
each in a fresh process.
"""

import argparse
import functools
import os
import platform
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

from mezzotint.augment.randomized_quantization.transform import randomized_quantize

Side = Callable[[], object]
FEW_IMAGES = 4


def as_published(x: Tensor, bins: int) -> Tensor:
    """Run the published algorithm: two comparisons for each number and bin."""
    rows = x.flatten(0, 1).flatten(1)
    low, high = rows.amin(1, keepdim=True), rows.amax(1, keepdim=True)
    edges = (low + torch.rand(len(rows), bins - 1) * (high - low)).sort(1).values
    left = torch.cat([low, edges], 1)
    right = torch.cat([edges, high + 1e-6], 1)
    upper = torch.cat([edges, high + 1], 1)
    inside = (rows.unsqueeze(1) >= left.unsqueeze(2)) & (rows.unsqueeze(1) < upper.unsqueeze(2))
    codes = inside.int().argmax(1)
    return (left + torch.rand_like(left) * (right - left)).gather(1, codes).view_as(x)


def searched(x: Tensor, bins: int) -> Tensor:
    """The short way in torch: `searchsorted`, then `gather`."""
    rows = x.flatten(0, 1).flatten(1)
    low, high = rows.amin(1, keepdim=True), rows.amax(1, keepdim=True)
    edges = (low + torch.rand(len(rows), bins - 1) * (high - low)).sort(1).values
    bounds = torch.cat([low, edges, high], 1)
    values = bounds[:, :-1] + torch.rand(len(rows), bins) * bounds.diff()
    return values.gather(1, torch.searchsorted(edges, rows, right=True)).view_as(x)


def alternated(sides: dict[str, Side], repeats: int) -> dict[str, list[float]]:
    """Seconds of each side, by turns; the first round is for warming up."""
    seconds: dict[str, list[float]] = {name: [] for name in sides}
    for repeat in range(-1, repeats):
        for name, side in sides.items():
            start = time.perf_counter()
            result = side()
            if repeat >= 0:
                seconds[name].append(time.perf_counter() - start)
            del result
    return seconds


def show(title: str, sides: dict[str, Side], repeats: int, images: int) -> None:
    seconds = alternated(sides, repeats)
    copy = statistics.median(seconds["copy"])
    for name, taken in seconds.items():
        median = statistics.median(taken)
        spread = f"{median * 1e3:.1f} ({min(taken) * 1e3:.1f} to {max(taken) * 1e3:.1f})"
        print(
            f"| {title} | {name} | {images} | {spread} | {images / median:,.0f} | "
            f"{median / copy:.1f} |"
        )


def times(batch: int, repeats: int) -> None:
    print("| input | side | images | ms: median (least to most) | images a second | times a copy |")
    print("|---|---|---|---|---|---|")
    x = torch.randn(batch, 3, 224, 224)
    few = x[:FEW_IMAGES].clone()
    quantize = functools.partial(randomized_quantize, x)
    ours: dict[str, Side] = {
        f"mezzotint, {bins} bins": functools.partial(quantize, bins) for bins in (2, 8, 32)
    }
    if shutil.which("g++"):
        compiled = torch.compile(randomized_quantize, fullgraph=True)
        ours["mezzotint, 8 bins, compiled"] = lambda: compiled(x, 8)
    show("float32", {"copy": x.clone, **ours}, repeats, batch)
    show(
        "float32",
        {"copy": x.clone, "searchsorted and gather, 8 bins": lambda: searched(x, 8)},
        3,
        batch,
    )
    show(
        "float32",
        {"copy": few.clone, "as published, 8 bins": lambda: as_published(few, 8)},
        repeats,
        len(few),
    )
    pixels = torch.randint(0, 256, x.shape, dtype=torch.uint8)
    quantize = functools.partial(randomized_quantize, pixels)
    ours = {f"mezzotint, {bins} bins": functools.partial(quantize, bins) for bins in (2, 8, 32)}
    show("uint8", {"copy": pixels.clone, **ours}, repeats, batch)
    half = x.bfloat16()
    show(
        "bfloat16",
        {"copy": half.clone, "mezzotint, 8 bins": lambda: randomized_quantize(half, 8)},
        repeats,
        batch,
    )
    last = x.to(memory_format=torch.channels_last)
    label = "float32, channels last"
    show(
        label,
        {"copy": last.clone, "mezzotint, 8 bins": lambda: randomized_quantize(last, 8)},
        repeats,
        batch,
    )


def extra_memory(dtype: str, bins: int, batch: int) -> float:
    """MiB by which one call raises the peak of this process, beyond its result."""

    def peak() -> float:
        lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
        return next(int(line.split()[1]) / 1024 for line in lines if line.startswith("VmHWM"))

    x = torch.empty(batch, 3, 224, 224, dtype=getattr(torch, dtype)).random_(0, 256)
    randomized_quantize(x[:1], bins)
    before = peak()
    y = randomized_quantize(x, bins)
    assert isinstance(y, Tensor)
    return peak() - before - y.nbytes / 2**20


def memory(batch: int) -> None:
    print("\n| bins | float32: MiB beyond input and result | uint8 |")
    print("|---|---|---|")
    for bins in (2, 8, 32, 64, 128):
        taken = []
        for dtype in ("float32", "uint8"):
            command = [
                sys.executable,
                __file__,
                "--memory",
                dtype,
                str(bins),
                "--batch",
                str(batch),
            ]
            taken.append(
                float(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
            )
        print(f"| {bins} | {taken[0]:.0f} | {taken[1]:.0f} |")


def processor() -> str:
    info = Path("/proc/cpuinfo")
    text = info.read_text(encoding="utf-8") if info.exists() else ""
    names = [
        line.split(":")[1].strip() for line in text.splitlines() if line.startswith("model name")
    ]
    return names[0] if names else platform.processor()


def main() -> None:
    parser = argparse.ArgumentParser(
        description="Randomized quantization against a copy of the same tensor."
    )
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=15)
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument(
        "--memory", nargs=2, metavar=("DTYPE", "BINS"), help="measure the memory of one call only"
    )
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    if arguments.memory:
        print(extra_memory(arguments.memory[0], int(arguments.memory[1]), arguments.batch))
        return
    command = ["git", "rev-parse", "--short", "HEAD"]
    commit = subprocess.run(
        command, capture_output=True, text=True, cwd=Path(__file__).parent
    ).stdout.strip()
    print("# Randomized quantization against a copy of the same tensor\n")
    print(
        f"`python {' '.join(sys.argv)}`, commit {commit or 'none yet'}, "
        f"{time.strftime('%Y-%m-%d')},"
    )
    print(
        f"{processor()}, {arguments.threads} threads of {os.cpu_count()} cores, torch "
        f"{torch.__version__}."
    )
    print("Tensors `[images, 3, 224, 224]`.\n")
    times(arguments.batch, arguments.repeats)
    memory(arguments.batch)


if __name__ == "__main__":
    main()
