"""Two gloo processes of which one fails: both end in time, and what is on disk is good."""

import contextlib
import os
import signal
import socket
from pathlib import Path

import pytest
import torch

from mezzotint import dist
from mezzotint.recipe.recipe import Recipe
from mezzotint.train.checkpoint import CheckpointStore
from mezzotint.train.log import read_metrics
from mezzotint.train.loop import pretrain
from tests.commands import copied
from tests.tiny import config

TIMEOUT_S = 6


def train(out: Path) -> None:
    """Train as one of two processes, each of which waits for the other for a few seconds."""
    made = config("byol", checkpoints={"every_steps": 2})
    with dist.process_group(torch.device("cpu"), timeout_s=TIMEOUT_S):
        pretrain(Recipe.build(made), out, progress="quiet")


def two(out: Path, fault: str) -> tuple[list[int | None], list[str]]:
    """Train on two processes; return their exit codes and what they said."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    group = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    said = [out.parent / f"said-{rank}" for rank in range(2)]
    with contextlib.ExitStack() as stack:
        processes = []
        for rank, file in enumerate(said):
            own = {"RANK": str(rank), "LOCAL_RANK": str(rank), **group}
            process = copied(
                train, (out,), [os.devnull, str(file)], cwd=out.parent, fault=fault, **own
            )
            processes.append(stack.enter_context(process))
        processes[0].join(90)
        if fault.endswith("stop:rank=1"):
            processes[1].kill()
        processes[1].join(30)
        codes = [process.exitcode for process in processes]
    return codes, [file.read_text(encoding="utf-8") for file in said]


@pytest.mark.parametrize("action", ["kill", "stop"])
def test_a_peer_that_dies_or_hangs_ends_the_others_in_time(tmp_path: Path, action: str) -> None:
    codes, said = two(tmp_path / "run", f"loop.after_backward:step=4:{action}:rank=1")
    assert codes == [1, -signal.SIGKILL]
    assert "continue with --resume" in said[0]
    saved, problems = CheckpointStore(tmp_path / "run/checkpoints").latest()
    assert saved is not None and not problems and saved.step in (2, 4)


def test_nan_on_one_process_is_skipped_on_all(tmp_path: Path) -> None:
    codes, said = two(tmp_path / "run", "loop.loss:step=3:nan:rank=1")
    assert codes == [0, 0], said
    lines = read_metrics(tmp_path / "run/metrics.jsonl")
    assert len(lines) == 7
    assert [line["loss"] is None for line in lines] == [n == 3 for n in range(len(lines))]
    saved, _ = CheckpointStore(tmp_path / "run/checkpoints").latest()
    assert saved is not None and saved.state["skipped"] == [3]
    assert all(t.isfinite().all() for t in saved.model.values() if t.is_floating_point())
