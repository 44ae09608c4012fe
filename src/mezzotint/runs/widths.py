"""One recipe at several widths: the coordinate check, and learning rates tuned when narrow.

Both train the recipe in muP and, for comparison, in the standard parametrization. Widths are values
of `encoder.width`; heads of the method and of attention grow with it (`optim.mup.method`). The
narrowest width is the base.
"""

import itertools
import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mezzotint.augment.views import ViewContext
from mezzotint.data.loader import BatchPlan, batches
from mezzotint.files import write_json
from mezzotint.optim.mup.coord_check import Row, slopes
from mezzotint.optim.mup.measure import parameters_of, train_and_measure
from mezzotint.optim.mup.method import at_width
from mezzotint.recipe.recipe import Recipe, resolve_recipe
from mezzotint.recipe.schema import RecipeError
from mezzotint.train.loop import pretrain

LIMIT, CONTROL = 0.15, 0.5
PARAMETRIZATIONS = ("mup", "standard")


def at(config: Mapping[str, Any], width: int, base: int | None) -> dict[str, Any]:
    """Return a recipe at another width, in muP if there is a base width.

    Raises:
        RecipeError: where a number of the recipe would not be whole.
    """
    own = config["encoder"].get("width")
    try:
        sections = at_width(config["encoder"], config["method"], width / own if own else 1.0)
    except ValueError as error:
        raise RecipeError(str(error)) from error
    plain = {key: value for key, value in config.items() if key != "mup"}
    scaled = {**plain, "encoder": sections[0], "method": sections[1]}
    return resolve_recipe(scaled if base is None else {**scaled, "mup": {"base_width": base}})


@dataclass(frozen=True)
class CoordinateCheck:
    """Sizes of all outputs at several widths.

    Attributes:
        rows: rows of `train_and_measure` with `width` and `seed`, for `mup` and `standard`.
        widths: the widths.
    """

    rows: Mapping[str, list[Row]]
    widths: Sequence[int]

    def slopes(self, parametrization: str, y: str = "l1") -> dict[tuple[str, int], float]:
        """Slope by module and step, from step 2 on, without cosine matrices."""
        rows = (r for r in self.rows[parametrization] if y in r and ":cosine" not in r["module"])
        return slopes(rows, y)

    def worst(self, parametrization: str) -> tuple[str, int, float]:
        """Module, step and slope of the output that depends most on the width.

        The output of a readout is allowed to shrink: its random start is divided by the width, and
        a BatchNorm that follows undoes it.
        """
        rows = self.rows[parametrization]
        readouts = {row["module"] for row in rows if row.get("readout")}
        found = {
            key: slope
            for key, slope in self.slopes(parametrization).items()
            if slope > 0.0 or key[0] not in readouts
        }
        module, step = max(found, key=lambda key: abs(found[key]))
        return module, step, found[module, step]

    @property
    def passed(self) -> bool:
        """Whether no output in muP depends on the width."""
        return abs(self.worst("mup")[2]) < LIMIT

    @property
    def has_power(self) -> bool:
        """Whether the control fails, in an output or in its change."""
        both = [*self.slopes("standard").values(), *self.slopes("standard", "change").values()]
        return max(map(abs, both)) >= CONTROL

    def verdict(self) -> str:
        """Say in words what was found."""
        module, step, slope = self.worst("mup")
        first = (
            f"Passed: no output depends on the width in muP (largest slope {slope:+.2f}, "
            f"`{module}` at step {step}; the limit is {LIMIT})."
            if self.passed
            else f"Failed: `{module}` has slope {slope:+.2f} at step {step} in muP; the limit is "
            f"{LIMIT}. A large optimizer.lr or a small batch can do this; try half the rate first."
        )
        module, step, slope = self.worst("standard")
        second = (
            f"The control fails, as it must: `{module}` has slope {slope:+.2f} at step {step}."
            if self.has_power
            else "The control does not fail, so the check says little. Raise optimizer.lr."
        )
        return f"{first} {second}"


def check_coordinates(
    config: Mapping[str, Any], widths: Sequence[int], *, seeds: int = 1, steps: int = 4
) -> CoordinateCheck:
    """Train a recipe for a few steps at several widths, and record the size of all outputs.

    Args:
        config: the recipe, checked.
        widths: two or more widths, the base first.
        seeds: repetitions.
        steps: steps on one batch, two or more.

    Raises:
        RecipeError: for a single width, or a recipe that cannot be scaled.
    """
    _require_widths(widths)
    rows: dict[str, list[Row]] = {name: [] for name in PARAMETRIZATIONS}
    for name in PARAMETRIZATIONS:
        for seed in range(seeds):
            for width in widths:
                scaled = at(config, width, widths[0] if name == "mup" else None)
                scaled["run"]["seed"] = seed
                found = _measure(Recipe.build(scaled), steps)
                rows[name] += [{**row, "width": width, "seed": seed} for row in found]
    return CoordinateCheck(rows, widths)


def _measure(recipe: Recipe, steps: int) -> list[Row]:
    device = recipe.run.compute.torch_device()
    plan = BatchPlan.of(recipe.data, recipe.run.batch_size, recipe.run.seed, 0, 1)
    stream = batches(recipe.data, recipe.views, plan, start=0, stop=1, workers=0)
    context = ViewContext(recipe.encoder.input, recipe.run.seed, 0)
    views = recipe.views(next(iter(stream)), context, step=0, progress=0.0, device=device)
    method = recipe.method.to(device)
    optimizer = recipe.optimizer.build(method, recipe.run.batch_size)
    return train_and_measure(method, optimizer, views, steps=steps, seed=recipe.run.seed)


@dataclass(frozen=True)
class RateTransfer:
    """Losses of a grid of learning rates and widths.

    Attributes:
        cells: a row for each run: parametrization, width, rate, seed, loss and curve.
        widths: the widths.
        rates: the learning rates.
        cost: trained parameters of each width, to which the compute of a step is proportional.
    """

    cells: Sequence[Row]
    widths: Sequence[int]
    rates: Sequence[float]
    cost: Mapping[int, int]

    def losses(self, parametrization: str, width: int) -> list[float]:
        """Mean final loss of each rate over seeds; infinite where a run diverged."""
        found = []
        for rate in self.rates:
            values = [
                cell["loss"] for cell in self.cells
                if (cell["parametrization"], cell["width"], cell["rate"])
                == (parametrization, width, rate)
            ]  # fmt: skip
            found.append(sum(values) / len(values))
        return found

    def best(self, parametrization: str, width: int) -> float:
        """The rate of the lowest mean loss."""
        losses = self.losses(parametrization, width)
        return self.rates[losses.index(min(losses))]

    def drift(self, parametrization: str) -> float:
        """How far the best rate moves between widths, as a factor's logarithm to the base 2."""
        best = [math.log2(self.best(parametrization, width)) for width in self.widths]
        return max(best) - min(best)

    def saved(self) -> float:
        """Compute of tuning at the widest width over that of tuning at the narrowest."""
        return self.cost[self.widths[-1]] / self.cost[self.widths[0]]


def transfer_rates(
    config: Mapping[str, Any],
    widths: Sequence[int],
    rates: Sequence[float],
    out: Path,
    *,
    seeds: int = 1,
    say: Callable[[str], None] = print,
) -> RateTransfer:
    """Train a grid of learning rates and widths; cells that are done are not run again.

    Args:
        config: the recipe, checked; its `run.epochs` is the budget of a cell.
        widths: two or more widths, the base first.
        rates: values of `optimizer.lr`.
        out: directory with a file for each cell.
        seeds: repetitions.
        say: called with a line for each cell that is done.
    """
    _require_widths(widths)
    (out / "cells").mkdir(parents=True, exist_ok=True)
    cells, cost = [], {}
    for width in widths:
        cost[width] = parameters_of(Recipe.build(at(config, width, widths[0])).method)
    names = list(itertools.product(PARAMETRIZATIONS, widths, rates, range(seeds)))
    for number, (parametrization, width, rate, seed) in enumerate(names, 1):
        if width == widths[0] and parametrization == "standard":
            continue  # at the base width both are the same
        file = out / "cells" / f"{parametrization}-{width}-{rate:g}-{seed}.json"
        scaled = at(config, width, widths[0] if parametrization == "mup" else None)
        scaled["optimizer"]["lr"], scaled["run"]["seed"] = rate, seed
        cell = _saved(file, scaled)
        if cell is None:
            curve = _train(scaled, out / "run")
            loss = sum(curve[-5:]) / len(curve[-5:]) if curve else math.inf
            cell = {"recipe": scaled, "loss": loss, "curve": curve}
            write_json(file, cell)
            say(f"{number}/{len(names)} {parametrization} width {width} lr {rate:g}: {loss:.4f}")
        facts = {"width": width, "rate": rate, "seed": seed, **cell}
        shared = PARAMETRIZATIONS if width == widths[0] else (parametrization,)
        cells += [{**facts, "parametrization": name} for name in shared]
    return RateTransfer(cells, widths, rates, cost)


def _saved(file: Path, config: Mapping[str, Any]) -> Row | None:
    """A cell that is done, unless it is of another recipe."""
    if not file.is_file():
        return None
    cell: Row = json.loads(file.read_text(encoding="utf-8"))
    if cell["recipe"] != json.loads(json.dumps(config)):
        raise RecipeError(
            f"`{file}` is of another recipe. Choose another --out, or remove the directory."
        )
    return cell


def _train(config: Mapping[str, Any], folder: Path) -> list[float]:
    """Losses of a run, by logged step; empty if it diverged."""
    try:
        pretrain(Recipe.build(config), folder, overwrite=True, progress="quiet")
    except RuntimeError:
        return []
    lines = (folder / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    losses = [json.loads(line).get("loss") for line in lines]
    curve = [float(loss) for loss in losses if loss is not None]
    return curve if all(map(math.isfinite, curve)) else []


def _require_widths(widths: Sequence[int]) -> None:
    if len(set(widths)) < 2 or list(widths) != sorted(widths):
        raise RecipeError(
            f"Widths must be two or more rising numbers, the base first, got {list(widths)}. "
            "Try --widths 64,128,256."
        )
