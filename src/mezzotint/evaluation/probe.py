"""The contract of a probe, and the row that holds each result."""

import dataclasses
import math
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

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
        protocol: name, version and settings, enough to compare two rows.
        bits: bit-widths of weights and activations.
        compute: arithmetic that computed the features, `"float32"`.
        seed: seed of the random part, such as a split; 0 without one.
    """

    probe: str
    metric: str
    value: float
    protocol: str
    bits: Bits = FP32
    compute: str = "float32"
    seed: int = 0

    def as_json(self) -> dict[str, Any]:
        """Return plain data; a value that is not finite becomes `None`."""
        value = self.value if math.isfinite(self.value) else None
        return dataclasses.asdict(self) | {"value": value, "bits": str(self.bits)}

    @classmethod
    def from_json(cls, entry: Mapping[str, Any]) -> "Row":
        """Make the row again from what `as_json` returned; `None` becomes NaN."""
        value = math.nan if entry["value"] is None else float(entry["value"])
        return cls(**{**entry, "value": value, "bits": Bits.parse(entry["bits"])})


class Probe(Component, ABC, abstract=True):
    """An evaluator that a recipe can name.

    Attributes:
        name: what `Row.probe` says.
        kinds: of tasks that it answers; empty when it looks at features alone, without labels or
            split.
        tokens: it looks at the patches of a sample, `[N, L, D]`, rather than at their mean.
    """

    name: ClassVar[str]
    kinds: ClassVar[tuple[Literal["classify", "tag", "retrieve"], ...]]
    tokens: ClassVar[bool] = False

    @property
    @abstractmethod
    def protocol(self) -> str:
        """Name, version and all settings. The version rises when the same settings would give another number."""

    @abstractmethod
    def run(self, train: Features, test: Features, *, seeds: int = 1) -> Iterator[Row]:
        """Yield a row a figure; `metric` is the bare measure.

        Args:
            train: what may be learned from and selected on.
            test: what is scored, and nothing else.
            seeds: repeats of what is random, with seeds `0 … seeds − 1` and rows for each; a probe
                in which nothing is random yields rows of seed 0 alone.
        """

    def row(self, metric: str, value: float, seed: int = 0) -> Row:
        """A row of float features and arithmetic."""
        return Row(probe=self.name, metric=metric, value=value, protocol=self.protocol, seed=seed)
