"""Go on from an encoder of other data: against training from scratch, and against the start.

Pairs (`--set`): `twitter`, from 1,911 emoji as Google draws them to the same as Twitter draws them;
`digits`, from 5,000 digits of MNIST to the 1,797 of another collection, both of 8 x 8 pixels. The
start is trained once by SimCLR. Each arm trains without labels on the second set. Arms, with six
seeds each or as many as `--seeds` names (LoRA and last block three):

- `start`: the encoder as it came.
- `scratch`: SimCLR from random weights, for the same processor time as `full`.
- `full`: the same from the start, after one epoch in which the head learns alone.
- `last block`, `LoRA`: the same for as many steps, with frozen blocks or low-rank updates.
- `bad rate`: `full` with 30 times the learning rate.

Every arm with a start ends as any run with `init` does: its encoder is compared with the start on
training samples, and `keep: better` hands one of them over. The probe is kNN of the subcategory,
fitted on half of the emoji in Twitter's style and scored on the other half; of digits, fitted on
ten of each class and scored on half of all. Steps of `scratch` and `full` are timed first
(`--time`); every seed trains for the epochs that fit.

    python benchmarks/continuing.py --seconds 10 --time
    python benchmarks/continuing.py --seconds 10
    python benchmarks/continuing.py --seconds 10 --table > benchmarks/results/continuing.md
    python benchmarks/continuing.py --set digits --seconds 3 --start-seconds 8
"""

import argparse
import functools
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

TASKS = {"twitter": "subcategory/half", "digits": "digit/ten-labels"}
STARTS = {"twitter": "google", "digits": "mnist5k"}
OVERRIDES = {
    "twitter": ["encoder.width=18"],
    "digits": [
        "encoder={kind: resnet8, stem: small, width: 16, grid: 2}",
        "views.crop.scale=[0.4, 1.0]", "views.policy.gray_p=0.0",
    ],
}  # fmt: skip
RATE = 0.08
ARMS: dict[str, tuple[float, dict[str, Any]]] = {
    "full": (1.0, {}),
    "bad rate": (30.0, {}),
    "LoRA": (1.0, {"lora": {"rank": 8}}),
    "last block": (1.0, {"freeze_blocks": 2}),
}
"""Factor of the learning rate, and keys of `init`."""
FEW = ("LoRA", "last block")
"""Arms of three seeds."""


class Style(InMemory):
    """Emoji in one drawing style, 3 x 32 x 32.

    Args:
        name: `google` or `twitter`.
    """

    def __init__(self, *, name: Literal["google", "twitter"]) -> None:
        whole = EmbeddedImages()
        count = len(whole) // 2
        own = slice(0, count) if name == "google" else slice(count, 2 * count)
        self.images, self.labels, self.input = whole.images[own], whole.labels[own], whole.input
        self.groups, self.ids = whole.groups[own], name
        self.fine = next(
            task for task in whole.evaluation()[1] if task.name.startswith("subcategory")
        )
        self.fine_labels, self.names = self.fine.labels[own], whole.evaluation()[1][0].classes

    def evaluation(self) -> tuple[Source, Sequence[Task]]:
        """Return all images, and two tasks that score the same half of them.

        Runs with `init` compare by the training half of the first.
        """
        test = held_out(self.labels, 0.5, "continuing", self.groups)
        train, scored = (~test).nonzero()[0], test.nonzero()[0]
        return self, [
            Task("category/half", "classify", self.labels, train, scored, self.names),
            Task(TASKS["twitter"], "classify", self.fine_labels, train, scored, self.fine.classes),
        ]


class Handwriting(InMemory):
    """Handwritten digits, 1 x 8 x 8.

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
        """Return all images, and two tasks that score the same half of them."""
        test = held_out(self.labels, 0.5, "continuing")
        train, scored = (~test).nonzero()[0], test.nonzero()[0]
        names = [str(digit) for digit in range(10)]
        few = np.concatenate([train[self.labels[train] == digit][:10] for digit in range(10)])
        return self, [
            Task("digit/half", "classify", self.labels, train, scored, names),
            Task(TASKS["digits"], "classify", self.labels, few, scored, names),
        ]


def build(
    pair: str, seed: int, epochs: int, changes: dict[str, Any] | None = None, *, start: bool = False
) -> Recipe:
    """Build a recipe of SimCLR on the second set of a pair, or on the first."""
    name: Any = STARTS[pair] if start else pair
    source = Style(name=name) if pair == "twitter" else Handwriting(name=name)
    raw = apply_overrides(
        json.loads(json.dumps(read_raw("image/emoji_simclr"))),
        [
            *OVERRIDES[pair], f"run.seed={seed}", f"run.epochs={epochs}", "run.log.knn_epochs=0",
        ],
    )  # fmt: skip
    for section, values in (changes or {}).items():
        raw[section] = {**raw.get(section, {}), **values}
    return Recipe.build(resolve_recipe(raw), source)


def changes_of(arm: str, start: Path, warmup: int) -> dict[str, Any]:
    """Changes of the recipe for an arm that has a start."""
    factor, init = ARMS[arm]
    return {
        "init": {"path": str(start), "warmup_steps": warmup, **init},
        "optimizer": {"lr": RATE * factor},
        "schedule": {"kind": "cosine", "warmup_epochs": 1},
    }


def trained(recipe: Recipe, task: str, folder: Path) -> Cell:
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
        "correct": scored(load_encoder(trained), recipe.data, task),
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


_DATA = {"kind": "embedded_images", "name": "emoji"}


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--set", default="twitter", choices=TASKS)
    parser.add_argument("--seconds", type=float, default=10.0, help="of each encoder")
    parser.add_argument("--start-seconds", type=float, default=60.0)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2, 3, 4, 5])
    parser.add_argument("--out", type=Path, default=Path("runs/continuing"))
    parser.add_argument("--picture", type=Path, help="SVG of the drift")
    parser.add_argument("--arms", nargs="+", default=["scratch", *ARMS])
    parser.add_argument("--time", action="store_true", help="only time steps, and make the start")
    parser.add_argument("--table", action="store_true", help="print the finished cells alone")
    own = parser.parse_args()
    torch.set_num_threads(1)
    folder, task = own.out / own.set, TASKS[own.set]
    cells = Cells(folder / f"cells_{own.seconds:g}s.jsonl")
    if own.table:
        show(cells, own)
        if own.picture:
            own.picture.write_text(drawing(cells, own.seeds))
        return
    start, source = folder / "start", build(own.set, 0, 1).data
    steps = len(source) // 256  # of an epoch

    def fitting(seconds: float, changes: dict[str, Any] | None = None, **which: bool) -> Cell:
        epochs, each = epochs_for(lambda n: build(own.set, 100, n, changes, **which), seconds)
        return {"epochs": epochs, "step_seconds": each}

    def made() -> Cell:
        if not (start / "encoder" / "encoder.json").is_file():
            epochs = fitting(own.start_seconds, start=True)["epochs"]
            pretrain(build(own.set, 100, epochs, start=True), start, progress="quiet")
        reached = read_metrics(start / "metrics.jsonl")[-1]["epoch"]
        return {"epochs": reached, "correct": scored(load_encoder(start), source, task)}

    cells.ensure("start", made)
    fresh = cells.ensure("time of scratch", lambda: fitting(own.seconds))
    changes = changes_of("full", start, steps)
    going = cells.ensure("time of full", lambda: fitting(own.seconds, changes))

    def make(arm: str, seed: int) -> Cell:
        changes = None if arm == "scratch" else changes_of(arm, start, steps)
        epochs = (fresh if arm == "scratch" else going)["epochs"]
        cell = folder / f"{arm}-{seed}".replace(" ", "-")
        return trained(build(own.set, seed, epochs, changes), task, cell)

    for group in () if own.time else (("scratch", "full", "bad rate"), FEW):
        for seed in own.seeds:
            for arm in [a for a in group if a in own.arms and seed in seeds_of(a, own.seeds)]:
                cells.ensure(f"{arm} {seed}", functools.partial(make, arm, seed))


def seeds_of(arm: str, seeds: Sequence[int]) -> Sequence[int]:
    """Return the seeds of an arm."""
    return seeds[:3] if arm in FEW else seeds


def done(cells: Cells, seeds: Sequence[int]) -> dict[str, dict[int, Cell]]:
    """Return the finished cells of the arms that have three of them, by seed."""
    found = {
        arm: {s: cells.found[f"{arm} {s}"] for s in seeds if f"{arm} {s}" in cells.found}
        for arm in ("scratch", *ARMS)
    }
    return {arm: own for arm, own in found.items() if len(own) >= 3}


def show(cells: Cells, own: argparse.Namespace) -> None:
    """Print the tables."""
    seeds, seconds, start_seconds = own.seeds, own.seconds, own.start_seconds
    found, start = done(cells, seeds), cells.found["start"]
    source = build(own.set, 0, 1).data
    sizes = " x ".join(map(str, source.input.shape[1:]))
    target = f"{len(source):,} images of {own.set} ({sizes} pixels)"
    key = "knn fp32"
    print("# Going on from an encoder of other images\n")
    print(f"`python benchmarks/continuing.py {' '.join(sys.argv[1:])}`, commit")
    print(f"{version('mezzotint')}, 2 shared cores, seeds {', '.join(map(str, seeds))}.")
    count = sum(p.numel() for p in build(own.set, 0, 1).encoder.parameters())
    print(f"ResNet-8 ({count:,} parameters). The start: {start_seconds:g} s of processor time (one")
    print(f"thread) on {STARTS[own.set]} ({start['epochs']} epochs).")
    print(f"`scratch` and `full`: {seconds:g} s on {target}, in")
    print("whole epochs; the others as many epochs as `full`. kNN top-1 in per cent of")
    print(f"`{TASKS[own.set]}`. Differences are paired by seed and sample, with 95 % intervals;")
    print("bold excludes 0.\n")
    print("| arm | seeds | epochs | top-1 | − start | − scratch | start handed over |")
    print("|---|---|---|---|---|---|---|")
    print(f"| start | | {start['epochs']} | {100 * fraction(start, key):.1f} | | | |")
    for arm, seeded in found.items():
        mean = math.fsum(fraction(cell, key) for cell in seeded.values()) / len(seeded)
        both = [seed for seed in seeded if seed in found["scratch"]]
        ours = [seeded[seed] for seed in both]
        over = signed(difference(list(seeded.values()), [start] * len(seeded), key))
        fresh = [found["scratch"][seed] for seed in both]
        against = "" if arm == "scratch" else signed(difference(ours, fresh, key))
        kept = sum(cell["kept"] == "start" for cell in seeded.values())
        refused = f"{kept} of {len(seeded)}" if arm in ARMS else ""
        epochs = next(iter(seeded.values()))["epochs"]
        numbers = f"{len(seeded)} | {epochs} | {100 * mean:.1f}"
        print(f"| {arm} | {numbers} | {over} | {against} | {refused} |")
    print("\n## Cost at equal steps\n")
    print("| arm | learning weights of the encoder | kept for the gradient of a step, MiB | s |")
    print("|---|---|---|---|")
    for arm in [arm for arm in ("full", "last block", "LoRA") if arm in found]:
        first = list(found[arm].values())[:3]
        each = math.fsum(cell["cpu_seconds"] for cell in first) / 3
        one = first[0]
        print(f"| {arm} | {one['learning']:,} | {one['kept_bytes'] / 2**20:.0f} | {each:.0f} |")
    print("\nSeconds are those of the whole cell: training, drift, comparison and evaluation.")
    print("\n## Drift at the end\n")
    print("| arm | cosine | CKA | rank |\n|---|---|---|---|")
    for arm in [arm for arm in ARMS if arm in found]:
        ends = [cell["drift"][-1] for cell in found[arm].values() if cell["drift"]]
        values = [
            np.mean([end.get(k, math.nan) for end in ends]) for k in ("cosine", "cka", "rank")
        ]
        print(f"| {arm} | {' | '.join(f'{v:.2f}' for v in values)} |")


def drawing(cells: Cells, seeds: Sequence[int]) -> str:
    """Draw the drift of each arm over epochs."""
    found = done(cells, seeds)
    own = {arm: [cell["drift"] for cell in found[arm].values()] for arm in ARMS if arm in found}
    count = min(len(drift) for drifts in own.values() for drift in drifts)
    name: Callable[[str], str] = {"cosine": "mean cosine", "cka": "CKA", "rank": "rank"}.__getitem__
    panels = {
        name(key): {
            arm: [
                (
                    epoch + 1,
                    interval([drift[epoch][key] for drift in own[arm]]),
                )
                for epoch in range(count)
            ]
            for arm in own
        }
        for key in ("cosine", "cka", "rank")
    }
    picture: str = as_svg(panels, "epochs after the start")
    return picture


if __name__ == "__main__":
    main()
