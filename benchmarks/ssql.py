"""SSQL's claim in miniature: one set of weights at each bit config, with SSQL and without.

Three arms for each base, with the same encoder, data, views and optimizer: the base, SSQL over it
for as many epochs, and the base for twice as many, which makes as many forward passes as SSQL.
Every seed trains all three, so differences are paired by seed. Evaluated by plain min-max ranges,
as in the paper: policy `ssql`, probes on quantized features; the head that is kept also with
BatchNorm re-estimated for each bit config (`mezzotint.quant.batch_norm`).

    python benchmarks/ssql.py --base simclr --epochs 30 --seeds 3 --runs runs/ssql >
    benchmarks/results/ssql_simclr.md
"""

import argparse
import json
import os
import platform
import statistics
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mezzotint import load_encoder, pretrain
from mezzotint.data.image.embedded import EmbeddedImages
from mezzotint.evaluation.bits import evaluate_bits
from mezzotint.evaluation.knn import KNN
from mezzotint.evaluation.linear import Linear
from mezzotint.evaluation.measurement import Measurement
from mezzotint.evaluation.results import student
from mezzotint.evaluation.retrieval import Retrieval
from mezzotint.quant.bitwidth import Bits
from mezzotint.recipe.recipe import Recipe

BASES: dict[str, tuple[str, list[str]]] = {
    "simclr": (
        "{kind: simclr, hidden_dim: 512, dim: 128, temperature: 0.1}",
        ["optimizer.lr=0.06", "encoder.grid=1"],
    ),
    "demo": ("{kind: simclr, hidden_dim: 512, dim: 128, temperature: 0.07}", []),
    "simsiam": (
        "{kind: simsiam, dim: 256, hidden_dim: 128}",
        ["optimizer.lr=0.4", "encoder.grid=1"],
    ),
}
HEAD = "linear, across styles, the head fitted on float features"
FIGURES = {
    ("min_max", "knn", "category/within-style/top1"): "kNN, within a style",
    ("min_max", "linear", "category/across-styles/top1"): "linear, across styles",
    ("min_max", "linear_ptq", "category/across-styles/top1"): HEAD,
    ("batch_norm", "linear_ptq", "category/across-styles/top1"): f"{HEAD}, BatchNorm corrected",
    ("min_max", "retrieval", "identity/across-styles/top1"): "retrieval, across styles",
}
PROBES = {"min_max": (KNN(), Linear(), Retrieval()), "batch_norm": (Linear(),)}
BITS = ("fp32", "W8A8", "W4A4", "W3A3", "W2A8", "W2A4", "W2A2")
HOW = """\
Top-1; mean over seeds ± half of the 95 % interval of the mean. Differences are paired by seed. Each
metric's second table is what quantization changes: the value less the value at fp32."""
Table = dict[tuple[str, str, str], dict[str, float]]


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--base", choices=BASES, default="simclr")
    parser.add_argument("--epochs", type=int, default=30)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument(
        "--runs",
        type=Path,
        default=Path("runs/ssql"),
        help="runs found there are not trained again",
    )
    parser.add_argument("overrides", nargs="*", help="of the demo's recipe, for all arms")
    arguments = parser.parse_args()
    base, own = BASES[arguments.base]
    e, name = arguments.epochs, arguments.base
    shared = [*own, *arguments.overrides]
    arms = {
        f"{name}{e}": [f"run.epochs={e}", f"method={base}", *shared],
        f"ssql_{name}{e}": [f"run.epochs={e}", "method.kind=ssql", f"method.base={base}", *shared],
        f"{name}{2 * e}": [f"run.epochs={2 * e}", f"method={base}", *shared],
    }
    found: dict[str, list[Table]] = {arm: [] for arm in arms}
    for seed in range(arguments.seeds):
        for arm, overrides in arms.items():
            found[arm].append(
                measure(arguments.runs / f"{arm}-s{seed}", [*overrides, f"run.seed={seed}"])
            )
    show(found, arguments)


def measure(folder: Path, overrides: Sequence[str]) -> Table:
    """Train where that was not done, evaluate where that was not done, and read the figures."""
    if not (folder / "encoder" / "encoder.json").is_file():
        pretrain(
            Recipe.load("image/emoji_simclr", overrides), folder, progress="quiet", overwrite=True
        )
    table: Table = {}
    stored = {protocol: evaluated(folder, protocol) for protocol in PROBES}
    for protocol, probe, metric in FIGURES:
        table[protocol, probe, metric] = {}
        for setting in BITS:
            table[protocol, probe, metric][setting] = statistics.fmean(
                r["value"]
                for r in stored[protocol]
                if (r["probe"], r["metric"], r["bits"]) == (probe, metric, setting)
            )
    return table


def evaluated(folder: Path, protocol: str) -> list[dict[str, Any]]:
    """Rows of a run by a protocol, measured once."""
    stored = folder / f"by_bits_{protocol}.json"
    if not stored.is_file():
        evaluation = evaluate_bits(
            Measurement(load_encoder(folder), EmbeddedImages(name="emoji")),
            bits=[Bits.parse(text) for text in BITS],
            ptq=(protocol,),  # type: ignore[arg-type]
            probes=PROBES[protocol],
        )
        rows: list[dict[str, Any]] = []
        for row in evaluation.rows:
            entry = {"probe": row.probe, "metric": row.metric, "value": row.value}
            rows.append(entry | {"bits": str(row.bits)})
            if row.probe == "linear" and row.bits.is_float:  # the fp32 head where it was fitted
                rows.append(rows[-1] | {"probe": "linear_ptq"})
        stored.write_text(json.dumps(rows))
    found: list[dict[str, Any]] = json.loads(stored.read_text())
    return found


def spread(values: Sequence[float]) -> float:
    """Half of the 95 % interval of the mean (Student)."""
    return student(values) if len(values) > 1 else float("nan")


def show(found: dict[str, list[Table]], arguments: argparse.Namespace) -> None:
    """Print the tables: each arm, and SSQL minus each base, paired by seed."""
    commit = subprocess.run(
        ["git", "describe", "--always", "--dirty"], capture_output=True, text=True, check=False
    )
    extra = " ".join(map(repr, arguments.overrides))
    print(f"# SSQL over {arguments.base}, on the embedded emoji\n")
    print(f"`python benchmarks/ssql.py --base {arguments.base} --epochs {arguments.epochs} "
          f"--seeds {arguments.seeds} {extra}`, commit {commit.stdout.strip()}, "
          f"{platform.machine()}, "
          f"{os.cpu_count()} cores.")  # fmt: skip
    print(HOW)
    for key, title in FIGURES.items():
        values = {arm: [table[key] for table in tables] for arm, tables in found.items()}
        pair(title, values)


def pair(title: str, values: dict[str, list[dict[str, float]]]) -> None:
    """Print a metric's two tables: its values, and what quantization changes in them."""
    settings = list(next(iter(values.values()))[0])
    changes = {
        arm: [{bits: value - own["fp32"] for bits, value in own.items()} for own in tables]
        for arm, tables in values.items()
    }
    print(f"\n## {title}\n")
    rows(values, settings, "bits", ".3f")
    print()
    rows(changes, settings[1:], "less its value at fp32", "+.3f")


def rows(
    values: dict[str, list[dict[str, float]]], settings: Sequence[str], corner: str, digits: str
) -> None:
    """Print one table: each arm, and the second arm minus the first and the third."""
    print(f"| {corner} | {' | '.join(settings)} |\n|---|{'---|' * len(settings)}")
    for arm, tables in values.items():
        cells = []
        for setting in settings:
            column = [table[setting] for table in tables]
            cells.append(f"{statistics.fmean(column):{digits}} ± {spread(column):.3f}")
        print(f"| {arm} | {' | '.join(cells)} |")
    base, ssql, longer = values
    for other in (base, longer):
        cells = []
        for setting in settings:
            pairs = zip(values[ssql], values[other], strict=True)
            differences = [a[setting] - b[setting] for a, b in pairs]
            mean, half = statistics.fmean(differences), spread(differences)
            mark = "**" if abs(mean) > half else ""
            cells.append(f"{mark}{mean:+.3f}{mark} ± {half:.3f}")
        print(f"| SSQL − {other} | {' | '.join(cells)} |")


if __name__ == "__main__":
    main()
