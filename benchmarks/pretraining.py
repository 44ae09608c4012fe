"""Whole pretraining steps a second: ours against a plain lightly loop with a DataLoader.

Both train the demo's encoder and head on the emoji, with batches of the demo's size and SimCLR
views at the same probabilities. lightly's side is its documented loop: PIL images in memory,
`SimCLRTransform` in two DataLoader workers, `NTXentLoss`, SGD. lightly has no randomized
quantization, so ours is measured without it and with it.

    python benchmarks/pretraining.py > benchmarks/results/pretraining.md   (needs mezzotint[bench])
"""

import argparse
import os
import platform
import statistics
import subprocess
import time
from collections.abc import Callable, Iterator

import torch
from lightly.loss import NTXentLoss
from lightly.transforms import SimCLRTransform
from PIL import Image
from torch import nn
from torch.utils.data import DataLoader, Dataset

from mezzotint.data.loader import batches
from mezzotint.recipe.reading import DEMO
from mezzotint.recipe.recipe import Recipe, read_recipe
from mezzotint.train.log import Meter
from mezzotint.train.loop import Trainer

Side = tuple[Callable[[int], None], dict[str, float]]


def ours(quantized: bool) -> Side:
    overrides = [] if quantized else ["views.randomized_quantization=null"]
    recipe = Recipe.build(read_recipe(DEMO, overrides))
    trainer = Trainer(recipe, torch.device("cpu"))
    shares: dict[str, float] = {}
    stream = batches(recipe.data, recipe.views, trainer.plan, start=0, stop=trainer.total)
    counter = iter(range(trainer.total))

    def run(steps: int) -> None:
        meter = Meter()
        for _ in range(steps):
            waited = time.perf_counter()
            batch = next(stream)
            meter.waiting += time.perf_counter() - waited
            trainer.step(next(counter), batch, meter)
            meter.images += recipe.run.batch_size
        shares.update(meter.metrics())

    return run, shares


class Pictures(Dataset[list[torch.Tensor]]):
    """PIL images in memory and lightly's transform."""

    def __init__(self, images: torch.Tensor) -> None:
        self.images = [Image.fromarray(image.permute(1, 2, 0).numpy()) for image in images]
        self.transform = SimCLRTransform(
            input_size=32,
            cj_strength=0.5,
            min_scale=0.2,
            random_gray_scale=0.1,
            gaussian_blur=0.0,
            hf_prob=0.0,
        )

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> list[torch.Tensor]:
        views: list[torch.Tensor] = self.transform(self.images[index])
        return views


def theirs() -> Side:
    recipe = Recipe.build(read_recipe(DEMO))
    model: nn.Module = nn.Sequential(recipe.encoder, recipe.method.get_submodule("projector"))
    criterion, size = NTXentLoss(temperature=0.1), recipe.run.batch_size
    optimizer = torch.optim.SGD(
        model.parameters(), lr=0.06, momentum=0.9, nesterov=True, weight_decay=5e-4
    )
    everything = recipe.data.read_batch(torch.arange(len(recipe.data)))
    loader = DataLoader(
        Pictures(everything),
        size,
        shuffle=True,
        num_workers=2,
        drop_last=True,
        persistent_workers=True,
    )

    def forever() -> Iterator[list[torch.Tensor]]:
        while True:
            yield from loader

    stream = forever()

    def run(steps: int) -> None:
        for _ in range(steps):
            first, second = next(stream)
            loss = criterion(model(first), model(second))
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()

    return run, {}


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=15)
    arguments = parser.parse_args()
    sides = {
        "mezzotint": ours(False),
        "mezzotint, with quantization": ours(True),
        "lightly + DataLoader": theirs(),
    }
    rates: dict[str, list[float]] = {name: [] for name in sides}
    for round_ in range(arguments.rounds + 1):  # the first is not counted
        for name, (run, _) in sides.items():
            began = time.perf_counter()
            run(arguments.steps)
            if round_:
                rates[name].append(arguments.steps * 256 / (time.perf_counter() - began))
    commit = subprocess.run(
        ["git", "describe", "--always", "--dirty"], capture_output=True, text=True, check=False
    ).stdout
    print(
        f"`python benchmarks/pretraining.py`, commit {commit.strip()}, {platform.machine()}, "
        f"{os.cpu_count()} cores, "
    )
    print(
        f"torch {torch.__version__}, {arguments.rounds} rounds in turn of {arguments.steps} "
        "steps, batch 256\n"
    )
    print("| side | median samples/s | lowest | highest | against lightly |\n|---|---|---|---|---|")
    base = statistics.median(rates["lightly + DataLoader"])
    for name, found in rates.items():
        middle = statistics.median(found)
        print(
            f"| {name} | {middle:.0f} | {min(found):.0f} | {max(found):.0f} | "
            f"{middle / base:.2f}× |"
        )
    shares = sides["mezzotint, with quantization"][1]
    print(
        f"\nOurs, last round: {shares['data_wait']:.1%} waiting for data, "
        f"{shares['augment_share']:.1%} making views."
    )


if __name__ == "__main__":
    main()
