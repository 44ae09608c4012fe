"""Evaluate nine bit configs of one encoder in one call, against nine separate calls.

kNN and linear probe, min-max PTQ.

    python benchmarks/bits_grid.py --run runs/NAME > benchmarks/results/bits_grid.md

Without `--run` the demo is first trained for ten epochs. All sides run in one process, alternating,
each from `load_encoder` on. `separate` is nine calls of the same function with one setting each; as
in every evaluation, each also measures the fp32 result that it is compared with. `alone`
leaves that out, and the frozen fp32 head too: for each setting it loads, quantizes, calibrates,
extracts and probes, and nothing else; no command does so little.
"""

import argparse
import os
import platform
import statistics
import subprocess
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch

from mezzotint import load_encoder, pretrain
from mezzotint.data.image.embedded import EmbeddedImages
from mezzotint.evaluation.bits import GRID, evaluate_bits
from mezzotint.evaluation.calibration import calibration_order, read_calibration
from mezzotint.evaluation.features import extract_readable
from mezzotint.evaluation.knn import KNN
from mezzotint.evaluation.linear import Linear
from mezzotint.evaluation.measurement import Measurement
from mezzotint.evaluation.probe import Row
from mezzotint.evaluation.ptq import calibrated_copy
from mezzotint.evaluation.suite import measure
from mezzotint.recipe.reading import DEMO
from mezzotint.recipe.recipe import Recipe

PROBES = (KNN(), Linear())
SAMPLES = 512


def grid(run: Path) -> list[Row]:
    return evaluate_bits(
        Measurement(load_encoder(run), EmbeddedImages()), bits=GRID, probes=PROBES
    ).rows


def separate(run: Path) -> list[Row]:
    rows: dict[Row, None] = {}  # the float rows come nine times
    for bits in GRID:
        rows |= dict.fromkeys(
            evaluate_bits(
                Measurement(load_encoder(run), EmbeddedImages()), bits=[bits], probes=PROBES
            ).rows
        )
    return list(rows)


def alone(run: Path) -> list[Row]:
    rows: list[Row] = []
    for bits in GRID:
        encoder, source = load_encoder(run), EmbeddedImages()
        samples, tasks = source.evaluation()
        if bits.is_float:
            found = extract_readable(encoder, samples)
        else:
            order = calibration_order(tasks, len(samples))
            made = calibrated_copy(
                encoder, read_calibration(samples, encoder.input, order, SAMPLES)
            )
            with made.at(bits) as network:
                found = extract_readable(network, samples)
        rows += measure(found, tasks, PROBES, 3)
    return rows


def timed(side: Callable[[Path], list[Row]], run: Path) -> tuple[float, list[Row]]:
    began = time.perf_counter()
    rows = side(run)
    return time.perf_counter() - began, rows


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--run", type=Path)
    parser.add_argument("--repeats", type=int, default=3)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        run = arguments.run or pretrain(
            Recipe.load(DEMO, ["run.epochs=10"]), Path(folder) / "run", progress="quiet"
        )
        seconds: dict[str, list[float]] = {"grid": [], "separate": [], "alone": []}
        for _ in range(arguments.repeats):
            found = {}
            for side in (grid, separate, alone):
                taken, found[side.__name__] = timed(side, run)
                seconds[side.__name__].append(taken)
            same = set(map(repr, found["grid"])) == set(map(repr, found["separate"]))
    commit = subprocess.run(
        ["git", "describe", "--always", "--dirty"], capture_output=True, text=True, check=False
    ).stdout.strip()
    print(f"`python benchmarks/bits_grid.py --repeats {arguments.repeats}`, commit {commit},")
    print(
        f"{platform.machine()}, {os.cpu_count()} cores, {torch.get_num_threads()} threads, torch "
        f"{torch.__version__}\n"
    )
    print("| side | seconds, median | lowest – highest | grid is |")
    print("|---|---|---|---|")
    whole = statistics.median(seconds["grid"])
    for name, values in seconds.items():
        middle = statistics.median(values)
        print(
            f"| {name} | {middle:.1f} | {min(values):.1f} – {max(values):.1f} | "
            f"{whole / middle:.2f} × |"
        )
    print(
        "\nRows of the grid and of the separate evaluations are "
        f"{'equal' if same else 'NOT equal'}, digit for digit."
    )


if __name__ == "__main__":
    main()
