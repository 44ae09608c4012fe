"""The demo's encoder, by pretraining seed, with its baselines and targets.

Baselines are raw pixels, hand-made features and the untrained encoder.

Settings were chosen on half of the emoji (`part: tune`); `held out` restricts every task to the
other half, which no choice has seen.

    python benchmarks/demo.py --seeds 3 > benchmarks/results/demo.md
"""

import argparse
import os
import platform
import statistics
import subprocess
import tempfile
import time
from collections import defaultdict
from pathlib import Path

from mezzotint import evaluate, load_encoder, pretrain
from mezzotint.data.image.embedded import EmbeddedImages
from mezzotint.evaluation.knn import KNN
from mezzotint.evaluation.linear import Linear
from mezzotint.evaluation.measurement import Measurement
from mezzotint.evaluation.results import read_baselines, read_evaluation
from mezzotint.evaluation.retrieval import Retrieval
from mezzotint.evaluation.suite import evaluate_encoder
from mezzotint.recipe.reading import DEMO
from mezzotint.recipe.recipe import Recipe

AIMS = {
    ("linear", "category/across-styles/top1"): 0.60,
    ("knn", "category/within-style/top1"): 0.66,
    ("retrieval", "identity/across-styles/top1"): 0.50,
}
Values = dict[tuple[str, str], list[float]]


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("overrides", nargs="*", help="of the demo's recipe")
    arguments = parser.parse_args()
    found: Values = defaultdict(list)
    unseen: Values = defaultdict(list)
    baselines: dict[str, Values] = {
        name: defaultdict(list) for name in ("raw", "handmade", "untrained")
    }
    seconds = []
    for seed in range(arguments.seeds):
        with tempfile.TemporaryDirectory() as folder:
            recipe = Recipe.load(
                DEMO,
                [
                    f"run.seed={seed}",
                    f"evaluate.baselines={str(seed == 0).lower()}",
                    *arguments.overrides,
                ],
            )
            began = time.perf_counter()
            run = pretrain(recipe, Path(folder) / "run", progress="quiet")
            seconds.append(time.perf_counter() - began)
            evaluate(run)
            for row in read_evaluation(run):
                found[row.probe, row.metric].append(row.value)
            half = evaluate_encoder(
                Measurement(load_encoder(run), EmbeddedImages(part="held_out")),
                probes=(KNN(), Linear(), Retrieval()),
            )
            for row in half.rows:
                unseen[row.probe, row.metric].append(row.value)
            if seed == 0:
                for name, rows in vars(read_baselines(run)).items():
                    for row in rows:
                        baselines[name][row.probe, row.metric].append(row.value)
    commit = subprocess.run(
        ["git", "describe", "--always", "--dirty"], capture_output=True, text=True, check=False
    ).stdout
    print(
        f"`python benchmarks/demo.py --seeds {arguments.seeds} {' '.join(arguments.overrides)}`, "
        f"commit {commit.strip()},"
    )
    print(
        f"{platform.machine()}, {os.cpu_count()} cores; training took "
        f"{statistics.median(seconds):.0f} s (median)\n"
    )
    print(
        "| probe | metric | raw | hand-made | untrained | demo, mean over seeds | "
        "lowest – highest | held-out | target |"
    )
    print("|---" * 9 + "|")
    for key, values in found.items():
        if key[1].endswith(("top1", "rankme")):
            raw, handmade, untrained = (
                statistics.fmean(rows.get(key) or [float("nan")]) for rows in baselines.values()
            )
            other = f"{statistics.fmean(unseen[key]):.3f}" if unseen.get(key) else ""
            print(f"| {key[0]} | {key[1]} | {raw:.3f} | {handmade:.3f} | {untrained:.3f} | "
                  f"**{statistics.fmean(values):.3f}** | "
                  f"{min(values):.3f} – {max(values):.3f} | {other} | {AIMS.get(key, '')} "
                  "|")  # fmt: skip


if __name__ == "__main__":
    main()
