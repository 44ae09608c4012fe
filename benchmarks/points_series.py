"""Randomized quantization beyond images, in miniature: none, geometry only, quantization only, both.

For each modality the shipped recipe of the embedded data is trained with four sets of views and the same everything
else, on several seeds; differences are paired by seed. Beside it stand what no training gives: the untrained encoder,
and a classifier on hand-made features (histograms of the clouds, statistics of the series).

    python benchmarks/points_series.py --seeds 3 --runs runs/points_series > benchmarks/results/points_series.md
    python benchmarks/points_series.py --modalities series run.epochs=20
"""

import argparse
import json
import os
import platform
import statistics
import subprocess
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from mezzotint import load_encoder, pretrain
from mezzotint.data.source import Evaluable, InMemory, Task
from mezzotint.encoders.encoder import Encoder
from mezzotint.evaluate.intervals import student
from mezzotint.evaluate.knn import KNN
from mezzotint.evaluate.linear import Linear
from mezzotint.evaluate.suite import evaluate_encoder
from mezzotint.train.recipe import Recipe, read_recipe

RECIPES = {
    "points": "points/furniture_simclr",
    "series": "series/smartwatch_simclr",
    "table": "table/breast_cancer_simclr",
}
QUANTIZATIONS = ("randomized_quantization", "feature_quantization")
Figures = dict[str, float]


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--modalities", nargs="+", choices=RECIPES, default=list(RECIPES))
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--runs", type=Path, default=Path("runs/points_series"), help="runs there are not made again")
    parser.add_argument("overrides", nargs="*", help="of the recipes, for all arms")
    arguments = parser.parse_args()
    commit = subprocess.run(["git", "describe", "--always", "--dirty"], capture_output=True, text=True, check=False)
    print("# Randomized quantization of points, series and tables, in miniature\n")
    print(f"`python benchmarks/points_series.py --seeds {arguments.seeds} {' '.join(arguments.overrides)}`, commit "
          f"{commit.stdout.strip()}, {platform.machine()}, {os.cpu_count()} cores.")  # fmt: skip
    print("Top-1; mean over seeds ± half of the 95 % interval of the mean over seeds. Differences are paired by seed.")
    for modality in arguments.modalities:
        show(modality, arguments)


def arms(recipe: str, overrides: Sequence[str]) -> dict[str, list[dict[str, Any]]]:
    """The transforms of each arm: the recipe's, with its quantization for every sample, taken apart."""
    chain = read_recipe(recipe, overrides)["views"]["transforms"]
    given = [t for t in chain if t["kind"] not in QUANTIZATIONS]
    quantization = [t | {"p": 1.0} for t in chain if t["kind"] in QUANTIZATIONS]
    both = [t for t in chain if t["kind"] in QUANTIZATIONS]
    return {"none": [], "geometry": given, "quantization": quantization, "both": [*given, *both]}


def show(modality: str, arguments: argparse.Namespace) -> None:
    """Train what is missing, and print the tables of a modality."""
    recipe = RECIPES[modality]
    found: dict[str, list[Figures]] = {"untrained": []}
    for seed in range(arguments.seeds):
        built = Recipe.load(recipe, [*arguments.overrides, f"run.seed={seed}"])
        found["untrained"].append(measure(built.untrained_encoder(seed), built))
        for arm, transforms in arms(recipe, arguments.overrides).items():
            overrides = [*arguments.overrides, f"run.seed={seed}", f"views.transforms={json.dumps(transforms)}"]
            if modality == "series" and arm in ("none", "quantization"):
                overrides.append("data.context=null")  # nothing cuts windows out of a longer stretch
            found.setdefault(arm, []).append(trained(arguments.runs / f"{modality}-{arm}-s{seed}", recipe, overrides))
    source = Recipe.load(recipe, arguments.overrides).data
    assert isinstance(source, Evaluable)
    samples, tasks = source.evaluation()
    sizes = "; ".join(f"{t.name}: {len(t.train)} to learn from, {len(t.test)} scored" for t in tasks)
    print(f"\n## {modality}: `{recipe}`\n\n{sizes}.\n")
    names = list(found["none"][0])
    print(f"| views | {' | '.join(names)} |\n|---|{'---|' * len(names)}")
    assert isinstance(samples, InMemory)
    x = samples.read_batch(torch.arange(len(samples))).float().numpy()
    for title, values in hand_made(modality, x, tasks).items():
        print(f"| *{title}* | {' | '.join(f'{values[n]:.3f}' if n in values else '' for n in names)} |")
    for arm, figures in found.items():
        cells = [
            f"{statistics.fmean(f[n] for f in figures):.3f} ± {spread([f[n] for f in figures]):.3f}" for n in names
        ]
        print(f"| {arm} | {' | '.join(cells)} |")
    for arm, other in (("both", "geometry"), ("quantization", "none"), ("both", "untrained")):
        cells = []
        for name in names:
            differences = [a[name] - b[name] for a, b in zip(found[arm], found[other], strict=True)]
            mean, half = statistics.fmean(differences), spread(differences)
            mark = "**" if abs(mean) > half else ""
            cells.append(f"{mark}{mean:+.3f}{mark} ± {half:.3f}")
        print(f"| {arm} − {other} | {' | '.join(cells)} |")


def trained(folder: Path, recipe: str, overrides: Sequence[str]) -> Figures:
    """Train where that was not done, and measure."""
    built = Recipe.load(recipe, overrides)
    if not (folder / "encoder" / "encoder.json").is_file():
        pretrain(built, folder, progress="quiet", overwrite=True)
    return measure(load_encoder(folder), built)


def measure(encoder: Encoder, recipe: Recipe) -> Figures:
    """Top-1 of linear probe and kNN on each task."""
    rows = evaluate_encoder(encoder, recipe.data, probes=(Linear(), KNN()), seeds=1).rows
    return {
        f"{row.probe}, {row.metric.removesuffix('/top1')}": row.value for row in rows if row.metric.endswith("/top1")
    }


def hand_made(modality: str, x: npt.NDArray[np.float32], tasks: Sequence[Task]) -> dict[str, Figures]:
    """Random forest and logistic regression on hand-made features, under the names of the linear probe."""
    from sklearn.ensemble import RandomForestClassifier
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    made: dict[str, Callable[[npt.NDArray[np.float32]], npt.NDArray[Any]]]
    made = {"points": histograms, "series": statistics_of, "table": np.asarray}
    features, title = made[modality](x), {"points": "histograms", "series": "statistics", "table": "columns"}[modality]
    models = {
        "random forest": RandomForestClassifier(300, random_state=0),
        "logistic regression": make_pipeline(StandardScaler(), LogisticRegression(C=0.1, max_iter=1000)),
    }
    found: dict[str, Figures] = {}
    for name, model in models.items():
        figures = found[f"{title}, {name}"] = {}
        for task in tasks:
            model.fit(features[task.train], task.labels[task.train])
            figures[f"linear, {task.name}"] = float(model.score(features[task.test], task.labels[task.test]))
    return found


def histograms(x: npt.NDArray[np.float32]) -> npt.NDArray[np.float64]:
    """Of each coordinate, of the distances from centre and axis, and from point to point: 16 bins each, `[N, 96]`."""
    radius, from_axis = np.linalg.norm(x, axis=1), np.linalg.norm(x[:, :2], axis=1)
    one, other = np.random.default_rng(0).integers(0, x.shape[2], (2, 4096))
    apart = np.linalg.norm(x[:, :, one] - x[:, :, other], axis=1)
    ranges = [(x[:, axis], (-1.0, 1.0)) for axis in range(3)]
    ranges += [(radius, (0.0, 1.0)), (from_axis, (0.0, 1.0)), (apart, (0.0, 2.0))]
    parts = [np.stack([np.histogram(row, 16, limits)[0] / len(row) for row in values]) for values, limits in ranges]
    return np.concatenate(parts, axis=1)


def statistics_of(x: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """Mean, spread, extremes and quantiles of each channel, and the size of its changes, `[N, 11 C]`."""
    quantiles = np.percentile(x, [10, 25, 50, 75, 90], axis=2)
    change = np.diff(x, axis=2)
    parts = [x.mean(2), x.std(2), x.min(2), x.max(2), *quantiles, np.abs(change).mean(2), change.std(2)]
    return np.concatenate(parts, axis=1).astype(np.float32)


def spread(values: Sequence[float]) -> float:
    """Half of the 95 % interval of the mean (Student)."""
    return student(values) if len(values) > 1 else float("nan")


if __name__ == "__main__":
    main()
