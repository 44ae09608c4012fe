"""Distilled students against SimCLR of the same network at equal processor time, by bits.

Sets (`--set`): `emoji` (32 x 32 pixels, two drawing styles), whose teacher is the demo's encoder,
SimCLR of 105 epochs on the same images; and sets of `quality_data.py` (48 to 64 pixels), whose
teacher is a released EfficientNet-lite0 with ImageNet weights (`released.py`), which sees them at
128 pixels. Each arm is trained for five seeds:

- `simclr`: SimCLR with the student's network.
- `distill`: one view of the student, clean samples for the teacher, cached features.
- `ssql simclr`, `ssql distill`, `ssql distill squat`: these under SSQL, for three seeds.

Emoji are measured by retrieval of the same emoji in the other style, and by kNN of its subcategory;
the other sets by kNN of the class; in fp32 and quantized after training (min-max ranges). The time
of the teacher's own training is not counted: it is there before. Its features of the samples are. A
step of each arm is timed first (`--time`), and every seed is trained for the epochs that fit, so
that only the timing needs a quiet machine. Settings were chosen with seed 50 on the half `tune` of
the tasks of emoji; the tables of emoji are of the half `held_out`, and no setting was chosen on
another set.

    python benchmarks/distillation.py --seconds 20 --time
    python benchmarks/distillation.py --seconds 20
    python benchmarks/distillation.py --seconds 20 --table > benchmarks/results/distillation.md
    python benchmarks/distillation.py --set photos --seconds 40
"""

import argparse
import functools
import json
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import torch
from cells import (  # type: ignore[import-not-found]
    Cell,
    Cells,
    difference,
    epochs_for,
    fraction,
    scored,
    signed,
)
from quality_data import prepare
from released import release  # type: ignore[import-not-found]
from torch import Tensor
from views import version  # type: ignore[import-not-found]

from mezzotint.data.image.embedded import EmbeddedImages
from mezzotint.data.source import Source
from mezzotint.encoders.encoder import Encoder
from mezzotint.evaluation.knn import KNN
from mezzotint.evaluation.retrieval import Retrieval
from mezzotint.methods.teachers import converted, load_teacher
from mezzotint.recipe.reading import apply_overrides, read_raw
from mezzotint.recipe.recipe import Recipe, resolve_recipe
from mezzotint.train.loop import pretrain
from mezzotint.types import Input

BITS = ("W8A8", "W4A8", "W4A4", "W2A8")
EMOJI_TASKS = {"retrieval": "identity/across-styles", "knn": "subcategory/across-styles"}
TASKS = {"knn": "label/holdout"}
"""Task of each probe, of the other sets."""
TEACHER_SIZE = 128
SIZES = {"100K": 18, "400K": 36}
"""Width of ResNet-8: 98 and 389 thousand parameters."""
PILOT_SEED = 50

DISTILLED = (
    "views={kind: clean_target, student: {kind: one_view, crop: {scale: [0.4, 1.0]}, policy: "
    "{kind: simclr, strength: 0.5, gray_p: 0.1, blur_p: 0.0}, flip: 0.0}}",
    "optimizer={kind: adamw, lr: 4.0e-3, weight_decay: 0.05, exclude: norm_and_bias}",
    "run.batch_size=128",
)
_LOSS = "loss: cosine, hidden_dim: 512, cache: true"
PAIRS = (
    ("distill", "simclr"), ("ssql simclr", "simclr"), ("ssql distill", "ssql simclr"),
    ("ssql distill", "distill"), ("ssql distill squat", "ssql distill"),
)  # fmt: skip


ARMS = ("simclr", "distill", "ssql simclr", "ssql distill", "ssql distill squat")


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


class Setting:
    """A set of data, its tasks and its teacher.

    Args:
        name: `emoji`, or a set of `quality_data.py`.
        out: folder of the cells.
        cache: folder of data that is made once.
    """

    def __init__(self, name: str, out: Path, cache: Path) -> None:
        self.name, self.folder, self.cache = name, out / name, cache
        self.is_emoji = name == "emoji"
        self.tasks = EMOJI_TASKS if self.is_emoji else TASKS
        self.section = None if self.is_emoji else prepare(name, cache)

    def build(self, overrides: Sequence[str]) -> Recipe:
        """Build `image/emoji_simclr` with changes, for this set."""
        raw = json.loads(json.dumps(read_raw("image/emoji_simclr")))
        raw["data"] = self.section or raw["data"]
        return Recipe.build(resolve_recipe(apply_overrides(raw, list(overrides))))

    def source(self, part: str) -> Source:
        """Return the samples of a half of the tasks; other sets than emoji have one part."""
        if self.is_emoji:
            return EmbeddedImages(part=part)  # type: ignore[arg-type]
        return self.build(()).data

    def teacher(self, cells: Cells) -> str:
        """Make the teacher unless it is there, measure it, and return its path."""
        path = self.folder / "teacher"
        if not self.is_emoji:
            path = release(self.cache, TEACHER_SIZE, self.cache)

        def made() -> Cell:
            if self.is_emoji and not (path / "encoder" / "encoder.json").is_file():
                pretrain(self.build(()), path, progress="quiet", overwrite=True)
            source = self.source("held_out")
            teacher = load_teacher(str(path), source.input)
            count = sum(p.numel() for p in teacher.parameters())
            correct = self.measured(Resized(teacher, source.input), "held_out")
            return {"parameters": count, "correct": correct}

        cells.ensure("teacher", made)
        return str(path)

    def measured(self, encoder: Encoder, part: str, bits: Sequence[str] = ()) -> dict[str, str]:
        """Score an encoder on a half of the tasks."""
        probes = (Retrieval(), KNN()) if self.is_emoji else (KNN(),)
        found: dict[str, str] = scored(
            encoder, self.source(part), list(self.tasks.values()), bits, probes
        )
        return found


class Resized(Encoder):
    """A teacher that takes the samples of a student.

    Args:
        teacher: of another size or normalization.
        input: of the student.
    """

    modalities = frozenset({"image"})

    def __init__(self, teacher: Encoder, input: Input) -> None:
        super().__init__(input, teacher.dim)
        self.teacher = teacher

    def forward(self, x: Tensor) -> Tensor:
        found: Tensor = self.teacher(converted(x, self.input, self.teacher.input))
        return found


def own_overrides(overrides: Sequence[str], width: int, seed: int) -> Sequence[str]:
    """Overrides of a student."""
    return (f"encoder.width={width}", f"run.seed={seed}", "run.log.knn_epochs=0", *overrides)


def timed(setting: Setting, overrides: Sequence[str], width: int, seconds: float) -> Cell:
    """Count the epochs of an arm that fit into a processor time."""
    own = own_overrides(overrides, width, PILOT_SEED)
    epochs, each = epochs_for(lambda n: setting.build((*own, f"run.epochs={n}")), seconds)
    return {"epochs": epochs, "step_seconds": each}


def trained(
    setting: Setting, overrides: Sequence[str], width: int, seed: int, epochs: int, folder: Path
) -> Cell:
    """Train and measure one cell."""
    recipe = setting.build((*own_overrides(overrides, width, seed), f"run.epochs={epochs}"))
    began = time.process_time()
    pretrain(recipe, folder, progress="quiet", overwrite=True)
    spent = time.process_time() - began
    count = sum(p.numel() for p in recipe.encoder.parameters())
    pilot = seed == PILOT_SEED
    part = "tune" if pilot else "held_out"
    correct = setting.measured(recipe.encoder, part, () if pilot else BITS)
    return {"epochs": epochs, "parameters": count, "seconds": spent, "correct": correct}


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--set", default="emoji", help="emoji, or a set of quality_data.py")
    parser.add_argument("--cache", type=Path, default=Path("runs/quality/data"))
    parser.add_argument("--seconds", type=float, default=20.0, help="of each student")
    parser.add_argument("--out", type=Path, default=Path("runs/distillation"))
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2, 3, 4])
    parser.add_argument("--ssql", action="store_true", help="with the arms of SSQL")
    parser.add_argument("--time", action="store_true", help="only time a step of each arm")
    parser.add_argument("--table", action="store_true", help="print the finished cells alone")
    parser.add_argument("--pilot", nargs="*", help="SIZE ARM NAME and overrides: one of seed 50")
    own = parser.parse_args()
    torch.set_num_threads(1)
    setting = Setting(own.set, own.out, own.cache)
    cells = Cells(setting.folder / f"cells_{own.seconds:g}s.jsonl")
    teacher = setting.teacher(cells)
    if own.table:
        show(cells, setting, own.seconds)
        return

    def epochs_of(name: str, arm: str, size: str, *overrides: str) -> int:
        chosen = (*arms(teacher)[arm], *overrides)
        make = functools.partial(timed, setting, chosen, SIZES[size], own.seconds)
        return int(cells.ensure(f"time of {name}", make)["epochs"])

    if own.pilot:
        size, arm, name, *overrides = own.pilot
        epochs = epochs_of(f"pilot {size} {arm} {name}", arm, size, *overrides)
        chosen = (*arms(teacher)[arm], *overrides)
        folder = setting.folder / "pilot"
        make = functools.partial(trained, setting, chosen, SIZES[size], PILOT_SEED, epochs, folder)
        cells.ensure(f"pilot {size} {arm} {name}", make)
        return
    wanted = ARMS if own.ssql else ARMS[:2]
    planned = {
        (size, arm): epochs_of(f"{size} {arm}", arm, size) for size in SIZES for arm in wanted
    }
    order = [
        (f"{size} {arm} {seed}", size, arm, seed)
        for group, most in ((ARMS[:2], 5), (ARMS[2:] if own.ssql else (), 3))
        for seed in own.seeds
        for arm in group
        for size in SIZES
        if seed < most
    ]
    waiting = [one for one in order if one[0] not in cells.found]
    for name, size, arm, seed in () if own.time else waiting:
        folder, count = setting.folder / "cell", planned[size, arm]
        own_arm = arms(teacher)[arm]
        make = functools.partial(trained, setting, own_arm, SIZES[size], seed, count, folder)
        cells.ensure(name, make)


def seeds_of(cells: Cells, size: str, arm: str) -> list[int]:
    """Return the seeds of an arm that are done."""
    return [seed for seed in range(5) if f"{size} {arm} {seed}" in cells.found]


def show(cells: Cells, setting: Setting, seconds: float) -> None:
    """Print the tables."""
    teacher = cells.found["teacher"]
    parameters = f"{teacher['parameters']:,} parameters"
    top = " and ".join(f"{p} {100 * fraction(teacher, f'{p} fp32'):.1f}" for p in setting.tasks)
    count, samples = len(teacher["correct"]["knn fp32"]), len(setting.source("held_out"))
    sizes = " x ".join(map(str, setting.source("held_out").input.shape[1:]))
    print("# Distilled students against SimCLR of the same network, at equal time\n")
    print(f"`python benchmarks/distillation.py {' '.join(sys.argv[1:])}`, commit")
    print(f"{version('mezzotint')}, 2 shared cores. {seconds:g} s of processor time (one thread)")
    print("for each student, counted in whole epochs, with the teacher's features in it;")
    print(f"{samples:,} images of {sizes} pixels ({setting.name}). The teacher:")
    print(
        f"the demo's encoder, a ResNet-8 of width 32 ({parameters}) after 105 epochs of SimCLR,"
        if setting.is_emoji
        else f"EfficientNet-lite0 as released ({parameters}), at {TEACHER_SIZE} pixels,"
    )
    print(f"{top} in fp32. Scored are {count} images, on which no setting was chosen.")
    print("Differences are paired by seed and sample, with 95 % intervals; bold excludes 0. Seeds")
    print("are 0 to 4, with SSQL 0 to 2; a difference is over the seeds of both.")
    for size in SIZES:
        names = [arm for arm in ARMS if len(seeds_of(cells, size, arm)) >= 3]
        if not names:
            continue
        seeds = {arm: seeds_of(cells, size, arm) for arm in names}
        found = {a: {s: cells.found[f"{size} {a} {s}"] for s in seeds[a]} for a in names}
        count = found["simclr"][0]["parameters"]
        print(f"\n## {size} ({count:,} parameters)\n")
        print("| arm | seeds | epochs | ms a step | s of processor time |\n|---|---|---|---|---|")
        for arm in names:
            own = cells.found[f"time of {size} {arm}"]
            spent = sum(cell["seconds"] for cell in found[arm].values()) / len(found[arm])
            print(
                f"| {arm} | {len(seeds[arm])} | {own['epochs']} | "
                f"{1000 * own['step_seconds']:.0f} | {spent:.1f} |"
            )
        for probe, task in setting.tasks.items():
            print(f"\n`{task}` by {probe}, top-1 in per cent:\n")
            print(f"| bits | {' | '.join(names)} |\n|---|{'---|' * len(names)}")
            for bits in ("fp32", *BITS):
                key = f"{probe} {bits}"
                means = [
                    sum(fraction(cell, key) for cell in found[a].values()) / len(found[a])
                    for a in names
                ]
                print(f"| {bits} | {' | '.join(f'{100 * v:.1f}' for v in means)} |")
            pairs = [pair for pair in PAIRS if set(pair) <= set(names)]
            print(f"\n| bits | {' | '.join(f'{a} − {b}' for a, b in pairs)} |")
            print(f"|---|{'---|' * len(pairs)}")
            for bits in ("fp32", *BITS):
                row = []
                for a, b in pairs:
                    both = [seed for seed in seeds[a] if seed in seeds[b]]
                    sides = [[found[arm][seed] for seed in both] for arm in (a, b)]
                    row.append(signed(difference(*sides, f"{probe} {bits}")))
                print(f"| {bits} | {' | '.join(row)} |")


if __name__ == "__main__":
    main()
