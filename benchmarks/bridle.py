"""BRIDLE's claims in miniature: RQ or VQ, k-means or uniform codebooks, one round or two.

    python benchmarks/bridle.py --runs runs/bridle            # all of it: hours of one core
    python benchmarks/bridle.py --runs /tmp/b --epochs 1 --seeds 1 --data emoji --arms rq_kmeans

On the embedded emoji and spoken prompts, every arm has the same encoder, mask, decoder, batch and
optimizer, and the same total number of epochs. Two rounds spend 3/8, 1/4 and 3/8 of the epochs on
encoder, tokenizer and encoder; `rq_more_encoder` is one round with both rounds' encoder epochs.
VQ has one codebook of 256 codes and RQ four of 64, so that the decoder's head has the same size.
Each arm is evaluated by linear probe and kNN; differences are paired by seed, with Student's
interval. Existing runs in `--runs` are reused, so a stopped benchmark continues.
"""

import argparse
import copy
import math
import os
import platform
import shlex
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from mezzotint.encoders.saving import load_encoder
from mezzotint.evaluation.knn import KNN
from mezzotint.evaluation.linear import Linear
from mezzotint.evaluation.measurement import Measurement
from mezzotint.evaluation.results import student
from mezzotint.evaluation.suite import evaluate_encoder
from mezzotint.recipe.recipe import Plan, Recipe
from mezzotint.train.plan import pretrain_plan

DATA: dict[str, dict[str, Any]] = {
    "emoji": {"data": {"kind": "embedded_images", "name": "emoji"}, "patch": 8, "ratio": 0.6},
    "speech": {"data": {"kind": "speech"}, "patch": [64, 4], "ratio": 0.75, "normalize": False},
}
RQ = {"kind": "rq", "dim": 64, "num_codes": 64, "num_levels": 4}
VQ = {"kind": "vq", "dim": 64, "num_codes": 256}
FOLLOW = {"decay": 0.9, "expire_every": 5, "expire_below": 0.2}
ARMS = (
    "untrained",
    "mae",
    "rq_kmeans",
    "vq_kmeans",
    "rq_uniform",
    "rq_two_rounds",
    "rq_more_encoder",
)
PAIRS = (
    ("rq_kmeans", "untrained"), ("rq_kmeans", "mae"), ("rq_kmeans", "vq_kmeans"),
    ("rq_kmeans", "rq_uniform"),
    ("rq_two_rounds", "rq_kmeans"), ("rq_two_rounds", "rq_more_encoder"),
)  # fmt: skip


def raw_recipe(arm: str, data: str, seed: int, epochs: int) -> dict[str, Any]:
    """The recipe of an arm."""
    codebook = dict(VQ if arm == "vq_kmeans" else RQ)
    if arm == "rq_uniform":
        codebook["init"] = "uniform_sphere"
    method: dict[str, Any] = {
        "mask": {"kind": "random_mask", "ratio": DATA[data]["ratio"]},
        "decoder": {"width": 96, "depth": 2, "heads": 4},
    }
    start = {"kind": "cold_start", "normalize": DATA[data].get("normalize", True)}
    method |= (
        {"kind": "mae"}
        if arm in ("mae", "untrained")
        else {"kind": "bridle", "codebook": codebook, "cache": True, "tokenizer": start}
    )
    raw: dict[str, Any] = {
        "data": DATA[data]["data"],
        "views": {"kind": "transformed", "transforms": [], "count": 1},
        "encoder": {
            "kind": "vit", "width": 96, "depth": 4, "heads": 4, "patch": DATA[data]["patch"],
        },
        "method": method,
        "optimizer": {
            "kind": "adamw", "lr": 2e-3, "betas": [0.9, 0.95], "weight_decay": 0.05,
            "exclude": "norm_and_bias",
        },
        "schedule": {"kind": "cosine", "warmup_epochs": min(1, epochs // 8)},
        "run": {"epochs": epochs, "batch_size": 64, "seed": seed, "log": {"knn_epochs": 0}},
        "phases": [{"name": "encoder"}],
    }  # fmt: skip
    if arm in ("rq_two_rounds", "rq_more_encoder"):
        teach = max(1, epochs // 4)
        first = max(1, (epochs - teach) // 2)
        second = max(1, epochs - teach - first)
        raw["phases"] = rounds(first, teach, second) if arm == "rq_two_rounds" else [
            {"name": "encoder", "run": {"epochs": first + second}}
        ]  # fmt: skip
    return raw


def rounds(first: int, teach: int, second: int) -> list[dict[str, Any]]:
    """Encoder, tokenizer, encoder."""
    codebook = {**RQ, "ema": FOLLOW}
    load = {name: name for name in ("encoder", "decoder", "tokenizer", "codebook")}
    return [
        {"name": "encoder", "run": {"epochs": first}},
        {
            "name": "tokenizer", "load": {"encoder": "encoder"}, "run": {"epochs": teach},
            "optimizer": {"lr": 1e-3},
            "method": {"kind": "bridle_tokenizer", "codebook": codebook},
        },
        {
            "name": "encoder", "load": load, "run": {"epochs": second},
            "method": {"tokenizer": "learned_tokenizer", "codebook": codebook},
        },
    ]  # fmt: skip


def figures(arm: str, data: str, seed: int, epochs: int, runs: Path) -> dict[str, float]:
    """Train an arm unless it is done, and measure it."""
    plan = Plan.of(copy.deepcopy(raw_recipe(arm, data, seed, epochs)))
    if arm == "untrained":
        recipe = Recipe.build(plan.phases[0].config)
        encoder = recipe.untrained_encoder(seed)
    else:
        folder = runs / f"{data}-{arm}-{epochs}ep-seed{seed}"
        if not (folder / "encoder" / "encoder.json").is_file():
            pretrain_plan(plan, folder, resume=(folder / "recipe.yaml").is_file(), progress="quiet")
        recipe, encoder = Recipe.load(folder), load_encoder(folder)
    rows = evaluate_encoder(
        Measurement(encoder, recipe.data), probes=(Linear(), KNN()), seeds=1
    ).rows
    merged: dict[str, list[float]] = {}
    for row in rows:
        if row.metric.endswith("/top1"):
            task = (
                "kind, mean" if row.metric.startswith("kind/") else row.metric.removesuffix("/top1")
            )
            merged.setdefault(f"{task}, {row.probe}", []).append(row.value)
    return {name: math.fsum(values) / len(values) for name, values in merged.items()}


def mean_and_interval(values: Sequence[float], sign: str = "") -> str:
    """Mean and half-width of the 95 % interval."""
    mean = math.fsum(values) / len(values)
    half = f" ± {student(values):.3f}" if len(values) > 1 else ""
    return f"{mean:{sign}.3f}{half}"


def table(
    data: str, arms: Sequence[str], found: dict[tuple[str, int], dict[str, float]], seeds: int
) -> None:
    metrics = list(next(iter(found.values())))
    print(f"\n{data}: top-1, mean ± 95 % over {seeds} seeds\n")
    print(f"| arm | {' | '.join(metrics)} |\n|---|{'---|' * len(metrics)}")
    for arm in arms:
        print(
            f"| {arm} | "
            + " | ".join(
                mean_and_interval([found[arm, s][m] for s in range(seeds)]) for m in metrics
            )
            + " |"
        )
    print(f"\n| difference, paired | {' | '.join(metrics)} |\n|---|{'---|' * len(metrics)}")
    for a, b in PAIRS:
        if a in arms and b in arms:
            gaps = [[found[a, s][m] - found[b, s][m] for s in range(seeds)] for m in metrics]
            print(f"| {a} − {b} | {' | '.join(mean_and_interval(gap, '+') for gap in gaps)} |")


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    options.add_argument(
        "--runs",
        type=Path,
        default=Path("runs/bridle"),
        help="directory of the runs; those that are there are used",
    )
    options.add_argument(
        "--epochs", type=int, default=24, help="of every arm, all its phases together"
    )
    options.add_argument("--seeds", type=int, default=3)
    options.add_argument("--data", nargs="+", choices=tuple(DATA), default=list(DATA))
    options.add_argument("--arms", nargs="+", choices=ARMS, default=list(ARMS))
    given = options.parse_args()
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "1")))
    commit = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=False
    )
    print(
        f"python {shlex.join(sys.argv)}\ncommit {commit.stdout.strip()}, {given.epochs} epochs "
        "an arm"
    )
    print(
        f"{platform.system()} {platform.machine()}, torch {torch.__version__}, "
        f"{torch.get_num_threads()} thread(s)"
    )
    for data in given.data:
        found = {}
        for seed in range(given.seeds):
            for arm in given.arms:
                found[arm, seed] = figures(arm, data, seed, given.epochs, given.runs)
                print(f"# {data} {arm} seed {seed} done", file=sys.stderr, flush=True)
        table(data, given.arms, found, given.seeds)


if __name__ == "__main__":
    main()
