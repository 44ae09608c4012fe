"""MASSRL's claim in miniature: multi-augmentation against its base.

At equal views and at equal forward passes of the encoder.

    python benchmarks/massrl.py --epochs 8 16 32 --curve massrl.svg encoder.width=24 >
    benchmarks/results/massrl.md python benchmarks/massrl.py --runs /tmp/try --epochs 4 --seeds 1
    encoder.width=4     # to see that it works

Four arms on the embedded emoji, over SimCLR or BYOL. Two have two views a sample, by the base's
policy or each by a sampled policy; two have eight, of two shared crops by four draws of
the base's policy or by four augmentation policies. So arms of as many views differ only in the
policies. A budget is a number of forward passes, which eight views spend in a quarter of the
epochs; each is a training of its own, with its whole schedule. Differences are paired by seed. Runs
that are finished are used again.
"""

import argparse
import json
import math
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from curves import as_svg  # type: ignore[import-not-found]
from views import processor, version  # type: ignore[import-not-found]

from mezzotint import evaluate
from mezzotint.evaluation.results import Interval, interval, read_evaluation
from mezzotint.files import write_text
from mezzotint.recipe.recipe import Recipe
from mezzotint.runs.compare import as_markdown, compare
from mezzotint.runs.reuse import ensure

RECIPE = "image/emoji_massrl"
POLICY = {"kind": "simclr", "strength": 0.5, "gray_p": 0.1, "blur_p": 0.0}
STRATEGIES = [
    POLICY,
    {"kind": "rand_augment", "num_ops": 2, "magnitude": 9},
    {"kind": "auto_augment", "policy": "cifar10"},
    {"kind": "fast_auto_augment"},
]
ARMS = {
    "base, 2 views": ("sampled", [POLICY]),
    "policies, 2 views": ("sampled", STRATEGIES),
    "base, 8 views": ("all", [POLICY] * 4),
    "policies, 8 views": ("all", STRATEGIES),
}
CURVES = {
    "kNN, category across styles": ("knn", "category/across-styles/top1"),
    "linear, category across styles": ("linear", "category/across-styles/top1"),
    "kNN, subcategory across styles": ("knn", "subcategory/across-styles/top1"),
}
Arms = dict[str, list[Path]]
METHODS = {
    "simclr": [],
    "byol": ["method={kind: byol, hidden_dim: 512, dim: 128, reduction: mean}"],
}


def recipe_of(arm: str, epochs: int, seed: int, base: str, overrides: list[str]) -> Recipe:
    """The recipe of one run; eight views have a quarter of the epochs."""
    mode, policies = ARMS[arm]
    views = [f"views.mode={mode}", f"views.policies={json.dumps(policies)}"]
    own = [
        f"run.epochs={epochs if mode == 'sampled' else epochs // 4}",
        f"run.seed={seed}",
        "run.log.knn_epochs=0",
    ]
    settings = [
        "evaluate.seeds=1",
        f"evaluate.baselines={str(seed == 0).lower()}",
        "evaluate.probes=[knn, linear]",
    ]
    return Recipe.load(RECIPE, [*views, *METHODS[base], *own, *settings, *overrides])


def trained(arguments: argparse.Namespace) -> Iterator[tuple[int, Arms]]:
    """The runs of each budget, trained and evaluated where that was not done."""
    for epochs in arguments.epochs:
        arms: Arms = {}
        for seed in range(arguments.seeds):
            for arm in ARMS:
                folder = (
                    arguments.runs
                    / f"{arguments.base}-{arm.replace(', ', '-').replace(' ', '-')}-{epochs}-{seed}"
                )
                recipe = recipe_of(arm, epochs, seed, arguments.base, arguments.overrides)
                if ensure(recipe, folder) or not (folder / "evaluation.json").is_file():
                    evaluate(folder)
                arms.setdefault(arm, []).append(folder)
                print(f"{arm}, {epochs} epochs, seed {seed}: done", file=sys.stderr, flush=True)
        passes = (
            2
            * epochs
            * math.floor(len(recipe.data) / recipe.run.batch_size)
            * recipe.run.batch_size
        )
        print(f"\n## {passes:,} views through the trained encoder ({epochs} epochs of two views)\n")
        show(arms, "base, 2 views")
        show({arm: runs for arm, runs in arms.items() if "8" in arm}, "base, 8 views")
        yield passes, arms


def show(arms: Arms, reference: str) -> None:
    """A table of the differences to one arm."""
    text = as_markdown(compare(arms, title=f"against {reference}", reference=reference))
    print(text.replace("# against", "### against"))


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument(
        "--runs", type=Path, default=Path("runs/massrl"), help="finished runs are reused"
    )
    parser.add_argument(
        "--epochs", type=int, nargs="+", default=[8, 24, 72], help="of two views; multiples of 4"
    )
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--base", choices=METHODS, default="simclr")
    parser.add_argument("--curve", type=Path, help="an .svg file to draw")
    parser.add_argument("overrides", nargs="*", help="of every run")
    arguments = parser.parse_intermixed_args()
    if any(epochs < 4 or epochs % 4 for epochs in arguments.epochs):
        parser.error(
            "`--epochs` must be multiples of 4, because eight views train for a quarter of them"
        )
    print(f"# Multi-augmentation over {arguments.base}, at equal forward passes\n")
    print(
        f"`python {' '.join(sys.argv)}`, commit {version('mezzotint')}, "
        f"{time.strftime('%Y-%m-%d')}, {processor()}."
    )
    budgets = dict(trained(arguments))
    for passes, arms in budgets.items():
        if 4 * passes in budgets:
            print(
                f"\n## As many epochs ({passes:,} views of two a sample, {4 * passes:,} of eight)\n"
            )
            many = {arm: runs for arm, runs in budgets[4 * passes].items() if "8" in arm}
            show({"base, 2 views": arms["base, 2 views"], **many}, "base, 2 views")
    if arguments.curve:
        panels = {
            title: {
                arm: [(passes, level(arms[arm], *key)) for passes, arms in budgets.items()]
                for arm in ARMS
            }
            for title, key in CURVES.items()
        }
        write_text(arguments.curve, as_svg(panels, "views through the trained encoder"))


def level(runs: Sequence[Path], probe: str, metric: str) -> Interval:
    """Mean and interval over the seeds."""
    rows = [row for run in runs for row in read_evaluation(run)]
    return interval([row for row in rows if (row.probe, row.metric) == (probe, metric)])


if __name__ == "__main__":
    main()
