"""Named parts of the work: they add up, nest, and cost nothing while no stopwatch runs."""

import time

import pytest
import torch

from mezzotint import timing
from mezzotint.timing import is_measured, measuring, part


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The time of day, which the test moves."""
    now = [100.0]
    monkeypatch.setattr(time, "perf_counter", lambda: now[0])
    return now


def test_a_part_is_without_the_parts_inside_it(clock: list[float]) -> None:
    with measuring("rest") as watch:
        clock[0] += 1
        with part("views"):
            clock[0] += 2
            with part("crop"):
                clock[0] += 4
            clock[0] += 8
        with part("crop"):
            clock[0] += 16
        clock[0] += 32
    assert watch.seconds == {"rest": 33.0, "views": 10.0, "crop": 20.0}


def test_time_that_ends_in_an_error_counts_and_the_stopwatch_stops(clock: list[float]) -> None:
    with pytest.raises(KeyError), measuring("rest") as watch, part("crop"):
        clock[0] += 3
        raise KeyError
    assert watch.seconds == {"crop": 3.0, "rest": 0.0}
    with part("crop"):
        clock[0] += 5
    assert watch.seconds["crop"] == 3.0


def test_without_a_stopwatch_no_clock_is_read_and_no_device_waited_for(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def fail() -> float:
        raise AssertionError("the clock was read")

    monkeypatch.setattr(time, "perf_counter", fail)
    assert part("crop") is part("flip"), "one context for all, made once"
    with part("crop"), part("flip"):
        pass
    assert timing._running is None


def test_a_running_stopwatch_waits_for_an_accelerator_at_both_ends_of_each_part(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    waits: list[torch.device] = []
    monkeypatch.setattr(torch.accelerator, "synchronize", waits.append)
    device = torch.device("cuda")
    with measuring("rest", device):
        assert waits == [device]
        with part("crop"):
            assert waits == [device] * 2
        assert waits == [device] * 3
    assert waits == [device] * 4
    with measuring("rest", torch.device("cpu")), part("crop"):
        assert len(waits) == 4


def test_one_step_in_fifty_is_measured_and_never_the_first() -> None:
    assert [step for step in range(120) if is_measured(step)] == [1, 51, 101]
