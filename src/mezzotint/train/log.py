"""Logging of a run: `metrics.jsonl`, the terminal, and experiment trackers."""

import contextlib
import importlib
import json
import math
import re
import sys
import time
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol, TextIO

import torch
from torch import nn

from mezzotint import timing
from mezzotint.files import shown, write_text
from mezzotint.train import continued
from mezzotint.train.collapse import CollapseAlarm
from mezzotint.types import Batch

COLLAPSED = "collapsed"
"""Key of the log lines at which the features had collapsed."""
_CHECKED = re.compile(rb'(\{.*), "crc32": "([0-9a-f]{8})"\}')


class Tracker(Protocol):
    """An experiment tracker, which gets the metrics too."""

    def log(self, metrics: Mapping[str, float], step: int) -> None:
        """Send the metrics of one step."""
        ...

    def close(self) -> None:
        """Send the remaining metrics, and disconnect."""
        ...


class _TensorBoard:
    def __init__(self, out: Path, name: str, config: Mapping[str, Any]) -> None:
        module = _required("torch.utils.tensorboard", "tensorboard")
        self.writer = module.SummaryWriter(str(out / "tensorboard"))
        self.writer.add_text("recipe", f"```json\n{json.dumps(config, indent=1)}\n```")

    def log(self, metrics: Mapping[str, float], step: int) -> None:
        for key, value in metrics.items():
            self.writer.add_scalar(key, value, step)

    def close(self) -> None:
        self.writer.close()


class _WandB:
    def __init__(self, out: Path, name: str, config: Mapping[str, Any]) -> None:
        self.run = _required("wandb", "wandb").init(
            dir=str(out), name=name, config=dict(config), resume="allow", id=name
        )

    def log(self, metrics: Mapping[str, float], step: int) -> None:
        self.run.log(dict(metrics), step=step)

    def close(self) -> None:
        self.run.finish()


class _MLflow:
    def __init__(self, out: Path, name: str, config: Mapping[str, Any]) -> None:
        self.module = _required("mlflow", "mlflow")
        # Without a server of the user's, write into the run's directory.
        if not self.module.is_tracking_uri_set():
            self.module.set_tracking_uri(f"sqlite:///{(out / 'mlflow.db').absolute()}")
        self.module.start_run(run_name=name)
        self.module.log_dict(dict(config), "recipe.json")

    def log(self, metrics: Mapping[str, float], step: int) -> None:
        self.module.log_metrics(dict(metrics), step=step)

    def close(self) -> None:
        self.module.end_run()


_TRACKERS: dict[str, Callable[[Path, str, Mapping[str, Any]], Tracker]] = {
    "tensorboard": _TensorBoard,
    "wandb": _WandB,
    "mlflow": _MLflow,
}


_MODULES = {"tensorboard": "torch.utils.tensorboard", "wandb": "wandb", "mlflow": "mlflow"}


def require_trackers(names: Sequence[str]) -> None:
    """Refuse trackers whose package is missing, before a run writes anything.

    Raises:
        ValueError: for a tracker that cannot be imported.
    """
    for name in names:
        _required(_MODULES[name], name)


def _required(module: str, package: str) -> Any:
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise ValueError(
            f"`run.log.trackers` needs {package}, which is not installed. "
            f"Install it with pip install {package}."
        ) from error


@dataclass
class Meter:
    """Measure where the time between two log lines goes, in seconds.

    Waiting for data and making views are summed over all steps. The other parts are measured in
    some steps only (`timing.is_measured`), and of these the last one counts, with the reading of
    its batch, which may be another process's work.
    """

    began: float = field(default_factory=time.perf_counter)
    waiting: float = 0.0
    augmenting: float = 0.0
    images: int = 0
    parts: dict[str, float] = field(default_factory=dict)

    @contextmanager
    def waiting_for_data(self) -> Iterator[None]:
        """Count the time inside as waiting for data."""
        began = time.perf_counter()
        yield
        self.waiting += time.perf_counter() - began

    @contextmanager
    def making_views(self) -> Iterator[None]:
        """Count the time inside as making views."""
        began = time.perf_counter()
        with timing.part("views"):
            yield
        self.augmenting += time.perf_counter() - began

    @contextmanager
    def measured(
        self, step: int, batch: Batch, encoder: nn.Module | None, device: torch.device
    ) -> Iterator[None]:
        """Measure the parts of a step, if this step is measured.

        Args:
            step: number of the step, from 0.
            batch: the step's batch.
            encoder: its forward passes are measured as a part; `None` where hooks would break up
                a compiled graph.
            device: synchronized at both ends of each part, if it is an accelerator.
        """
        if not timing.is_measured(step):
            yield
            return
        with timing.measuring("rest", device) as watch, ExitStack() as hooks:
            if encoder is not None:
                forward = ExitStack()
                before = encoder.register_forward_pre_hook(
                    lambda *_: forward.enter_context(watch.part("encoder"))
                )
                after = encoder.register_forward_hook(lambda *_: forward.close())
                hooks.callback(before.remove)
                hooks.callback(after.remove)
            yield
        self.parts = {f"time/{name}": seconds for name, seconds in watch.seconds.items()}
        self.parts |= {f"time/loader/{name}": seconds for name, seconds in batch.seconds.items()}

    def metrics(self) -> dict[str, float]:
        """Images per second over all processes, fractions of time for data and views, and parts."""
        elapsed = max(time.perf_counter() - self.began, 1e-9)
        return {
            "images_per_second": self.images / elapsed,
            "data_wait": self.waiting / elapsed,
            "augment_share": self.augmenting / elapsed,
            **self.parts,
        }


class RunLog:
    """Write the metrics of a run; used on the main process only.

    Args:
        out: the run's directory.
        config: the recipe, for trackers.
        trackers: names of the trackers.
        resumed_at: lines of later steps are dropped, because a resumed run writes them again.
        bar: the progress on the terminal.
    """

    def __init__(
        self,
        out: Path,
        config: Mapping[str, Any],
        trackers: Sequence[str],
        resumed_at: int,
        bar: "Progress",
    ) -> None:
        self.path = out / "metrics.jsonl"
        kept = [line for line in read_metrics(self.path) if line["step"] <= resumed_at]
        write_text(self.path, "".join(map(checked_line, kept)))
        self.trackers: list[Tracker] = [_TRACKERS[name](out, out.name, config) for name in trackers]
        self.file: TextIO = self.path.open("a", encoding="utf-8")
        self.bar, self.warned = bar, False

    def line(self, step: int, metrics: Mapping[str, float], warning: str | None = None) -> None:
        """Write one line, with `null` for NaN and inf, which JSON does not have.

        A warning that the features collapsed is a note on the terminal, and `collapsed` in the log.
        """
        if warning is not None:
            self.bar.note(warning)
            metrics = {**metrics, COLLAPSED: 1.0}
        clean = {k: (v if math.isfinite(v) else None) for k, v in metrics.items()}
        self.file.write(checked_line({"step": step, **clean}))
        self.file.flush()
        for tracker in self.trackers:
            tracker.log({k: v for k, v in metrics.items() if math.isfinite(v)}, step)
        self.bar.show(step, metrics)
        if not self.warned and (text := continued.drift_warning(metrics)):
            self.bar.note(text)
            self.warned = True

    def close(self) -> None:
        """Close the file and the trackers."""
        self.file.close()
        for tracker in self.trackers:
            tracker.close()


def log_checked(
    log: RunLog | None,
    alarm: CollapseAlarm,
    step: int,
    line: Mapping[str, float],
    checked: Mapping[str, float],
) -> None:
    """Write the line of a step that was checked by now, and look whether the features collapsed.

    Args:
        log: on the main process.
        alarm: of the run.
        step: number of steps that were done.
        line: metrics that were known when the step was made.
        checked: metrics of its check.

    Raises:
        Collapsed: when the features collapsed and the recipe stops a run then.
    """
    warning = alarm.check(step, checked)
    if log:
        log.line(step, {**line, **checked}, warning)
    alarm.end(warning)


def checked_line(line: Mapping[str, Any]) -> str:
    """Write a line of `metrics.jsonl`, whose last entry is the checksum of all before."""
    text = json.dumps(line)
    return f'{text[:-1]}, "crc32": "{zlib.crc32(text.encode()):08x}"}}\n'


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """Read the lines of `metrics.jsonl`, without those that a killed run or a disk damaged.

    Lines without a checksum are taken as they are, unless others of the file have one.
    """
    found = [_read_line(text) for text in _lines_of(path)]
    is_checked = any(checked for _, checked in found)
    return [line for line, checked in found if line and checked >= is_checked]


def collapsed_at(metrics: Sequence[Mapping[str, Any]]) -> list[int]:
    """Return the steps at which the alarm of a collapse went off, from the lines of the log."""
    return [line["step"] for line in metrics if line.get(COLLAPSED)]


def _lines_of(path: Path) -> list[bytes]:
    return path.read_bytes().split(b"\n") if path.is_file() else []


def _read_line(text: bytes) -> tuple[dict[str, Any], bool]:
    """Read one line; empty if it is damaged. The flag says whether its checksum is correct."""
    match = _CHECKED.fullmatch(text)
    if match is not None:
        text = match[1] + b"}"
        if zlib.crc32(text) != int(match[2], 16):
            return {}, False
    try:
        line = json.loads(text)
    except (ValueError, RecursionError):
        return {}, False
    if not isinstance(line, dict) or type(line.get("step")) is not int:
        return {}, False
    numbers = all(v is None or type(v) in (int, float) for v in line.values())
    return (line if numbers else {}), match is not None


class Progress:
    """Show progress, speed and remaining time: a bar on a terminal, plain lines elsewhere.

    Args:
        total: steps of the run.
        start: the first step.
        mode: `bar`, `quiet`, or `json` (one object per line on stdout).
    """

    def __init__(self, total: int, start: int, mode: str = "bar") -> None:
        self.total, self.start, self.mode = total, start, mode
        self.began = self.last_plain = time.monotonic()
        self.bar: Any = None
        if mode == "bar" and sys.stderr.isatty():
            from rich.console import Console
            from rich.progress import BarColumn, TextColumn, TimeRemainingColumn
            from rich.progress import Progress as RichProgress

            columns = (
                TextColumn("{task.description}"),
                BarColumn(),
                TextColumn("{task.percentage:>3.0f} %"),
                TimeRemainingColumn(),
            )
            self.bar = RichProgress(*columns, console=Console(stderr=True))
            self.bar.start()
            self.task = self.bar.add_task("", total=total, completed=start)

    def show(self, step: int, metrics: Mapping[str, float]) -> None:
        """Show the step and its metrics."""
        text = self._text(metrics)
        if self.mode == "json":
            self._print(json.dumps({"step": step, **metrics}), sys.stdout)
        elif self.bar is not None:
            self.bar.update(self.task, completed=step, description=text)
        elif self.mode == "bar" and (
            time.monotonic() - self.last_plain > 10.0 or step == self.total
        ):
            self.last_plain = time.monotonic()
            done = max(1, step - self.start)
            left = (time.monotonic() - self.began) / done * (self.total - step)
            self._print(f"step {step}/{self.total}  {text}  {left:.0f} s left", sys.stderr)

    def _print(self, text: str, stream: TextIO) -> None:
        """Print a line; a closed pipe, a dead terminal or a full disk never ends a training."""
        try:
            lines = map(shown, text.split("\n"))
            print("\n".join(lines), file=stream, flush=True)
        except (OSError, ValueError):
            self.mode = "quiet"

    def _text(self, metrics: Mapping[str, float]) -> str:
        parts = [
            f"epoch {metrics.get('epoch', 0):.0f}",
            f"loss {metrics.get('loss', math.nan):.4f}",
        ]
        if "images_per_second" in metrics:
            parts.append(f"{metrics['images_per_second']:.0f} samples/s")
            parts.append(f"{100 * metrics.get('data_wait', 0):.0f} % waiting for data")
        tasks = {k.removeprefix("knn/"): v for k, v in metrics.items() if k.startswith("knn/")}
        # The tasks are named only if there are several.
        values = [f"{task} {v:.3f}" if len(tasks) > 1 else f"{v:.3f}" for task, v in tasks.items()]
        if values:
            parts.append(f"online kNN (training samples) {', '.join(values)}")
        return "  ".join(parts)

    def note(self, text: str) -> None:
        """Print a message next to the bar."""
        if self.mode == "json":
            self._print(json.dumps({"note": text}), sys.stdout)
        elif self.mode == "bar":
            self._print(text, sys.stderr)

    def close(self) -> None:
        """Remove the bar from the terminal."""
        if self.bar is not None:
            with contextlib.suppress(OSError, ValueError):
                self.bar.stop()
