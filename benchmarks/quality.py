"""Quality of the default recipes at equal processor time, on many sets of real data.

Arms of a set:

- `ours`: the modality's recipe for a user's own data, at the size of the set's samples; epochs,
  batch and learning rate are set as by `mezzotint pretrain PATH --minutes`.
- `lightly` (images): plain SimCLR of lightly as in its CIFAR-10 benchmark (`SimCLRTransform`
  without blur, `NTXentLoss`, `SimCLRProjectionHead`, SGD), with the same encoder from the same
  weights, on the same samples, for the same processor time.
- `untrained`: that encoder before training. `raw`: the input itself. `handmade`: the hand-made
  features of the modality, which every report shows.
- any other: `--arm NAME=OVERRIDE;OVERRIDE` is `ours` with overrides, for studies; a name that
  begins with `untrained` or `lightly` is such an arm with overrides.

Processor time is that of this process (`time.process_time`), on one thread, with views and data
loading in it. Both sides time a few steps first, which is not counted, and then train as many whole
steps as fit. Every finished cell is a line of JSON and is not run again.

    python benchmarks/quality.py --sets emoji,icons --seeds 3 --minutes-cpu 1
    python benchmarks/quality_tables.py quality.jsonl
"""

import argparse
import json
import math
import statistics
import subprocess
import time
import warnings
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import torch
from quality_data import SETS, prepare
from torch import Tensor, nn

from mezzotint.augment.views import ViewContext
from mezzotint.data.loader import BatchPlan, batches
from mezzotint.data.source import Source
from mezzotint.encoders.encoder import Encoder
from mezzotint.evaluation.features import extract_readable
from mezzotint.evaluation.knn import KNN
from mezzotint.evaluation.label_free import Rank, alignment
from mezzotint.evaluation.linear import Linear
from mezzotint.evaluation.measurement import Measurement
from mezzotint.evaluation.probe import Row
from mezzotint.evaluation.suite import evaluate_encoder
from mezzotint.evaluation.suite import measure as measure_features
from mezzotint.modality.modality import modality_of
from mezzotint.quant.hooks import evaluating
from mezzotint.recipe.reading import apply_overrides, read_raw
from mezzotint.recipe.recipe import Plan, Recipe
from mezzotint.train.budget import _values
from mezzotint.train.log import Meter
from mezzotint.train.loop import Trainer
from mezzotint.types import Features

_WARM, _TIMED = 2, 5
_MOST_EPOCHS = 400
Cell = dict[str, Any]


class Bench:
    """One set of data, opened once for all arms."""

    def __init__(self, name: str, cache: Path) -> None:
        self.name, self.set = name, SETS[name]
        modality = modality_of(self.set.modality)
        self.raw = read_raw(modality.recipe)
        self.raw["data"] = prepare(name, cache)
        self.source: Source = self.recipe([], 0).data

    def recipe(self, overrides: Sequence[str], seed: int) -> Recipe:
        """Build the recipe of a seed; its encoder has that seed's weights."""
        own = [*overrides, f"run.seed={seed}"]
        raw = apply_overrides(json.loads(json.dumps(self.raw)), own)
        config = Plan.of(raw).phases[0].config
        return Recipe.build(config, getattr(self, "source", None))

    def fitted(self, overrides: Sequence[str], seed: int, seconds: float) -> Recipe:
        """Build the recipe with the epochs, batch and rate that fit the processor time."""
        own = {text.partition("=")[0] for text in overrides}
        first = _values(self.recipe(overrides, seed), _MOST_EPOCHS, fixed=False)
        chosen = [f"{key}={value}" for key, value in first.items() if key not in own]
        per_step, steps = _seconds_a_step(self.recipe([*chosen, *overrides], seed))
        epochs = max(1, min(_MOST_EPOCHS, math.floor(seconds / (per_step * steps))))
        second = _values(self.recipe(overrides, seed), epochs, fixed=False)
        chosen = [f"{key}={value}" for key, value in second.items() if key not in own]
        return self.recipe([*chosen, *overrides], seed)

    def scores(self, rows: Iterable[Row]) -> dict[str, float]:
        """Return top-1 of the set's tasks, as `probe task`."""
        return {
            f"{row.probe} {row.metric.removesuffix('/top1')}": row.value
            for row in rows
            if row.metric.endswith("/top1") and row.metric.startswith(self.set.tasks or "")
        }

    def measured(self, encoder: Encoder) -> dict[str, float]:
        """Return top-1 of an encoder."""
        measurement = Measurement(encoder, self.source)
        return self.scores(evaluate_encoder(measurement, probes=(KNN(), Linear()), seeds=1).rows)

    def label_free(self, encoder: Encoder, overrides: Sequence[str], seed: int) -> dict[str, float]:
        """Return measures without labels: of the features, and of finding a sample's other view.

        `match s` is how often the nearest of 512 samples' second views at strength `s` is the
        sample's own. Views are the recipe's, also where an override replaces them.
        """
        overrides = [text for text in overrides if not text.startswith("views=")]
        found = {row.metric: row.value for row in Rank().run(*[self._clean(encoder)] * 2)}
        for strength in _REFERENCES:
            recipe = self.recipe([*overrides, f"views.strength={strength}"], seed)
            plan = BatchPlan.of(recipe.data, min(512, len(recipe.data)), seed, 0, 1)
            (batch,) = batches(recipe.data, recipe.views, plan, start=0, stop=1)
            views = recipe.views(batch, ViewContext(encoder.input, seed, 1_000_000), step=0)
            a, b = (_centered(encoder, x) for x in views.x)
            found[f"match {strength:g}"] = float(
                ((a @ b.T).argmax(dim=1) == torch.arange(len(a))).float().mean()
            )
            found[f"alignment {strength:g}"] = alignment(a, b)
        return found

    def _clean(self, encoder: Encoder) -> Features:
        chosen = torch.arange(0, len(self.source), max(1, len(self.source) // 1024))
        return Features(extract_readable(encoder, self.source, indices=chosen).x)


_REFERENCES = (0.25, 0.5, 1.0, 1.5)


@torch.inference_mode()
def _centered(encoder: Encoder, x: Tensor) -> Tensor:
    """Return features of views, centered and of unit length."""
    with evaluating(encoder):
        features = encoder(x)
    return torch.nn.functional.normalize(features - features.mean(dim=0), dim=1)


def _steps(recipe: Recipe, trainer: Trainer, stop: int) -> None:
    meter = Meter()
    stream = batches(recipe.data, recipe.views, trainer.plan, start=0, stop=stop)
    for step, batch in enumerate(stream):
        trainer.step(step, batch, meter)


def _seconds_a_step(recipe: Recipe) -> tuple[float, int]:
    """Return the processor time of a step, and the steps of an epoch."""
    trainer = Trainer(recipe, torch.device("cpu"))
    _steps(recipe, trainer, min(_WARM, trainer.total))
    began, count = time.process_time(), min(_TIMED, trainer.total)
    _steps(recipe, trainer, count)
    return (time.process_time() - began) / count, trainer.plan.steps_per_epoch


def ours(bench: Bench, overrides: Sequence[str], seed: int, seconds: float) -> Cell:
    """Train the default recipe, or a variant of it."""
    recipe = bench.fitted(overrides, seed, seconds)
    trainer = Trainer(recipe, torch.device("cpu"))
    began = time.process_time()
    _steps(recipe, trainer, trainer.total)
    used = time.process_time() - began
    return {
        "cpu_seconds": used,
        "steps": trainer.total,
        "epochs": recipe.run.epochs,
        "batch": recipe.run.batch_size,
        "lr": recipe.optimizer.config["lr"],
        "scores": bench.measured(recipe.encoder),
        "label_free": bench.label_free(recipe.encoder, overrides, seed),
    }


class _Pictures(torch.utils.data.Dataset[list[Tensor]]):
    """Images in memory, as PIL pictures, and lightly's transform."""

    def __init__(self, source: Source) -> None:
        from lightly.transforms import SimCLRTransform
        from PIL import Image

        pixels = source.read_batch(torch.arange(len(source)))
        self.channels = pixels.shape[1]
        rgb = pixels.expand(-1, 3, -1, -1) if self.channels == 1 else pixels
        self.pictures = [Image.fromarray(x.permute(1, 2, 0).numpy()) for x in rgb]
        size = source.input.shape[-1]
        self.transform = SimCLRTransform(input_size=size, gaussian_blur=0.0, normalize=None)

    def __len__(self) -> int:
        return len(self.pictures)

    def __getitem__(self, index: int) -> list[Tensor]:
        return [view[: self.channels] for view in self.transform(self.pictures[index])]


def lightly(bench: Bench, overrides: Sequence[str], seed: int, seconds: float) -> Cell:
    """Train lightly's SimCLR, with the settings of its CIFAR-10 benchmark."""
    from lightly.loss import NTXentLoss
    from lightly.models.modules import SimCLRProjectionHead

    encoder = bench.recipe(overrides, seed).encoder
    torch.manual_seed(seed)
    head = SimCLRProjectionHead(encoder.dim, encoder.dim, 128)
    model, criterion = nn.Sequential(encoder, head), NTXentLoss()
    pictures = _Pictures(bench.source)
    batch = min(128, 2 ** int(math.log2(len(pictures))))
    loader = torch.utils.data.DataLoader(pictures, batch, shuffle=True, drop_last=True)
    lr = 6e-2 * batch / 128
    optimizer = torch.optim.SGD(model.parameters(), lr=lr, momentum=0.9, weight_decay=5e-4)

    def step(views: list[Tensor]) -> None:
        first, second = (encoder.input.normalize(view) for view in views)
        loss = criterion(model(first), model(second))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    start = {key: value.clone() for key, value in model.state_dict().items()}
    stream = iter(loader)
    for number in range(_WARM + _TIMED):
        if number == _WARM:
            began = time.process_time()
        views = next(stream, None)
        if views is None:
            views = next(stream := iter(loader))
        step(views)
    total = max(1, math.floor(seconds / ((time.process_time() - began) / _TIMED)))
    model.load_state_dict(start)
    optimizer.state.clear()
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, total)
    began, done = time.process_time(), 0
    while done < total:
        for views in loader:
            step(views)
            schedule.step()
            done += 1
            if done == total:
                break
    used = time.process_time() - began
    epochs = total / len(loader)
    return {
        "cpu_seconds": used, "steps": total, "epochs": epochs, "batch": batch, "lr": lr,
        "scores": bench.measured(encoder),
    }  # fmt: skip


def untrained(bench: Bench, overrides: Sequence[str], seed: int, seconds: float) -> Cell:
    encoder = bench.recipe(overrides, seed).encoder
    return {
        "scores": bench.measured(encoder),
        "label_free": bench.label_free(encoder, overrides, seed),
    }


def raw(bench: Bench, overrides: Sequence[str], seed: int, seconds: float) -> Cell:
    return _of_the_input(bench, "raw")


def handmade(bench: Bench, overrides: Sequence[str], seed: int, seconds: float) -> Cell:
    return _of_the_input(bench, "handmade")


def _of_the_input(bench: Bench, name: str) -> Cell:
    measurement = Measurement(bench.recipe([], 0).encoder, bench.source)
    extraction = getattr(measurement, name)
    if extraction is None:
        raise ValueError(f"{bench.name} has no {name} features. Leave the arm out.")
    rows = measure_features(extraction, measurement.tasks, (KNN(), Linear()), 1)
    return {"scores": bench.scores(rows)}


Arm = Callable[[Bench, Sequence[str], int, float], Cell]
ARMS: dict[str, Arm] = {
    "ours": ours,
    "lightly": lightly,
    "untrained": untrained,
    "raw": raw,
    "handmade": handmade,
}


def key_of(cell: Cell) -> tuple[Any, ...]:
    return cell["set"], cell["arm"], cell["seed"], cell["minutes"]


def measure(arguments: argparse.Namespace) -> None:
    """Run the cells that are not done yet."""
    out = Path(arguments.out)
    done = {key_of(cell) for cell in cells(out)}
    arms: dict[str, Sequence[str]] = {name: () for name in arguments.arms.split(",") if name}
    for text in arguments.arm:
        name, _, overrides = text.partition("=")
        arms[name] = [part for part in overrides.split(";") if part]
    for seed in range(arguments.first_seed, arguments.first_seed + arguments.seeds):
        for name in arguments.sets.split(","):
            bench: Bench | None = None
            for arm, overrides in arms.items():
                if arm.startswith("lightly") and SETS[name].modality != "image":
                    continue
                free = arm.startswith("untrained") or arm in ("raw", "handmade")
                cell: Cell = {
                    "set": name, "arm": arm, "seed": 0 if arm in ("raw", "handmade") else seed,
                    "minutes": 0.0 if free else arguments.minutes_cpu,
                }  # fmt: skip
                if key_of(cell) in done:
                    continue
                try:
                    bench = bench or Bench(name, Path(arguments.cache))
                except OSError as error:
                    print(f"{name} is left out: {error}", flush=True)
                    break
                run = next(
                    (ARMS[name] for name in ("untrained", "lightly") if arm.startswith(name)), None
                )
                run = run or ARMS.get(arm, ours)
                cell |= run(bench, overrides, seed, 60 * arguments.minutes_cpu)
                cell |= {"overrides": list(overrides), "commit": commit()}
                with out.open("a", encoding="utf-8") as file:
                    file.write(json.dumps(cell) + "\n")
                done.add(key_of(cell))
                print(name, arm, seed, mean_scores(cell), flush=True)


def cells(path: Path) -> list[Cell]:
    """Read the finished cells."""
    lines = path.read_text("utf-8").splitlines() if path.exists() else []
    return [json.loads(line) for line in lines]


def mean_scores(cell: Cell) -> dict[str, float]:
    """Return the mean over tasks of each probe."""
    means = {}
    for probe in ("knn", "linear"):
        values = [value for key, value in cell["scores"].items() if key.startswith(f"{probe} ")]
        means[probe] = round(statistics.fmean(values), 4)
    return means


def commit() -> str:
    done = subprocess.run(
        ["git", "describe", "--always", "--dirty"], capture_output=True, text=True, check=False
    )
    return done.stdout.strip()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sets", default=",".join(SETS))
    parser.add_argument("--arms", default="raw,handmade,untrained,ours,lightly")
    parser.add_argument("--arm", action="append", default=[], help="NAME=OVERRIDE;OVERRIDE")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--first-seed", type=int, default=0)
    parser.add_argument("--minutes-cpu", type=float, default=1.0)
    parser.add_argument("--out", default="quality.jsonl")
    parser.add_argument("--cache", default="quality-data")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    measure(arguments)


if __name__ == "__main__":
    main()
