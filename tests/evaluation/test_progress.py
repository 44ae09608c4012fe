"""Progress of a measurement: a line every ten seconds, and parts that do not fit are left out."""

import json
import math
import time

import pytest
from torch import Tensor

from mezzotint.encoders.encoder import Encoder
from mezzotint.evaluation import progress
from mezzotint.evaluation.bits import evaluate_bits
from mezzotint.evaluation.knn import KNN
from mezzotint.evaluation.measurement import Measurement
from mezzotint.evaluation.progress import EVERY_S, TimedParts, showing
from mezzotint.evaluation.suite import baselines, evaluate_encoder
from mezzotint.quant.bitwidth import FP32, Bits
from tests.evaluation.stripes import Net, Stripes


class Clock:
    """A clock that stands still unless it is moved."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now

    def __deepcopy__(self, memo: object) -> "Clock":
        return self  # a quantized copy of an encoder takes its time from the same clock


class Slow(Net):
    """An encoder whose forward pass takes ten seconds of a clock."""

    def __init__(self, clock: Clock) -> None:
        super().__init__()
        self.clock = clock

    def forward(self, x: Tensor) -> Tensor:
        self.clock.now += 10.0
        return super().forward(x)


def test_a_part_that_lasts_has_a_line_every_ten_seconds() -> None:
    clock, lines = Clock(), list[tuple[float, str, float, str]]()
    followed = TimedParts(lambda *line: lines.append((clock.now, *line)), clock=clock)
    with followed.part("whole"), followed.part("features"):
        for tick in range(1, 61):
            clock.now += 0.5
            followed.count(tick, 60)
            followed.tick()
    times = [100.0, *(line[0] for line in lines)]
    assert max(b - a for a, b in zip(times, times[1:], strict=False)) <= EVERY_S
    assert lines[0][1:] == ("features", 9.5, "19 of 60")
    assert lines[-2][1:] == ("features", 30.0, "") and lines[-1][1:] == ("whole", 30.0, "")
    assert followed.seconds == {"features": 30.0, "whole": 30.0}


def test_short_parts_have_no_line_and_outside_of_a_measurement_nothing_is_followed() -> None:
    clock, lines = Clock(), list[tuple[str, float, str]]()
    followed = TimedParts(lambda *line: lines.append(line), clock=clock)
    for _ in range(3):
        with followed.part("kNN"):
            clock.now += 0.4
    followed.tick()
    assert not lines and followed.seconds["kNN"] == pytest.approx(1.2)
    with progress.part("kNN"):
        progress.count(1, 2)
    assert progress.allows("anything", "kNN", math.inf) and progress.seconds_of("kNN") == 0.0


def test_lines_come_while_a_part_is_busy(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    clock = Clock()
    monkeypatch.setattr(progress, "_TICK_S", 0.01)
    for mode in ("bar", "json", "quiet"):
        with showing(mode, clock=clock), progress.part("features"):
            progress.count(1200, 2000)
            clock.now += 12.0
            deadline = time.monotonic() + 5.0
            # The thread writes without any help of the busy part.
            while mode != "quiet" and not (said := capsys.readouterr()).err + said.out:
                assert time.monotonic() < deadline
                time.sleep(0.01)
        last = capsys.readouterr()  # the line at its end
        assert bool(last.err) == (mode == "bar") and bool(last.out) == (mode == "json")
        if mode == "bar":
            assert said.err == "evaluation: features, 1,200 of 2,000, 12 s\n"
        if mode == "json":
            line = {"part": "features", "seconds": 12.0, "done": "1,200 of 2,000"}
            assert json.loads(said.out) == line


@pytest.mark.parametrize(
    ("limit", "left_out"),
    [
        (math.inf, []),
        (60.0, []),
        (59.0, ["untrained encoder 2"]),
        (35.0, ["untrained encoder 1", "untrained encoder 2"]),
        (25.0, ["untrained encoder 1", "untrained encoder 2"]),
        (
            15.0,
            [
                *("untrained encoder 0", "hand-made features", "raw input"),
                *("untrained encoder 1", "untrained encoder 2"),
            ],
        ),
    ],
)
def test_what_does_not_fit_is_left_out_and_the_limit_is_kept(
    limit: float, left_out: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = Clock()

    def build(seed: int) -> Encoder:
        return Slow(clock)

    measurement = Measurement(Slow(clock), Stripes())
    with showing("quiet", limit_s=limit, clock=clock) as followed:
        evaluation = evaluate_encoder(measurement, probes=[KNN()])
        before = clock.now
        others = baselines(measurement, build, probes=[KNN()])
    assert before == 110.0 and evaluation.rows
    seeds = sorted({row.seed for row in others.untrained})
    kept = {f"untrained encoder {seed}" for seed in seeds}
    assert kept | {*followed.left_out} >= {f"untrained encoder {seed}" for seed in range(3)}
    assert bool(others.raw) == ("raw input" not in followed.left_out)
    assert clock.now - 100.0 <= limit
    if limit in (15.0, 60.0, math.inf):
        assert followed.left_out == left_out


def test_low_bits_leave_time_for_the_baselines() -> None:
    clock = Clock()
    measurement = Measurement(Slow(clock), Stripes())
    bits = [FP32, Bits(8, 8), Bits(4, 4), Bits(2, 2)]
    with showing("quiet", limit_s=70.0, clock=clock) as followed:
        rows = evaluate_bits(measurement, bits=bits, probes=[KNN()], calibration_samples=8).rows
    measured = {row.bits for row in rows}
    assert FP32 in measured and clock.now - 100.0 <= 70.0 - 30.0
    assert followed.left_out and len(measured) > 1
    assert measured == {*bits} - {Bits.parse(name) for name in followed.left_out}
