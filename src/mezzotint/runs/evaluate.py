"""What is done with a run after training: evaluation into the run's directory, and embedding of other data."""

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
from mezzotint.evaluation.results import Evaluation, write_evaluation
from mezzotint.evaluation.suite import baselines
from mezzotint.files import replacing
from mezzotint.quant.bitwidth import FP32
from mezzotint.recipe.recipe import FAMILIES, Recipe, read_encoder
from mezzotint.recipe.schema import construct, resolve
from mezzotint.runs.reuse import branch_of, load_branch
from mezzotint.runs.settings import Evaluate
from mezzotint.types import Sample, Unreadable


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
            f"`evaluate.bits` must be fp32 with clips or crops, got clips={clips} and crops={crops} "
            f"at {', '.join(map(str, settings.bits))}. Set evaluate.bits=[], or leave them out."
        )


def results_directory(path: str | Path) -> Path:
    """Where the evaluation of a run, or of an encoder's file, is written: `x.onnx` → `x.evaluation`."""
    path = Path(path)
    return path.with_suffix(".evaluation") if path.suffix in (".onnx", ".yaml", ".yml") else path


@dataclass(frozen=True)
class _Subject:
    """What is evaluated, on what and how; `untrained` makes the same encoder with fresh weights, where one can."""

    encoder: Encoder
    data: Source
    settings: Evaluate
    workers: int
    untrained: Callable[[int], Encoder] | None


def _of_run(folder: Path, overrides: Sequence[str]) -> _Subject:
    encoder = load_encoder(folder)
    recipe = Recipe.load(folder, overrides)
    workers = recipe.run.loader.processes(recipe.data)
    settings = recipe.evaluate
    if (settings.branch, settings.part) == ("online", "backbone"):
        return _Subject(encoder, recipe.data, settings, workers, recipe.untrained_encoder)

    def untrained(seed: int) -> Encoder:
        config = recipe.config()
        config["run"]["seed"] = seed
        if "init" in config["method"]:
            config["method"]["init"] = None
        return branch_of(Recipe.build(config).method, settings.branch, settings.part).eval()

    encoder = load_branch(folder, recipe, settings.branch, settings.part)
    return _Subject(encoder, recipe.data, settings, workers, untrained)


def _of_file(path: Path, overrides: Sequence[str]) -> _Subject:
    config = read_encoder(path, overrides)
    data, run, settings = (
        construct(config[name], FAMILIES[name], {}) for name in ("data", "run", "evaluate")
    )
    injected = {"Encoder": (data.input,)}
    fresh = {key: value for key, value in config["encoder"].items() if key != "pretrained_path"}

    def untrained(seed: int) -> Encoder:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            made: Encoder = construct(resolve(fresh, "Encoder", "encoder"), "Encoder", injected)
        return made

    encoder = construct(config["encoder"], "Encoder", injected).eval()
    can = any(True for _ in encoder.parameters())  # an ONNX file has no other weights than its own
    return _Subject(encoder, data, settings, run.loader.processes(data), untrained if can else None)


def embed(
    encoder: Encoder, source: Source, out: str | Path
) -> tuple[int, int, Sequence[Unreadable]]:
    """Write the features of all samples.

    Args:
        encoder: in eval mode.
        source: of the samples.
        out: `.npz` (arrays `features`, `ids`, `labels`) or `.parquet` (columns `id`, `label`,
            `feature`). A sample without a label has −1; one that cannot be read is left out.

    Returns:
        How many samples and features were written, and what could not be read.

    Raises:
        ValueError: for another suffix, or when pyarrow is missing.
    """
    path = Path(out)
    if path.suffix not in (".npz", ".parquet"):
        raise ValueError(
            f"got --out {path.name!r}; allowed is a name that ends in .npz or .parquet"
        )
    noting = _Noting(source)
    found = extract_readable(encoder, noting)
    ids, labels = zip(*(noting.notes[index] for index in found.indices.tolist()), strict=True)
    with replacing(path) as temporary:
        if path.suffix == ".npz":
            np.savez(
                temporary, features=found.x.numpy(), ids=np.array(ids), labels=np.array(labels)
            )
        else:
            _parquet(temporary, list(ids), list(labels), found.x.numpy())
    return found.x.shape[0], found.x.shape[1], found.bad


class _Noting(Source):
    """A source that remembers each sample's id and label as it is read, so that nothing is read twice."""

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
            "got --out ….parquet, which needs pyarrow; pip install 'mezzotint[parquet]', or use .npz"
        ) from error
    flat = pyarrow.array(features.reshape(-1))
    column = pyarrow.FixedSizeListArray.from_arrays(flat, features.shape[1])
    pyarrow.parquet.write_table(
        pyarrow.table({"id": ids, "label": labels, "feature": column}), path
    )
