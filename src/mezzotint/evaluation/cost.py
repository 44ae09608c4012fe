"""Predict what an evaluation takes, from a few samples, before anything is trained.

Reading, the forward pass and the features of the input are timed on a few samples of the data. The
probes are timed on made-up features of the sizes that they will meet, of fewer samples: their work
grows with the samples times the smaller of samples and features.
"""

import dataclasses
import os
import time
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from mezzotint.data.source import Task
from mezzotint.evaluation.features import Extraction, Reading, extract_readable, input_features
from mezzotint.evaluation.measurement import Measurement
from mezzotint.evaluation.probe import Probe
from mezzotint.evaluation.suite import measure

_SAMPLES, _FITTED = 24, 240  # samples that are read, and rows of made-up features
_PAGE_S = 12.0
"""Processor time of the page; 3 (images) to 15 (sounds of spectrograms) were measured."""


@dataclass(frozen=True)
class EvaluationCost:
    """Seconds of the parts of an evaluation.

    Attributes:
        samples: samples of all sides and tasks.
        read_s: to read a sample, over all processes.
        forward_s: of a forward pass of a sample.
        input_s: to compute the raw input and hand-made features of a sample.
        probes: features, and seconds of the probes for all samples, of the encoder, the raw input
            and hand-made features.
        page_s: of the page.
    """

    samples: int
    read_s: float
    forward_s: float
    input_s: float
    probes: tuple[tuple[int, float], ...]
    page_s: float = _PAGE_S

    def seconds(
        self,
        *,
        samples: int | None = None,
        untrained: int = 3,
        baselines: bool = True,
        bits: int = 0,
    ) -> float:
        """Return the seconds of an evaluation and its page.

        Args:
            samples: samples of all sides; `None` for all.
            untrained: number of untrained encoders.
            baselines: whether there are baselines.
            bits: number of bit-widths below fp32.
        """
        count = self.samples if samples is None else min(samples, self.samples)
        # Two factors of the number of samples, and the second stops at the features.
        fitted = [
            seconds * _work(count, dim) / _work(self.samples, dim) for dim, seconds in self.probes
        ]
        encoders = 1 + bits + (untrained if baselines else 0)
        forward = encoders * (count * self.forward_s + fitted[0])
        others = count * self.input_s + sum(fitted[1:]) if baselines else 0.0
        return count * self.read_s + forward + others + self.page_s


def evaluation_cost(
    measurement: Measurement, *, probes: Sequence[Probe], seeds: int
) -> EvaluationCost:
    """Time a few samples and small probes.

    Args:
        measurement: encoder, in any state of training, and data.
        probes: those of the evaluation.
        seeds: repeats of what is random in a probe.
    """
    everything, tasks = measurement.samples, measurement.tasks
    chosen = torch.linspace(0, len(everything) - 1, min(_SAMPLES, len(everything))).long().unique()
    reading = Reading(batch_size=len(chosen), kept=measurement.reading.kept)
    began = time.perf_counter()
    first = extract_readable(measurement.encoder, everything, reading, indices=chosen)
    read = time.perf_counter() - began
    began = time.perf_counter()
    extract_readable(measurement.encoder, everything, reading, indices=chosen)
    forward = time.perf_counter() - began
    began = time.perf_counter()
    raw, handmade = input_features(everything, reading, indices=chosen)
    of_input = time.perf_counter() - began
    parallel = min(measurement.reading.workers, len(os.sched_getaffinity(0))) or 1
    parts = [first, raw, *([] if handmade is None else [handmade])]
    total = _total(tasks, len(everything))
    began, used = time.perf_counter(), time.process_time()
    fitted = [
        (part.x.shape[1], _probing(part.x.shape[1], tasks, total, probes, seeds)) for part in parts
    ]
    # Other programs on the machine make everything slower, the page too.
    busy = (time.perf_counter() - began) / max(time.process_time() - used, 1e-3)
    return EvaluationCost(
        samples=total,
        read_s=max(0.0, read - forward) / len(chosen) / parallel,
        forward_s=forward / len(chosen),
        input_s=of_input / len(chosen),
        probes=tuple(fitted),
        page_s=_PAGE_S * max(1.0, busy),
    )


def _total(tasks: Sequence[Task], count: int) -> int:
    """Count the samples that are in any task, or all without tasks."""
    sides = [side for task in tasks for side in (task.train, task.test)]
    return len(np.unique(np.concatenate(sides))) if sides else count


def _work(count: int, dim: int) -> float:
    return float(max(count, 1) * max(1, min(count, dim)))


def _probing(
    dim: int, tasks: Sequence[Task], total: int, probes: Sequence[Probe], seeds: int
) -> float:
    """Time the probes of the first task on made-up features, and scale to all tasks."""
    count = min(_FITTED, total)
    classes = 2
    if tasks and tasks[0].kind == "classify":
        classes = max(2, min(len(np.unique(tasks[0].labels)), count // 8))
    generator = torch.Generator().manual_seed(0)
    labels = np.arange(count) % classes
    centers = torch.randn(classes, dim, generator=generator)
    x = torch.randn(count, dim, generator=generator) + 0.5 * centers[torch.from_numpy(labels)]
    order = np.arange(count)
    task = Task("made", "classify", labels, order[: count * 4 // 5], order[count * 4 // 5 :])
    named = [dataclasses.replace(task, classes=[str(n) for n in range(classes)])] if tasks else []
    plain = [probe for probe in probes if not probe.tokens]
    began = time.perf_counter()
    for _ in measure(Extraction(x, torch.arange(count)), named, plain, seeds):
        pass
    small = time.perf_counter() - began
    sizes = [len(t.train) + len(t.test) for t in tasks] or [total]
    return small * sum(_work(size, dim) for size in sizes) / _work(count, dim)
