"""Whether a measure without labels could choose the strength of views: rank correlations.

    python benchmarks/quality_strength.py benchmarks/results/quality_cells.jsonl

Cells of `quality.py` that differ in `views.strength` alone are compared in pairs, within a set.
Kendall's τ of a set is the mean over its pairs of +1 where the measure and the probe agree on
the better one and −1 where they do not. The gain is the probe at the strength that the measure
chooses, minus the probe at strength 1. ± is half of Student's 95 % interval over sets.
"""

import argparse
import itertools
import statistics
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from quality import Cell, cells, mean_scores

from mezzotint.evaluation.results import student

KEY = "views.strength="
Measure = Callable[[Mapping[str, float]], float]
MEASURES: dict[str, Measure] = {
    "RankMe": lambda found: found["rankme"],
    "α of the spectrum, smaller": lambda found: -found["alpha"],
    "uniformity": lambda found: -found["uniformity"],
    "other view found, views at strength 0.25": lambda found: found["match 0.25"],
    "other view found, views at strength 0.5": lambda found: found["match 0.5"],
    "other view found, views at strength 1": lambda found: found["match 1"],
    "alignment + uniformity, views at strength 0.5": lambda found: (
        -found["alignment 0.5"] - found["uniformity"]
    ),
    "alignment + uniformity, views at strength 1": lambda found: (
        -found["alignment 1"] - found["uniformity"]
    ),
}
"""Measures that should be larger for better features."""


def strength_of(cell: Cell) -> float | None:
    """Return the strength of a cell; `None` if it differs from the recipe in anything else."""
    if "label_free" not in cell or cell["arm"].startswith("untrained"):
        return None
    overrides = cell["overrides"]
    if not overrides:
        return 1.0
    alone = len(overrides) == 1 and overrides[0].startswith(KEY)
    return float(overrides[0].removeprefix(KEY)) if alone else None


def by_set(found: Sequence[Cell], minutes: float) -> dict[str, dict[float, Cell]]:
    """Return the cells of seed 0 by set and strength, of sets with two strengths or more."""
    sets: dict[str, dict[float, Cell]] = {}
    for cell in found:
        strength = strength_of(cell)
        if strength is not None and (cell["seed"], cell["minutes"]) == (0, minutes):
            sets.setdefault(cell["set"], {})[strength] = cell
    return {name: own for name, own in sets.items() if len(own) > 1 and 1.0 in own}


def value(cell: Cell, probe: str) -> float:
    """Return a probe's value, or the mean of both."""
    means = mean_scores(cell)
    return statistics.fmean(means.values()) if probe == "both" else means[probe]


def tau(own: Mapping[float, Cell], measure: Measure, probe: str) -> float:
    """Return Kendall's τ between a measure and a probe over the strengths of a set."""
    signs = []
    for a, b in itertools.combinations(own.values(), 2):
        better = measure(a["label_free"]) - measure(b["label_free"])
        product = better * (value(a, probe) - value(b, probe))
        signs.append((product > 0) - (product < 0))
    return statistics.fmean(signs)


def spread(values: Sequence[float]) -> str:
    return f"{statistics.fmean(values):+.3f} ± {student(values):.3f}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("cells")
    parser.add_argument("--minutes-cpu", type=float, default=0.25)
    arguments = parser.parse_args()
    sets = by_set(cells(Path(arguments.cells)), arguments.minutes_cpu)
    strengths = sorted({strength for own in sets.values() for strength in own})
    print("| set | " + " | ".join(f"{s:g}" for s in strengths) + " |")
    print("|---|" + "---|" * len(strengths))
    for name, own in sets.items():
        row = [
            f"{value(own[s], 'knn'):.3f} / {value(own[s], 'linear'):.3f}" if s in own else ""
            for s in strengths
        ]
        print(f"| {name} | " + " | ".join(row) + " |")
    pairs = sum(len(own) * (len(own) - 1) // 2 for own in sets.values())
    print(f"\n{len(sets)} sets, {pairs} pairs.\n\n| chosen by | τ, kNN | τ, linear | gain, mean |")
    print("|---|---|---|---|")
    for name, of in MEASURES.items():
        gains = []
        for own in sets.values():
            best = max(own, key={s: of(own[s]["label_free"]) for s in own}.__getitem__)
            gains.append(value(own[best], "both") - value(own[1.0], "both"))
        found = [
            spread([tau(own, of, probe) for own in sets.values()]) for probe in ("knn", "linear")
        ]
        print(f"| {name} | {' | '.join(found)} | {spread(gains)} |")


if __name__ == "__main__":
    main()
