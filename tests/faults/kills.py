"""Kill long commands at random times, and run the same command again until it ends.

Each chain kills one command several times and then lets it end. Moments are those of its processor
time, so that a busy machine kills as late as a quiet one. Most victims are forked from a process
that has imported everything; a fifth are new interpreters, and half of these are killed while they
import.

A kill is *lost* if the end differs from that of a command that nobody killed, *stuck* if the
command refuses or hangs, and an *orphan* if a process, a temporary file or shared memory is left
after the next start.
"""

import contextlib
import hashlib
import json
import os
import random
import shutil
import signal
import time
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
import yaml
from PIL import Image

from mezzotint.encoders.saving import load_encoder
from mezzotint.evaluation.results import read_evaluation
from mezzotint.train.checkpoint import CheckpointStore
from mezzotint.train.log import read_metrics
from tests.faults.victims import MARK, Stem, Victim, start

_TINY = [
    "data.root=photos", "views.crop.size=16", "run.batch_size=8", "run.log.knn_epochs=0",
    "encoder={kind: resnet8, stem: small, width: 2}", "run.log.every_steps=1",
]  # fmt: skip
_BYOL = [
    "pretrain", "image/folder_simclr", *_TINY, "method={kind: byol, hidden_dim: 8, dim: 8}",
    "run.guard.late=true",  # as on a GPU
]  # fmt: skip
_DETECTION = [
    "data.images=4", "data.test_images=2", "data.size=48", "data.scale=[16,24]", "training.steps=2",
    "training.batch_size=2", "training.precise_bn_batches=1", "model.proposals=[20,10]",
    "model.samples=8", "model.min_size=[48]", "model.max_size=48", "model.channels=8",
]  # fmt: skip
_STUDY = {
    "title": "soak",
    "recipe": "image/folder_simclr",
    "seeds": [0, 1],
    "overrides": [*_TINY, "run.epochs=1"],
    "factors": {"method.temperature": [0.1, 0.2]},
}
_NEW_INTERPRETERS = 0.2
"""Fraction of starts; half of their kills come while they import."""
_PATIENCE = 900.0


@dataclass(frozen=True)
class Job:
    """A long command.

    Attributes:
        name: of the verb.
        command: arguments, with `--out out` or what the verb has for it.
        result: what its end is compared by, from its working directory; `None` where it depends on
            the time that steps take.
    """

    name: str
    command: list[str]
    result: Callable[[Path], Any] | None


@dataclass(frozen=True)
class Golden:
    """What a command makes that nobody kills.

    Attributes:
        result: to compare with.
        forked: processor time of its main process after a fork, in seconds.
        started: alike, with an interpreter of its own.
    """

    result: Any
    forked: float
    started: float


@dataclass
class Outcome:
    """What became of one chain of kills.

    Attributes:
        job: name of the command.
        chain: its number.
        kills: for each, how the victim was started, whether its whole group was killed, and when,
            in fractions of the processor time of a command that nobody kills.
        lost: results and checkpoints that were.
        stuck: starts that failed or hung.
        orphans: what was left.
        seconds: the time that the chain took.
    """

    job: str
    chain: int
    kills: list[tuple[str, bool, float]] = field(default_factory=list)
    lost: list[str] = field(default_factory=list)
    stuck: list[str] = field(default_factory=list)
    orphans: list[str] = field(default_factory=list)
    seconds: float = 0.0


def _run_of(out: Path) -> Any:
    """Digest of all tensors of the newest checkpoint and the encoder, and the losses."""
    sums = hashlib.sha256()
    saved, problems = CheckpointStore(out / "checkpoints").latest()
    assert saved is not None and not problems
    tensors = saved.model | saved.optimizer
    tensors |= {f"encoder.{name}": t for name, t in load_encoder(out).state_dict().items()}
    for name, tensor in sorted(tensors.items()):
        sums.update(name.encode() + tensor.contiguous().numpy().tobytes())
    losses = [[line["step"], line["loss"]] for line in read_metrics(out / "metrics.jsonl")]
    return [sums.hexdigest(), losses]


def _runs_of(out: Path) -> Any:
    return [_run_of(folder.parent) for folder in sorted(out.rglob("checkpoints"))]


def _rows_of(folder: Path) -> Any:
    return sorted(json.dumps(row.as_json(), sort_keys=True) for row in read_evaluation(folder))


def _files_of(folder: Path, *patterns: str) -> Any:
    return {
        path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for pattern in patterns
        for path in sorted(folder.rglob(pattern))
    }


def jobs() -> list[Job]:
    """List the long commands; each works in a directory of its own with `base`, a finished run."""
    auto = ["--train-only", "--out", "out", "--resume", "auto"]
    return [
        Job("pretrain", [*_BYOL, "run.epochs=3", "run.checkpoints.every_steps=2", "--out", "out",
            "--resume", "auto"], lambda at: [_run_of(at / "out"), _rows_of(at / "out")]),
        Job("pretrain, workers", [*_BYOL, "run.loader.workers=2", "run.epochs=4",
            "run.checkpoints.every_steps=4", *auto], lambda at: _run_of(at / "out")),
        Job("plan", ["pretrain", "plan.yaml", *auto], lambda at: _runs_of(at / "out")),
        Job("pretrain --minutes", [*_BYOL, "--minutes", "0.1", "--train-only", "--out", "out",
            "--overwrite"], None),
        Job("finetune", ["finetune", "base", "run.epochs=2", "run.batch_size=8",
            "run.log.knn_epochs=0", "--no-baselines", "--out", "out"],
            lambda at: _rows_of(at / "out")),
        Job("transfer", ["transfer", "base", "pasted_c4", *_DETECTION, "--out", "out"],
            lambda at: _rows_of(at / "out")),
        Job("evaluate", ["evaluate", "base", "evaluate.probes=[knn,linear]",
            "evaluate.bits=[W8A8]"], lambda at: _rows_of(at / "base")),
        Job("export", ["export", "base", "--format", "packed"],
            lambda at: _files_of(at / "base/exports", "*.safetensors")),
        Job("export onnx", ["export", "base", "--format", "onnx", "--bits", "fp32"],
            lambda at: _files_of(at / "base/exports", "*.onnx")),
        Job("prepare", ["prepare", "esc50", "sounds", "--out", "out", "--workers", "2"],
            lambda at: _files_of(at / "out", "*.csv", "*.flac")),
        Job("search-policy", ["search-policy", "base", "--trials", "6", "--keep", "2",
            "--samples", "64", "--out", "out.yaml"], lambda at: _files_of(at, "out.yaml")),
        Job("study", ["study", "study.yaml", "--out", "out"],
            lambda at: _runs_of(at / "out")),
    ]  # fmt: skip


def make_photos(root: Path) -> None:
    """Write a folder of images of two classes."""
    rng = np.random.default_rng(0)
    for number in range(64):
        folder = root / "photos" / ("cat" if number % 2 else "dog")
        folder.mkdir(exist_ok=True, parents=True)
        pixels = rng.integers(0, 255, (24, 24, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{number}.png")


def make_inputs(root: Path) -> None:
    """Write what the commands read: images, sounds, recipes, and a finished run."""
    make_photos(root)
    rng = np.random.default_rng(0)
    rows = ["filename,fold,target,category,esc10,src_file,take"]
    (root / "sounds/audio").mkdir(parents=True, exist_ok=True)
    (root / "sounds/meta").mkdir(exist_ok=True)
    for number in range(40):
        name = f"{number % 5 + 1}-{number}-A-{number % 2}.wav"
        rows.append(f"{name},{number % 5 + 1},{number % 2},{'ab'[number % 2]},False,{number},A")
        soundfile.write(root / "sounds/audio" / name, rng.normal(size=8_000) / 9, 44_100)
    (root / "sounds/meta/esc50.csv").write_text("\n".join(rows) + "\n", encoding="utf-8")
    from tests.train.tiny_plan import raw

    (root / "plan.yaml").write_text(json.dumps(raw()), encoding="utf-8")
    (root / "study.yaml").write_text(yaml.safe_dump(_STUDY), encoding="utf-8")
    base = [*_BYOL, "run.epochs=1", "--train-only", "--out", "base"]
    code = start(base, root, "inputs").wait(_PATIENCE)
    assert code == 0, (root / "log").read_text(encoding="utf-8")


def alive(marks: set[str], sessions: set[int]) -> list[int]:
    """Find the processes that were started with one of the marks, or in one of the sessions."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            session = int((folder / "stat").read_text("utf-8").rpartition(")")[2].split()[3])
            words = (folder / "environ").read_bytes().split(b"\0")
            marked = any(f"{MARK}={mark}".encode() in words for mark in marks)
            if marked or session in sessions:
                found.append(int(folder.name))
    return found


def processor_seconds(pid: int) -> float:
    """Read the processor time of a process; 0 after its end."""
    with contextlib.suppress(OSError):
        words = Path(f"/proc/{pid}/stat").read_text("utf-8").rpartition(")")[2].split()
        return (int(words[11]) + int(words[12])) / os.sysconf("SC_CLK_TCK")
    return 0.0


def _left_behind(at: Path, marks: set[str], sessions: set[int]) -> Iterator[str]:
    """Name what killed commands left: processes, temporary files, shared memory."""
    deadline = time.monotonic() + 60.0
    while (left := alive(marks, sessions)) and time.monotonic() < deadline:
        time.sleep(0.1)
    for pid in left:
        with contextlib.suppress(OSError):
            yield f"process {pid}: {Path(f'/proc/{pid}/cmdline').read_bytes()[:200]!r}"
            os.kill(pid, signal.SIGKILL)
    for pattern in ("out/**/.tmp-*", "out/**/.*.tmp-*", ".tmp-*", "base/**/.tmp-*", "**/.old-*"):
        yield from (f"file {path.relative_to(at)}" for path in at.glob(pattern))


def _memory_left(processes: set[int]) -> Iterator[str]:
    for path in Path("/dev/shm").glob("torch_*"):
        if path.name.split("_")[1] in {str(pid) for pid in processes}:
            yield f"shared memory {path.name}"


def _wait_for(victim: Victim, seconds: float) -> int | None:
    """Wait until a command has used processor time; return its code if it ended before."""
    while processor_seconds(victim.pid) < seconds:
        if (code := victim.wait(0.005)) is not None:
            return code
    return None


class Killer:
    """Kills commands.

    Args:
        inputs: directory made by `make_inputs`.
        stem: the process that is forked for most starts.
    """

    def __init__(self, inputs: Path, stem: Stem) -> None:
        self.inputs, self.stem = inputs, stem

    def _fresh(self, name: str) -> Path:
        at = self.inputs.parent / f"{name}-{os.getpid()}"
        shutil.rmtree(at, ignore_errors=True)
        shutil.copytree(self.inputs, at, symlinks=True)
        return at

    def golden(self, job: Job) -> Golden:
        """Run a command that nobody kills, with an interpreter of its own and forked."""
        results, seconds = [], []
        for begin in (self.stem.start, start):
            at = self._fresh("golden")
            victim, used = begin(job.command, at, "golden"), 0.0
            while (code := victim.wait(0.005)) is None:
                used = max(used, processor_seconds(victim.pid))
            said = (at / "log").read_text(encoding="utf-8", errors="replace")[-2000:]
            assert code == 0, f"{job.name}: {said}"
            results.append(json.loads(json.dumps(job.result(at) if job.result else None)))
            seconds.append(used)
            shutil.rmtree(at)
        assert results[0] == results[1], f"{job.name}: a fork has another result"
        return Golden(results[0], *seconds)

    def run_chain(self, job: Job, golden: Golden, seed: int, most: int) -> Outcome:
        """Kill a command up to `most` times at random times, then let it end.

        Args:
            job: the command.
            golden: what it makes if nobody kills it.
            seed: number of the chain.
            most: kills.
        """
        at, began = self._fresh("chain"), time.monotonic()
        outcome = Outcome(job.name, seed)
        self._kill(job, golden, at, random.Random(f"{job.name} {seed}"), most, outcome)
        if job.result is not None and not outcome.stuck:
            try:
                result = json.loads(json.dumps(job.result(at)))
            except (AssertionError, ValueError, OSError) as error:
                outcome.lost.append(f"the result cannot be read: {error}")
            else:
                if result != golden.result:
                    outcome.lost.append("the result differs from that without kills")
        outcome.seconds = time.monotonic() - began
        if outcome.stuck or outcome.lost or outcome.orphans:
            kept = self.inputs.parent / f"failed-{job.name.replace(' ', '_')}-{seed}"
            shutil.copytree(at, kept, symlinks=True, dirs_exist_ok=True)
        shutil.rmtree(at, ignore_errors=True)
        return outcome

    def _kill(
        self, job: Job, golden: Golden, at: Path, draw: random.Random, most: int, outcome: Outcome
    ) -> None:
        marks, sessions, processes, newest = set[str](), set[int](), set[int](), -1
        for number in range(most):
            is_new = draw.random() < _NEW_INTERPRETERS
            whole = golden.started if is_new else golden.forked
            imports = is_new and draw.random() < 0.5
            limit = golden.started - golden.forked if imports else 1.05 * whole
            moment, group = draw.uniform(0.0, limit), draw.random() < 0.4
            mark = uuid.uuid4().hex
            victim = (start if is_new else self.stem.start)(job.command, at, mark)
            marks.add(mark)
            sessions.add(victim.pid)
            code = _wait_for(victim, moment)
            if code is None:  # what does not use the processor has its moments, too
                code = victim.wait(draw.uniform(0.0, 0.03))
            if code is None:
                processes |= set(alive({mark}, {victim.pid}))
                victim.kill(group=group)
                assert victim.wait(_PATIENCE) is not None
                outcome.kills.append(("start" if is_new else "fork", group, moment / whole))
                newest = _not_before(newest, job, at, outcome)
            elif code != 0:  # one that was done before its kill is started again all the same
                outcome.stuck.append(f"start {number} ended with {code}: {_said(at)}")
                return
        mark = uuid.uuid4().hex
        victim = self.stem.start(job.command, at, mark)
        code = victim.wait(_PATIENCE)
        if code is None:
            outcome.stuck.append(f"the last start did not end in {_PATIENCE:.0f} s: {_said(at)}")
            victim.kill(group=True)
        elif code != 0:
            outcome.stuck.append(f"the last start ended with {code}: {_said(at)}")
        outcome.orphans = [
            *_left_behind(at, marks | {mark}, sessions | {victim.pid}),
            *_memory_left(processes),
        ]


def _said(at: Path) -> str:
    return (at / "log").read_text(encoding="utf-8", errors="replace")[-600:]


def _not_before(newest: int, job: Job, at: Path, outcome: Outcome) -> int:
    """Note when the newest good checkpoint is one before the newest of the kill before."""
    if job.result is None or job.name == "plan" or not (at / "out/checkpoints").is_dir():
        return newest
    good = CheckpointStore(at / "out/checkpoints").newest_good()
    step = int(good.name.rpartition("-")[2]) if good else -1
    if step < newest:
        outcome.lost.append(f"checkpoint {newest} became {step} at kill {len(outcome.kills)}")
    return step
