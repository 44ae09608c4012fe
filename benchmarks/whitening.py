"""kNN and the linear probe with and without whitened features, on many sets of real data.

Each cell trains the default recipe of a set's modality for the same processor time as in
`quality.py`, and measures its features, those of the untrained encoder, and hand-made ones: as they
are, centered, and whitened by the training samples with several values of shrinkage.

    python benchmarks/whitening.py --sets emoji,glyphs --seconds 20 --out whitening.jsonl
"""

import argparse
import json
import statistics
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import torch
from quality import Bench, _steps, cells, commit
from quality_data import SETS

from mezzotint.evaluation.features import Extraction, Whitening
from mezzotint.evaluation.knn import KNN
from mezzotint.evaluation.linear import Linear
from mezzotint.evaluation.measurement import Measurement
from mezzotint.evaluation.results import student
from mezzotint.evaluation.suite import measure
from mezzotint.train.loop import Trainer

_SHRINKAGES = (3.0, 1.0, 0.3, 0.1)
_ARMS = ("handmade", "untrained", "trained")


def scores(bench: Bench, measurement: Measurement, found: Extraction) -> dict[str, float]:
    """Return top-1, the mean over the set's tasks, by probe and treatment of the features."""
    tasks = measurement.tasks
    train = torch.from_numpy(np.unique(np.concatenate([task.train for task in tasks])))
    fitted = found.of(train[torch.isin(train, found.indices)]).x
    treated = {
        "": found.x,
        "centered": found.x - fitted.mean(dim=0),
        **{f"{s:g}": Whitening.fit(fitted, s)(found.x) for s in _SHRINKAGES},
    }
    result = {}
    for name, x in treated.items():
        rows = bench.scores(measure(Extraction(x, found.indices), tasks, (KNN(), Linear()), 1))
        for probe in ("knn", "linear"):
            values = [value for key, value in rows.items() if key.startswith(f"{probe} ")]
            result[f"{probe} {name}".strip()] = round(statistics.fmean(values), 4)
    return result


def run(bench: Bench, arm: str, seed: int, seconds: float) -> dict[str, float]:
    """Measure one arm of a set."""
    if arm == "trained":
        recipe = bench.fitted([], seed, seconds)
        trainer = Trainer(recipe, torch.device("cpu"))
        _steps(recipe, trainer, trainer.total)
    else:
        recipe = bench.recipe([], seed)
    measurement = Measurement(recipe.encoder, bench.source)
    found = measurement.handmade if arm == "handmade" else measurement.features
    return {} if found is None else scores(bench, measurement, found)


def table(done: list[dict[str, Any]]) -> None:
    """Print what each treatment gains over features as they are, in the mean over sets."""
    print(f"| features | probe | as they are | centered | {' | '.join(map(str, _SHRINKAGES))} |")
    print("|" + "---|" * (4 + len(_SHRINKAGES)))
    for arm in _ARMS:
        for probe in ("knn", "linear"):
            own = [cell["scores"] for cell in done if cell["arm"] == arm and cell["scores"]]
            plain = statistics.fmean(found[probe] for found in own)
            gains = []
            for name in ("centered", *(f"{s:g}" for s in _SHRINKAGES)):
                gain = [found[f"{probe} {name}"] - found[probe] for found in own]
                mean, half = statistics.fmean(gain), student(gain)
                text = f"{mean:+.3f} ± {half:.3f}"
                gains.append(f"**{text}**" if abs(mean) > half else text)
            print(f"| {arm} | {probe} | {plain:.3f} | {' | '.join(gains)} |")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sets", default="emoji,glyphs,icons,photos,furniture,speech,notes")
    parser.add_argument("--seconds", type=float, default=20.0)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", default="whitening.jsonl")
    parser.add_argument("--cache", default="quality-data")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    out = Path(arguments.out)
    known = {(cell["set"], cell["arm"]) for cell in cells(out)}
    for name in (name for name in arguments.sets.split(",") if name in SETS):
        bench = Bench(name, Path(arguments.cache))
        for arm in _ARMS:
            if (name, arm) not in known:
                found = run(bench, arm, arguments.seed, arguments.seconds)
                cell = {"set": name, "arm": arm, "scores": found, "commit": commit()}
                with out.open("a", encoding="utf-8") as file:
                    file.write(json.dumps(cell) + "\n")
                print(name, arm, found, flush=True)
    table(cells(out))


if __name__ == "__main__":
    main()
