"""The sections `evaluate`, `budget` and `export` of a recipe: what follows training."""

import math
from collections.abc import Sequence
from typing import ClassVar, Literal

from mezzotint.evaluation.knn import KNN
from mezzotint.evaluation.linear import Linear
from mezzotint.evaluation.probe import Probe
from mezzotint.evaluation.protocol import PTQMethod
from mezzotint.evaluation.retrieval import Retrieval
from mezzotint.quant.bitwidth import FP32, Bits
from mezzotint.quant.convert import PolicyName
from mezzotint.quant.ranges import Quantization
from mezzotint.recipe.component import Component


class Evaluate(Component):
    """Set what is measured after training.

    Args:
        probes: probes; each runs on every task of a kind that it answers.
        seeds: number of repeats of a probe with a random part, and of untrained encoders.
        baselines: measure the raw input and untrained encoders too.
        bits: bits to evaluate at, such as W4A8, each 1 to 8 or 32; fp32 is always included.
        policy: layers to quantize, by default the encoder's own policy, or ssql; or layers with
            scheme, granularity and observer of weights and activations.
        ptq: methods of post-training quantization: `min_max` ranges and rounding to nearest, as in
            the papers; `batch_norm`, which re-estimates BatchNorm's statistics too; `adaround`,
            which learns the rounding and takes minutes.
        calibration_samples: number of training samples for the ranges of activations; `None` for
            512, or all that no task tests on if there are fewer.
        reconstruction_steps: steps of `adaround` per block of layers and pair of bit-widths.
        branch: `online` for the trained network, `target` for its momentum copy.
        part: `backbone`, or `projector` for the projector on it; all but the online backbone are
            read from the checkpoint.
    """

    def __init__(
        self,
        *,
        probes: Sequence[Probe] = (KNN(), Linear(), Retrieval()),  # noqa: B008
        seeds: int = 3,
        baselines: bool = True,
        bits: Sequence[str | int] = ("fp32",),
        policy: PolicyName | Quantization | None = None,
        ptq: Sequence[PTQMethod] = ("min_max",),
        calibration_samples: int | None = None,
        reconstruction_steps: int = 500,
        branch: Literal["online", "target"] = "online",
        part: Literal["backbone", "projector"] = "backbone",
    ) -> None:
        if seeds < 1:
            raise ValueError(
                f"`evaluate.seeds` must be 1 or more, got {seeds}. 3 give an interval."
            )
        for name, value in (
            ("calibration_samples", calibration_samples),
            ("reconstruction_steps", reconstruction_steps),
        ):
            if value is not None and value < 1:
                raise ValueError(
                    f"`evaluate.{name}` must be 1 or more, got {value}. Some hundreds are usual."
                )
        self.probes = list(probes)
        self.seeds = seeds
        self.baselines = baselines
        self.bits = [Bits.parse(text, "evaluate.bits") for text in bits] or [FP32]
        self.policy = policy
        self.ptq = list(ptq)
        self.calibration_samples = calibration_samples
        self.reconstruction_steps = reconstruction_steps
        self.branch: Literal["online", "target"] = branch
        self.part: Literal["backbone", "projector"] = part


class Budget(Component):
    """Limit the evaluation that follows training.

    Args:
        evaluation: largest fraction of a run, training and evaluation together, that
            `mezzotint pretrain` evaluates for; parts that no longer fit are left out and named.
            `mezzotint evaluate` measures all. 1 is no limit.
        samples: largest number of training and of test samples of a task, a random part of them
            that is the same each time; `None` for all.

    Attributes:
        least_s: seconds that an evaluation may always take.
        page: fraction of the evaluation that is left for the page.
    """

    least_s: ClassVar[float] = 60.0
    page: ClassVar[float] = 0.2

    def __init__(self, *, evaluation: float = 0.25, samples: int | None = None) -> None:
        if not 0.0 <= evaluation <= 1.0:
            raise ValueError(
                f"`budget.evaluation` must be 0 to 1, got {evaluation}. 0.25 is usual."
            )
        if samples is not None and samples < 1:
            raise ValueError(
                f"`budget.samples` must be 1 or more, got {samples}. Use null for all samples."
            )
        self.evaluation = evaluation
        self.samples = samples

    def seconds(self, training_s: float) -> float:
        """Return the seconds for evaluation and page after a training of some seconds."""
        if self.evaluation == 1.0:
            return math.inf
        return max(self.least_s, training_s * self.evaluation / (1.0 - self.evaluation))


class Export(Component):
    """Export the encoder after training; every artifact is verified in its runtime.

    Args:
        onnx: bits of ONNX files: W8A8, fp32.
        packed: bits of packed files, such as W4A32 or W2A8.
    """

    def __init__(self, *, onnx: Sequence[str | int] = (), packed: Sequence[str | int] = ()) -> None:
        asked: tuple[tuple[Literal["onnx", "packed"], Sequence[str | int]], ...]
        asked = (("onnx", onnx), ("packed", packed))
        self.artifacts = [
            (format, Bits.parse(bits, f"export.{format}"))
            for format, several in asked
            for bits in several
        ]
