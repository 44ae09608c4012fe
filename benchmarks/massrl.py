"""MASSRL's claim in miniature: multi-augmentation against its base, at equal views and at equal encoder passes.

    python benchmarks/massrl.py --runs runs/massrl --epochs 8 24 72 --seeds 3 > benchmarks/results/massrl.md
    python benchmarks/massrl.py --runs /tmp/try --epochs 4 --seeds 1 encoder.width=4          # to see that it works

Four arms on the embedded emoji, over SimCLR or BYOL. Two have two views a sample, by the base's policy or each by a
strategy that is sampled; two have eight, of two shared crops by four draws of the base's policy or by four strategies.
So arms of as many views differ in nothing but the strategies. A budget is a number of encoder passes, which eight
views spend in a quarter of the epochs; each is a training of its own, with its whole schedule. Differences are paired
by seed. Runs that are finished are used again.
"""

import argparse
import json
import math
import sys
import time
from pathlib import Path

from views import processor, version  # type: ignore[import-not-found]

from mezzotint import evaluate
from mezzotint.study.compare import as_markdown, compare
from mezzotint.train.recipe import Recipe
from mezzotint.train.repeat import ensure

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
    "strategies, 2 views": ("sampled", STRATEGIES),
    "base, 8 views": ("all", [POLICY] * 4),
    "strategies, 8 views": ("all", STRATEGIES),
}
METHODS = {
    "simclr": [],
    "byol": ["method={kind: byol, hidden_dim: 512, dim: 128, reduction: mean}"],
}


def recipe_of(arm: str, epochs: int, seed: int, base: str, overrides: list[str]) -> Recipe:
    """The recipe of one run; eight views have a quarter of the epochs."""
    mode, strategies = ARMS[arm]
    views = [f"views.mode={mode}", f"views.strategies={json.dumps(strategies)}"]
    own = [f"run.epochs={epochs if mode == 'sampled' else epochs // 4}", f"run.seed={seed}", "run.log.knn_epochs=0"]
    settings = ["evaluate.seeds=1", f"evaluate.baselines={str(seed == 0).lower()}", "evaluate.probes=[knn, linear]"]
    return Recipe.load(RECIPE, [*views, *METHODS[base], *own, *settings, *overrides])


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--runs", type=Path, default=Path("runs/massrl"), help="what is there is used again")
    parser.add_argument("--epochs", type=int, nargs="+", default=[8, 24, 72], help="of two views; multiples of 4")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--base", choices=METHODS, default="simclr")
    parser.add_argument("overrides", nargs="*", help="of every run")
    arguments = parser.parse_intermixed_args()
    if any(epochs < 4 or epochs % 4 for epochs in arguments.epochs):
        parser.error("allowed are epochs that are multiples of 4, because eight views get a quarter of them")
    print(f"# Multi-augmentation over {arguments.base}, at equal encoder passes\n")
    print(f"`python {' '.join(sys.argv)}`, commit {version('mezzotint')}, {time.strftime('%Y-%m-%d')}, {processor()}.")
    for epochs in arguments.epochs:
        arms: dict[str, list[Path]] = {}
        for seed in range(arguments.seeds):
            for arm in ARMS:
                folder = arguments.runs / f"{arguments.base}-{arm.replace(', ', '-').replace(' ', '-')}-{epochs}-{seed}"
                recipe = recipe_of(arm, epochs, seed, arguments.base, arguments.overrides)
                if ensure(recipe, folder) or not (folder / "evaluation.json").is_file():
                    evaluate(folder)
                arms.setdefault(arm, []).append(folder)
                passes = 2 * epochs * math.floor(len(recipe.data) / recipe.run.batch_size) * recipe.run.batch_size
                print(f"{arm}, {epochs} epochs, seed {seed}: done", file=sys.stderr, flush=True)
        print(f"\n## {passes:,} views through the trained encoder ({epochs} epochs of two views)\n")
        for reference in ("base, 2 views", "base, 8 views"):
            chosen = {name: runs for name, runs in arms.items() if "2" in reference or "8" in name}
            title = f"against {reference}"
            print(as_markdown(compare(chosen, title=title, reference=reference)).replace("# against", "### against"))


if __name__ == "__main__":
    main()
