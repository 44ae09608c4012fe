"""Write the cells of `quality.py` as tables.

    python benchmarks/quality_tables.py quality.jsonl > benchmarks/results/quality_tables.md

A set's value is the mean over its tasks, then over seeds. Differences are paired by seed; ± is half
of Student's 95 % interval, over seeds for a set, and over sets for a mean of sets. Bold: beyond it.
"""

import argparse
import os
import platform
import statistics
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import torch
from quality import Cell, cells, mean_scores
from quality_data import SETS

from mezzotint.evaluation.results import student

PROBES = ("knn", "linear")
FIXED = ("raw", "handmade")
"""Arms without a seed."""
Scores = Mapping[tuple[str, str, int], Mapping[str, float]]


def scores_of(found: Iterable[Cell], minutes: float) -> Scores:
    """Return the mean over tasks of each probe, by set, arm and seed."""
    return {
        (cell["set"], cell["arm"], cell["seed"]): mean_scores(cell)
        for cell in found
        if cell["minutes"] in (0.0, minutes)
    }


def of_arm(scores: Scores, name: str, arm: str, probe: str) -> dict[int, float]:
    """Return the values of an arm by seed."""
    return {
        seed: value[probe]
        for (own, other, seed), value in scores.items()
        if (own, other) == (name, arm)
    }


def differences(scores: Scores, name: str, arm: str, against: str, probe: str) -> list[float]:
    """Return the differences of two arms, paired by seed."""
    first, second = of_arm(scores, name, arm, probe), of_arm(scores, name, against, probe)
    if against in FIXED:
        second = dict.fromkeys(first, second[0]) if second else {}
    return [first[seed] - second[seed] for seed in sorted(first.keys() & second.keys())]


def signed(values: Sequence[float]) -> str:
    """Write a mean difference with its interval, bold if the interval leaves out zero."""
    if not values:
        return ""
    mean = statistics.fmean(values)
    if len(values) < 2:
        return f"{mean:+.3f}"
    half = student(values)
    text = f"{mean:+.3f} ± {half:.3f}"
    return f"**{text}**" if abs(mean) > half else text


def table(scores: Scores, names: Sequence[str], arm: str, others: Sequence[str]) -> str:
    """Return a table with a row for each set and probe, and the mean over sets."""
    head = ["set", "probe", "seeds", arm, *others, *(f"{arm} − {other}" for other in others)]
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    for probe in PROBES:
        means: dict[str, list[float]] = {other: [] for other in others}
        for name in names:
            own = of_arm(scores, name, arm, probe)
            if not own:
                continue
            row = [f"{name}{' *' if SETS[name].held_back else ''}", probe, str(len(own))]
            row.append(f"{statistics.fmean(own.values()):.3f}")
            found = {other: differences(scores, name, arm, other, probe) for other in others}
            for other in others:
                values = of_arm(scores, name, other, probe).values()
                row.append(f"{statistics.fmean(values):.3f}" if values else "")
            for other in others:
                row.append(signed(found[other]))
                if found[other]:
                    means[other].append(statistics.fmean(found[other]))
            lines.append("| " + " | ".join(row) + " |")
        blank = [""] * (2 + len(others))
        row = ["**mean over sets**", probe, *blank, *(signed(means[other]) for other in others)]
        lines.append("| " + " | ".join(row) + " |")
    return "\n".join(lines)


def studies(scores: Scores, arm: str) -> str:
    """Return a table of all variants: mean difference from an arm over sets, by probe."""
    known = {arm, "lightly", "untrained", *FIXED}
    lines = ["| variant | sets | " + " | ".join(PROBES) + " |", "|---|---|---|---|"]
    for variant in sorted({other for _, other, _ in scores} - known):
        base = "untrained" if variant.startswith("untrained") else arm
        names = sorted({name for name, other, _ in scores if other == variant})
        found = {
            probe: [
                statistics.fmean(own)
                for name in names
                if (own := differences(scores, name, variant, base, probe))
            ]
            for probe in PROBES
        }
        cells = " | ".join(signed(found[probe]) for probe in PROBES)
        lines.append(f"| `{variant}` | {', '.join(names)} | {cells} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("cells")
    parser.add_argument("--arm", default="ours")
    parser.add_argument("--minutes-cpu", type=float, default=0.25)
    arguments = parser.parse_args()
    found = cells(Path(arguments.cells))
    scores = scores_of(found, arguments.minutes_cpu)
    commits = sorted({cell["commit"] for cell in found})
    print(
        f"`python benchmarks/quality.py --minutes-cpu {arguments.minutes_cpu:g}`, commits "
        f"{', '.join(commits)}, {platform.machine()}, {os.cpu_count()} shared cores, one thread, "
        f"torch {torch.__version__}.\n"
    )
    images = [name for name, each in SETS.items() if each.modality == "image"]
    print(f"## Against lightly\n\n{table(scores, images, arguments.arm, ['lightly'])}\n")
    baselines = ["untrained", "raw", "handmade"]
    for modality in dict.fromkeys(each.modality for each in SETS.values()):
        names = [name for name, each in SETS.items() if each.modality == modality]
        print(f"## {modality}\n\n{table(scores, names, arguments.arm, baselines)}\n")
    print(f"## Variants\n\n{studies(scores, arguments.arm)}")


if __name__ == "__main__":
    main()
