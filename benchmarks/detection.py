"""Detection from a pretrained and from the untrained encoder, at an equal budget, seed by seed.

The demo's encoder is pretrained on the embedded emoji without labels, and `pasted_c4` is trained
from it and from the same network with fresh weights. Seeds differ in the heads, the untrained
encoder, the order, flips and sampling; the pretrained encoder is one.

    python benchmarks/detection.py > benchmarks/results/detection.md
    python benchmarks/detection.py --encoder runs/demo training.steps=100
"""

import argparse
import json
import os
import platform
import subprocess
import tempfile
import time
from pathlib import Path

import torch

from mezzotint import load_encoder, pretrain
from mezzotint.detection.detection import plan, run_transfer
from mezzotint.recipe.reading import DEMO
from mezzotint.recipe.recipe import Recipe, read_recipe

PRETRAINING = ["run.log.knn_epochs=0"]


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--encoder", type=Path, help="a finished run, instead of pretraining one")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("overrides", nargs="*", help="of pasted_c4")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        run, seconds = arguments.encoder, 0.0
        if run is None:
            began = time.perf_counter()
            run = pretrain(
                Recipe.load(DEMO, [*PRETRAINING, "run.compute.threads=1"]),
                Path(folder) / "run",
                progress="quiet",
            )
            seconds = time.perf_counter() - began
        what = plan(run, "pasted_c4", arguments.overrides, seeds=arguments.seeds)
        began = time.perf_counter()
        comparison = run_transfer(what, Path(folder) / "transfer", progress="quiet")
        spent = (time.perf_counter() - began) / (2 * arguments.seeds)
        encoder = load_encoder(run).config
        recipe = read_recipe(run)
        each = {
            start: [
                json.loads(
                    (Path(folder) / "transfer" / f"{start}-{seed}" / "metrics.json").read_text()
                )["boxes/AP50"]
                for seed in range(arguments.seeds)
            ]
            for start in ("pretrained", "untrained")
        }
    commit = subprocess.run(
        ["git", "describe", "--always", "--dirty"], capture_output=True, text=True, check=False
    ).stdout
    data, training = what.config["data"], what.config["training"]
    command = " ".join(
        [
            "python benchmarks/detection.py",
            *(["--encoder RUN"] if arguments.encoder else []),
            *arguments.overrides,
        ]
    )
    print(
        f"`{command}`, commit {commit.strip()}, {platform.machine()}, one thread of "
        f"{os.cpu_count()} cores, "
    )
    print(f"torch {torch.__version__}, {arguments.seeds} seeds\n")
    print(
        f"Encoder: {encoder['kind']} of width {encoder['width']}, {DEMO} with "
        f"{' '.join(PRETRAINING)} "
        f"({seconds:.0f} s). Transfer: `pasted_c4`, {data['images']} training samples, "
        f"{data['test_images']} to be "
        f"scored on, {training['steps']} steps of {training['batch_size']} ({spent:.0f} s a run, "
        "scoring included).\n"
        if arguments.encoder is None
        else f"Encoder: a given run, {encoder['kind']} of width {encoder['width']}, "
        f"{recipe['method']['kind']} for "
        f"{recipe['run']['epochs']} epochs. Transfer: `pasted_c4`, {data['images']} training "
        "samples, "
        f"{data['test_images']} to be scored on, {training['steps']} steps of "
        f"{training['batch_size']} ({spent:.0f} s a run, scoring included).\n"
    )
    print(
        "Means over seeds with 95 % intervals of Student; the difference is taken seed by seed.\n"
    )
    print(comparison.text)
    for start, values in each.items():
        print(f"\nAP50 by seed, {start}: {', '.join(f'{value:.3f}' for value in values)}")


if __name__ == "__main__":
    main()
