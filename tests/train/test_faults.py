"""Faults for tests: each action fails in its own way, at its own point and step only."""

import errno
import os
import signal

import pytest

from mezzotint.train.faults import POINTS, point


@pytest.mark.parametrize("name", POINTS)
def test_a_fault_happens_at_its_point_and_step_only(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("MEZZOTINT_FAULT", raising=False)
    assert not point(name, 3)
    monkeypatch.setenv("MEZZOTINT_FAULT", f"{name}:step=3:nan")
    assert point(name, 3) and not point(name, 2)
    assert not any(point(other, 3) for other in POINTS if other != name)


def test_a_fault_may_be_that_of_one_process(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MEZZOTINT_FAULT", "loop.loss:step=3:nan:rank=1")
    monkeypatch.delenv("RANK", raising=False)
    assert not point("loop.loss", 3)
    for rank in (0, 1, 2):
        monkeypatch.setenv("RANK", str(rank))
        assert point("loop.loss", 3) == (rank == 1)


def test_each_action_fails_in_its_own_way(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MEZZOTINT_FAULT", "loop.loss:step=0:raise")
    with pytest.raises(RuntimeError, match="fault injected at loop.loss, step 0"):
        point("loop.loss", 0)
    monkeypatch.setenv("MEZZOTINT_FAULT", "loop.loss:step=0:enospc")
    with pytest.raises(OSError) as caught:
        point("loop.loss", 0)
    assert caught.value.errno == errno.ENOSPC
    sent: list[tuple[int, int]] = []
    monkeypatch.setattr(os, "kill", lambda pid, number: sent.append((pid, number)))
    for action in ("kill", "sigterm", "sigint", "stop"):
        monkeypatch.setenv("MEZZOTINT_FAULT", f"loop.loss:step=0:{action}")
        assert not point("loop.loss", 0)
    numbers = (signal.SIGKILL, signal.SIGTERM, signal.SIGINT, signal.SIGSTOP)
    assert sent == [(os.getpid(), number) for number in numbers]


def test_an_unknown_fault_point_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MEZZOTINT_FAULT", "checkpoint.after_modle:step=1:kill")
    with pytest.raises(
        ValueError, match="must name one of the points .*, got 'checkpoint.after_modle'"
    ):
        point("checkpoint.after_model", 1)
