"""Muon against AdamW and SGD at equal process CPU time: SimCLR on ResNet-8, MAE on a ViT, emoji.

python benchmarks/muon.py OUT [--seconds 10]  # cells that are done are not run again

Every optimizer is tuned on the same grid of rates, factors of 2 that go on where the best one is at
an end, with seed 0 and the best three with seed 4 too; then it is trained with seeds 1 to 3. The
schedule is half a cosine over the budget of time, after a warm-up of a twentieth of it, so that
whatever a step costs, each run ends its schedule when its time is over.
"""

import argparse
import json
import math
import statistics
import time
from pathlib import Path
from typing import Any

import torch
from sklearn.linear_model import LogisticRegression

from mezzotint.augment.views import ViewContext
from mezzotint.data.loader import BatchPlan, batches
from mezzotint.files import write_json
from mezzotint.recipe.recipe import Recipe, read_recipe
from mezzotint.runs.widths import final_loss

START = 0.016
OPTIMIZERS = {
    "SGD": "{kind: sgd, lr: LR, momentum: 0.9, nesterov: true, weight_decay: 5.0e-4}",
    "AdamW": "{kind: adamw, lr: LR, weight_decay: 0.05}",
    "Muon": "{kind: muon, lr: LR, weight_decay: 0.05}",
}
TASKS: dict[str, list[str]] = {
    "SimCLR, ResNet-8": [
        "encoder={kind: resnet8, stem: patch, width: 32, grid: 1}",
        "method={kind: simclr, hidden_dim: 256, dim: 64, temperature: 0.07}",
    ],
    "MAE, ViT": [
        "encoder={kind: vit, width: 96, depth: 4, heads: 3, patch: 4}",
        "method={kind: mae, decoder: {width: 48, depth: 1, heads: 3}}",
        "views={kind: one_view, crop: {scale: [0.2, 1.0]}}",
    ],
}
DIVERGED = 1e9  # JSON has no infinity
T_2 = 4.303  # Student's t of 95 % with two degrees of freedom


def train(task: str, optimizer: str, rate: float, seed: int, seconds: float) -> dict[str, Any]:
    """Train for a time of the process; return the curve, the steps and a linear probe."""
    settings = OPTIMIZERS[optimizer].replace("LR", str(rate))
    own = [*TASKS[task], f"optimizer={settings}", f"run.seed={seed}", "run.batch_size=32"]
    recipe = Recipe.build(read_recipe("image/emoji_simclr", own))
    method, run = recipe.method.train(), recipe.run
    built = recipe.optimizer.build(method, run.batch_size)
    plan = BatchPlan.of(recipe.data, run.batch_size, seed, 0, 1)
    stream = batches(recipe.data, recipe.views, plan, start=0, stop=10**6, workers=0)
    curve: list[float] = []
    began = time.process_time()
    for step, batch in enumerate(stream):
        progress = (time.process_time() - began) / seconds
        if progress >= 1.0 or (curve and not math.isfinite(curve[-1])):
            break
        rise, fall = min(1.0, progress / 0.05), (1.0 + math.cos(math.pi * progress)) / 2.0
        recipe.optimizer.set_rates(built, rise * fall, progress)
        context = ViewContext(recipe.encoder.input, seed, plan.epoch_of(step))
        device = torch.device("cpu")
        views = recipe.views(batch, context, step=step, progress=progress, device=device)
        loss = method(views).loss
        built.zero_grad()
        torch.autograd.backward(loss)
        built.step()
        method.after_step(min(1.0, progress))
        curve.append(float(loss.detach()))
    finite = all(map(math.isfinite, curve))
    return {
        "loss": final_loss(curve) if finite else DIVERGED,
        "steps": len(curve),
        "curve": curve if finite else [],
        "seconds": time.process_time() - began,
        "probe": probe(recipe) if seed else None,
    }


@torch.no_grad()
def probe(recipe: Recipe) -> float:
    """Top-1 of a linear probe on categories: trained on one drawing style, tested on the other."""
    source: Any = recipe.data
    encoder = recipe.method.encoder.eval()
    mean, std = (torch.tensor(v).view(1, -1, 1, 1) for v in (encoder.input.mean, encoder.input.std))
    pixels = torch.stack([torch.as_tensor(source.read(i)["x"]) for i in range(len(source))])
    x = (pixels.float() / 255.0 - mean) / std
    features = torch.cat([encoder(part) for part in x.split(256)])
    features = (features - features.mean(dim=0)) / features.std(dim=0).clamp(min=1e-6)
    if not features.isfinite().all():
        return 0.0
    labels, half = torch.as_tensor(source.labels), len(x) // 2
    fitted = LogisticRegression(C=0.01, max_iter=300).fit(features[:half], labels[:half])
    return float(fitted.score(features[half:], labels[half:]))


def cell(out: Path, task: str, optimizer: str, rate: float, seed: int, s: float) -> dict[str, Any]:
    file = out / f"{task.replace(', ', '-')}-{optimizer}-{rate:g}-{seed}-{s:g}.json"
    if not file.is_file():
        write_json(file, train(task, optimizer, rate, seed, s))
    found: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
    print(f"<!-- {task} {optimizer} {rate:g} seed {seed}: {found['loss']:.4f} -->", flush=True)
    return found


def tuned(out: Path, task: str, optimizer: str, seconds: float) -> float:
    """Best rate of the grid, which goes on where the best one is at its end.

    The three best rates of seed 0 are trained with another seed, and the best mean wins.
    """

    def loss(power: int, seed: int = 0) -> float:
        return float(cell(out, task, optimizer, START * 2.0**power, seed, seconds)["loss"])

    losses = {power: loss(power) for power in range(-4, 4)}
    while min(losses, key=losses.__getitem__) in (min(losses), max(losses)):
        best = min(losses, key=losses.__getitem__)
        following = best - 1 if best == min(losses) else best + 1
        losses[following] = loss(following)
    first = sorted(losses, key=losses.__getitem__)[:3]
    means = {power: losses[power] + loss(power, seed=4) for power in first}
    return START * 2.0 ** min(means, key=means.__getitem__)


def interval(values: list[float]) -> str:
    half = T_2 * statistics.stdev(values) / math.sqrt(len(values))
    return f"{statistics.mean(values):.3f} ± {half:.3f}"


def main() -> None:
    parser = argparse.ArgumentParser(description="Muon against AdamW and SGD at equal time.")
    parser.add_argument("out", type=Path)
    parser.add_argument("--seconds", type=float, default=10.0)
    parser.add_argument("--tasks", nargs="+", choices=TASKS, default=list(TASKS))
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    arguments.out.mkdir(parents=True, exist_ok=True)
    print("| task | optimizer | best rate | steps | training loss | linear probe, other style |\n"
          "|" + "---|" * 6)  # fmt: skip
    for task in arguments.tasks:
        for optimizer in OPTIMIZERS:
            rate = tuned(arguments.out, task, optimizer, arguments.seconds)
            runs = [
                cell(arguments.out, task, optimizer, rate, seed, arguments.seconds)
                for seed in (1, 2, 3)
            ]
            steps = statistics.mean(run["steps"] for run in runs)
            columns = [interval([run[key] for run in runs]) for key in ("loss", "probe")]
            print(f"| {task} | {optimizer} | {rate:g} | {steps:.0f} | {' | '.join(columns)} |")


if __name__ == "__main__":
    main()
