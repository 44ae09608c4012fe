"""Does NormRescale repair the transfer of encoders that were pretrained with LARS? In miniature.

Huang et al. 2022 (arXiv 2208.00275) find that an encoder pretrained with LARS transfers badly by
SGD with the settings that suit SGD-pretrained encoders, and that giving its weights the norms of an
SGD-pretrained anchor repairs it. Here SimCLR is pretrained on the embedded emoji with SGD and with
LARS at two learning rates; each encoder is fine-tuned by SGD on a tenth of the labels of one artist
and tested on the other's, at three fixed learning rates: as it is, rescaled (directions and
function stay), and rescaled in every tensor as the authors' code does. The anchor is the
SGD-pretrained encoder of the same seed. Seeds set weights, views, labels and order.

    python benchmarks/norm_rescale.py > benchmarks/results/norm_rescale.md
"""

import argparse
import os
import platform
import statistics
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import torch
from views import version  # type: ignore[import-not-found]

from mezzotint import load_encoder
from mezzotint.data.image.embedded import EmbeddedImages
from mezzotint.encoders.saving import save_encoder
from mezzotint.evaluation.features import extract
from mezzotint.evaluation.results import student
from mezzotint.interop.norm_rescale import norm_rescale, norms
from mezzotint.recipe.recipe import Recipe, read_recipe
from mezzotint.runs.finetune import plan, scored, variant_recipe
from mezzotint.runs.reuse import ensure, trained_method

PRETRAINED = {
    "SGD": [],
    "LARS, lr 4": ["optimizer={kind: lars, lr: 4.0, weight_decay: 1.0e-6}"],
    "LARS, lr 16": ["optimizer={kind: lars, lr: 16.0, weight_decay: 1.0e-6}"],
}
ANCHOR = "SGD"
WAYS = ("as it is", "rescaled", "rescaled, every tensor")
SMALL = ["encoder.width=16", "schedule.warmup_epochs=2", "run.log.knn_epochs=0"]
RATES = (0.001, 0.01, 0.1)
METRIC = "category/across-styles/top1"

Found = dict[tuple[str, str, float], list[float]]
"""Top-1 by pretraining, way and learning rate, one value a seed."""

Size = tuple[list[float], list[float], float]
Sizes = dict[tuple[str, str], list[Size]]
"""Norms of weights and of BatchNorm scales over the anchor's, and the mean norm of features."""


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--epochs", type=int, default=15, help="of the pretraining")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--out", type=Path, default=Path("runs/norm_rescale"))
    arguments = parser.parse_args()
    began, found, sizes = time.process_time(), Found(), Sizes()
    torch.set_num_threads(1)
    for seed in range(arguments.seeds):
        for name in PRETRAINED:
            folder = arguments.out / f"{name.replace(', lr ', '-').lower()}-s{seed}"
            overrides = [f"run.epochs={arguments.epochs}", f"run.seed={seed}", *SMALL]
            config = read_recipe("image/emoji_simclr", [*overrides, *PRETRAINED[name]])
            ensure(Recipe.build(config), folder)
            for way in WAYS[: 1 if name == ANCHOR else None]:
                start = prepared(folder, arguments.out / f"sgd-s{seed}", way)
                size = measure(start, arguments.out / f"sgd-s{seed}")
                sizes.setdefault((name, way), []).append(size)
                for rate in RATES:
                    found.setdefault((name, way, rate), []).append(fine_tuned(start, rate, seed))
            print(f"{name}, seed {seed}: done", file=sys.stderr, flush=True)
    show(found, sizes, arguments, time.process_time() - began)


def measure(start: Path, anchor: Path) -> Size:
    """Compare weights and BatchNorm scales with the anchor's, and measure the features."""
    encoder, other = load_encoder(start), load_encoder(anchor)
    weights = [row["own"] for _, row in norms({"own": encoder}, other)]
    scales = [
        float(p.detach().norm() / other.get_parameter(name).detach().norm())
        for name, p in encoder.named_parameters()
        if p.ndim == 1 and name.endswith("weight")
    ]
    data = EmbeddedImages(name="emoji")
    x = extract(encoder, data, indices=torch.arange(0, len(data), 20))
    return weights, scales, float(x.norm(dim=1).mean())


def prepared(run: Path, anchor: Path, way: str) -> Path:
    """Rescale a run's encoder, and return the directory of what is fine-tuned."""
    if way == WAYS[0]:
        return run
    encoder = load_encoder(run)
    norm_rescale(encoder, load_encoder(anchor), everything=way == WAYS[2])
    return save_encoder(encoder, run.with_name(f"{run.name}-{WAYS.index(way)}"))


def fine_tuned(start: Path, rate: float, seed: int) -> float:
    """Fine-tune unless done before, and score on the test samples."""
    overrides = [f"optimizer.lr={rate}", "run.epochs=30"]
    what = plan(start, "supervised/emoji_finetune", overrides, baselines=False)
    recipe, folder = (
        variant_recipe(what, seed, "finetuned"),
        start.with_name(f"{start.name}-{rate}"),
    )
    ensure(recipe, folder)
    rows = scored(trained_method(recipe, folder), what, seed)
    return next(float(row.value) for row in rows if row.metric == METRIC)


def show(found: Found, sizes: Sizes, arguments: argparse.Namespace, seconds: float) -> None:
    """Print the tables: levels, and differences paired by seed."""
    print("# NormRescale after pretraining with LARS, in miniature\n")
    print(
        f"`python benchmarks/norm_rescale.py --epochs {arguments.epochs} --seeds "
        f"{arguments.seeds}`, commit {version('mezzotint')}, {platform.machine()}, "
        f"{os.cpu_count()} cores; {seconds:.0f} s of one core."
    )
    print(
        f"`{METRIC}` after fine-tuning by SGD; mean over seeds ± half of the 95 % interval of the "
        "mean. Differences are paired by seed, bold beyond the interval.\n"
    )
    print("| pretrained with | | weights / anchor's | BatchNorm scales / anchor's | feature norm |")
    print("|---|---|---|---|---|")
    for (name, way), own in sizes.items():
        parts = [[r for size in own for r in size[0]], [r for size in own for r in size[1]]]
        cells = " | ".join(f"{min(part):.2f} to {max(part):.2f}" for part in parts)
        print(f"| {name} | {way} | {cells} | {statistics.fmean(size[2] for size in own):.0f} |")
    heads = " | ".join(f"lr {rate}" for rate in RATES)
    print(f"\n| pretrained with | | {heads} |\n|---|---|{'---|' * len(RATES)}")
    for name in PRETRAINED:
        for way in WAYS[: 1 if name == ANCHOR else None]:
            cells = " | ".join(words(found[name, way, rate]) for rate in RATES)
            print(f"| {name} | {way} | {cells} |")
    print(f"\n| difference | {heads} |\n|---|{'---|' * len(RATES)}")
    for name in PRETRAINED:
        if name == ANCHOR:
            continue
        pairs = [(name, WAYS[0], ANCHOR, WAYS[0])]
        pairs += [(name, way, name, WAYS[0]) for way in WAYS[1:]]
        for one, way, other, against in pairs:
            cells = " | ".join(
                words(
                    [
                        a - b
                        for a, b in zip(found[one, way, r], found[other, against, r], strict=True)
                    ],
                    signed=True,
                )
                for r in RATES
            )
            less = other if other == ANCHOR else f"{other}, {against}"
            print(f"| {one}, {way} − {less} | {cells} |")


def words(values: Sequence[float], *, signed: bool = False) -> str:
    mean, half = statistics.fmean(values), student(values)
    text = f"{mean:+.3f}" if signed else f"{mean:.3f}"
    return f"**{text}** ± {half:.3f}" if signed and abs(mean) > half else f"{text} ± {half:.3f}"


if __name__ == "__main__":
    main()
