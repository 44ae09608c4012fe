"""Synthetic data and a small encoder for tests of evaluation at low bits."""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor, nn

from mezzotint.data.memory import InMemory
from mezzotint.data.source import Source, Task
from mezzotint.encoders.encoder import Encoder
from mezzotint.evaluation.bits import evaluate_bits
from mezzotint.evaluation.measurement import Measurement
from mezzotint.evaluation.probe import Row
from mezzotint.quant.bitwidth import Bits
from mezzotint.types import Input, Sample, Unreadable

INPUT = Input((1, 6, 6), (0.5,), (0.25,))


COUNT = 120


class Stripes(InMemory):
    """Four kinds of noisy stripes; the first two thirds are training samples."""

    def __init__(self, bad: tuple[int, ...] = ()) -> None:
        g = torch.Generator().manual_seed(0)
        self.input = INPUT
        self.labels = np.arange(COUNT) % 4
        clean = torch.zeros(4, 1, 6, 6)
        clean[0, :, ::2], clean[1, :, 1::2], clean[2, ..., ::2], clean[3, ..., 1::2] = (
            90,
            90,
            90,
            90,
        )
        noise = torch.randint(160, (COUNT, 1, 6, 6), generator=g)
        self.images = (clean[torch.from_numpy(self.labels)] + noise).clamp(0, 255).to(torch.uint8)
        self.ids = "stripes"
        self.bad = bad

    def evaluation(self) -> tuple[Source, Sequence[Task]]:
        train, test = np.arange(80), np.arange(80, COUNT)
        return (Broken(self) if self.bad else self), [
            Task("kind", "classify", self.labels, train, test, list("abcd")),
            Task("pair", "classify", self.labels % 2, train[20:], np.arange(20), list("ab")),
        ]


class Broken(Source):
    """The same samples one by one; some fail."""

    def __init__(self, whole: Stripes) -> None:
        self.whole, self.input = whole, whole.input

    def __len__(self) -> int:
        return COUNT

    def read(self, index: int) -> Sample:
        if index in self.whole.bad:
            raise Unreadable(str(index), "broken")
        return self.whole.read(index)

    def fingerprint(self) -> str:
        return "0"


class Net(Encoder):
    """Two convolutions, whose second input is what the papers' policy quantizes."""

    def __init__(self) -> None:
        super().__init__(INPUT, dim=16)
        self.first, self.act = nn.Conv2d(1, 8, 3, padding=1), nn.ReLU()
        self.norm, self.second = nn.BatchNorm2d(8), nn.Conv2d(8, 16, 3, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.second(self.norm(self.act(self.first(x)))).relu().mean((2, 3))  # type: ignore[no-any-return]


def values(rows: Sequence[Row]) -> list[tuple[str, str, float, int, str]]:
    return [(row.probe, row.metric, row.value, row.seed, str(row.protocol)) for row in rows]


def of(rows: Sequence[Row], text: str) -> list[Row]:
    return [row for row in rows if row.bits == Bits.parse(text)]


def quick(encoder: Encoder, bits: Sequence[str], **options: object) -> list[Row]:
    return evaluate_bits(
        Measurement(encoder, Stripes()),
        bits=[Bits.parse(text) for text in bits],
        calibration_samples=32,
        seeds=2,
        **options,  # type: ignore[arg-type]
    ).rows
