"""What it costs to make a step before it is checked: copies of weights, moments and buffers.

Both sides train the same recipe on one thread of a CPU, where waiting for the device costs nothing,
so that only the copies are measured. Blocks of steps alternate; processor time of a block, medians
of the ratios of neighbors. What a GPU gains is not measured here.

    python benchmarks/late_checks.py > benchmarks/results/late_checks.md
"""

import itertools
import statistics
import time
from typing import Any

import torch
from views import version  # type: ignore[import-not-found]

from mezzotint import memory
from mezzotint.data.loader import batches
from mezzotint.recipe.reading import DEMO
from mezzotint.recipe.recipe import Recipe, read_recipe
from mezzotint.train.log import Meter
from mezzotint.train.loop import Trainer

CASES: dict[str, tuple[list[str], int]] = {
    "the demo's recipe": ([], 20),
    "BYOL, AdamW, batches of 64": (
        ["method={kind: byol}", "optimizer={kind: adamw, lr: 0.001}", "run.batch_size=64"], 20,
    ),
    "ResNet-50, AdamW, batches of 8": (
        [
            "encoder={kind: resnet50}", "optimizer={kind: adamw, lr: 0.001}", "run.batch_size=8",
        ], 4,
    ),
}  # fmt: skip
"""Overrides of the demo's recipe, and steps of a block."""
BLOCKS = 10


def measured(overrides: list[str], steps: int) -> tuple[float, float, float]:
    """Return a late step's processor time over a waiting one's, its interval, and MB of copies."""
    recipe = Recipe.build(read_recipe(DEMO, [*overrides, "run.epochs=1000"]))
    trainer = Trainer(recipe, torch.device("cpu"))
    stream = batches(recipe.data, recipe.views, trainer.plan, start=0, stop=trainer.total)
    number, meter = itertools.count(), Meter()

    def block(wait: bool) -> float:
        loaded = [next(stream) for _ in range(steps)]
        began = time.process_time()
        for batch in loaded:
            trainer.step(next(number), batch, meter, wait=wait)
        return time.process_time() - began

    block(True), block(False)
    ratios = []
    for index in range(BLOCKS):
        order = (True, False) if index % 2 else (False, True)
        seconds = {wait: block(wait) for wait in order}
        ratios.append(seconds[False] / seconds[True])
    half = 1.96 * statistics.stdev(ratios) / BLOCKS**0.5
    return statistics.median(ratios), half, copied(trainer) / 1e6


def copied(trainer: Trainer) -> int:
    """Bytes of the copies: weights and moments once, buffers a second time."""
    moments: Any = trainer.optimizer.state.values()
    tensors = [*trainer.method.parameters(), *trainer.method.buffers()]
    tensors += [t for entries in moments for t in entries.values() if isinstance(t, torch.Tensor)]
    return sum(tensor.nbytes for tensor in tensors)


def main() -> None:
    memory.keep_freed_memory()
    torch.set_num_threads(1)
    print("# Checking a step while the next one is computed\n")
    torch_, own = version("torch"), version("mezzotint")
    print(
        f"Two shared cores, one thread, torch {torch_}, commit {own}. Processor time of a step that"
    )
    print("is made at once over that of one that waits; blocks of steps alternate, ", end="")
    print(f"{BLOCKS} pairs. `python benchmarks/late_checks.py`\n")
    print("| run | ratio | 95 % interval | more memory |\n|---|---|---|---|")
    for name, (overrides, steps) in CASES.items():
        ratio, half, size = measured(overrides, steps)
        print(f"| {name} | {ratio:.3f} | ± {half:.3f} | {size:.0f} MB |", flush=True)


if __name__ == "__main__":
    main()
