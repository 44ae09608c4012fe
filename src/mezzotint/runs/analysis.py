"""Further measurements of a run: the sensitivity of its layers to low bits, and its invariances.

`measure_layers` writes `layers.json`; `measure_invariances` adds rows to the run's evaluation.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from mezzotint.encoders.saving import load_encoder
from mezzotint.evaluation import progress
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
from mezzotint.runs.subject import data_of, subject, views_of

_SAMPLES = 256
"""Largest number of samples by default."""

_BATCH_SIZE = 32
"""Also the samples for distributions: the inputs of a layer are kept in memory."""


@dataclass(frozen=True)
class Layers:
    """Sensitivity and distributions of an encoder's layers.

    Attributes:
        bits: bits of the layer that was quantized, one at a time.
        how: policy, ranges and calibration.
        sensitivity: layers, the most sensitive first.
        distributions: weights and inputs, the largest kurtosis first.
    """

    bits: Bits
    how: str
    sensitivity: Sequence[LayerSensitivity]
    distributions: Sequence[Distribution]

    def as_json(self) -> dict[str, Any]:
        """Return plain data, the content of `layers.json`."""
        return asdict(self) | {"bits": str(self.bits)}


def measure_layers(
    run: str | Path,
    bits: Bits = Bits(4, 4),
    *,
    data: str | None = None,
    overrides: Sequence[str] = (),
    policy: str | None = None,
    samples: int | None = None,
) -> Layers:
    """Quantize one layer at a time, describe weights and inputs of each, and write `layers.json`.

    Args:
        run: directory of a run or of an encoder.
        bits: bits of the layer that is quantized; 32 leaves one side out.
        data: a folder, a file, or the name of embedded data; by default the data of the run.
        overrides: overrides of the data, such as `data.window=64`.
        policy: layers to quantize; by default the encoder's own policy, or `ssql`.
        samples: number of training samples for ranges and results; `None` for 256, or all if there
            are fewer.

    Raises:
        ValueError: when the directory has no encoder, or for an unknown policy.
    """
    if bits.is_float:
        raise ValueError("`--bits` must quantize weights or activations, got fp32. Try W4A4.")
    folder, encoder = Path(run), load_encoder(run)
    source, workers = data_of(run, encoder, data, overrides)
    measurement = Measurement(encoder, source, Reading(_BATCH_SIZE, workers))
    tasks = by_fold(measurement.tasks)[0]
    with progress.part("calibration"):
        batches = measurement.calibration(tasks, samples, most=_SAMPLES, option="--samples")
        calibrated = calibrated_copy(encoder, batches, policy=policy)
    calibrated.require([bits])
    with progress.part("layers, one at a time"):
        sensitivity = layer_sensitivity(calibrated.network, batches, bits)
    with progress.part("distributions"):
        described = distributions(calibrated.network, batches[:1])
    layers = Layers(bits, str(calibrated.ptq), sensitivity, described)
    write_json(folder / "layers.json", layers.as_json(), sealed=True)
    return layers


def measure_invariances(
    run: str | Path,
    overrides: Sequence[str] = (),
    *,
    data: str | None = None,
    samples: int = 2000,
    seeds: int = 3,
) -> tuple[list[Row], Baselines]:
    """Measure how well augmentation parameters can be predicted, and add it to the evaluation.

    Args:
        run: directory of a run or of an encoder.
        data: a folder, a file, or the name of embedded data; by default the data of the run.
        overrides: overrides of the recipe, such as `views.flip=0.5` for other views than the run
            was trained on. An encoder without a run needs the views, such as
            `views.kind=two_views`.
        samples: number of samples.
        seeds: number of repeats.

    Raises:
        ValueError: when the directory has no encoder, or there is nothing to predict.
    """
    folder = Path(run)
    of_views = [text for text in overrides if text.startswith("views")]
    measured_on = subject(run, data, [text for text in overrides if text not in of_views])
    views = views_of(run, of_views)
    measured = invariances(
        measured_on.encoder,
        measured_on.data,
        views,
        untrained=measured_on.untrained,
        samples=samples,
        seeds=seeds,
    )
    before = read_evaluation(folder) if (folder / "evaluation.json").is_file() else []
    evaluation, baselines = with_invariances(
        Evaluation(before, ""), read_baselines(folder), measured
    )
    write_evaluation(folder, evaluation, baselines)
    return measured
