"""Distilled students against SimCLR of the same network at equal processor time, by bits.

A teacher is trained once by SimCLR on the embedded digits (8 x 8 pixels). Then each arm is trained
for three seeds:

- `simclr`: SimCLR with the student's network.
- `distill`: one view of the student, clean samples for the teacher, cached features, cosine.
- `ssql simclr`, `ssql distill`, `ssql distill squat`: these under SSQL.

All are measured by kNN from ten labels of each class, in fp32 and quantized after training (min-max
ranges). The time of the teacher's own training is not counted: it is there before.

    python benchmarks/distillation.py --seconds 4 > benchmarks/results/distillation.md
"""

import argparse
import functools
import json
import sys
from collections.abc import Sequence
from pathlib import Path

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
from continuing import TASK, Handwriting  # type: ignore[import-not-found]
from views import version  # type: ignore[import-not-found]

from mezzotint.encoders.saving import save_encoder
from mezzotint.recipe.reading import apply_overrides, read_raw
from mezzotint.recipe.recipe import Recipe, resolve_recipe
from mezzotint.train.loop import pretrain

BITS = ("W8A8", "W4A8", "W4A4", "W2A8")
SIZES = {"100K": 18, "400K": 36}
"""Width of ResNet-8: 98 and 389 thousand parameters."""

DISTILLED = (
    "views={kind: clean_target, student: {kind: one_view, crop: {scale: [0.4, 1.0]}, policy: "
    "{kind: simclr, strength: 0.5, gray_p: 0.0, blur_p: 0.0}, flip: 0.0}}",
    "optimizer={kind: adamw, lr: 2.0e-3, weight_decay: 0.05, exclude: norm_and_bias}",
    "run.batch_size=64",
)
_LOSS = "loss: cosine, hidden_dim: 512, cache: true"


def arms(teacher: str) -> dict[str, Sequence[str]]:
    """Overrides of `image/emoji_simclr` for each arm."""
    base = f"kind: distill, teachers: [{teacher}], {_LOSS}"
    simclr = "kind: simclr, hidden_dim: 512, dim: 128, temperature: 0.07"
    return {
        "simclr": (),
        "distill": (*DISTILLED, f"method={{{base}}}"),
        "ssql simclr": (f"method={{kind: ssql, base: {{{simclr}}}}}",),
        "ssql distill": (*DISTILLED, f"method={{kind: ssql, base: {{{base}}}}}"),
        "ssql distill squat": (
            *DISTILLED, f"method={{kind: ssql, base: {{{base}, squat: true}}}}",
        ),
    }  # fmt: skip


def build(overrides: Sequence[str], width: int, seed: int, epochs: int) -> Recipe:
    """Build a recipe of SimCLR on the digits, with a student's network."""
    raw = apply_overrides(
        json.loads(json.dumps(read_raw("image/emoji_simclr"))),
        [
            f"encoder={{kind: resnet8, stem: small, width: {width}, grid: 2}}",
            "views.crop.scale=[0.4, 1.0]", "views.policy.gray_p=0.0", *overrides,
            f"run.seed={seed}", f"run.epochs={epochs}", "run.log.knn_epochs=0",
        ],
    )  # fmt: skip
    return Recipe.build(resolve_recipe(raw), Handwriting(name="digits"))


def teacher_of(folder: Path, cells: Cells, seconds: float) -> str:
    """Train the teacher unless it is there."""
    path = folder / "teacher"
    wide = ("encoder={kind: resnet10, stem: small, width: 32, grid: 1}",)

    def made() -> Cell:
        epochs, _ = epochs_for(lambda n: build(wide, 32, 100, n), seconds)
        recipe = build(wide, 32, 100, epochs)
        pretrain(recipe, folder / "run", progress="quiet", overwrite=True)
        save_encoder(recipe.encoder, path)
        return {"epochs": epochs, "correct": scored(recipe.encoder, recipe.data, TASK)}

    cells.ensure("teacher", made)
    return str(path)


def trained(overrides: Sequence[str], width: int, seed: int, seconds: float, folder: Path) -> Cell:
    """Train and measure one cell."""
    epochs, each = epochs_for(lambda n: build(overrides, width, seed, n), seconds)
    recipe = build(overrides, width, seed, epochs)
    pretrain(recipe, folder, progress="quiet", overwrite=True)
    count = sum(p.numel() for p in recipe.encoder.parameters())
    correct = scored(recipe.encoder, recipe.data, TASK, BITS if seed < 50 else ())
    return {"epochs": epochs, "step_seconds": each, "parameters": count, "correct": correct}


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--seconds", type=float, default=4.0, help="of each student")
    parser.add_argument("--teacher-seconds", type=float, default=30.0)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--out", type=Path, default=Path("runs/distillation"))
    parser.add_argument("--table", action="store_true", help="print the finished cells alone")
    parser.add_argument("--pilot", nargs="*", help="NAME and overrides: one cell of seed 50")
    own = parser.parse_args()
    torch.set_num_threads(1)
    cells = Cells(own.out / "cells.jsonl")
    teacher = teacher_of(own.out, cells, own.teacher_seconds)
    if own.pilot:
        arm, name, *overrides = own.pilot
        chosen = (*arms(teacher)[arm], *overrides)
        folder = own.out / "pilot"
        cells.ensure(f"pilot {name}", lambda: trained(chosen, 18, 50, own.seconds, folder))
        return
    order = [
        (arm, seed, size)
        for group in (("simclr", "distill"), ("ssql simclr", "ssql distill", "ssql distill squat"))
        for seed in range(own.seeds)
        for arm in group
        for size in SIZES
    ]
    for arm, seed, size in () if own.table else order:
        where = own.out / f"{size}-{arm}-{seed}".replace(" ", "-")
        made = functools.partial(trained, arms(teacher)[arm], SIZES[size], seed, own.seconds, where)
        cells.ensure(f"{size} {arm} {seed}", made)
    if own.table:
        show(cells, own.seeds, own.seconds)


def show(cells: Cells, seeds: int, seconds: float) -> None:
    """Print the tables."""
    teacher = cells.found["teacher"]
    print("# Distilled students against SimCLR of the same network, at equal time\n")
    print(f"`python benchmarks/distillation.py {' '.join(sys.argv[1:])}`, commit")
    print(f"{version('mezzotint')}, 2 shared cores, seeds 0 to {seeds - 1}. {seconds:g} s of")
    print("processor time (one thread) for each student, counted in whole epochs. The teacher is a")
    print(
        f"ResNet-10 of width 32 (1.2 M parameters) after {teacher['epochs']} epochs of SimCLR: kNN"
    )
    print(f"{100 * fraction(teacher, 'knn fp32'):.1f} in fp32. Task: `{TASK}`, 898 test samples.")
    print("Differences are paired by seed and sample, with 95 % intervals; bold excludes 0.")
    for probe in ("knn",):
        for size in SIZES:
            names = [
                arm
                for arm in arms("")
                if all(f"{size} {arm} {seed}" in cells.found for seed in range(seeds))
            ]
            if not names:
                continue
            found = {a: [cells.found[f"{size} {a} {s}"] for s in range(seeds)] for a in names}
            count = found["simclr"][0]["parameters"]
            print(f"\n## {size} ({count:,} parameters), {probe}, top-1 in per cent\n")
            print(f"| bits | {' | '.join(names)} |\n|---|{'---|' * len(names)}")
            for bits in ("fp32", *BITS):
                key = f"{probe} {bits}"
                values = [interval([fraction(c, key) for c in found[a]]).mean for a in names]
                print(f"| {bits} | {' | '.join(f'{100 * v:.1f}' for v in values)} |")
            wanted = (
                ("distill", "simclr"), ("ssql distill", "ssql simclr"),
                ("ssql distill", "distill"), ("ssql distill squat", "ssql distill"),
            )  # fmt: skip
            pairs = tuple(pair for pair in wanted if set(pair) <= set(names))
            print(f"\n| bits | {' | '.join(f'{a} − {b}' for a, b in pairs)} |")
            print(f"|---|{'---|' * len(pairs)}")
            for bits in ("fp32", *BITS):
                row = [signed(difference(found[a], found[b], f"{probe} {bits}")) for a, b in pairs]
                print(f"| {bits} | {' | '.join(row)} |")


if __name__ == "__main__":
    main()
