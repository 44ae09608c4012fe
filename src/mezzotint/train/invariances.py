"""What a run's features tell about the views it was trained on, added to the run's evaluation."""

from collections.abc import Sequence
from pathlib import Path

from mezzotint.encoders.saving import load_encoder
from mezzotint.evaluate.evaluator import Row
from mezzotint.evaluate.invariance import invariances, with_invariances
from mezzotint.evaluate.results import Baselines, Evaluation, read_baselines, read_evaluation, write_evaluation
from mezzotint.train.recipe import Recipe


def measure_invariances(
    run: str | Path, overrides: Sequence[str] = (), *, samples: int = 2000, seeds: int = 3
) -> tuple[list[Row], Baselines]:
    """Measure how well each drawn parameter can be predicted, and write it into `evaluation.json` and `baselines.json`.

    Args:
        run: a directory that `pretrain` wrote.
        overrides: of the recipe, such as `views.flip=0.5` to ask about other views than it was trained on.
        samples: how many samples.
        seeds: repeats.

    Raises:
        ValueError: when the directory is not a finished run, or there is nothing to predict.
    """
    folder, encoder = Path(run), load_encoder(run)
    recipe = Recipe.load(folder, overrides)
    found = invariances(
        encoder, recipe.data, recipe.views, untrained=recipe.untrained_encoder, samples=samples, seeds=seeds
    )
    before = read_evaluation(folder) if (folder / "evaluation.json").is_file() else []
    evaluation, beside = with_invariances(Evaluation(before, ""), read_baselines(folder), found)
    write_evaluation(folder, evaluation, beside)
    return found
