"""Choose how strong the views of a run are, without labels, from short trials.

Each candidate trains the recipe's encoder from the same weights for the same number of steps. The
strength is taken whose encoder spreads samples most evenly over the unit sphere (uniformity, Wang
and Isola 2020, arXiv 2005.10242, eq. 3): where views are so strong that they could be of many
samples, the encoder leaves samples close together. A measure on views would favor the strength of
these views.

How well the choice agrees with probes is measured in `benchmarks/results/quality.md`. The number
replaces `auto` in the recipe, so that the run resumes and repeats without trials.
"""

import copy
import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch

from mezzotint.data.loader import BatchPlan, batches
from mezzotint.data.source import Source
from mezzotint.evaluation.features import extract_readable
from mezzotint.evaluation.label_free import uniformity
from mezzotint.recipe.reading import apply_overrides
from mezzotint.recipe.recipe import Plan, Recipe
from mezzotint.recipe.schema import RecipeError
from mezzotint.train.budget import measure
from mezzotint.train.log import Meter
from mezzotint.train.loop import Trainer

STRENGTHS = (0.25, 0.5, 1.0, 2.0)
_SAMPLES = 1024
_LEAST_STEPS = 20


@dataclass(frozen=True)
class ChosenStrength:
    """A recipe with the strength that was chosen.

    Attributes:
        plan: the recipe, with the strength as a plain number.
        strength: the number.
        measured: uniformity of the features after the trial of each strength; smaller is better.
        steps: of each trial.
    """

    plan: Plan
    strength: float
    measured: Mapping[float, float]
    steps: int

    def line(self) -> str:
        """Say what was chosen, and why."""
        found = ", ".join(f"{value:.2f} at {key:g}" for key, value in self.measured.items())
        return (
            f"views.strength={self.strength:g}, from trials of {self.steps} steps; uniformity of "
            f"the features: {found} (smaller is better)"
        )


def with_strength(plan: Plan, seconds: float) -> ChosenStrength:
    """Replace a recipe's strength by the best of `STRENGTHS`.

    Args:
        plan: a recipe without phases, whose views have a strength.
        seconds: for all trials together.

    Raises:
        RecipeError: for a recipe with phases, or whose views have no strength.
    """
    if len(plan.phases) != 1 or "strength" not in plan.phases[0].config["views"]:
        what = "phases" if len(plan.phases) != 1 else "views without a strength"
        raise RecipeError(
            f"`views.strength` can be auto in a recipe without phases whose views are two_views or "
            f"transformed, and this one has {what}. Leave it out."
        )
    plans = [_at(plan, strength) for strength in STRENGTHS]
    first = Recipe.build(plans[0].phases[0].config)
    source = first.data
    batch = min(first.run.batch_size, BatchPlan.samples_of(source))
    steps = int(seconds / (len(STRENGTHS) * measure(first) * batch))
    steps = max(_LEAST_STEPS, min(steps, _total(first)))
    measured = {
        strength: trial(Recipe.build(own.phases[0].config, source), steps)
        for strength, own in zip(STRENGTHS, plans, strict=True)
    }
    best = min(STRENGTHS, key=measured.__getitem__)
    return ChosenStrength(plans[STRENGTHS.index(best)], best, measured, steps)


def trial(recipe: Recipe, steps: int) -> float:
    """Train for some steps, and return the uniformity of the features of at most 1,024 samples."""
    recipe.run = copy.copy(recipe.run)
    plan = BatchPlan.of(recipe.data, min(recipe.run.batch_size, len(recipe.data)), 0, 0, 1)
    recipe.run.epochs = math.ceil(steps / plan.steps_per_epoch)
    device = recipe.run.compute.torch_device()
    trainer = Trainer(recipe, device)
    trainer.total = steps  # the schedule ends with the trial
    loader = recipe.run.loader
    stream = batches(
        recipe.data, recipe.views, trainer.plan, start=0, stop=steps,
        workers=loader.processes(recipe.data), on_unreadable=loader.on_unreadable,
        pin_memory=device.type == "cuda", timeout_s=loader.timeout_seconds,
    )  # fmt: skip
    for step, batch in enumerate(stream):
        trainer.step(step, batch, Meter())
    return _uniformity(recipe, recipe.data)


def _uniformity(recipe: Recipe, source: Source) -> float:
    count = min(len(source), _SAMPLES)
    indices = torch.linspace(0, len(source) - 1, count).long()
    return uniformity(extract_readable(recipe.encoder, source, indices=indices).x)


def _total(recipe: Recipe) -> int:
    samples = BatchPlan.samples_of(recipe.data)
    return recipe.run.epochs * max(1, samples // recipe.run.batch_size)


def _at(plan: Plan, strength: float) -> Plan:
    return Plan.of(apply_overrides(copy.deepcopy(dict(plan.raw)), [f"views.strength={strength:g}"]))
