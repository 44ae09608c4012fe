import json
import statistics
from collections.abc import Callable

import pytest

from mezzotint.recipe.recipe import Plan, Recipe, read_plan
from mezzotint.recipe.schema import RecipeError
from mezzotint.train import strength as module
from mezzotint.train.strength import STRENGTHS, trial, with_strength
from tests import ROOT

DIGITS = [
    "data={kind: embedded_images, name: digits}",
    "encoder={kind: resnet8, stem: patch, width: 2}",
    "method={kind: simclr, hidden_dim: 8, dim: 8}",
    "run.batch_size=16",
    "run.epochs=1",
]
CELLS = ROOT / "benchmarks/results/quality_cells.jsonl"


def plan(*overrides: str) -> Plan:
    return read_plan("image/folder_simclr", [*DIGITS, *overrides])


def measured_as(*values: float) -> Callable[..., float]:
    left = iter(values)
    return lambda recipe, steps: next(left)


def test_the_strength_of_the_most_uniform_features_is_a_number_in_the_recipe(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(module, "measure", lambda recipe: 1.0)
    monkeypatch.setattr(module, "trial", measured_as(-1.0, -1.5, -1.2, -0.5))
    choice = with_strength(plan(), 1.0)
    assert choice.strength == 0.5 and choice.measured[0.5] == -1.5
    assert choice.plan.phases[0].config["views"]["strength"] == 0.5
    assert choice.plan.raw["views"]["strength"] == 0.5
    rest = {**choice.plan.phases[0].config["views"], "strength": 1.0}
    assert rest == plan().phases[0].config["views"]
    assert choice.line().startswith("views.strength=0.5, from trials of 20 steps; uniformity")


@pytest.mark.parametrize(("seconds", "steps"), [(0.0, 20), (40 * 4 * 16.0, 40), (1e9, 112)])
def test_trials_fit_the_time_and_are_no_longer_than_the_run(
    seconds: float, steps: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[int] = []

    def counted(recipe: Recipe, count: int) -> float:
        seen.append(count)
        return 0.0

    monkeypatch.setattr(module, "measure", lambda recipe: 1.0)
    monkeypatch.setattr(module, "trial", counted)
    with_strength(plan(), seconds)
    assert seen == [steps] * len(STRENGTHS)


def test_a_trial_trains_and_repeats() -> None:
    first = trial(Recipe.build(plan().phases[0].config), 3)
    assert first < 0.0 and first == trial(Recipe.build(plan().phases[0].config), 3)
    assert first != trial(Recipe.build(plan("views.strength=0.25").phases[0].config), 3)


@pytest.mark.parametrize(
    ("name", "overrides", "why"),
    [
        ("image/emoji_bridle", [], "has phases"),
        ("image/folder_simclr", [*DIGITS, "views={kind: one_view}"], "without a strength"),
    ],
)
def test_recipes_that_have_no_single_strength_are_refused(
    name: str, overrides: list[str], why: str
) -> None:
    with pytest.raises(RecipeError, match=f"^`views.strength` can be auto .*{why}. Leave it out"):
        with_strength(read_plan(name, overrides), 1.0)


def test_over_the_measured_sets_the_choice_is_better_than_any_strength_at_random() -> None:
    sets: dict[str, dict[float, tuple[float, float]]] = {}
    for line in CELLS.read_text(encoding="utf-8").splitlines():
        cell = json.loads(line)
        overrides = cell["overrides"]
        is_trial = cell["arm"] == "ours" or (
            len(overrides) == 1 and overrides[0].startswith("views.strength=")
        )
        if is_trial and cell["seed"] == 0 and cell["minutes"] == 0.25:
            scores = [v for key, v in cell["scores"].items() if key.startswith("knn ")]
            strength = float(overrides[0].partition("=")[2]) if overrides else 1.0
            found = cell["label_free"]["uniformity"], statistics.fmean(scores)
            sets.setdefault(cell["set"], {})[strength] = found
    sets = {name: own for name, own in sets.items() if len(own) > 1}
    assert len(sets) >= 8
    gains = [
        min(own.values())[1] - statistics.fmean(v for _, v in own.values()) for own in sets.values()
    ]
    assert statistics.fmean(gains) > 0.0
