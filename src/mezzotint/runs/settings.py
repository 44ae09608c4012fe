"""The `evaluate` section of a recipe: what is measured when training has ended."""

from collections.abc import Sequence
from typing import Literal

from mezzotint.evaluation.knn import KNN
from mezzotint.evaluation.linear import Linear
from mezzotint.evaluation.probe import Probe
from mezzotint.evaluation.protocol import PTQMethod
from mezzotint.evaluation.retrieval import Retrieval
from mezzotint.quant.bitwidth import FP32, Bits
from mezzotint.quant.qconfig import PolicyName
from mezzotint.recipe.component import Component


class Evaluate(Component):
    """What is measured when training has ended.

    Args:
        probes: each run on every task of the data that it fits.
        seeds: how often a probe with a random part is repeated, and how many untrained encoders
            stand beside.
        baselines: measure raw input and the untrained encoder too.
        bits: bit-widths at which the encoder is evaluated, such as W4A8; fp32 is always included.
        policy: which layers are quantized; by default the encoder's own when it was trained to be
            quantized, else ssql.
        ptq: methods of post-training quantization: `min_max` ranges and rounding to nearest, as in
            the papers; `batch_norm`, which re-estimates BatchNorm's statistics too; `adaround`,
            which learns the rounding and takes minutes.
        calibration_samples: training samples from which the ranges of activations are taken; `None`
            for 512, or all that no task tests on if there are fewer.
        reconstruction_steps: steps of `adaround` per block of layers and pair of bit-widths.
        branch: the trained network, or its momentum copy where the method keeps one.
        part: the backbone, or also the projector on it; anything but the trained backbone is read
            from the checkpoint.
    """

    def __init__(
        self,
        *,
        probes: Sequence[Probe] = (KNN(), Linear(), Retrieval()),  # noqa: B008
        seeds: int = 3,
        baselines: bool = True,
        bits: Sequence[str | int] = ("fp32",),
        policy: PolicyName | None = None,
        ptq: Sequence[PTQMethod] = ("min_max",),
        calibration_samples: int | None = None,
        reconstruction_steps: int = 500,
        branch: Literal["online", "target"] = "online",
        part: Literal["backbone", "projector"] = "backbone",
    ) -> None:
        if seeds < 1:
            raise ValueError(
                f"evaluate.seeds: got {seeds}; allowed is 1 or more: 3 give an interval"
            )
        for name, value in (
            ("calibration_samples", calibration_samples),
            ("reconstruction_steps", reconstruction_steps),
        ):
            if value is not None and value < 1:
                raise ValueError(
                    f"evaluate.{name}: got {value}; allowed is 1 or more: some hundreds are usual"
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
