"""Evaluation by bits: how much of an encoder's features is left when it is quantized.

Every pair of bit-widths is measured in two ways. As in the papers' linear evaluation (Cao et al.
2022, arXiv 2207.05432), probes are fitted on and score features of the frozen quantized encoder;
their heads are fp32. And the frozen linear head, fitted on fp32 features, scores quantized features
(`linear_ptq`): the result of an application that quantizes its encoder and keeps its classifier.
`lost` and `gained` give the interval of the difference from fp32 (`results.change`).

Differs from the paper in its calibration (see `calibration.py`) and its probe (see `linear.py`).

Shared by all bit-widths: the fp32 evaluation, the calibration samples, and their fp32 pass, which
gives the ranges. Weights are quantized once for each pair, and features are extracted once for all
tasks and probes; of folds once each, since a fold is calibrated on its own training samples. No row
depends on the other bit-widths measured: starting the linear probe from the solution of the
neighboring bit-width saved next to nothing and changed results (`docs/bits.md`).

Without labels, the kNN overlap says how much a quantized encoder agrees with its fp32 features.

The *input-bit curve* (`input_bit_rows`) quantizes the input instead, and leaves the encoder as it
is: the metric against the bits of the input says whether storing more of them is worth it.
"""

import dataclasses
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from mezzotint.data.source import Task
from mezzotint.encoders.encoder import Encoder
from mezzotint.encoders.onnx import OnnxFeatures
from mezzotint.evaluation import progress
from mezzotint.evaluation.calibration import by_fold
from mezzotint.evaluation.features import Extraction
from mezzotint.evaluation.knn import similarities
from mezzotint.evaluation.label_free import at_most
from mezzotint.evaluation.measurement import Measurement
from mezzotint.evaluation.metrics import Accuracy, classification, labeled
from mezzotint.evaluation.probe import Probe, Row
from mezzotint.evaluation.protocol import PTQ, Protocol, PTQMethod
from mezzotint.evaluation.ptq import Calibrated, CalibratedFile, calibrated_copy
from mezzotint.evaluation.results import Evaluation
from mezzotint.evaluation.suite import (
    DEFAULT_PROBES,
    Heads,
    evaluate_encoder,
    measure,
    of_task,
    over_folds,
    splits,
)
from mezzotint.modality.modality import modality_of
from mezzotint.quant.bitwidth import FP32, Bits
from mezzotint.quant.ranges import Quantization
from mezzotint.types import Input

GRID = (
    *(FP32, Bits(8, 8), Bits(6, 6), Bits(5, 5), Bits(4, 4)),
    *(Bits(3, 3), Bits(2, 8), Bits(2, 4), Bits(2, 2)),
)
"""The bit-widths that SSQL's source reports."""

_MOST_INPUT_BITS = 24  # exact in the 24 bits of float32
_NEIGHBORS = 10
_BASELINES = 3
_MAX_SAMPLES = 4_096
"""Samples that are compared; of more, this many at equal steps."""

_SEED = 0
_Group = tuple[Sequence[Task], Calibrated | CalibratedFile]
"""Tasks, and the encoder calibrated for them."""


def evaluate_bits(
    measurement: Measurement,
    *,
    bits: Sequence[Bits] = GRID,
    policy: str | Quantization | None = None,
    ptq: Sequence[PTQMethod] = ("min_max",),
    calibration_samples: int | None = None,
    reconstruction_steps: int = 500,
    probes: Sequence[Probe] = DEFAULT_PROBES,
    seeds: int = 3,
) -> Evaluation:
    """Measure an encoder in fp32 and at low bits.

    Args:
        measurement: encoder, quantizable or not, and its data; the encoder is left as it was.
        bits: bit-widths to measure at; fp32 is always included, and its rows come first.
        policy: layers to quantize, and ranges; by default the encoder's own policy, or `ssql`.
        ptq: methods of post-training quantization; see `ptq.py`.
        calibration_samples: number of calibration samples; see `read_calibration`.
        reconstruction_steps: steps per block and pair of bit-widths, for `adaround`.
        probes: probes; each runs on every task of a kind that it answers.
        seeds: number of repeats of what is random.

    Raises:
        ValueError: before anything is measured, for an unknown policy or method, or what cannot be
            quantized or calibrated.
    """
    low = [one for one in dict.fromkeys(bits) if not one.is_float]
    calibrated: list[list[_Group]] = []  # by method, and by group of tasks
    if low:  # calibrate first, so that refusals come before hours of work
        with progress.part("calibration samples"):
            groups = [
                (group, measurement.calibration(group, calibration_samples))
                for group in by_fold(measurement.tasks)
            ]
        for method in dict.fromkeys(ptq):
            with progress.part(f"calibration by {method}"):
                calibrated.append(
                    [
                        (group, _calibrated(measurement, x, method, policy, reconstruction_steps))
                        for group, x in groups
                    ]
                )
        calibrated[0][0][1].require(low)
    heads: Heads = {}
    evaluation = evaluate_encoder(measurement, probes=probes, seeds=seeds, heads=heads)
    # Time for an untrained encoder, hand-made features and the raw input, which come later.
    reserve = _BASELINES * progress.seconds_of(measurement.name)
    for method_groups in calibrated:
        for to in low:
            if not progress.allows(str(to), measurement.name, reserve):
                continue
            rows: list[Row] = []
            with progress.part(str(to)):
                for own, how in _at(to, method_groups, measurement, probes, seeds, heads):
                    rows += stamped([*own, *changes(evaluation.rows, own)], to, how)
            evaluation.rows.extend([*rows, *over_folds(rows)])
    return evaluation


def _calibrated(
    measurement: Measurement,
    batches: Sequence[Tensor],
    method: PTQMethod,
    policy: str | Quantization | None,
    steps: int,
) -> Calibrated | CalibratedFile:
    encoder = measurement.encoder
    model = getattr(encoder, "model", None)
    if isinstance(model, OnnxFeatures):
        return CalibratedFile(encoder, model, batches, method, policy=policy, seed=_SEED)
    return calibrated_copy(encoder, batches, method, policy=policy, steps=steps, seed=_SEED)


def _at(
    to: Bits,
    groups: Sequence[_Group],
    measurement: Measurement,
    probes: Sequence[Probe],
    seeds: int,
    heads: Heads,
) -> Iterator[tuple[list[Row], PTQ]]:
    """Yield the rows of each group and its PTQ, with the encoder calibrated for the group."""
    for number, (tasks, calibrated) in enumerate(groups):
        with calibrated.at(to) as network:
            quantized = measurement.of(network, f"the encoder at {to}").features
        rows = [] if tasks else [knn_overlap(measurement.features, quantized)]
        # Label-free probes see all samples alike; once is enough for all folds.
        own = [probe for probe in probes if probe.kinds or number == 0]
        rows += measure(quantized, tasks, own, seeds, name=f"the encoder at {to}")
        rows += _fp32_heads(quantized, tasks, heads)
        yield rows, calibrated.ptq


def _fp32_heads(quantized: Extraction, tasks: Sequence[Task], heads: Heads) -> Iterator[Row]:
    """Score the frozen linear heads, fitted on fp32 features, on quantized features."""
    for task, train, test in splits(quantized, tasks):
        for (name, protocol), fitted in heads.items():
            if name != task.name:
                continue
            queries, answers = labeled(test, "test")
            frozen = dataclasses.replace(protocol, fp32_head=True)
            for head in fitted:
                for metric, value in classification(head.logits(queries), head.names, answers):
                    row = Row(
                        probe="linear_ptq",
                        metric=metric,
                        value=value,
                        protocol=frozen,
                        seed=head.seed,
                    )
                    yield of_task(row, task, train, test)


def changes(full: Sequence[Row], low: Sequence[Row]) -> Iterator[Row]:
    """Count the test samples that quantization loses and gains, for a paired interval.

    Args:
        full: rows in fp32; rows without a partner at low bits are skipped.
        low: rows of the same metrics at low bits, on the same samples.

    Yields:
        For each `top1` at low bits `lost`, the fraction of samples that only fp32 classifies
        correctly, and `gained`, the fraction that only low bits do; their difference is the change.
    """
    fp32 = {(row.metric, row.seed, row.protocol): row.value for row in full}
    for row in low:
        # A frozen head has a protocol of its own at low bits, and the same samples as in fp32.
        before = fp32.get(
            (row.metric, row.seed, dataclasses.replace(row.protocol, fp32_head=False))
        )
        if isinstance(row.value, Accuracy) and isinstance(before, Accuracy):
            then, now = before.correct, row.value.correct
            task = row.metric.rpartition("/")[0]
            for name, which in (("lost", then & ~now), ("gained", now & ~then)):
                value = which.double().mean().item()
                yield dataclasses.replace(row, metric=f"{task}/{name}", value=value)


def stamped(rows: Sequence[Row], to: Bits, how: PTQ) -> Iterator[Row]:
    """Yield rows of a quantized encoder with their bits and how it was quantized."""
    for row in rows:
        yield dataclasses.replace(row.with_protocol(ptq=how), bits=to)


def knn_overlap(full: Extraction, quantized: Extraction) -> Row:
    """Return `all/knn_overlap`: the fraction of the 10 nearest neighbors that fp32 shares.

    Args:
        full: features in fp32; neighbors are by cosine similarity.
        quantized: features of the same samples at low bits.
    """
    count = min(len(full.x), _MAX_SAMPLES)
    k = min(_NEIGHBORS, count - 1)
    overlap = 1.0
    if k > 0:
        before, after = (_nearest(at_most(part.x, count), k) for part in (full, quantized))
        shared = (before.unsqueeze(2) == after.unsqueeze(1)).any(dim=2)
        overlap = shared.double().mean().item()
    return Row(
        probe="neighbors",
        metric="all/knn_overlap",
        value=overlap,
        protocol=Protocol.of("neighbors", k=k, samples=count),
    )


def _nearest(x: Tensor, k: int) -> Tensor:
    """int64 `[N, k]`: the rows nearest to each row, without itself."""
    chosen = []
    for rows, near in similarities(x, x, metric="cosine", center=False):
        own = torch.arange(rows.start, rows.stop)
        near[own - rows.start, own] = -torch.inf
        chosen.append(near.topk(k, dim=1).indices)
    return torch.cat(chosen)


class QuantizedInput(Encoder, abstract=True):
    """Round the input of an encoder to levels at equal distances over the range of each channel.

    Args:
        encoder: encoder, which is left as it is.
        low: smallest value of each channel, normalized, `[C]`; smaller ones are clipped.
        high: largest value of each channel, likewise; a channel without a range stays as it is.
        bits: bits of the input; 2^bits levels.
    """

    encoder: Encoder
    low: Tensor
    high: Tensor

    def __init__(self, encoder: Encoder, low: Tensor, high: Tensor, bits: int) -> None:
        super().__init__(encoder.input, encoder.dim)
        self.encoder, self.levels = encoder, 2**bits - 1
        self.register_buffer("low", low.float(), persistent=False)
        self.register_buffer("high", high.float(), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """Features `[B, dim]` of quantized samples `[B, C, …]`."""
        shape = (1, -1, *(1 for _ in x.shape[2:]))
        low, high = self.low.view(shape), self.high.view(shape)
        width = torch.where(high > low, high - low, 1.0)
        codes = ((x - low) / width).clamp(0.0, 1.0).mul(self.levels).round()
        features: Tensor = self.encoder(
            torch.where(high > low, low + codes * (width / self.levels), x)
        )
        return features


def input_bit_rows(
    measurement: Measurement,
    full: Sequence[Row],
    bits: Sequence[int],
    *,
    probes: Sequence[Probe] = DEFAULT_PROBES,
    seeds: int = 3,
) -> list[Row]:
    """Measure an encoder on inputs of fewer bits: the input-bit curve.

    Probes are trained and tested on features of quantized inputs. The range of images and videos is
    the one that their source maps to [0, 1], or 0 to 255; that of other samples is measured on the
    calibration samples, which no task tests on.

    Args:
        measurement: encoder and data; neither is changed.
        full: rows of the input as it is, for paired differences.
        bits: bits of the input.
        probes: probes; those of patch tokens are left out.
        seeds: number of repeats of what is random.

    Raises:
        ValueError: for bits out of range, or samples without a range.
    """
    check_input_bits(measurement.encoder.input, bits)
    low, high = _input_range(measurement)
    pooled = [probe for probe in probes if not probe.tokens]
    rows: list[Row] = []
    for count in sorted(set(bits), reverse=True):
        network = QuantizedInput(measurement.encoder, low, high, count)
        quantized = measurement.of(network, f"the encoder on inputs of {count} bits")
        own = evaluate_encoder(quantized, probes=pooled, seeds=seeds).rows
        if not measurement.tasks:
            own.append(knn_overlap(measurement.features, quantized.features))
        rows += [row.with_protocol(input_bits=count) for row in (*own, *changes(full, own))]
    return rows


def check_input_bits(input: Input, bits: Sequence[int]) -> None:
    """Refuse bits out of range, and samples that have no range.

    Raises:
        ValueError: with what is accepted.
    """
    modality = modality_of(input)
    if modality.has_tokens:
        raise ValueError(
            f"`--input-bits` quantizes numbers in their range, and {modality.plural} hold token "
            "ids, which have none. Leave it out."
        )
    wrong = [count for count in bits if not 1 <= count <= _MOST_INPUT_BITS]
    if wrong or not bits:
        raise ValueError(
            f"`--input-bits` must be whole numbers of 1 to {_MOST_INPUT_BITS}, got "
            f"{', '.join(map(str, wrong)) or 'none'}. Try --input-bits 16,12,8,6,4."
        )


def _input_range(measurement: Measurement) -> tuple[Tensor, Tensor]:
    """Return the ends of the range of each channel, normalized, `[C]`."""
    input = measurement.encoder.input
    if modality_of(input).is_picture:
        ends = (input.normalize(torch.full((1, *input.shape), end))[0] for end in (0.0, 1.0))
        low, high = (end.flatten(1)[:, 0] for end in ends)
        return low, high
    x = torch.cat([part.cpu() for part in measurement.calibration(measurement.tasks)])
    channels = x.transpose(0, 1).flatten(1)
    known = channels.isfinite()
    low = channels.masked_fill(~known, torch.inf).amin(dim=1)
    high = channels.masked_fill(~known, -torch.inf).amax(dim=1)
    return low, high
