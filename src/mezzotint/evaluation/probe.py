"""The contract of a probe, and the row that holds each result."""

import dataclasses
import math
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from mezzotint.evaluation.protocol import Protocol
from mezzotint.quant.bitwidth import FP32, Bits
from mezzotint.recipe.component import Component
from mezzotint.types import Features


@dataclass(frozen=True, kw_only=True)
class Row:
    """One result with its protocol; `evaluation.json` is a list of these.

    Attributes:
        probe: name of the probe: `"knn"`, `"linear"`, `"retrieval"`, `"rank"` …
        metric: task and metric, `"category/across-styles/top1"`.
        value: the result; fractions lie in [0, 1] and are not per cent.
        protocol: everything that two rows must share to be compared.
        bits: bits of weights and activations.
        compute: arithmetic that computed the features, `"float32"`.
        seed: seed of the random part, such as a split; 0 without one.
    """

    probe: str
    metric: str
    value: float
    protocol: Protocol
    bits: Bits = FP32
    compute: str = "float32"
    seed: int = 0

    def as_json(self) -> dict[str, Any]:
        """Return plain data; a value that is not finite becomes `None`."""
        value = self.value if math.isfinite(self.value) else None
        plain = {"value": value, "bits": str(self.bits), "protocol": self.protocol.as_json()}
        return {field.name: getattr(self, field.name) for field in dataclasses.fields(self)} | plain

    @classmethod
    def from_json(cls, entry: Mapping[str, Any]) -> "Row":
        """Make the row again from what `as_json` returned; `None` becomes NaN.

        Raises:
            ValueError: when the entry was written by another version.
        """
        if set(entry) != {field.name for field in dataclasses.fields(cls)}:
            raise ValueError("rows have other keys")
        if not isinstance(entry["protocol"], Mapping):
            raise ValueError("protocols are texts")
        value = math.nan if entry["value"] is None else float(entry["value"])
        bits, protocol = Bits.parse(entry["bits"]), Protocol.from_json(entry["protocol"])
        return cls(**{**entry, "value": value, "bits": bits, "protocol": protocol})

    def with_protocol(self, **changes: Any) -> "Row":
        """Return the row with some fields of its protocol changed."""
        return dataclasses.replace(self, protocol=dataclasses.replace(self.protocol, **changes))


class Probe(Component, ABC, abstract=True):
    """An evaluator that a recipe can name.

    Attributes:
        name: value of `Row.probe`.
        kinds: kinds of tasks that the probe answers; empty for measures of the features alone,
            without labels or split.
        tokens: whether the probe takes the patch tokens of a sample, `[N, L, D]`, instead of their
            mean.
    """

    name: ClassVar[str]
    kinds: ClassVar[tuple[Literal["classify", "tag", "retrieve"], ...]]
    tokens: ClassVar[bool] = False

    @property
    @abstractmethod
    def protocol(self) -> Protocol:
        """The protocol's name, version and all settings, without the sizes of a split."""

    @abstractmethod
    def run(self, train: Features, test: Features, *, seeds: int = 1) -> Iterator[Row]:
        """Yield one row per metric and seed; `metric` is the bare metric, without a task.

        Args:
            train: features to fit on and to select settings on.
            test: features to score, used for nothing else.
            seeds: number of repeats of what is random, with seeds `0 … seeds − 1`; a probe without
                randomness yields rows of seed 0 alone.
        """

    def row(self, metric: str, value: float, seed: int = 0) -> Row:
        """Return a row of fp32 features."""
        return Row(probe=self.name, metric=metric, value=value, protocol=self.protocol, seed=seed)
