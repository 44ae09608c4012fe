"""Kill long commands at random times, and run the same command again until it ends.

Each chain kills one command several times, at any time from the start of the interpreter on, and
then lets it end. A kill is *lost* if the end differs from that of a command that nobody killed,
*stuck* if the command refuses or hangs, and an *orphan* if a process, a temporary file or shared
memory is left after the next start.
"""

import contextlib
import hashlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
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

_MARK = "MEZZOTINT_SOAK"
_SHORT = [
    "data.name=digits", "encoder.width=2", "encoder.grid=1", "run.batch_size=256",
    "run.log.knn_epochs=0", "run.log.every_steps=1",
]  # fmt: skip
_PHOTOS = [
    "pretrain", "image/folder_simclr", "data.root=photos", "views.crop.size=16",
    "encoder={kind: resnet8, stem: small, width: 2}", "run.batch_size=8", "run.log.knn_epochs=0",
    "method={kind: byol, hidden_dim: 8, dim: 8}", "run.loader.workers=2",
]  # fmt: skip
_DETECTION = [
    "data.images=4", "data.test_images=2", "data.size=48", "data.scale=[16,24]", "training.steps=2",
    "training.batch_size=2", "training.precise_bn_batches=1", "model.proposals=[20,10]",
    "model.samples=8", "model.min_size=[48]", "model.max_size=48", "model.channels=8",
]  # fmt: skip
_STUDY = {
    "title": "soak",
    "recipe": "image/emoji_simclr",
    "seeds": [0, 1],
    "overrides": [*_SHORT, "run.epochs=1"],
    "factors": {"method.temperature": [0.1, 0.2]},
}


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


@dataclass
class Outcome:
    """What became of one chain of kills."""

    job: str
    chain: int
    kills: int = 0
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
    simclr = ["pretrain", "image/emoji_simclr", *_SHORT]
    return [
        Job("pretrain", [*simclr, "run.epochs=3", "run.checkpoints.every_steps=2", "--train-only",
            "--out", "out", "--resume", "auto"], lambda at: _run_of(at / "out")),
        Job("pretrain, workers", [*_PHOTOS, "run.epochs=4", "run.checkpoints.every_steps=4",
            "--train-only", "--out", "out", "--resume", "auto"], lambda at: _run_of(at / "out")),
        Job("plan", ["pretrain", "plan.yaml", "--train-only", "--out", "out", "--resume", "auto"],
            lambda at: _runs_of(at / "out")),
        Job("pretrain --minutes", [*simclr, "--minutes", "0.1", "--train-only", "--out", "out",
            "--overwrite"], None),
        Job("finetune", ["finetune", "base", "run.epochs=1", "run.batch_size=256",
            "run.log.knn_epochs=0", "--no-baselines", "--out", "out"],
            lambda at: _rows_of(at / "out")),
        Job("transfer", ["transfer", "color", "pasted_c4", *_DETECTION, "--out", "out"],
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
    for number in range(48):
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
        soundfile.write(root / "sounds/audio" / name, rng.normal(size=44_100) / 9, 44_100)
    (root / "sounds/meta/esc50.csv").write_text("\n".join(rows) + "\n", encoding="utf-8")
    from tests.train.tiny_plan import raw

    (root / "plan.yaml").write_text(json.dumps(raw()), encoding="utf-8")
    (root / "study.yaml").write_text(yaml.safe_dump(_STUDY), encoding="utf-8")
    base = ["pretrain", "image/emoji_simclr", *_SHORT, "run.epochs=1", "--out", "base"]
    color = [*_PHOTOS, "run.epochs=1", "--train-only", "--out", "color"]
    for command in (base, color):
        code = start(command, root, "inputs").wait(600)
        assert code == 0, (root / "log").read_text(encoding="utf-8")


def start(command: list[str], at: Path, mark: str) -> subprocess.Popen[bytes]:
    """Start a command in a directory, with a mark in its environment; its words go to `log`."""
    with (at / "log").open("wb") as log:
        return subprocess.Popen(
            [sys.executable, "-m", "mezzotint", *command], cwd=at, stdout=log, stderr=log,
            env={**os.environ, "OMP_NUM_THREADS": "1", _MARK: mark}, start_new_session=True,
        )  # fmt: skip


def alive(mark: str) -> list[int]:
    """Find the processes that were started with a mark, or by such a process."""
    found = []
    for path in Path("/proc").glob("[0-9]*/environ"):
        with contextlib.suppress(OSError):
            if f"{_MARK}={mark}\0".encode() in path.read_bytes() + b"\0":
                found.append(int(path.parent.name))
    return found


def _left_behind(at: Path, marks: list[str], processes: set[int]) -> Iterator[str]:
    """Name what killed commands left: processes, temporary files, shared memory."""
    deadline = time.monotonic() + 20.0
    while (left := [pid for mark in marks for pid in alive(mark)]) and (
        time.monotonic() < deadline
    ):
        time.sleep(0.2)
    for pid in left:
        with contextlib.suppress(OSError):
            yield f"process {pid}: {Path(f'/proc/{pid}/cmdline').read_bytes()[:200]!r}"
            os.kill(pid, signal.SIGKILL)
    for pattern in ("out/**/.tmp-*", "out/**/.*.tmp-*", ".tmp-*", "base/**/.tmp-*"):
        yield from (f"file {path.relative_to(at)}" for path in at.glob(pattern))
    for path in Path("/dev/shm").glob("torch_*"):
        if path.name.split("_")[1] in {str(pid) for pid in processes}:
            yield f"shared memory {path.name}"


def run_chain(job: Job, inputs: Path, golden: Any, seconds: float, seed: int, most: int) -> Outcome:
    """Kill a command up to `most` times at random times, then let it end.

    Args:
        job: the command.
        inputs: directory made by `make_inputs`.
        golden: the result of the command that nobody killed.
        seconds: the time that this took.
        seed: number of the chain.
        most: kills.
    """
    random_number = random.Random(f"{job.name} {seed}")
    at = inputs.parent / f"chain-{os.getpid()}"
    shutil.rmtree(at, ignore_errors=True)
    shutil.copytree(inputs, at, symlinks=True)
    outcome, marks, processes, newest = Outcome(job.name, seed), [], set[int](), -1
    began = time.monotonic()
    for number in range(most + 1):
        marks.append(uuid.uuid4().hex)
        process = start(job.command, at, marks[-1])
        last = number == most
        # A quarter of the kills comes while the interpreter starts and imports.
        limit = 1.5 if random_number.random() < 0.25 else 1.05 * seconds
        wait = 40 * seconds + 120 if last else random_number.uniform(0.0, limit)
        whole_group = random_number.random() < 0.4
        try:
            code = process.wait(wait)
        except subprocess.TimeoutExpired:
            processes |= set(alive(marks[-1]))
            (os.killpg if whole_group else os.kill)(process.pid, signal.SIGKILL)
            process.wait()
            if last:
                outcome.stuck.append(f"start {number} did not end in {wait:.0f} s")
                os.killpg(process.pid, signal.SIGKILL)
                break
            outcome.kills += 1
            if job.result is not None and (at / "out/checkpoints").is_dir():
                good = CheckpointStore(at / "out/checkpoints").newest_good()
                step = int(good.name.rpartition("-")[2]) if good else -1
                if step < newest and job.name != "plan":
                    outcome.lost.append(f"checkpoint {newest} became {step} at kill {number}")
                newest = step
            continue
        if code != 0:
            said = (at / "log").read_text(encoding="utf-8", errors="replace")[-600:]
            outcome.stuck.append(f"start {number} ended with {code}: {said}")
            break
        if not last:  # it was done before its kill: the next start has to take that, too
            continue
    if not outcome.stuck:
        outcome.orphans = list(_left_behind(at, marks, processes))
        if job.result is not None and json.loads(json.dumps(job.result(at))) != golden:
            outcome.lost.append("the result differs from that of a command that was not killed")
    outcome.seconds = time.monotonic() - began
    if outcome.stuck or outcome.lost or outcome.orphans:
        shutil.copytree(at, inputs.parent / f"failed-{job.name.replace(' ', '_')}-{seed}",
            symlinks=True, dirs_exist_ok=True)  # fmt: skip
    shutil.rmtree(at, ignore_errors=True)
    return outcome


def golden_result(job: Job, inputs: Path) -> tuple[Any, float]:
    """Run a command that nobody kills; return its result and the seconds it took.

    The commands that refuse a finished directory get a new one for each start.
    """
    at = inputs.parent / "golden"
    shutil.rmtree(at, ignore_errors=True)
    shutil.copytree(inputs, at, symlinks=True)
    began = time.monotonic()
    code = start(job.command, at, "golden").wait(1200)
    said = (at / "log").read_text(encoding="utf-8", errors="replace")[-2000:]
    assert code == 0, f"{job.name}: {said}"
    seconds = time.monotonic() - began
    return json.loads(json.dumps(job.result(at) if job.result else None)), seconds
