"""SSQL's protocol C in miniature: fine-tune in fp32 on all labels, then quantize.

Without training after the quantization.

The encoders come from the runs of `ssql.py`: SSQL over a base, the base for as many
epochs, and the base for twice as many. Each is fine-tuned alike by
`supervised/ssql_finetune_emoji`, from a classifier that starts as the linear probe, and scored at
each setting with that classifier, by plain min-max ranges and with BatchNorm's statistics put
right. Every seed has an encoder and a fine-tuning of its own; differences are paired by seed.

    python benchmarks/ssql.py --base simclr --runs runs/ssql encoder.width=32 python
    benchmarks/ssql_finetune.py --base simclr --runs runs/ssql > benchmarks/results/ssql_finetune.md
"""

import argparse
import os
import platform
import sys
from pathlib import Path

from ssql import BASES, HOW, pair  # type: ignore[import-not-found]
from views import version  # type: ignore[import-not-found]

from mezzotint.evaluation.results import Evaluation, read_evaluation, write_evaluation
from mezzotint.runs.finetune import plan, scored, variant_recipe, warm
from mezzotint.runs.reuse import ensure, finished, trained_method

METHODS: dict[str, str] = {
    "min_max": "min-max ranges",
    "batch_norm": "min-max ranges, BatchNorm re-estimated",
}
BITS = ("fp32", "W8A8", "W4A4", "W3A3", "W2A8")
FIGURE = "category/across-styles/top1"


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--base", choices=BASES, default="simclr")
    parser.add_argument("--epochs", type=int, default=30, help="of the pretraining")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--runs", type=Path, default=Path("runs/ssql"), help="of ssql.py")
    parser.add_argument(
        "--out", type=Path, default=Path("runs/ssql_finetune"), help="finished runs are reused"
    )
    parser.add_argument("overrides", nargs="*", help="of the recipe, for all arms")
    arguments = parser.parse_args()
    e, name = arguments.epochs, arguments.base
    arms = (f"{name}{e}", f"ssql_{name}{e}", f"{name}{2 * e}")
    missing = [
        f"{arm}-s{s}"
        for arm in arms
        for s in range(arguments.seeds)
        if not finished(arguments.runs / f"{arm}-s{s}")
    ]
    if missing:
        parser.error(
            f"{arguments.runs} lacks {', '.join(missing)}. Run benchmarks/ssql.py into it first."
        )
    found: dict[str, dict[str, list[dict[str, float]]]] = {
        how: {arm: [] for arm in arms} for how in METHODS
    }
    for seed in range(arguments.seeds):
        for arm in arms:
            for how, table in measure(arguments, f"{arm}-s{seed}", seed).items():
                found[how][arm].append(table)
            print(f"{arm}, seed {seed}: done", file=sys.stderr, flush=True)
    show(found, arguments)


def measure(arguments: argparse.Namespace, run: str, seed: int) -> dict[str, dict[str, float]]:
    """Fine-tune unless done before, and score: top-1 by PTQ method and bit config."""
    overrides = [f"evaluate.ptq=[{','.join(METHODS)}]", f"evaluate.bits=[{','.join(BITS)}]"]
    what = plan(
        arguments.runs / run,
        "supervised/ssql_finetune_emoji",
        [*overrides, *arguments.overrides],
        warm_head=True,
    )
    recipe, folder = variant_recipe(what, seed, "finetuned"), arguments.out / run
    if ensure(recipe, folder, before=warm) or not (folder / "evaluation.json").is_file():
        write_evaluation(
            folder, Evaluation(list(scored(trained_method(recipe, folder), what, seed)), "")
        )
    tables: dict[str, dict[str, float]] = {how: {} for how in METHODS}
    for row in read_evaluation(folder):
        if row.metric == FIGURE:
            for how in [row.protocol.ptq_method] if row.protocol.ptq else METHODS:
                tables[how][str(row.bits)] = row.value
    return tables


def show(
    found: dict[str, dict[str, list[dict[str, float]]]], arguments: argparse.Namespace
) -> None:
    """Print a pair of tables for each way of quantizing."""
    print("# SSQL, fine-tuned and then quantized (protocol C), on the embedded emoji\n")
    command = f"--base {arguments.base} --epochs {arguments.epochs} --seeds {arguments.seeds}"
    where = f"commit {version('mezzotint')}, {platform.machine()}, {os.cpu_count()} cores"
    print(
        f"`python benchmarks/ssql_finetune.py {' '.join([command, *arguments.overrides])}`, "
        f"{where}."
    )
    print(f"`{FIGURE.rpartition('/')[0]}`, by the fine-tuned classifier.")
    print(HOW)
    for how, arms in found.items():
        pair(METHODS[how], arms)


if __name__ == "__main__":
    main()
