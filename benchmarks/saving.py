"""What a checkpoint of 300 MB costs a training: time, speed of writing and memory.

A ResNet-50 trains with AdamW by SimCLR on the embedded emoji, one thread. Between the steps the
run's own saver saves, as with `run.checkpoints.every_steps`, while the next steps go on. Then the
same tensors are saved without training, on the disk and in the memory of /dev/shm, and after each
save as many bytes are written and flushed plainly, for the speed of the disk at that time. A
checkpoint is safe when it was flushed, read back, compared, hashed and renamed; then the older one
is verified and the oldest removed.

    python benchmarks/saving.py > benchmarks/results/saving.md
"""

import argparse
import os
import re
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from mezzotint.data.loader import batches
from mezzotint.recipe.recipe import Recipe, resolve_recipe
from mezzotint.train.checkpoint import CheckpointStore, size_of
from mezzotint.train.log import Meter
from mezzotint.train.loop import Trainer
from mezzotint.train.saver import Saver
from mezzotint.train.settings import Checkpoints
from mezzotint.train.signals import StopFlag

EVERY = 100
STEPS = 2
"""Steps between two saves, which stand for `EVERY` of them."""


def trainer() -> Trainer:
    config = {
        "data": {"kind": "embedded_images", "name": "emoji"},
        "views": {"kind": "two_views"},
        "encoder": {"kind": "resnet50", "stem": "small"},
        "method": {"kind": "simclr", "hidden_dim": 512, "dim": 128},
        "optimizer": {"kind": "adamw", "lr": 1e-4},
        "run": {"epochs": 1, "batch_size": 8, "log": {"knn_epochs": 0}},
    }
    return Trainer(Recipe.build(resolve_recipe(config)), torch.device("cpu"))


def peak_mb() -> float:
    """The largest resident set since the last call."""
    text = Path("/proc/self/status").read_text()
    Path("/proc/self/clear_refs").write_text("5")
    return int(re.findall(r"VmHWM:\s+(\d+)", text)[0]) / 1024


def timed(action: Callable[[], object]) -> tuple[float, float]:
    """Seconds of an action by the clock, and in processor time of this thread."""
    wall, own = time.perf_counter(), time.thread_time()
    action()
    return time.perf_counter() - wall, time.thread_time() - own


def written(path: Path, size: int) -> float:
    """Seconds to write this number of bytes and to flush them."""
    content = os.urandom(1 << 20)
    began = time.perf_counter()
    with path.open("wb") as file:
        for _ in range(size >> 20):
            file.write(content)
        file.flush()
        os.fsync(file.fileno())
    seconds = time.perf_counter() - began
    path.unlink()
    return seconds


def measure(saves: int) -> None:
    torch.set_num_threads(1)
    made = trainer()
    stream = enumerate(batches(made.recipe.data, made.recipe.views, made.plan, start=0, stop=99))

    def train() -> None:
        for _ in range(STEPS):
            number, batch = next(stream)
            made.step(number, batch, Meter())

    rows: list[dict[str, float]] = []
    with tempfile.TemporaryDirectory(dir=Path.cwd()) as folder:
        store = CheckpointStore(Path(folder) / "checkpoints")
        saver = Saver(made.state, store, Checkpoints(every_steps=1), made.device)
        train()
        model, optimizer, state = made.state.parts(0)
        size = size_of(model, optimizer)
        peak_mb()
        train()
        before = peak_mb()
        for number in range(1, saves + 1):
            alone = timed(train)
            stalled = timed(lambda: saver.after_step(number, StopFlag(), last=False))  # noqa: B023
            during = timed(train)
            saver._writer.join()
            rows.append({
                "step": alone[1] / STEPS, "step_wall": alone[0] / STEPS,
                "during_wall": during[0] / STEPS, "stall": stalled[1], "stall_wall": stalled[0],
            })  # fmt: skip
        extra = peak_mb() - before
        for name, root in (("disk", folder), ("memory", "/dev/shm")):
            for row, more in zip(
                rows, alone_in(Path(root), model, optimizer, state, saves), strict=True
            ):
                row |= {f"{key}_{name}": value for key, value in more.items()}
    middle = {key: statistics.median(row[key] for row in rows) for key in rows[0]}
    cost = (middle["stall"] + middle["cpu_disk"]) / (EVERY * middle["step"])
    stalled_only = middle["stall_wall"] / (EVERY * middle["step_wall"])
    print("| what | median | each save |\n|---|---|---|")
    lines = {
        "step, processor seconds": ("step", ".2f"),
        "step by the clock, no save running, s": ("step_wall", ".2f"),
        "step by the clock, while a save is written, s": ("during_wall", ".2f"),
        "training stands still for a save, processor seconds": ("stall", ".3f"),
        "the same by the clock, s": ("stall_wall", ".3f"),
    }
    for name, where in (("disk", "disk"), ("memory", "/dev/shm")):
        lines |= {
            f"save on {where}, processor seconds of all its threads": (f"cpu_{name}", ".2f"),
            f"{where}: until the checkpoint is safe, of these": (f"safe_cpu_{name}", ".2f"),
            f"{where}: from the call until the checkpoint is safe, MB/s by the clock": (
                f"speed_{name}", ".0f"),
            f"{where}: until the oldest is removed too, MB/s by the clock": (f"all_{name}", ".0f"),
            f"{where}: write and fsync alone, MB/s by the clock": (f"plain_{name}", ".0f"),
        }  # fmt: skip
    for name, (key, form) in lines.items():
        print(f"| {name} | {middle[key]:{form}} | {', '.join(f'{r[key]:{form}}' for r in rows)} |")
    print(f"\nState: {size / 1e6:.0f} MB. With a save every {EVERY} steps, training stands still "
          f"for {stalled_only:.2%} of its time by the clock; stand-still and saving together take "
          f"{cost:.2%} of its processor time. Memory at its peak rises by {extra:.0f} MiB, "
          f"{extra * 2**20 / size:.2f} × the state.")  # fmt: skip


def alone_in(
    root: Path, model: dict[str, Tensor], optimizer: dict[str, Tensor], state: Any, saves: int
) -> Iterator[dict[str, float]]:
    """Save without training, two checkpoints kept, and write as many bytes after each save."""
    size = size_of(model, optimizer)
    with tempfile.TemporaryDirectory(dir=root) as folder:
        store = TimedStore(Path(folder) / "checkpoints")
        for step in range(-1, saves + 1):
            wall, own = time.perf_counter(), time.process_time()
            store.save(step + 2, model, optimizer, state)
            end = time.perf_counter(), time.process_time()
            plain = written(Path(folder) / "plain", size)
            if step > 0:  # the first two find nothing to verify and to remove
                yield {
                    "cpu": end[1] - own, "safe_cpu": store.safe[1] - own,
                    "speed": size / 1e6 / (store.safe[0] - wall),
                    "all": size / 1e6 / (end[0] - wall), "plain": size / 1e6 / plain,
                }  # fmt: skip


class TimedStore(CheckpointStore):
    """Notes when a checkpoint is safe, by the clock and in processor time."""

    safe = (0.0, 0.0)

    def remove_older(self, newest: Path) -> None:
        self.safe = time.perf_counter(), time.process_time()
        super().remove_older(newest)


def main() -> None:
    arguments = argparse.ArgumentParser()
    arguments.add_argument("--saves", type=int, default=5)
    arguments.add_argument("--child", action="store_true")
    given = arguments.parse_args()
    if given.child:
        measure(given.saves)
        return
    commit = subprocess.run(["git", "describe", "--always", "--dirty"], capture_output=True,
                            text=True)  # fmt: skip
    print("# Saving\n")
    print(f"`python benchmarks/saving.py --saves {given.saves}`; commit {commit.stdout.strip()}, "
          f"{os.cpu_count()} shared cores, torch {torch.__version__}; one thread, seed 0.\n",
          flush=True)  # fmt: skip
    subprocess.run([sys.executable, __file__, "--child", "--saves", str(given.saves)], check=True,
                   env={**os.environ, "OMP_NUM_THREADS": "1"})  # fmt: skip


if __name__ == "__main__":
    main()
