"""Evaluation of a run or of another project's encoder."""

import dataclasses
import hashlib
import json
from collections.abc import Sequence
from pathlib import Path

import torch

from mezzotint import dist
from mezzotint.data.source import Source
from mezzotint.encoders.encoder import Encoder
from mezzotint.evaluation.before_after import TaskChange, changes, write_changes
from mezzotint.evaluation.bits import check_input_bits, evaluate_bits, input_bit_rows
from mezzotint.evaluation.features import Reading
from mezzotint.evaluation.measurement import Measurement
from mezzotint.evaluation.probe import Row
from mezzotint.evaluation.results import (
    OWN,
    Baselines,
    Evaluation,
    add_evaluation,
    results_directory,
)
from mezzotint.evaluation.suite import baselines, evaluate_encoder
from mezzotint.quant.bitwidth import FP32
from mezzotint.runs.settings import Evaluate
from mezzotint.runs.subject import Subject, subject
from mezzotint.train.continued import other_of


def evaluate(
    run: str | Path,
    overrides: Sequence[str] = (),
    *,
    data: str | Source | None = None,
    model: Encoder | None = None,
    clips: int = 1,
    crops: int = 1,
    input_bits: Sequence[int] = (),
) -> Evaluation:
    """Measure an encoder as its recipe says, and write `evaluation.json` and `baselines.json`.

    Results of other probes, bits or branches that were measured before, on the same data and with
    the same weights, stay in the files.

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
        input_bits: bits to which inputs are quantized too, for the input-bit curve; see
            `mezzotint.evaluation.bits.input_bit_rows`.

    With several processes, all call it together; they divide the samples, and the main one writes.

    Returns:
        The results; with features where they are those of the run on its own data.

    Raises:
        ValueError: when the directory is not a finished run, or the file holds no encoder; for
            clips or crops of data without them, or at low bits.
    """
    folder = results_directory(run)
    measured = subject(run, data, overrides, model=model)
    settings, source = measured.settings, measured.data
    if input_bits:  # refused before hours of work
        check_input_bits(measured.encoder.input, input_bits)
    if (clips, crops) != (1, 1):
        _require_fp32(settings, clips, crops)
        source = source.multi_crop(clips, crops)
    reading = Reading(batch_size=max(1, 256 // (clips * crops)), workers=measured.workers)
    measurement = Measurement(measured.encoder, source, reading, most=measured.most)
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
    evaluation.rows.extend(_input_curve(measurement, evaluation, input_bits, settings))
    compared = None
    features = {OWN: measurement.features}
    if settings.baselines:
        compared = baselines(
            measurement,
            measured.untrained,
            probes=settings.probes,
            seeds=settings.seeds,
            features=features,
        )
    network = settings.branch, settings.part
    other = None
    if data is None and model is None and network == ("online", "backbone"):
        other = other_of(folder)
    changed = [] if other is None else _changes(measurement, evaluation, *other, settings)
    how = {"branch": settings.branch, "part": settings.part, "clips": clips, "crops": crops}
    evaluation = evaluation.with_protocol(**how)
    compared = compared and compared.with_protocol(**how)
    dist.on_main(lambda: _write(folder, evaluation, compared, _identity(Path(run), measured)))
    if changed:
        dist.on_main(lambda: write_changes(folder, changed))
    usual = network == ("online", "backbone") and (clips, crops) == (1, 1)
    of_run = usual and data is None and model is None and not overrides
    return dataclasses.replace(evaluation, features=features) if of_run else evaluation


def _input_curve(
    measurement: Measurement, own: Evaluation, bits: Sequence[int], settings: Evaluate
) -> list[Row]:
    """Measure the encoder on inputs of some bits; nothing without any."""
    if not bits:
        return []
    probes, seeds = settings.probes, settings.seeds
    return input_bit_rows(measurement, own.rows, bits, probes=probes, seeds=seeds)


def _changes(
    measurement: Measurement, own: Evaluation, other: Encoder, start: bool, settings: Evaluate
) -> list[TaskChange]:
    """Measure the other one of start and trained encoder, and compare them."""
    measured = measurement.of(other, "start" if start else "the trained encoder")
    rows = evaluate_encoder(measured, probes=settings.probes, seeds=settings.seeds).rows
    return changes(rows, own.rows) if start else changes(own.rows, rows)


def _write(folder: Path, evaluation: Evaluation, compared: Baselines | None, identity: str) -> None:
    folder.mkdir(exist_ok=True)
    add_evaluation(folder, evaluation, compared, identity)


def _identity(path: Path, measured: Subject) -> str:
    """Return a hash of the weights and the data, which results in one file share."""
    found = hashlib.sha256()
    data = measured.data
    tasks = [[task.name, len(task.train), len(task.test)] for task in data.evaluation()[1]]
    # A fingerprint is of the files, the configuration of how they are read.
    read = [data.fingerprint(), data.input.shape, tasks, getattr(data, "config", None)]
    found.update(json.dumps(read, sort_keys=True, default=str).encode())
    # Of a run the files, because two of its branches may be measured.
    weights = sorted(path.glob("**/encoder/*.safetensors")) or sorted(path.glob("*.safetensors"))
    for file in weights or [path] * path.is_file():
        found.update(file.read_bytes())
    for name, value in () if weights else measured.encoder.state_dict().items():
        found.update(name.encode())
        found.update(value.detach().cpu().reshape(-1).view(torch.uint8).numpy().tobytes())
    return found.hexdigest()


def _require_fp32(settings: Evaluate, clips: int, crops: int) -> None:
    if settings.bits != [FP32]:
        raise ValueError(
            "`evaluate.bits` must be fp32 with clips or crops, got "
            f"clips={clips} and crops={crops} at "
            f"{', '.join(map(str, settings.bits))}. Set evaluate.bits=[], or leave them out."
        )
