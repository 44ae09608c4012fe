"""Evaluation by bits: what the features of one encoder are worth at each width of its weights and activations.

Every setting is measured in two ways. As in the papers' linear evaluation (Cao et al. 2022, arXiv
2207.05432), probes learn from features of the frozen quantized encoder and are tested on the same;
their heads are float. And the float encoder's linear head, fitted once on float features, is tested
on quantized features without being fitted again: what an application sees that quantizes its
encoder and keeps its classifier (`linear_ptq`). Beside each figure stand `lost` and `gained`, from
which the interval of its difference from float follows (`intervals.change`).

Differs from the source in its calibration (see `calibration.py`) and in its probe (see
`linear.py`).

What settings have in common is done once: the float evaluation, the reading of the calibration
samples, their float pass from which the ranges of all widths are taken. Each setting's weights are
quantized once, and its features are extracted once for all tasks and probes; where tasks are folds,
once for each, as a fold is calibrated on its own training samples. Nothing is shared that would
make a row depend on which others are measured: starting the linear probe from the solution of the
neighboring width was tried, saved next to nothing, and moved figures (`docs/bits.md`).

How much an encoder at low bits agrees with itself in float, where no labels tell what is lost:
neighbors kept.
"""

import dataclasses
import functools
from collections.abc import Callable, Iterator, Sequence

import torch
from torch import Tensor

from mezzotint.data.source import Source, Task
from mezzotint.encoders.encoder import Encoder
from mezzotint.encoders.onnx import OnnxFeatures
from mezzotint.evaluation.calibration import by_fold, calibration_order, read_calibration
from mezzotint.evaluation.features import Extraction, extract_readable
from mezzotint.evaluation.knn import similarities
from mezzotint.evaluation.label_free import at_most
from mezzotint.evaluation.metrics import Share, classification, labeled
from mezzotint.evaluation.probe import Probe, Row
from mezzotint.evaluation.ptq import Calibrated, CalibratedFile, calibrated_copy
from mezzotint.evaluation.results import Evaluation
from mezzotint.evaluation.suite import (
    DEFAULT_PROBES,
    Heads,
    asked,
    evaluate_features,
    measure,
    named,
    over_folds,
    splits,
    token_rows,
)
from mezzotint.quant.bitwidth import FP32, Bits

_K = 10
_MOST = 4_096
"""Samples that are compared; of more, so many at equal steps."""


def agreement(level: Extraction, found: Extraction) -> Row:
    """The figure `all/kept`: of the 10 nearest neighbors (cosine) in float, the share that are so at low bits, too.

    Args:
        level: features in float.
        found: features of the same samples at low bits.
    """
    count = min(len(level.x), _MOST)
    k = min(_K, count - 1)
    before, after = (_nearest(at_most(part.x, count), k) for part in (level, found))
    kept = (
        (before.unsqueeze(2) == after.unsqueeze(1)).any(dim=2).double().mean().item()
        if k > 0
        else 1.0
    )
    return Row(
        probe="neighbors",
        metric="all/kept",
        value=kept,
        protocol=f"neighbors/1 k={k} samples={count}",
    )


def _nearest(x: Tensor, k: int) -> Tensor:
    """int64 `[N, k]`: the rows nearest to each row, without itself."""
    chosen = []
    for rows, near in similarities(x, x, metric="cosine", center=False):
        own = torch.arange(rows.start, rows.stop)
        near[own - rows.start, own] = -torch.inf
        chosen.append(near.topk(k, dim=1).indices)
    return torch.cat(chosen)


GRID = (FP32, Bits(8, 8), Bits(6, 6), Bits(5, 5), Bits(4, 4), Bits(3, 3), Bits(2, 8), Bits(2, 4), Bits(2, 2))  # fmt: skip
"""The bit-widths that SSQL's source reports."""

_SEED = 0
_FLOAT_HEAD = " head=fp32"
_Part = tuple[Sequence[Task], Calibrated | CalibratedFile]
"""Tasks, and the encoder that was calibrated for them."""


def evaluate_bits(
    encoder: Encoder,
    source: Source,
    *,
    bits: Sequence[Bits] = GRID,
    policy: str | None = None,
    protocols: Sequence[str] = ("plain",),
    calibration_samples: int | None = None,
    reconstruction_steps: int = 500,
    probes: Sequence[Probe] = DEFAULT_PROBES,
    seeds: int = 3,
    batch_size: int = 256,
    workers: int = 0,
    device: torch.device | str | None = None,
) -> Evaluation:
    """Measure an encoder in float, and at each number of bits.

    Args:
        encoder: quantizable already or not; it is left as it was.
        source: as for `evaluate_encoder`, whose rows come first: float is always measured.
        bits: bit-widths to measure at, besides fp32.
        policy: which layers; by default the encoder's own when it is quantizable already, else
            `ssql`.
        protocols: `plain`, `corrected`, `strong`; see `ptq.py`.
        calibration_samples: how many; see `read_calibration`.
        reconstruction_steps: of `strong`, for each block and setting.
        probes: each runs on every task of a kind it answers.
        seeds: repeats of what is random.
        batch_size: samples in one forward pass.
        workers: of the loader.
        device: where to compute features; by default where the encoder is.

    Raises:
        ValueError: before anything is measured, for what does not exist, or cannot be quantized or
            calibrated.
    """
    low = [one for one in dict.fromkeys(bits) if not one.is_float]
    samples, tasks = asked(source)
    place = torch.device(device or next((p.device for p in encoder.parameters()), "cpu"))
    copies: list[list[_Part]] = []  # by protocol, and by group of tasks
    if low:  # first of all, so that what cannot be done is refused before hours of work
        batches = _batches(encoder, samples, tasks, calibration_samples, place, workers)
        copies = [
            [
                (group, _calibrated(encoder, part, name, policy, reconstruction_steps))
                for group, part in batches
            ]
            for name in dict.fromkeys(protocols)
        ]
        copies[0][0][1].require(low)

    extract = functools.partial(
        extract_readable, source=samples, batch_size=batch_size, workers=workers, device=place
    )
    heads: Heads = {}
    level = extract(encoder)
    evaluation = evaluate_features(level, tasks, probes, seeds, heads)
    more = token_rows(
        encoder, samples, tasks, probes, seeds, batch_size=batch_size, workers=workers, device=place
    )
    evaluation.rows.extend(more)
    for parts in copies:
        for to in low:
            found = _at(to, parts, extract, level, probes, seeds, heads)
            rows = [
                row
                for own, how in found
                for row in stamped([*own, *changes(evaluation.rows, own)], to, how)
            ]
            evaluation.rows.extend([*rows, *over_folds(rows)])
    return evaluation


def _batches(
    encoder: Encoder,
    samples: Source,
    tasks: Sequence[Task],
    count: int | None,
    device: torch.device,
    workers: int,
) -> list[tuple[list[Task], list[Tensor]]]:
    """For each group of tasks what their encoder is calibrated with."""
    found = []
    for group in by_fold(tasks):
        order = calibration_order(group, len(samples), _SEED)
        found.append(
            (group, read_calibration(samples, encoder.input, order, count, device, workers=workers))
        )
    return found


def _at(
    to: Bits,
    parts: Sequence[_Part],
    extract: Callable[[Encoder], Extraction],
    level: Extraction,
    probes: Sequence[Probe],
    seeds: int,
    heads: Heads,
) -> Iterator[tuple[list[Row], str]]:
    """Each group's rows from the encoder calibrated for it, and how it was; what needs no task, of the first."""
    for number, (tasks, calibrated) in enumerate(parts):
        with calibrated.at(to) as network:
            found = extract(network)
        rows = [] if tasks else [agreement(level, found)]
        rows += measure(
            found, tasks, [probe for probe in probes if probe.kinds or number == 0], seeds
        )
        rows += _float_heads(found, tasks, heads)
        yield rows, calibrated.how


def changes(level: Sequence[Row], rows: Sequence[Row]) -> Iterator[Row]:
    """Which samples quantization cost, and which it won: what a paired interval of the difference is made of.

    Args:
        level: rows in float; others are passed over.
        rows: the same figures at low bits, on the same samples.

    Yields:
        For each `top1` at low bits `lost`, the share of samples that are right in float alone, and
        `gained`, the share that is right at low bits alone; their difference is the change.
    """
    floats = {(row.metric, row.seed, row.protocol): row.value for row in level}
    for row in rows:
        before = floats.get((row.metric, row.seed, row.protocol.replace(_FLOAT_HEAD, "")))
        if isinstance(row.value, Share) and isinstance(before, Share):
            then, now = before.hits, row.value.hits
            for name, which in (("lost", then & ~now), ("gained", now & ~then)):
                task = row.metric.rpartition("/")[0]
                yield dataclasses.replace(
                    row, metric=f"{task}/{name}", value=which.double().mean().item()
                )


def _calibrated(
    encoder: Encoder, batches: Sequence[Tensor], protocol: str, policy: str | None, steps: int
) -> Calibrated | CalibratedFile:
    model = getattr(encoder, "model", None)
    if isinstance(model, OnnxFeatures):
        return CalibratedFile(encoder, model, batches, protocol, policy=policy, seed=_SEED)
    return calibrated_copy(encoder, batches, protocol, policy=policy, steps=steps, seed=_SEED)


def _float_heads(found: Extraction, tasks: Sequence[Task], heads: Heads) -> Iterator[Row]:
    """The classifiers of float features on other features of the same samples."""
    for task, train, test in splits(found, tasks):
        for (name, protocol), fitted in heads.items():
            if name == task.name:
                queries, answers = labeled(test, "test")
                for head in fitted:
                    for metric, value in classification(head.logits(queries), head.names, answers):
                        row = Row(
                            probe="linear_ptq",
                            metric=metric,
                            value=value,
                            protocol=protocol + _FLOAT_HEAD,
                            seed=head.seed,
                        )
                        yield named(row, task, train, test)


def stamped(rows: Sequence[Row], to: Bits, how: str) -> Iterator[Row]:
    """Rows of a quantized encoder: with its bits, and how it was quantized before the protocol."""
    for row in rows:
        yield dataclasses.replace(row, bits=to, protocol=f"{how}; {row.protocol}")
