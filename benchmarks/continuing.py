"""Go on from an encoder of other data: against training from scratch, and against the start.

The start is trained by SimCLR on 5,000 digits of MNIST, reduced to 8 x 8 pixels. Each arm trains
on the 1,797 digits of another collection (optical digits of UCI). Arms, with three seeds each:

- `start`: the encoder as it came.
- `scratch`: SimCLR from random weights, for the same processor time as `full`.
- `full`: the same from the start, after one epoch in which the head learns alone.
- `last block`, `LoRA`: the same for as many steps, with frozen blocks or low-rank updates.
- `bad rate`: `full` with 30 times the learning rate.

Every arm with a start ends as any run with `init` does: its encoder is compared with the start on
training samples, and `keep: better` hands one of them over. The probe is kNN, fitted on ten digits
of each class and scored on half of all digits; fitted on the other half, the start is already at 97
per cent.

    python benchmarks/continuing.py --seconds 5 > benchmarks/results/continuing.md
"""

import argparse
import json
import math
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from cells import (  # type: ignore[import-not-found]
    Cell,
    Cells,
    difference,
    epochs_for,
    fraction,
    interval,
    scored,
    signed,
)
from curves import as_svg  # type: ignore[import-not-found]
from torch import Tensor
from torch.nn.functional import interpolate
from views import version  # type: ignore[import-not-found]

from mezzotint.data.image.embedded import EmbeddedImages
from mezzotint.data.listing.sampling import held_out
from mezzotint.data.memory import InMemory
from mezzotint.data.source import Source, Task
from mezzotint.encoders.saving import load_encoder
from mezzotint.recipe.reading import apply_overrides, read_raw
from mezzotint.recipe.recipe import Recipe, resolve_recipe
from mezzotint.train import continued
from mezzotint.train.continued import read_outcome
from mezzotint.train.log import read_metrics
from mezzotint.train.loop import pretrain
from mezzotint.types import Input

TASK = "digit/ten-labels"
RATE = 0.08
ARMS: dict[str, tuple[float, dict[str, Any]]] = {
    "full": (1.0, {}),
    "bad rate": (30.0, {}),
    "LoRA": (1.0, {"lora": {"rank": 8}}),
    "last block": (1.0, {"freeze_blocks": 2}),
}
"""Factor of the learning rate, and keys of `init`."""


class Handwriting(InMemory):
    """Handwritten digits of 8 x 8 pixels.

    Args:
        name: `mnist5k`, whose images are reduced to that size, or `digits`.
    """

    def __init__(self, *, name: Literal["mnist5k", "digits"]) -> None:
        whole = EmbeddedImages(name=name)
        pixels = interpolate(whole.images.float(), size=8, mode="area")
        self.images, self.labels = pixels.round().to(torch.uint8), whole.labels
        values = pixels / 255.0
        self.input = Input((1, 8, 8), (float(values.mean()),), (float(values.std()),))
        self.ids = name

    def evaluation(self) -> tuple[Source, Sequence[Task]]:
        """Return all images, and two tasks that score the same half of them.

        The first fits the other half; runs with `init` compare there. The second fits ten digits of
        each class.
        """
        test = held_out(self.labels, 0.5, "continuing")
        train = (~test).nonzero()[0]
        names = [str(digit) for digit in range(10)]
        few = np.concatenate([train[self.labels[train] == digit][:10] for digit in range(10)])
        scored = test.nonzero()[0]
        return self, [
            Task("digit/half", "classify", self.labels, train, scored, names),
            Task(TASK, "classify", self.labels, few, scored, names),
        ]


def build(name: str, seed: int, epochs: int, changes: dict[str, Any] | None = None) -> Recipe:
    """Build a recipe of SimCLR on one of the sets."""
    raw = apply_overrides(
        json.loads(json.dumps(read_raw("image/emoji_simclr"))),
        [
            "encoder={kind: resnet8, stem: small, width: 16, grid: 2}",
            "views.crop.scale=[0.4, 1.0]", "views.policy.gray_p=0.0",
            f"run.seed={seed}", f"run.epochs={epochs}", "run.log.knn_epochs=0",
        ],
    )  # fmt: skip
    for section, values in (changes or {}).items():
        raw[section] = {**raw.get(section, {}), **values}
    return Recipe.build(resolve_recipe(raw), Handwriting(name=name))  # type: ignore[arg-type]


def changes_of(arm: str, start: Path, warmup: int) -> dict[str, Any]:
    """Changes of the recipe for an arm that has a start."""
    factor, init = ARMS[arm]
    return {
        "init": {"path": str(start), "warmup_steps": warmup, **init},
        "optimizer": {"lr": RATE * factor},
        "schedule": {"kind": "cosine", "warmup_epochs": 1},
    }


def trained(recipe: Recipe, folder: Path) -> Cell:
    """Train a recipe, and measure its encoder."""
    bytes_ = costs(recipe) if recipe.init is not None else {}
    pretrain(recipe, folder, progress="quiet", overwrite=True)
    outcome = read_outcome(folder)
    trained = folder / ("encoder_trained" if outcome and outcome.kept == "start" else "encoder")
    drift = [
        {key.partition("/")[2]: line[key] for key in line if key.startswith("drift/")}
        for line in read_metrics(folder / "metrics.jsonl")
    ]
    return {
        "epochs": recipe.run.epochs,
        "correct": scored(load_encoder(trained), recipe.data, TASK),
        "kept": outcome.kept if outcome else "",
        "drift": [one for one in drift if one],
        **bytes_,
    }


def costs(recipe: Recipe) -> dict[str, float]:
    """Count trained weights of the encoder, and the bytes that a step keeps for its gradient."""
    again = Recipe.build(resolve_recipe(recipe.config() | {"data": _DATA}), recipe.data)
    continued.begin(again)
    learning = [p for p in again.encoder.parameters() if p.requires_grad]
    kept: dict[int, int] = {}

    def keep(x: Tensor) -> Tensor:
        kept[x.untyped_storage().data_ptr()] = x.untyped_storage().nbytes()
        return x

    again.method.train()
    x = torch.randn(2, 256, *again.encoder.input.shape)
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda x: x):
        step = again.method((x[0], x[1]))
    del step
    return {"learning": sum(p.numel() for p in learning), "kept_bytes": sum(kept.values())}


_DATA = {"kind": "embedded_images", "name": "digits"}


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--seconds", type=float, default=5.0, help="of each encoder")
    parser.add_argument("--start-seconds", type=float, default=8.0)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--out", type=Path, default=Path("runs/continuing"))
    parser.add_argument("--picture", type=Path, help="SVG of the drift")
    parser.add_argument("--table", action="store_true", help="print the finished cells alone")
    own = parser.parse_args()
    torch.set_num_threads(1)
    cells = Cells(own.out / "cells.jsonl")
    for seed in () if own.table else own.seeds:
        run_seed(cells, seed, own)
    if own.table:
        show(cells, own.seeds, own.seconds, own.start_seconds)
        if own.picture:
            own.picture.write_text(drawing(cells, own.seeds))


def run_seed(cells: Cells, seed: int, own: argparse.Namespace) -> None:
    """Make the cells of a seed."""
    start = own.out / f"start-{seed}"

    def made() -> Cell:
        epochs, _ = epochs_for(lambda n: build("mnist5k", seed, n), own.start_seconds)
        cell = trained(build("mnist5k", seed, epochs), start)
        return cell | {"correct": scored(load_encoder(start), Handwriting(name="digits"), TASK)}

    cells.ensure(f"start {seed}", made)

    def scratch() -> Cell:
        epochs, _ = epochs_for(lambda n: build("digits", seed, n), own.seconds)
        return trained(build("digits", seed, epochs), own.out / f"scratch-{seed}")

    cells.ensure(f"scratch {seed}", scratch)
    steps = len(Handwriting(name="digits")) // 256  # of an epoch
    count: list[int] = []
    for arm in ARMS:

        def made_from(arm: str = arm) -> Cell:
            def recipe(epochs: int) -> Recipe:
                return build("digits", seed, epochs, changes_of(arm, start, steps))

            if not count:
                known = cells.found.get(f"full {seed}")
                count.append(known["epochs"] if known else epochs_for(recipe, own.seconds)[0])
            return trained(recipe(count[0]), own.out / f"{arm}-{seed}".replace(" ", "-"))

        cells.ensure(f"{arm} {seed}", made_from)


def show(cells: Cells, seeds: Sequence[int], seconds: float, start_seconds: float) -> None:
    """Print the tables."""
    arms = ["start", "scratch", *ARMS]
    found = {arm: [cells.found[f"{arm} {seed}"] for seed in seeds] for arm in arms}
    key = "knn fp32"
    print("# Going on from an encoder of other digits\n")
    print(f"`python benchmarks/continuing.py {' '.join(sys.argv[1:])}`, commit")
    print(f"{version('mezzotint')}, 2 shared cores, seeds {', '.join(map(str, seeds))}.")
    print(
        f"ResNet-8 of width 16 at 8 x 8 pixels. Starts: {start_seconds:g} s of processor time (one"
    )
    print(
        f"thread) on MNIST; `scratch` and `full`: {seconds:g} s on the digits, in whole epochs; the"
    )
    print("others as many epochs as `full`. kNN top-1 in per cent: fitted on ten digits of each")
    print(
        "class, scored on half of all digits. Differences are paired by seed and sample, with 95 %"
    )
    print("intervals; bold excludes 0.\n")
    print("| arm | epochs | top-1 | − start | − scratch | start handed over |")
    print("|---|---|---|---|---|---|")
    for arm in arms:
        mean = interval([fraction(c, key) for c in found[arm]])
        epochs = ", ".join(str(c["epochs"]) for c in found[arm])
        against = [
            signed(difference(found[arm], found[other], key)) if arm != other else ""
            for other in ("start", "scratch")
        ]
        kept = sum(c["kept"] == "start" for c in found[arm])
        refused = f"{kept} of {len(seeds)}" if arm in ARMS else ""
        print(f"| {arm} | {epochs} | {100 * mean.mean:.1f} | {' | '.join(against)} | {refused} |")
    print("\n## Cost at equal steps\n")
    print("| arm | learning weights of the encoder | kept for the gradient of a step, MiB | s |")
    print("|---|---|---|---|")
    for arm in ("full", "last block", "LoRA"):
        one = found[arm][0]
        each = math.fsum(c["cpu_seconds"] for c in found[arm]) / len(seeds)
        print(f"| {arm} | {one['learning']:,} | {one['kept_bytes'] / 2**20:.0f} | {each:.0f} |")
    print("\nSeconds are those of the whole cell: training, drift, comparison and evaluation.")
    print("\n## Drift at the end\n")
    print("| arm | cosine | CKA | rank |\n|---|---|---|---|")
    for arm in ARMS:
        values = [
            np.mean([c["drift"][-1].get(k, math.nan) for c in found[arm] if c["drift"]])
            for k in ("cosine", "cka", "rank")
        ]
        print(f"| {arm} | {' | '.join(f'{v:.2f}' for v in values)} |")


def drawing(cells: Cells, seeds: Sequence[int]) -> str:
    """Draw the drift of each arm over epochs."""
    count = min(len(cells.found[f"{arm} {s}"]["drift"]) for arm in ARMS for s in seeds)
    name: Callable[[str], str] = {"cosine": "mean cosine", "cka": "CKA", "rank": "rank"}.__getitem__
    panels = {
        name(key): {
            arm: [
                (
                    epoch + 1,
                    interval([cells.found[f"{arm} {s}"]["drift"][epoch][key] for s in seeds]),
                )
                for epoch in range(count)
            ]
            for arm in ARMS
        }
        for key in ("cosine", "cka", "rank")
    }
    picture: str = as_svg(panels, "epochs after the start")
    return picture


if __name__ == "__main__":
    main()
