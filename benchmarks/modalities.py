"""Randomized quantization in every modality, in miniature.

Four arms: no view, geometry only, quantization only, both.

For each modality the shipped recipe of the embedded data is trained with four sets of views and the
same everything else, on several seeds; differences are paired by seed. "Geometry" is what the
recipe does to the data but for quantization: the crop of images (their color policy is left out of
all arms), crop and mixture of spectrograms. Tokens have no levels, so there their embeddings are
quantized, and all arms train by the method that does it, with the transformer of DABS (the head of
that method has no batch norm, and the embeddings of `vit` are too much alike at first to be told
apart by it). Baselines need no training: the untrained encoder, the input itself by the
same probes, and for some modalities classifiers on hand-made features (histograms of point clouds,
statistics of series and mels, the columns of a table).

    python benchmarks/modalities.py --seeds 3 --runs runs/modalities >
    benchmarks/results/modalities.md python benchmarks/modalities.py --modalities series
    run.epochs=20
"""

import argparse
import json
import os
import platform
import re
import statistics
import subprocess
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from mezzotint import load_encoder
from mezzotint.data.source import Task
from mezzotint.encoders.encoder import Encoder
from mezzotint.evaluation.features import raw_features
from mezzotint.evaluation.knn import KNN
from mezzotint.evaluation.linear import Linear
from mezzotint.evaluation.measurement import Measurement
from mezzotint.evaluation.probe import Row
from mezzotint.evaluation.results import student
from mezzotint.evaluation.suite import evaluate_encoder, over_folds
from mezzotint.evaluation.suite import measure as measure_features
from mezzotint.recipe.recipe import Recipe, read_recipe
from mezzotint.runs.reuse import ensure

TOKEN_ENCODER = "{kind: domain_agnostic, width: 64, depth: 2, heads: 4, dropout: 0.0}"
RECIPES: dict[str, tuple[str, list[str]]] = {
    "points": ("points/furniture_simclr", []),
    "series": ("series/smartwatch_simclr", []),
    "table": ("table/breast_cancer_simclr", []),
    "images": ("image/emoji_simclr", ["run.epochs=20"]),
    "audio": ("audio/speech_simclr", ["run.epochs=10"]),
    "tokens": (
        "tokens/emails_simclr",
        ["run.epochs=4", "data.length=128", f"encoder={TOKEN_ENCODER}"],
    ),
    "video": ("video/rotating_objects_simclr", ["run.epochs=10", "data.frames=8"]),
}
"""The recipe of each modality, and what makes a run of it cheap."""

QUANTIZATIONS = ("randomized_quantization", "feature_quantization")
WHOLE = {"scale": [1.0, 1.0], "ratio": [1.0, 1.0]}
PROBES = (Linear(), KNN())
Figures = dict[str, float]


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument(
        "--modalities", nargs="+", default=list(RECIPES), metavar="NAME", help=", ".join(RECIPES)
    )
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument(
        "--runs", type=Path, default=Path("runs/modalities"), help="runs there are not made again"
    )
    parser.add_argument("overrides", nargs="*", help="of the recipes, for all arms")
    arguments = parser.parse_args()
    arguments.overrides += [
        word for word in arguments.modalities if "=" in word
    ]  # a list of names takes them, too
    arguments.modalities = [word for word in arguments.modalities if "=" not in word]
    if unknown := set(arguments.modalities) - set(RECIPES):
        parser.error(
            f"got {', '.join(sorted(unknown))} is unknown. Choose from {', '.join(RECIPES)}."
        )
    commit = subprocess.run(
        ["git", "describe", "--always", "--dirty"], capture_output=True, text=True, check=False
    )
    print("# Randomized quantization in every modality, in miniature\n")
    print(f"`python benchmarks/modalities.py --seeds {arguments.seeds} "
          f"{' '.join(arguments.overrides)}`, commit "
          f"{commit.stdout.strip()}, {platform.machine()}, {os.cpu_count()} cores.")  # fmt: skip
    print(
        "Top-1; mean over seeds ± half of the 95 % interval of the mean over seeds. Differences "
        "are paired by seed."
    )
    for modality in arguments.modalities:
        show(modality, arguments)


def arms(recipe: str, overrides: Sequence[str]) -> dict[str, list[str]]:
    """Return the overrides of each arm; alone, quantization acts on every sample."""
    config = read_recipe(recipe, overrides)
    views, modality = config["views"], recipe.partition("/")[0]
    if views["kind"] == "two_views":
        return _image_arms(views)
    chain = views["transforms"]
    given = [t for t in chain if t["kind"] not in QUANTIZATIONS]
    own = [t for t in chain if t["kind"] in QUANTIZATIONS]
    alone = [t | {"p": 1.0} for t in own]
    crop = next((t for t in given if t["kind"] == "point_crop"), None)
    # A network of points costs by the point, so without a crop a view is as many points, drawn from
    # the whole point cloud.
    sampled = (
        [{"kind": "point_drop", "low": 1.0, "high": 1.0, "points": crop["points"]}] if crop else []
    )
    chains = {
        "none": sampled,
        "geometry": given,
        "quantization": [*sampled, *alone],
        "both": [*given, *own],
    }
    found = {
        arm: [f"views.transforms={json.dumps(transforms)}"] for arm, transforms in chains.items()
    }
    for arm, changes in found.items():
        if modality == "tokens":
            quantization = {
                "bins": 8,
                "channel_dim": 2,
                "gradient": "ste",
                "p": float(arm in ("quantization", "both")),
            }
            method = {
                "kind": "embedding_quantization",
                "quantization": quantization,
                "temperature": 0.2,
            }
            changes.append(f"method={json.dumps(method)}")
        if config["data"].get("context") and arm in ("none", "quantization"):
            changes.append("data.context=null")  # nothing cuts windows out of a longer stretch
    return found


def _image_arms(views: dict[str, Any]) -> dict[str, list[str]]:
    crop, quantization = views["crop"], views["randomized_quantization"]
    parts = {
        "none": (WHOLE, 0.0, None),
        "geometry": (crop, views["flip"], None),
        "quantization": (WHOLE, 0.0, quantization | {"p": 1.0}),
        "both": (crop, views["flip"], quantization),
    }
    return {
        arm: [
            "views="
            + json.dumps({"kind": "two_views", "crop": box, "flip": flip, "policy": "identity"}),
            f"views.randomized_quantization={json.dumps(levels)}",
        ]
        for arm, (box, flip, levels) in parts.items()
    }


def show(modality: str, arguments: argparse.Namespace) -> None:
    """Train what is missing, and print the tables of a modality."""
    recipe, cheap = RECIPES[modality]
    overrides = [*cheap, *arguments.overrides]
    found: dict[str, list[Figures]] = {"untrained": []}
    for seed in range(arguments.seeds):
        built = Recipe.load(recipe, [*overrides, f"run.seed={seed}"])
        found["untrained"].append(measure(built.untrained_encoder(seed), built))
        for arm, changes in arms(recipe, overrides).items():
            folder = arguments.runs / f"{modality}-{arm}-s{seed}"
            found.setdefault(arm, []).append(
                trained(folder, recipe, [*overrides, *changes, f"run.seed={seed}"])
            )
    source = Recipe.load(recipe, overrides).data
    assert source.evaluation()[1]
    samples, tasks = source.evaluation()
    sizes = "; ".join(
        f"{t.name}: {len(t.train)} to learn from, {len(t.test)} scored" for t in tasks
    )
    print(f"\n## {modality}: `{' '.join([recipe, *cheap])}`\n\n{sizes}.\n")
    assert samples.in_memory
    x = samples.read_batch(torch.arange(len(samples))).float().numpy()
    rows = list(measure_features(raw_features(samples), tasks, PROBES, 1))
    given = {"the input": top1([*rows, *over_folds(rows)])}
    given |= hand_made(modality, x, [task for task in tasks if task.kind == "classify"])
    columns = {
        f"*{title}*": {n: f"{v:.3f}" for n, v in values.items()} for title, values in given.items()
    }
    for arm, values in found.items():
        columns[arm] = {name: interval([f[name] for f in values]) for name in values[0]}
    for arm, other in (("both", "geometry"), ("quantization", "none"), ("both", "untrained")):
        pairs = list(zip(found[arm], found[other], strict=True))
        columns[f"{arm} − {other}"] = {
            n: interval([a[n] - b[n] for a, b in pairs], signed=True) for n in found[arm][0]
        }
    print(f"| | {' | '.join(columns)} |\n|---|{'---|' * len(columns)}")
    for name in found["none"][0]:
        print(f"| {name} | {' | '.join(values.get(name, '') for values in columns.values())} |")


def trained(folder: Path, recipe: str, overrides: Sequence[str]) -> Figures:
    """Train where that was not done, and measure."""
    built = Recipe.load(recipe, overrides)
    ensure(built, folder)
    return measure(load_encoder(folder), built)


def measure(encoder: Encoder, recipe: Recipe) -> Figures:
    """Top-1 of linear probe and kNN on each task."""
    return top1(evaluate_encoder(Measurement(encoder, recipe.data), probes=PROBES, seeds=1).rows)


def top1(rows: Iterable[Row]) -> Figures:
    """Return values by task and probe; language tasks are averaged over the languages."""
    groups: dict[str, list[float]] = {}
    for row in rows:
        task, _, metric = row.metric.rpartition("/")
        if metric == "top1":
            groups.setdefault(f"{averaged(task)}, {row.probe}", []).append(row.value)
    return {name: statistics.fmean(values) for name, values in groups.items()}


def averaged(task: str) -> str:
    """Under which name a task is shown."""
    return re.sub(r"^kind/..$", "kind, mean of languages", task)


def interval(values: Sequence[float], *, signed: bool = False) -> str:
    """Format a mean ± half its 95 % interval; a difference is bold where 0 is outside."""
    mean, half = statistics.fmean(values), student(values) if len(values) > 1 else float("nan")
    mark = "**" if signed and abs(mean) > half else ""
    return f"{mark}{mean:{'+' if signed else ''}.3f}{mark} ± {half:.3f}"


def hand_made(
    modality: str, x: npt.NDArray[np.float32], tasks: Sequence[Task]
) -> dict[str, Figures]:
    """Score a random forest and logistic regression on hand-made features."""
    from sklearn.ensemble import RandomForestClassifier
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    made: dict[str, tuple[str, Callable[[npt.NDArray[np.float32]], npt.NDArray[Any]]]] = {
        "points": ("histograms", histograms),
        "series": ("statistics", statistics_of),
        "audio": ("statistics of mels", lambda x: statistics_of(x[:, 0])),
        "table": ("columns", np.asarray),
    }
    if modality not in made:
        return {}
    title, features_of = made[modality]
    features = features_of(x)
    models = {
        "random forest": RandomForestClassifier(300, random_state=0),
        "logistic regression": make_pipeline(
            StandardScaler(), LogisticRegression(C=0.1, max_iter=1000)
        ),
    }
    found: dict[str, Figures] = {}
    for name, model in models.items():
        groups: dict[str, list[float]] = {}
        for task in tasks:
            model.fit(features[task.train], task.labels[task.train])
            score = float(model.score(features[task.test], task.labels[task.test]))
            groups.setdefault(f"{averaged(task.name)}, {Linear.name}", []).append(score)
        found[f"{title}, {name}"] = {
            task: statistics.fmean(values) for task, values in groups.items()
        }
    return found


def histograms(x: npt.NDArray[np.float32]) -> npt.NDArray[np.float64]:
    """Histograms of coordinates and of three distances, 16 bins each, `[N, 96]`."""
    radius, from_axis = np.linalg.norm(x, axis=1), np.linalg.norm(x[:, :2], axis=1)
    one, other = np.random.default_rng(0).integers(0, x.shape[2], (2, 4096))
    apart = np.linalg.norm(x[:, :, one] - x[:, :, other], axis=1)
    ranges = [(x[:, axis], (-1.0, 1.0)) for axis in range(3)]
    ranges += [(radius, (0.0, 1.0)), (from_axis, (0.0, 1.0)), (apart, (0.0, 2.0))]
    parts = [
        np.stack([np.histogram(row, 16, limits)[0] / len(row) for row in values])
        for values, limits in ranges
    ]
    return np.concatenate(parts, axis=1)


def statistics_of(x: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """Mean, std, extremes, quantiles and mean change of each channel, `[N, 11 C]`."""
    quantiles = np.percentile(x, [10, 25, 50, 75, 90], axis=2)
    change = np.diff(x, axis=2)
    parts = [
        x.mean(2),
        x.std(2),
        x.min(2),
        x.max(2),
        *quantiles,
        np.abs(change).mean(2),
        change.std(2),
    ]
    return np.concatenate(parts, axis=1).astype(np.float32)


if __name__ == "__main__":
    main()
