"""Run an artifact in the runtime that will serve it, and compare it with what it should compute.

An exporter can be wrong without a word, and a kernel can differ from its simulation, so nothing is
believed: the file is opened anew, run on batches of 1, 2 and 7, and compared with the simulation of
the same quantization, with the float encoder, and on the run's own data by kNN. An artifact that
differs is refused.
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
"""Of the largest feature: what another order of float32 sums may change."""
_SAMPLES = 2048
_TIMED_BATCH, _SECONDS, _REPEATS = 8, 2.0, 25


class Refused(RuntimeError):
    """An artifact that does not compute what it should. Its message is for users, and says all there is."""

    exit_code = 1


@dataclass(frozen=True)
class Artifact:
    """What was written, and what it is to be compared with.

    Attributes:
        files: all of it, as they were written.
        open: opens the files in the runtime, as a server would.
        simulation: what it should compute.
        reference: the float encoder in the same runtime, for comparing time.
        reference_bytes: size of the float encoder in the same format.
        agreement: how close to the simulation it must be. `equal`: the same numbers. `float`: up to
            rounding. `quantized`: integer kernels round intermediate results differently, so by
            cosine and kNN.
        facts: what else `verification.json` says: operators, storage bits, compute bits.
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
        artifact: artifact as it was written.
        measurement: encoder in fp32 and eval mode, and the run's data. kNN on its first
            classification task uses at most 2,048 training and as many test samples; without such
            a task, only features are compared.

    Returns:
        Plain data for `verification.json`.

    Raises:
        Refused: when the files have changed, nothing in them is quantized that should be, or the
            artifact differs: another shape, not a number, a cosine below 0.99, kNN different by
            more than 0.5 points (or two samples, if that is more), or, for formats that promise it,
            another number.
    """
    _require_intact(artifact)
    _require_quantized(artifact)
    served = artifact.open()
    encoder, samples = measurement.encoder, measurement.samples
    task, indices = _trial(measurement)
    with torch.inference_mode():
        by_batch = _batches(artifact, served, encoder, samples, indices)
        parts = (served, artifact.simulation, encoder)
        reading = dataclasses.replace(measurement.reading, batch_size=64)
        found = extract_readable(_Joined(encoder, parts), samples, reading, indices=indices)
        real, simulated, exact = torch.split(found.x, encoder.dim, dim=1)
        _require_agreement(artifact.agreement, real, simulated, f"{len(real)} samples")
        neighbors = _knn(task, found, {"artifact": real, "simulation": simulated, "float": exact})
        x = _inputs(encoder, samples, indices, _TIMED_BATCH)
        milliseconds = _times(served, artifact.reference, x)
    total = sum(path.stat().st_size for path in artifact.files)
    return {
        **artifact.facts,
        "files": artifact.sums,
        "batches": by_batch,
        "samples": len(real),
        "to_simulation": _closeness(real, simulated),
        "to_float": _closeness(real, exact),
        "knn": neighbors,
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
        raise Refused(f"refused: {changed.name} is not the file that was written")


def _require_quantized(artifact: Artifact) -> None:
    """An artifact of integers has operators that are quantized, and a runtime that computes them in integers."""
    operators = artifact.facts.get("operators")
    if operators is None:
        return
    if operators["quantized"] == 0:
        raise Refused(
            f"refused: 0 of {operators['of']} operators are quantized; wanted is 1 or more"
        )
    if "integer_kernels" in operators and not operators["integer_kernels"]:
        raise Refused(
            f"refused: {operators['quantized']} operators are quantized and the runtime computes none in integers; "
            "wanted is 1 or more: use another runtime"
        )


def _trial(measurement: Measurement) -> tuple[Task | None, Tensor]:
    """Return the task for kNN, if there is one, and the samples to compare on."""
    task = first_classification(measurement.tasks)
    if task is None:
        return None, torch.from_numpy(_some(np.arange(len(measurement.samples))))
    task = dataclasses.replace(task, train=_some(task.train), test=_some(task.test))
    return task, torch.from_numpy(np.concatenate([task.train, task.test]))


def _some(indices: Index) -> Index:
    """At most so many of them, always the same, in their order."""
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
    """Several functions of the same input, side by side, so that samples are read once."""

    def __init__(self, encoder: Encoder, functions: tuple[Function, ...]) -> None:
        super().__init__(encoder.input, encoder.dim * len(functions))
        self.functions = functions

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([function(x) for function in self.functions], dim=1)


class _Inputs(Encoder):
    """The input itself."""

    def forward(self, x: Tensor) -> Tensor:
        return x.flatten(1)


def _inputs(encoder: Encoder, source: Source, indices: Tensor, count: int) -> Tensor:
    """Normalized samples; repeated when there are too few."""
    read = extract_readable(_Inputs(encoder.input, 0), source, indices=indices[:count]).x
    return read.repeat(-(-count // max(1, len(read))), 1)[:count].reshape(-1, *encoder.input.shape)


def _batches(
    artifact: Artifact, served: Function, encoder: Encoder, source: Source, indices: Tensor
) -> dict[str, dict[str, float]]:
    """Every batch size by itself: a lost dynamic batch shows here."""
    x = _inputs(encoder, source, indices, max(BATCHES))
    found = {}
    for size in BATCHES:
        try:
            real = served(x[:size])
        except Exception as error:  # noqa: B902 - each runtime raises its own
            reason = " ".join(str(error).split())[:160]
            raise Refused(
                f"refused: the artifact does not run on a batch of {size}: {reason}"
            ) from error
        if real.shape != (size, encoder.dim):
            raise Refused(
                f"refused: the artifact makes {list(real.shape)} of a batch of {size}; wanted is "
                f"[{size}, {encoder.dim}]: the dynamic batch was lost"
            )
        simulated = artifact.simulation(x[:size])
        _require_agreement(artifact.agreement, real, simulated, f"a batch of {size}")
        _require_agreement(
            "float", artifact.reference(x[:size]), encoder(x[:size]), f"a batch of {size}, in float"
        )
        found[str(size)] = _closeness(real, simulated)
    return found


def _require_agreement(agreement: str, real: Tensor, wanted: Tensor, where: str) -> None:
    if not bool(real.isfinite().all()):
        raise Refused(f"refused: the artifact's features are not finite on {where}")
    worst = float((real - wanted).abs().max())
    if agreement == "equal" and worst != 0.0:
        raise Refused(
            f"refused: the artifact differs from the simulation by up to {worst:.3g} on {where}; wanted is 0"
        )
    largest = float(wanted.abs().max())
    if agreement == "float" and worst > FLOAT_TOLERANCE * largest:
        raise Refused(
            f"refused: the artifact differs by up to {worst:.3g} from the encoder, whose largest feature is "
            f"{largest:.3g}, on {where}; allowed is a share of {FLOAT_TOLERANCE}"
        )
    cosine = float(cosine_similarity(real, wanted).mean())
    if agreement == "quantized" and cosine < MIN_COSINE:
        raise Refused(
            f"refused: the cosine between artifact and simulation is {cosine:.4f} on {where}; allowed is {MIN_COSINE} "
            "or more: try --reduce-range"
        )


def _closeness(real: Tensor, wanted: Tensor) -> dict[str, float]:
    cosine = cosine_similarity(real.double(), wanted.double())
    return {
        "cosine_mean": float(cosine.mean()),
        "cosine_p01": float(cosine.quantile(0.01)),
        "max_error": float((real - wanted).abs().max()),
    }


def _knn(
    task: Task | None, found: Extraction, features: Mapping[str, Tensor]
) -> dict[str, Any] | None:
    """Top-1 of each, and the refusal when they differ."""
    if task is None:
        return None
    top1 = {}
    for name, x in features.items():
        rows = measure(Extraction(x, found.indices), [task], [KNN()], 1)
        top1[name] = next(row.value for row in rows if row.metric.endswith("/top1"))
    allowed = max(MAX_KNN_DIFFERENCE, 2 / len(task.test))
    if abs(top1["artifact"] - top1["simulation"]) > allowed + 1e-9:
        raise Refused(
            f"refused: kNN of the artifact is {top1['artifact']:.4f} and of its simulation {top1['simulation']:.4f}; "
            f"they may differ by {allowed:.4f}: try --reduce-range"
        )
    return {
        "task": task.name,
        "train": len(task.train),
        "test": len(task.test),
        "allowed_difference": allowed,
        **top1,
    }


def _times(served: Function, reference: Function, x: Tensor) -> dict[str, Any]:
    """Medians of both, taking turns."""
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
