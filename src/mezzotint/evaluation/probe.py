"""The contract of an evaluator, and the row that every figure is."""

from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar, Literal

from mezzotint.recipe.component import Component
from mezzotint.types import Features


@dataclass(frozen=True)
class Row:
    """One figure with its protocol; `evaluation.json` is a list of these.

    Attributes:
        probe: who measured: `"knn"`, `"linear"`, `"retrieval"`, `"rank"` …
        metric: task and measure, `"category/across-styles/top1"`.
        value: the figure; fractions in [0, 1], not per cent.
        weight_bits: bits the weights are stored in; 32 for float.
        activation_bits: bits of the activations; 32 for float.
        compute: the arithmetic that produced the features, `"float32"`.
        seed: of the part that is random (a split); 0 where nothing is.
        protocol: name, version and settings, enough to compare two rows.
    """

    probe: str
    metric: str
    value: float
    weight_bits: int
    activation_bits: int
    compute: str
    seed: int
    protocol: str


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
        return Row(self.name, metric, value, 32, 32, "float32", seed, self.protocol)
