"""Two views of log-mel spectrograms: the batched `byol_a` against BYOL-A written sample by sample.

    python benchmarks/audio_views.py [--batch 256] [--threads 2] [--repeats 7]

Both sides normalize, mix with a bank of 2,048 past samples, crop, quantize at random, and normalize
both views together, of spectrograms of 64 x 96 in memory. The naive side does to one sample after
the other what a data loader's worker does: running statistics, a list as the bank, a real canvas
and `interpolate` for the crop, and a quantizer that tests each value against each bin. Each side
has a process of its own, so that none profits or suffers from what another did to the memory
allocator; sides take turns; medians.
"""

import argparse
import multiprocessing
import os
import random
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from mezzotint.augment.byol_a import BYOLA
from mezzotint.augment.randomized_quantization.transform import RandomizedQuantization
from mezzotint.augment.views import ViewContext
from mezzotint.types import Batch, Input

MELS, FRAMES, BANK = 64, 96, 2048
MEAN, STD = -7.0, 3.0


def naive(quantize: bool) -> Callable[[Tensor], Tensor]:
    """BYOL-A's pipeline as it is usually written."""
    bank: list[Tensor] = []
    running = Running()

    def view(x: Tensor) -> Tensor:
        if bank:
            share, other = 0.4 * random.random(), random.choice(bank)
            mixed = ((1 - share) * x.exp() + share * other.exp() + 1e-7).log()
        else:
            mixed = x
        canvas = torch.zeros(1, MELS, FRAMES * 3 // 2)
        canvas[:, :, FRAMES // 4 : FRAMES // 4 + FRAMES] = mixed
        height = max(1, min(MELS, int(random.uniform(0.6, 1.5) * MELS)))
        width = max(1, min(FRAMES * 3 // 2, int(random.uniform(0.6, 1.5) * FRAMES)))
        top, left = random.randint(0, MELS - height), random.randint(0, FRAMES * 3 // 2 - width)
        box = canvas[None, :, top : top + height, left : left + width]
        y = F.interpolate(box, (MELS, FRAMES), mode="bicubic", align_corners=True)
        if quantize:
            y = quantized(y[0, 0])[None, None]
        return y[0]

    def views(batch: Tensor) -> Tensor:
        pairs = []
        for sample in batch:
            x = running(sample)
            pairs.append(torch.stack([view(x), view(x)]))
            bank.append(x)
            del bank[:-BANK]
        both = torch.stack(pairs)
        return (both - both.mean()) / both.std()

    return views


def quantized(rows: Tensor, bins: int = 8) -> Tensor:
    """Randomized quantization of each row: a mask for every bin."""
    low, high = rows.amin(1, keepdim=True), rows.amax(1, keepdim=True)
    edges = (low + torch.rand(len(rows), bins - 1) * (high - low)).sort(dim=1).values
    left, right = torch.cat([low, edges], dim=1), torch.cat([edges, high + 1e-6], dim=1)
    values = left + torch.rand(len(rows), bins) * (right - left)
    inside = (rows[:, None] >= left[:, :, None]) & (rows[:, None] < right[:, :, None])
    return values.gather(1, inside.int().argmax(dim=1))


class Running:
    """A running mean and std that follow the samples one by one (Welford)."""

    def __init__(self) -> None:
        self.count, self.mean, self.square = 0, torch.zeros(()), torch.ones(())

    def __call__(self, x: Tensor) -> Tensor:
        """Take one sample in, and normalize it."""
        self.count += 1
        self.mean = self.mean + (x.mean() - self.mean) / self.count
        self.square = self.square + ((x - self.mean).square().mean() - self.square) / self.count
        return (x - self.mean) / self.square.sqrt()


def batched(quantize: bool) -> Callable[[Tensor], object]:
    made = BYOLA(
        bank=BANK,
        randomized_quantization=RandomizedQuantization(channel_dim=2) if quantize else None,
    )
    input = Input((1, MELS, FRAMES), (MEAN,), (STD,), "audio")
    epochs = iter(range(1_000_000))
    return lambda x: made.render(
        Batch((x,), torch.arange(len(x))), ViewContext(input, 0, next(epochs))
    )


def timed(side: str, quantize: bool, size: int, threads: int) -> tuple[float, float]:
    """Seconds of one batch by the wall and of the processor; runs in the process of its side."""
    if side not in _MADE:
        torch.set_num_threads(threads)
        x = (
            torch.randn(size, 1, MELS, FRAMES, generator=torch.Generator().manual_seed(0)) * STD
            + MEAN
        )
        views = SIDES[side](quantize)
        _MADE[side] = lambda: views(x)
        for _ in range(BANK // size + 1):
            _MADE[side]()
    wall, own = time.perf_counter(), time.process_time()
    _MADE[side]()
    return time.perf_counter() - wall, time.process_time() - own


SIDES: dict[str, Callable[[bool], Callable[[Tensor], object]]] = {
    "sample by sample": naive,
    "batched": batched,
}
_MADE: dict[str, Callable[[], object]] = {}


def main() -> None:
    parser = argparse.ArgumentParser(description="Two views of spectrograms, pairs a second.")
    parser.add_argument("--batch", type=int, default=256)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=7)
    arguments = parser.parse_args()
    where = Path(__file__).parent
    commit = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, cwd=where
    ).stdout
    names = [
        line
        for line in Path("/proc/cpuinfo").read_text().splitlines()
        if line.startswith("model name")
    ]
    print("# Two views of log-mel spectrograms\n")
    print(f"`python {' '.join(sys.argv)}`, {commit.strip()}, {time.strftime('%Y-%m-%d')},")
    print(
        f"{names[0].split(':')[1].strip()}, {arguments.threads} threads, torch {torch.__version__},"
    )
    print(
        f"load {os.getloadavg()[0]:.1f} at the start. Batches of {arguments.batch}; pairs of "
        "views a second.\n"
    )
    print("| views | sample by sample | batched | ratio of medians | of processor time |")
    print("|---|---|---|---|---|")
    for name, quantize in (
        ("mixup, crop", False),
        ("mixup, crop, randomized quantization by mel", True),
    ):
        times: dict[str, list[tuple[float, float]]] = {side: [] for side in SIDES}
        context = multiprocessing.get_context("spawn")
        pools = {side: context.Pool(1) for side in SIDES}
        for _ in range(arguments.repeats):
            for side, pool in pools.items():
                times[side].append(
                    pool.apply(timed, (side, quantize, arguments.batch, arguments.threads))
                )
        for pool in pools.values():
            pool.terminate()
        medians = [
            [statistics.median(column) for column in zip(*taken, strict=True)]
            for taken in times.values()
        ]
        rates = [arguments.batch / wall for wall, _ in medians]
        ratio, own_ratio = medians[0][0] / medians[1][0], medians[0][1] / medians[1][1]
        print(f"| {name} | {rates[0]:,.0f} | {rates[1]:,.0f} | {ratio:.1f} | {own_ratio:.1f} |")


if __name__ == "__main__":
    main()
