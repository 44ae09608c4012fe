"""Evaluation of a run or of another project's encoder, and extraction of features to a file."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from mezzotint.data.source import Source
from mezzotint.encoders.encoder import Encoder
from mezzotint.encoders.saving import load_encoder
from mezzotint.evaluation.bits import evaluate_bits
from mezzotint.evaluation.features import Reading, extract_readable
from mezzotint.evaluation.measurement import Measurement
from mezzotint.evaluation.results import Evaluation, results_directory, write_evaluation
from mezzotint.evaluation.suite import baselines
from mezzotint.files import replacing
from mezzotint.quant.bitwidth import FP32
from mezzotint.recipe.recipe import (
    FAMILIES,
    Recipe,
    read_encoder,
    read_recipe,
    require_one_modality,
)
from mezzotint.recipe.schema import construct, resolve
from mezzotint.runs.reuse import branch_of, load_branch
from mezzotint.runs.settings import Evaluate
from mezzotint.types import Sample, Unreadable

_SECTIONS = ("data", "run", "evaluate")


def evaluate(
    run: str | Path, overrides: Sequence[str] = (), *, clips: int = 1, crops: int = 1
) -> Evaluation:
    """Measure an encoder as its recipe says, and write `evaluation.json` and `baselines.json`.

    Args:
        run: directory that `pretrain` wrote; or, for an encoder of another project, an ONNX file or
            a YAML file with the sections `encoder` and `data`. The results of a file go where
            `results_directory` says.
        overrides: overrides of the recipe, such as `evaluate.bits=[W8A8,W4A4]`.
        clips: clips per video; features are averaged.
        crops: crops along the longer side of each image or frame; features are averaged.

    Raises:
        ValueError: when the directory is not a finished run, or the file holds no encoder; for
            clips or crops of data without them, or at low bits.
    """
    folder = results_directory(run)
    subject = _of_run(folder, overrides) if folder == Path(run) else _of_file(Path(run), overrides)
    settings, data = subject.settings, subject.data
    if (clips, crops) != (1, 1):
        _require_fp32(settings, clips, crops)
        data = data.multi_crop(clips, crops)
    reading = Reading(batch_size=max(1, 256 // (clips * crops)), workers=subject.workers)
    measurement = Measurement(subject.encoder, data, reading)
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
            measurement, subject.untrained, probes=settings.probes, seeds=settings.seeds
        )
    measured = {"branch": settings.branch, "part": settings.part, "clips": clips, "crops": crops}
    evaluation = evaluation.with_protocol(**measured)
    folder.mkdir(exist_ok=True)
    write_evaluation(folder, evaluation, compared and compared.with_protocol(**measured))
    return evaluation


def _require_fp32(settings: Evaluate, clips: int, crops: int) -> None:
    if settings.bits != [FP32]:
        raise ValueError(
            "`evaluate.bits` must be fp32 with clips or crops, got "
            f"clips={clips} and crops={crops} at "
            f"{', '.join(map(str, settings.bits))}. Set evaluate.bits=[], or leave them out."
        )


@dataclass(frozen=True)
class _Subject:
    """An encoder, its data and settings, and a function that makes untrained encoders."""

    encoder: Encoder
    data: Source
    settings: Evaluate
    workers: int
    untrained: Callable[[int], Encoder] | None


def _of_run(folder: Path, overrides: Sequence[str]) -> _Subject:
    encoder = load_encoder(folder)
    config = read_recipe(folder, overrides)
    data, run, settings = (construct(config[name], FAMILIES[name], {}) for name in _SECTIONS)
    require_one_modality(config, data.input.modality)
    network = settings.branch, settings.part
    if network != ("online", "backbone"):
        encoder = load_branch(folder, Recipe.build(config, data), *network)

    def untrained(seed: int) -> Encoder:
        fresh = config | {"run": config["run"] | {"seed": seed}}
        # Weights that training started from are trained ones.
        for section, key in (("encoder", "pretrained_path"), ("method", "init")):
            if key in config[section]:
                fresh[section] = config[section] | {key: None}
        return branch_of(Recipe.build(fresh, data).method, *network).eval()

    return _Subject(encoder, data, settings, run.loader.processes(data), untrained)


def _of_file(path: Path, overrides: Sequence[str]) -> _Subject:
    config = read_encoder(path, overrides)
    data, run, settings = (construct(config[name], FAMILIES[name], {}) for name in _SECTIONS)
    injected = {"Encoder": (data.input,)}
    fresh = {key: value for key, value in config["encoder"].items() if key != "pretrained_path"}

    def untrained(seed: int) -> Encoder:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            made: Encoder = construct(resolve(fresh, "Encoder", "encoder"), "Encoder", injected)
        return made

    encoder = construct(config["encoder"], "Encoder", injected).eval()
    can = any(True for _ in encoder.parameters())  # an ONNX file cannot have other weights
    return _Subject(encoder, data, settings, run.loader.processes(data), untrained if can else None)


def embed(
    encoder: Encoder, source: Source, out: str | Path
) -> tuple[int, int, Sequence[Unreadable]]:
    """Write the features of all samples to a file.

    Args:
        encoder: encoder in eval mode.
        source: source of the samples.
        out: `.npz` (arrays `features`, `ids`, `labels`) or `.parquet` (columns `id`, `label`,
            `feature`). A sample without a label has −1; one that cannot be read is left out.

    Returns:
        Number of samples, dimension of the features, and samples that could not be read.

    Raises:
        ValueError: for another suffix, or without pyarrow.
    """
    path = Path(out)
    if path.suffix not in (".npz", ".parquet"):
        raise ValueError(
            f"`--out` must end in .npz or .parquet, got {path.name!r}. Change the name."
        )
    noted = _Noted(source)
    extraction = extract_readable(encoder, noted)
    notes = (noted.notes[index] for index in extraction.indices.tolist())
    ids, labels = zip(*notes, strict=True)
    with replacing(path) as temporary:
        if path.suffix == ".npz":
            np.savez(
                temporary, features=extraction.x.numpy(), ids=np.array(ids), labels=np.array(labels)
            )
        else:
            _parquet(temporary, list(ids), list(labels), extraction.x.numpy())
    return extraction.x.shape[0], extraction.x.shape[1], extraction.bad


class _Noted(Source):
    """A source that keeps each sample's id and label when it is read, to read nothing twice."""

    def __init__(self, source: Source) -> None:
        self.source, self.input, self.config = source, source.input, source.config
        self.notes: dict[int, tuple[str, int]] = {}

    def __len__(self) -> int:
        return len(self.source)

    def read(self, index: int) -> Sample:
        sample = self.source.read(index)
        self.notes[index] = (sample["id"], -1 if sample["label"] is None else int(sample["label"]))
        return sample

    def fingerprint(self) -> str:
        return self.source.fingerprint()


def _parquet(path: Path, ids: list[str], labels: list[int], features: Any) -> None:
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError as error:
        raise ValueError(
            "Parquet files need pyarrow, which is not installed. Run pip install "
            "'mezzotint[parquet]', or choose .npz."
        ) from error
    flat = pyarrow.array(features.reshape(-1))
    column = pyarrow.FixedSizeListArray.from_arrays(flat, features.shape[1])
    pyarrow.parquet.write_table(
        pyarrow.table({"id": ids, "label": labels, "feature": column}), path
    )
