"""The predicted time of an evaluation, from what a few samples take."""

import time

import pytest

from mezzotint.evaluation.cost import _PAGE_S, EvaluationCost, evaluation_cost
from mezzotint.evaluation.features import Reading
from mezzotint.evaluation.knn import KNN
from mezzotint.evaluation.linear import Linear
from mezzotint.evaluation.measurement import Measurement
from tests.evaluation.stripes import COUNT, Net, Stripes

COST = EvaluationCost(1000, 0.010, 0.002, 0.001, ((10, 3.0), (2000, 8.0), (50, 1.0)), page_s=5.0)


def test_parts_add_up() -> None:
    page = 5.0
    assert COST.seconds(baselines=False) == pytest.approx(10.0 + 2.0 + 3.0 + page)
    assert COST.seconds(untrained=0) == pytest.approx(15.0 + 1.0 + 8.0 + 1.0 + page)
    assert COST.seconds(untrained=3) == pytest.approx(25.0 + 3 * 5.0 + page)
    assert COST.seconds(untrained=3, bits=2) == pytest.approx(40.0 + 2 * 5.0 + page)


def test_fewer_samples_take_less_and_more_than_all_are_all() -> None:
    # A quarter: reading, passes and probes of few features take a quarter, probes of more features
    # than samples a sixteenth.
    quarter = 2.5 + 0.5 + 3.0 / 4 + 0.25 + 8.0 / 16 + 1.0 / 4
    assert COST.seconds(samples=250, untrained=0) == pytest.approx(quarter + 5.0)
    assert COST.seconds(samples=5000) == COST.seconds()


def test_what_is_timed_is_counted_in_samples(monkeypatch: pytest.MonkeyPatch) -> None:
    ticks, used = iter(range(1000)), iter(range(1000))
    monkeypatch.setattr(time, "perf_counter", lambda: float(next(ticks)))
    monkeypatch.setattr(time, "process_time", lambda: float(next(used)))
    measurement = Measurement(Net(), Stripes(), Reading(workers=0))
    found = evaluation_cost(measurement, probes=[KNN(), Linear()], seeds=1)
    assert found.samples == COUNT and [dim for dim, _ in found.probes] == [16, 36, 616]
    assert found.read_s == 0.0 and found.forward_s == pytest.approx(1 / 24)
    # Three probes took a tick and one in between each, while the processor had worked for one.
    assert found.page_s == _PAGE_S * 7
    # The two tasks have 120 and 80 samples; 120 made-up ones were timed.
    assert found.probes[0][1] == pytest.approx((120 + 80) / 120)


def test_data_without_tasks_have_label_free_measures_alone() -> None:
    source = Stripes()
    source.evaluation = lambda: (source, [])  # type: ignore[method-assign]
    found = evaluation_cost(Measurement(Net(), source), probes=[KNN()], seeds=1)
    assert found.samples == COUNT and all(seconds > 0 for _, seconds in found.probes)
