"""One recipe at several widths: the coordinate check, and learning rates tuned when narrow.

Both train the recipe in muP and, for comparison, in the standard parametrization. Widths are values
of `encoder.width`; heads of the method and of attention grow with it (`optim.mup.method`). The
narrowest width is the base. The coordinate check also takes depths, values of `encoder.depth`.
"""

import itertools
import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from torch import nn

from mezzotint.augment.views import ViewContext
from mezzotint.data.loader import BatchPlan, batches
from mezzotint.files import read_json, write_json
from mezzotint.optim.mup.coord_check import Row, slopes
from mezzotint.optim.mup.measure import parameters_of, train_and_measure
from mezzotint.optim.mup.method import at_width
from mezzotint.recipe.recipe import Recipe, resolve_recipe
from mezzotint.recipe.schema import RecipeError
from mezzotint.train.guard import NotFinite
from mezzotint.train.log import read_metrics
from mezzotint.train.loop import pretrain

LIMIT, CHANGE_LIMIT, CONTROL = 0.15, 0.4, 0.5
"""Slopes. Rates that are wrong by √m or m give changes 0.5 or 1; small widths alone up to 0.4."""
TOKENS = 0.25
"""Tokens over channels, up to which Muon's changes are those of any larger width."""
PARAMETRIZATIONS = ("mup", "standard")
Axis = Literal["width", "depth"]


def at(config: Mapping[str, Any], width: int, base: int | None) -> dict[str, Any]:
    """Return a recipe at another width, in muP if there is a base width.

    Raises:
        RecipeError: where a number of the recipe would not be whole.
    """
    own, stated = config["encoder"].get("width"), config.get("mup") or {}
    try:
        sections = at_width(
            config["encoder"],
            config["method"],
            width / own if own else 1.0,
            stated.get("attention", "more_heads"),
        )
    except ValueError as error:
        raise RecipeError(str(error)) from error
    plain = {key: value for key, value in config.items() if key != "mup"}
    scaled = {**plain, "encoder": sections[0], "method": sections[1]}
    return resolve_recipe(
        scaled if base is None else {**scaled, "mup": {**stated, "base_width": base}}
    )


def at_depth(config: Mapping[str, Any], depth: int, base: int | None) -> dict[str, Any]:
    """Return a recipe at another depth, with scaled residual branches if there is a base depth.

    Raises:
        RecipeError: for an encoder without `depth` or `width`.
    """
    encoder = config["encoder"]
    missing = next((key for key in ("depth", "width") if encoder.get(key) is None), None)
    if missing:
        raise RecipeError(
            f"`encoder.kind: {encoder.get('kind')}` has no `{missing}` that muP could scale. "
            "Choose vit or domain_agnostic, or check widths: --widths 64,128,256."
        )
    stated = config.get("mup") or {"base_width": encoder["width"]}
    made = {**config, "encoder": {**encoder, "depth": depth}}
    return resolve_recipe({**made, "mup": {**stated, "base_depth": base}})


@dataclass(frozen=True)
class CoordinateCheck:
    """Sizes of all outputs at several widths or depths.

    Attributes:
        rows: rows of `train_and_measure` with `seed` and the width or depth, for `mup` and
            `standard`.
        sizes: the widths or depths.
        axis: which of the two they are.
    """

    rows: Mapping[str, list[Row]]
    sizes: Sequence[int]
    axis: Axis = "width"

    def slopes(self, parametrization: str, y: str = "l1") -> dict[tuple[str, int], float]:
        """Slope by module and step, from step 2 on, without cosine matrices."""
        rows = (r for r in self.rows[parametrization] if y in r and ":cosine" not in r["module"])
        return slopes(rows, y, x=self.axis)

    def worst(self, parametrization: str, y: str = "l1") -> tuple[str, int, float]:
        """Module, step and slope of the output that depends most on the width.

        The output of a readout is allowed to shrink: its random start is divided by the width, and
        a BatchNorm that follows undoes it.
        """
        rows = self.rows[parametrization]
        readouts = {row["module"] for row in rows if row.get("readout")}
        found = {
            key: slope
            for key, slope in self.slopes(parametrization, y).items()
            if slope > 0.0 or key[0] not in readouts
        }
        module, step = max(found, key=lambda key: abs(found[key]), default=("", 0))
        return module, step, found.get((module, step), 0.0)

    def failures(self) -> dict[str, str]:
        """Say by statistic what depends on the width in muP: outputs, or how far they move."""
        found = {}
        for y, what, limit in (("l1", "", LIMIT), ("change", "the change of ", CHANGE_LIMIT)):
            module, step, slope = self.worst("mup", y)
            text = f"{what}`{module}` has slope {slope:+.2f} at step {step} in muP"
            if abs(slope) >= limit:
                found[y] = f"{text}; the limit is {limit}"
        return found

    @property
    def passed(self) -> bool:
        """Whether no output in muP depends on the width, nor how far training moves it."""
        return not self.failures()

    def many_tokens(self) -> str:
        """Say where Muon meets too many tokens for the narrowest width; empty if nowhere."""
        narrow = (r for r in self.rows["mup"] if r.get("width") == min(self.sizes))
        ratios = [(row["tokens"] / row["channels"], row) for row in narrow if row.get("channels")]
        most, row = max(ratios, key=lambda pair: pair[0], default=(0.0, {}))
        if most <= TOKENS:
            return ""
        return (
            f"`{row['module']}` has {row['channels']} channels at width {row['width']} and meets "
            f"{row['tokens']} tokens (positions of all samples and views). Muon's changes grow "
            "while the width passes the number of tokens, by up to √2 in each layer. Take at most "
            "a quarter as many tokens as channels: a smaller run.batch_size, or smaller inputs."
        )

    @property
    def has_power(self) -> bool:
        """Whether the control fails, in an output or in its change."""
        both = [*self.slopes("standard").values(), *self.slopes("standard", "change").values()]
        return max(map(abs, both)) >= CONTROL

    def verdict(self) -> str:
        """Say in words what was found."""
        failures = self.failures()
        if failures:
            reason = (self.many_tokens() if "change" in failures else "") or (
                "A large optimizer.lr or a small batch can do this; try half the rate first."
            )
            first = f"Failed: {', and '.join(failures.values())}. {reason}"
        else:
            module, step, slope = self.worst("mup")
            first = (
                f"Passed: no output depends on the {self.axis} in muP (largest slope {slope:+.2f}, "
                f"`{module}` at step {step}; the limit is {LIMIT})."
            )
        ways = {y: self.worst("standard", y) for y in ("l1", "change")}
        y = max(ways, key=lambda y: abs(ways[y][2]))
        what, (module, step, slope) = {"l1": "output", "change": "change of output"}[y], ways[y]
        second = (
            f"The control fails, as it must: the {what} of `{module}` has slope {slope:+.2f} at "
            f"step {step}."
            if self.has_power
            else "The control does not fail, so the check says little. Raise optimizer.lr."
        )
        return f"{first} {second}"


def check_coordinates(
    config: Mapping[str, Any],
    sizes: Sequence[int],
    *,
    axis: Axis = "width",
    seeds: int = 1,
    steps: int = 4,
) -> CoordinateCheck:
    """Train a recipe for a few steps at several widths or depths; record the size of all outputs.

    Args:
        config: the recipe, checked.
        sizes: two or more widths or depths, the base first.
        axis: which of the two they are. Of depths, outputs within residual branches are left out,
            because they are divided by the depth on purpose.
        seeds: repetitions.
        steps: steps on one batch, two or more.

    Raises:
        RecipeError: for a single width, or a recipe that cannot be scaled.
    """
    _require_sizes(sizes, axis)
    rows: dict[str, list[Row]] = {name: [] for name in PARAMETRIZATIONS}
    scale = {"width": at, "depth": at_depth}[axis]
    for name in PARAMETRIZATIONS:
        for seed in range(seeds):
            for size in sizes:
                scaled = scale(config, size, sizes[0] if name == "mup" else None)
                scaled["run"]["seed"] = seed
                recipe = Recipe.build(scaled)
                found = _measure(recipe, steps)
                if axis == "depth":
                    found = _outside_branches(recipe.method, found)
                rows[name] += [{**row, axis: size, "seed": seed} for row in found]
    return CoordinateCheck(rows, sizes, axis)


def _measure(recipe: Recipe, steps: int) -> list[Row]:
    device = recipe.run.compute.torch_device()
    plan = BatchPlan.of(recipe.data, recipe.run.batch_size, recipe.run.seed, 0, 1)
    stream = batches(recipe.data, recipe.views, plan, start=0, stop=1, workers=0)
    context = ViewContext(recipe.encoder.input, recipe.run.seed, 0)
    views = recipe.views(next(iter(stream)), context, step=0, progress=0.0, device=device)
    method = recipe.method.to(device)
    optimizer = recipe.optimizer.build(method, recipe.run.batch_size)
    return train_and_measure(method, optimizer, views, steps=steps, seed=recipe.run.seed)


def _outside_branches(method: nn.Module, rows: Sequence[Row]) -> list[Row]:
    """Rows of what is outside of residual blocks, and of the last block's sum as `….last`."""
    blocks = [name for name, part in method.named_modules() if hasattr(part, "residual_ends")]
    last = {name.rpartition(".")[0]: name for name in blocks}
    inside = tuple(f"{name}." for name in blocks)
    found = []
    for row in rows:
        name = row["module"]
        if name in last.values():
            found.append({**row, "module": f"{name.rpartition('.')[0]}.last"})
        elif "weight" in row or (name not in blocks and not name.startswith(inside)):
            found.append(row)
    return found


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

    def at_edge(self, parametrization: str = "mup") -> list[int]:
        """Widths whose best rate is the smallest or the largest of the grid."""
        ends = {min(self.rates), max(self.rates)}
        return [width for width in self.widths if self.best(parametrization, width) in ends]

    def curve(self, parametrization: str, width: int, rate: float) -> list[float]:
        """Training curve of a width at a rate: means over seeds, step by step."""
        key = (parametrization, width, rate)
        curves = [
            cell["curve"] for cell in self.cells
            if (cell["parametrization"], cell["width"], cell["rate"]) == key
        ]  # fmt: skip
        return [sum(values) / len(values) for values in zip(*curves, strict=False)]

    def worse_when_wider(self, parametrization: str = "mup") -> list[tuple[int, int]]:
        """Where wider was worse, at the best rate of the narrowest: (width, tenth of training).

        A width is compared with the next narrower one, by the mean loss of each tenth.
        """
        rate = self.best(parametrization, self.widths[0])
        tenths = {w: _tenths(self.curve(parametrization, w, rate)) for w in self.widths}
        return [
            (wide, number)
            for narrow, wide in itertools.pairwise(self.widths)
            for number, (before, now) in enumerate(zip(tenths[narrow], tenths[wide], strict=True))
            if not now <= before
        ]

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
    _require_sizes(widths, "width")
    rates = sorted(set(rates))
    (out / "cells").mkdir(parents=True, exist_ok=True)
    cells, cost = [], {}
    for width in widths:
        cost[width] = parameters_of(Recipe.build(at(config, width, widths[0])).method)
    names = [
        name for name in itertools.product(range(seeds), PARAMETRIZATIONS, widths, rates)
        if name[1] == "mup" or name[2] != widths[0]  # at the base width both are the same
    ]  # fmt: skip
    for number, (seed, parametrization, width, rate) in enumerate(names, 1):
        file = out / "cells" / f"{parametrization}-{width}-{rate:g}-{seed}.json"
        scaled = at(config, width, widths[0] if parametrization == "mup" else None)
        scaled["optimizer"]["lr"], scaled["run"]["seed"] = rate, seed
        cell = _saved(file, scaled)
        if cell is None:
            curve = _train(scaled, out / "run")
            cell = {"recipe": scaled, "curve": curve}
            write_json(file, cell, sealed=True)
            said = f"{parametrization} width {width} lr {rate:g} seed {seed}"
            say(f"{number}/{len(names)} {said}: {final_loss(curve):.4f}")
        loss = final_loss(cell["curve"])  # infinite where a run diverged, which JSON cannot hold
        facts = {"width": width, "rate": rate, "seed": seed, "loss": loss, **cell}
        shared = PARAMETRIZATIONS if width == widths[0] else (parametrization,)
        cells += [{**facts, "parametrization": name} for name in shared]
    return RateTransfer(cells, widths, rates, cost)


def _saved(file: Path, config: Mapping[str, Any]) -> Row | None:
    """A cell that is done, unless it is of another recipe."""
    if not file.is_file():
        return None
    cell: Row = read_json(file)
    if cell["recipe"] != json.loads(json.dumps(config)):
        raise RecipeError(
            f"`{file}` is of another recipe. Choose another --out, or remove the directory."
        )
    return cell


def _train(config: Mapping[str, Any], folder: Path) -> list[float]:
    """Losses of a run, by logged step; empty if it diverged."""
    try:
        pretrain(Recipe.build(config), folder, overwrite=True, progress="quiet")
    except NotFinite:
        return []
    losses = [line.get("loss") for line in read_metrics(folder / "metrics.jsonl")]
    curve = [float(loss) for loss in losses if loss is not None]
    return curve if all(map(math.isfinite, curve)) else []


def final_loss(curve: Sequence[float]) -> float:
    """Mean of the last tenth of a curve, at least five values; infinite if the run diverged."""
    last = curve[-max(5, len(curve) // 10) :]
    return sum(last) / len(last) if last else math.inf


def _tenths(curve: Sequence[float]) -> list[float]:
    """Means over the tenths of a curve; infinite ones if the run diverged."""
    if not curve:
        return [math.inf] * 10
    ends = [round(len(curve) * i / 10) for i in range(11)]
    parts = [curve[a : max(b, a + 1)] or curve[-1:] for a, b in itertools.pairwise(ends)]
    return [sum(part) / len(part) for part in parts]


def _require_sizes(sizes: Sequence[int], axis: Axis) -> None:
    if len(sizes) < 2 or list(sizes) != sorted(set(sizes)):
        raise RecipeError(
            f"{axis.capitalize()}s must be two or more rising numbers, the base first, got "
            f"{list(sizes)}. Try --{axis}s {'64,128,256' if axis == 'width' else '2,4,8'}."
        )
