"""Evaluation of a run or of another project's encoder."""

from collections.abc import Sequence
from pathlib import Path

from mezzotint.data.source import Source
from mezzotint.encoders.encoder import Encoder
from mezzotint.evaluation.bits import evaluate_bits
from mezzotint.evaluation.features import Reading
from mezzotint.evaluation.measurement import Measurement
from mezzotint.evaluation.results import Evaluation, results_directory, write_evaluation
from mezzotint.evaluation.suite import baselines
from mezzotint.quant.bitwidth import FP32
from mezzotint.runs.settings import Evaluate
from mezzotint.runs.subject import subject


def evaluate(
    run: str | Path,
    overrides: Sequence[str] = (),
    *,
    data: str | Source | None = None,
    model: Encoder | None = None,
    clips: int = 1,
    crops: int = 1,
) -> Evaluation:
    """Measure an encoder as its recipe says, and write `evaluation.json` and `baselines.json`.

    Args:
        run: directory that `pretrain`, `save_encoder` or `mezzotint import` wrote; an ONNX file; or
            a YAML file with the sections `encoder` and `data`. The results of a file go where
            `results_directory` says.
        overrides: overrides of the recipe, such as `evaluate.bits=[W8A8,W4A4]`; of an encoder
            without a recipe those of `data`, `run` and `evaluate`.
        data: a folder, a file, or the name of embedded data, read with the settings of the training
            data; or a source. By default that of the run, or what `data.kind` and other overrides
            name.
        model: the network of a run that trained a class of your own, made as for training.
        clips: clips per video; features are averaged.
        crops: crops along the longer side of each image or frame; features are averaged.

    Raises:
        ValueError: when the directory is not a finished run, or the file holds no encoder; for
            clips or crops of data without them, or at low bits.
    """
    folder = results_directory(run)
    measured = subject(run, data, overrides, model=model)
    settings, source = measured.settings, measured.data
    if (clips, crops) != (1, 1):
        _require_fp32(settings, clips, crops)
        source = source.multi_crop(clips, crops)
    reading = Reading(batch_size=max(1, 256 // (clips * crops)), workers=measured.workers)
    measurement = Measurement(measured.encoder, source, reading)
    evaluation = evaluate_bits(
        measurement,
        bits=settings.bits,
        policy=settings.policy,
        ptq=settings.ptq,
        calibration_samples=settings.calibration_samples,
        reconstruction_steps=settings.reconstruction_steps,
        probes=settings.probes,
        seeds=settings.seeds,
    )
    compared = None
    if settings.baselines:
        compared = baselines(
            measurement, measured.untrained, probes=settings.probes, seeds=settings.seeds
        )
    how = {"branch": settings.branch, "part": settings.part, "clips": clips, "crops": crops}
    evaluation = evaluation.with_protocol(**how)
    folder.mkdir(exist_ok=True)
    write_evaluation(folder, evaluation, compared and compared.with_protocol(**how))
    return evaluation


def _require_fp32(settings: Evaluate, clips: int, crops: int) -> None:
    if settings.bits != [FP32]:
        raise ValueError(
            "`evaluate.bits` must be fp32 with clips or crops, got "
            f"clips={clips} and crops={crops} at "
            f"{', '.join(map(str, settings.bits))}. Set evaluate.bits=[], or leave them out."
        )
