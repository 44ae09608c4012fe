"""Run an artifact in the runtime that will serve it, and compare it with what it should compute.

An exporter can fail silently, and a kernel can differ from its simulation. So the file is opened
again, run on batches of 1, 2 and 7, and compared with the simulation of the same quantization, with
the fp32 encoder, and by kNN on the run's own data. An artifact that differs is refused.
"""

import dataclasses
import hashlib
import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import cosine_similarity

from mezzotint.data.source import Index, Source, Task, first_classification
from mezzotint.encoders.encoder import Encoder
from mezzotint.evaluation.features import Extraction, extract_readable
from mezzotint.evaluation.knn import KNN
from mezzotint.evaluation.measurement import Measurement
from mezzotint.evaluation.suite import measure
from mezzotint.quant.onnx import qdq as cpu
from mezzotint.seeding import Draws, key_of
from mezzotint.train.rundir import environment

Function = Callable[[Tensor], Tensor]
BATCHES = (1, 2, 7)
MAX_KNN_DIFFERENCE = 0.005
MIN_COSINE = 0.99
FLOAT_TOLERANCE = 1e-4
"""Largest error allowed in fp32, as a fraction of the largest feature: sums are reordered."""
_SAMPLES = 2048
_TIMED_BATCH, _SECONDS, _REPEATS = 8, 2.0, 25


class VerificationError(RuntimeError):
    """An artifact does not compute what it should; the message is written for users."""

    exit_code = 1


@dataclass(frozen=True)
class Artifact:
    """The files of an export, and the functions to compare them with.

    Attributes:
        files: all files, as they were written.
        open: function that opens the files in the runtime, as a server would.
        simulation: function that the artifact should compute.
        reference: fp32 encoder in the same runtime, for comparing time.
        reference_bytes: size of the fp32 encoder in the same format.
        agreement: tolerance to the simulation. `equal`: the same numbers. `float`: up to rounding.
            `quantized`: by cosine and kNN, as integer kernels round intermediate results
            differently.
        facts: further entries of `verification.json`: operators, storage bits, compute bits.
        sums: SHA-256 of each file when it was written.
    """

    files: tuple[Path, ...]
    open: Callable[[], Function]
    simulation: Function
    reference: Function
    reference_bytes: int
    agreement: Literal["equal", "float", "quantized"]
    facts: Mapping[str, Any] = field(default_factory=dict)
    sums: dict[str, str] = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "sums", {path.name: _sha256(path) for path in self.files})


def verify(artifact: Artifact, measurement: Measurement) -> dict[str, Any]:
    """Compare an artifact with its simulation and with the fp32 encoder.

    Args:
        artifact: artifact to verify.
        measurement: encoder in fp32 and eval mode, and the run's data. kNN on its first
            classification task uses at most 2,048 training and as many test samples; without such
            a task, only features are compared.

    Returns:
        Plain data for `verification.json`.

    Raises:
        VerificationError: if the files have changed, no operator is quantized, or the artifact
            differs from its simulation: another shape, NaN or inf, a cosine below 0.99, a kNN
            accuracy that differs by more than 0.5 points (or two samples, if that is more), or any
            difference in a format that must be exact.
    """
    _require_intact(artifact)
    _require_quantized(artifact)
    served = artifact.open()
    encoder, samples = measurement.encoder, measurement.samples
    task, indices = _choose_samples(measurement)
    with torch.inference_mode():
        by_batch = _verify_batches(artifact, served, encoder, samples, indices)
        parts = (served, artifact.simulation, encoder)
        reading = dataclasses.replace(measurement.reading, batch_size=64)
        extraction = extract_readable(_Joined(encoder, parts), samples, reading, indices=indices)
        real, simulated, exact = torch.split(extraction.x, encoder.dim, dim=1)
        _require_agreement(artifact.agreement, real, simulated, f"{len(real)} samples")
        features = {"artifact": real, "simulation": simulated, "float": exact}
        knn = _compare_knn(task, extraction, features)
        x = _read_inputs(encoder, samples, indices, _TIMED_BATCH)
        milliseconds = _measure_times(served, artifact.reference, x)
    total = sum(path.stat().st_size for path in artifact.files)
    return {
        **artifact.facts,
        "files": artifact.sums,
        "batches": by_batch,
        "samples": len(real),
        "to_simulation": _measure_closeness(real, simulated),
        "to_float": _measure_closeness(real, exact),
        "knn": knn,
        "bytes": {
            "artifact": total,
            "float": artifact.reference_bytes,
            "ratio": total / artifact.reference_bytes,
        },
        "milliseconds": milliseconds,
        "cpu_flags": cpu.flags(),
        "environment": environment("cpu"),
    }


def _sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _require_intact(artifact: Artifact) -> None:
    changed = next(
        (path for path in artifact.files if _sha256(path) != artifact.sums[path.name]), None
    )
    if changed is not None:
        raise VerificationError(
            f"Export refused: `{changed.name}` has changed since it was written. Export it again."
        )


def _require_quantized(artifact: Artifact) -> None:
    """Require quantized operators, and a runtime that computes some of them in integers."""
    operators = artifact.facts.get("operators")
    if operators is None:
        return
    if operators["quantized"] == 0:
        raise VerificationError(
            f"Export refused: 0 of {operators['of']} operators are quantized, and at least 1 must "
            "be. Use another policy, or `--format onnx --bits fp32`."
        )
    if "integer_kernels" in operators and not operators["integer_kernels"]:
        raise VerificationError(
            f"Export refused: {operators['quantized']} operators are quantized, but the runtime "
            "computes none in integers. At least 1 is needed. Use another runtime."
        )


def _choose_samples(measurement: Measurement) -> tuple[Task | None, Tensor]:
    """Return the task for kNN, if there is one, and the samples to compare on."""
    task = first_classification(measurement.tasks)
    if task is None:
        return None, torch.from_numpy(_subsample(np.arange(len(measurement.samples))))
    task = dataclasses.replace(task, train=_subsample(task.train), test=_subsample(task.test))
    return task, torch.from_numpy(np.concatenate([task.train, task.test]))


def _subsample(indices: Index) -> Index:
    """Draw at most `_SAMPLES` indices, always the same ones, in their order."""
    ids = torch.from_numpy(np.asarray(indices, dtype=np.int64))
    chosen = (
        Draws(ids, key_of("verification"))
        .bits("place")
        .argsort(stable=True)[:_SAMPLES]
        .sort()
        .values
    )
    return ids[chosen].numpy()


class _Joined(Encoder):
    """Concatenate the features of several functions, so that samples are read once."""

    def __init__(self, encoder: Encoder, functions: tuple[Function, ...]) -> None:
        super().__init__(encoder.input, encoder.dim * len(functions))
        self.functions = functions

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([function(x) for function in self.functions], dim=1)


class _Identity(Encoder):
    """Return the flattened input, to read normalized samples as features."""

    def forward(self, x: Tensor) -> Tensor:
        return x.flatten(1)


def _read_inputs(encoder: Encoder, source: Source, indices: Tensor, count: int) -> Tensor:
    """Read normalized samples, repeated if there are too few."""
    read = extract_readable(_Identity(encoder.input, 0), source, indices=indices[:count]).x
    x = read.repeat(-(-count // max(1, len(read))), 1)[:count].reshape(-1, *encoder.input.shape)
    return x.to(encoder.input.blank().dtype)  # token ids are read as floats too


def _verify_batches(
    artifact: Artifact, served: Function, encoder: Encoder, source: Source, indices: Tensor
) -> dict[str, dict[str, float]]:
    """Compare every batch size by itself, which reveals a fixed batch dimension."""
    x = _read_inputs(encoder, source, indices, max(BATCHES))
    by_batch = {}
    for size in BATCHES:
        try:
            real = served(x[:size])
        except Exception as error:  # noqa: B902 - each runtime raises its own
            reason = " ".join(str(error).split())[:160]
            raise VerificationError(
                f"Export refused: the artifact does not run on a batch of {size}. It must run on "
                f"batches of every size. The runtime's error: {reason}"
            ) from error
        if real.shape != (size, encoder.dim):
            raise VerificationError(
                f"Export refused: the output for a batch of {size} must have shape "
                f"[{size}, {encoder.dim}], got {list(real.shape)}. Check that the encoder fixes no "
                "batch size."
            )
        simulated = artifact.simulation(x[:size])
        _require_agreement(artifact.agreement, real, simulated, f"a batch of {size}")
        _require_agreement(
            "float", artifact.reference(x[:size]), encoder(x[:size]), f"a batch of {size} in fp32"
        )
        by_batch[str(size)] = _measure_closeness(real, simulated)
    return by_batch


def _require_agreement(agreement: str, real: Tensor, target: Tensor, samples: str) -> None:
    if not bool(real.isfinite().all()):
        raise VerificationError(
            f"Export refused: features of the artifact contain NaN or inf on {samples}. "
            "All features must be finite. Did training diverge?"
        )
    worst = float((real - target).abs().max())
    if agreement == "equal" and worst != 0.0:
        raise VerificationError(
            f"Export refused: the artifact differs from the simulation by up to {worst:.3g} on "
            f"{samples}. The difference must be 0. Use another policy or format."
        )
    largest = float(target.abs().max())
    if agreement == "float" and worst > FLOAT_TOLERANCE * largest:
        raise VerificationError(
            f"Export refused: the artifact differs from the encoder by up to {worst:.3g} on "
            f"{samples}. At most {FLOAT_TOLERANCE} of the largest feature ({largest:.3g}) is "
            "accepted. Use another format."
        )
    cosine = float(cosine_similarity(real, target).mean())
    if agreement == "quantized" and cosine < MIN_COSINE:
        raise VerificationError(
            f"Export refused: the cosine between artifact and simulation must be at least "
            f"{MIN_COSINE}, got {cosine:.4f} on {samples}. Try `--reduce-range`."
        )


def _measure_closeness(real: Tensor, target: Tensor) -> dict[str, float]:
    cosine = cosine_similarity(real.double(), target.double())
    return {
        "cosine_mean": float(cosine.mean()),
        "cosine_p01": float(cosine.quantile(0.01)),
        "max_error": float((real - target).abs().max()),
    }


def _compare_knn(
    task: Task | None, extraction: Extraction, features: Mapping[str, Tensor]
) -> dict[str, Any] | None:
    """Measure the kNN accuracy of each, and refuse an artifact that differs."""
    if task is None:
        return None
    top1 = {}
    for name, x in features.items():
        rows = measure(Extraction(x, extraction.indices), [task], [KNN()], 1)
        top1[name] = next(row.value for row in rows if row.metric.endswith("/top1"))
    allowed = max(MAX_KNN_DIFFERENCE, 2 / len(task.test))
    if abs(top1["artifact"] - top1["simulation"]) > allowed + 1e-9:
        raise VerificationError(
            f"Export refused: kNN top-1 is {top1['artifact']:.4f} with the artifact and "
            f"{top1['simulation']:.4f} with its simulation. The difference must be at most "
            f"{allowed:.4f}. Try `--reduce-range`."
        )
    return {
        "task": task.name,
        "train": len(task.train),
        "test": len(task.test),
        "allowed_difference": allowed,
        **top1,
    }


def _measure_times(served: Function, reference: Function, x: Tensor) -> dict[str, Any]:
    """Return the median milliseconds of both functions, which take turns."""
    sides: dict[str, list[float]] = {"artifact": [], "float": []}
    served(x), reference(x)
    began = time.perf_counter()
    while len(sides["float"]) < 3 or (
        len(sides["float"]) < _REPEATS and time.perf_counter() - began < _SECONDS
    ):
        for name, function in (("artifact", served), ("float", reference)):
            start = time.perf_counter()
            function(x)
            sides[name].append(1000 * (time.perf_counter() - start))
    medians = {name: statistics.median(values) for name, values in sides.items()}
    return {
        "batch": len(x),
        "threads": torch.get_num_threads(),
        "repeats": len(sides["float"]),
        **medians,
        "speed_up": medians["float"] / medians["artifact"],
    }
