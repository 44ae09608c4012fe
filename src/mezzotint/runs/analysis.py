"""Which layers of a run's encoder suffer from few bits, and whether outliers are the reason; kept in `layers.json`.

What a run's features tell about the views it was trained on, added to the run's evaluation.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from mezzotint.encoders.saving import load_encoder
from mezzotint.evaluation.calibration import by_fold
from mezzotint.evaluation.features import Reading
from mezzotint.evaluation.invariance import invariances, with_invariances
from mezzotint.evaluation.measurement import Measurement
from mezzotint.evaluation.probe import Row
from mezzotint.evaluation.ptq import calibrated_copy
from mezzotint.evaluation.results import (
    Baselines,
    Evaluation,
    read_baselines,
    read_evaluation,
    write_evaluation,
)
from mezzotint.files import write_json
from mezzotint.quant.bitwidth import Bits
from mezzotint.quant.sensitivity import (
    Distribution,
    LayerSensitivity,
    distributions,
    layer_sensitivity,
)
from mezzotint.recipe.recipe import Recipe

_SAMPLES = 256
"""Where no number is asked for, at most."""

_SHAPED = 32
"""Samples for the shapes of distributions: what enters a layer is held in memory."""


@dataclass(frozen=True)
class Layers:
    """What was found.

    Attributes:
        bits: bit-widths at which the layers were quantized, one at a time.
        how: policy, ranges and calibration.
        sensitivity: the most sensitive first.
        distributions: the largest kurtosis first.
    """

    bits: Bits
    how: str
    sensitivity: Sequence[LayerSensitivity]
    distributions: Sequence[Distribution]

    def as_json(self) -> dict[str, Any]:
        """Plain data, as `layers.json` holds it."""
        return asdict(self) | {"bits": str(self.bits)}


def measure_layers(
    run: str | Path,
    bits: Bits = Bits(4, 4),
    *,
    policy: str | None = None,
    samples: int | None = None,
) -> Layers:
    """Quantize one layer at a time, look at weights and inputs of each, and write `layers.json`.

    Args:
        run: a directory that `pretrain` wrote.
        bits: bit-widths of the layer that is quantized; 32 leaves one side out.
        policy: which layers; by default the encoder's own when it is quantizable already, else
            `ssql`.
        samples: of the training data, for ranges and figures alike; `None` for 256, or all if there
            are fewer; see `evaluate.calibration`.

    Raises:
        ValueError: when the directory is not a finished run, or what is asked for does not exist.
    """
    if bits.is_float:
        raise ValueError("`--bits` must quantize weights or activations, got fp32. Try W4A4.")
    folder, encoder, recipe = Path(run), load_encoder(run), Recipe.load(run)
    reading = Reading(_SHAPED, recipe.run.loader.processes(recipe.data))
    measurement = Measurement(encoder, recipe.data, reading)
    tasks = by_fold(measurement.tasks)[0]
    batches = measurement.calibration(tasks, samples, most=_SAMPLES, option="--samples")
    calibrated = calibrated_copy(encoder, batches, policy=policy)
    calibrated.require([bits])
    found = Layers(
        bits,
        str(calibrated.ptq),
        layer_sensitivity(calibrated.network, batches, bits),
        distributions(calibrated.network, batches[:1]),
    )
    write_json(folder / "layers.json", found.as_json())
    return found


def measure_invariances(
    run: str | Path, overrides: Sequence[str] = (), *, samples: int = 2000, seeds: int = 3
) -> tuple[list[Row], Baselines]:
    """Measure how well each drawn parameter can be predicted, and write it into `evaluation.json` and `baselines.json`.

    Args:
        run: a directory that `pretrain` wrote.
        overrides: of the recipe, such as `views.flip=0.5` to ask about other views than it was
            trained on.
        samples: how many samples.
        seeds: repeats.

    Raises:
        ValueError: when the directory is not a finished run, or there is nothing to predict.
    """
    folder, encoder = Path(run), load_encoder(run)
    recipe = Recipe.load(folder, overrides)
    found = invariances(
        encoder,
        recipe.data,
        recipe.views,
        untrained=recipe.untrained_encoder,
        samples=samples,
        seeds=seeds,
    )
    before = read_evaluation(folder) if (folder / "evaluation.json").is_file() else []
    evaluation, beside = with_invariances(Evaluation(before, ""), read_baselines(folder), found)
    write_evaluation(folder, evaluation, beside)
    return found
