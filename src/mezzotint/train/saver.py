"""Save the state of a run while it trains.

A save copies the tensors to memory of the host, and a thread writes them: training goes on. The
next save waits for the last one, and so does the end of the run, so that an error of the disk is
never lost.
"""

import contextlib
import functools
import threading
import time
from collections.abc import Callable, Mapping
from typing import Any, Self

import torch
from torch import Tensor

from mezzotint import dist
from mezzotint.train.checkpoint import CheckpointStore
from mezzotint.train.guard import NotFinite
from mezzotint.train.settings import Checkpoints
from mezzotint.train.signals import StopFlag
from mezzotint.train.state import RunState

_Tensors = tuple[dict[str, Tensor], dict[str, Tensor]]


class Saver:
    """Saves a run after some minutes or steps, at its end, at signals, and before an error ends it.

    Args:
        state: of the run.
        store: of the run's checkpoints.
        settings: how often to save.
        device: of the run.
        settle: makes the state whole before it is saved.
    """

    def __init__(
        self,
        state: RunState,
        store: CheckpointStore,
        settings: Checkpoints,
        device: torch.device,
        settle: Callable[[], object] = lambda: None,
    ) -> None:
        self.state, self.store, self.settings, self.device = state, store, settings, device
        self.settle = settle
        self._before, self._began = state.seconds, time.monotonic()
        self._saved = self._began
        self._writer = _Writer(store)
        self._done = 0

    def seconds(self) -> float:
        """Return the time of training, over all parts of a run that was resumed."""
        self.state.seconds = self._before + time.monotonic() - self._began
        return self.state.seconds

    def after_step(self, done: int, flag: StopFlag, *, last: bool) -> bool:
        """Save if it is time; all processes call it together.

        Args:
            done: steps that are done.
            flag: of the signals.
            last: whether this was the last step.

        Returns:
            Whether the run must stop now; it is saved.

        Raises:
            OSError: when a checkpoint could not be written; the ones before it are kept.
            NotFinite: when there is NaN or inf to save.
        """
        every = self.settings.every_steps
        late = time.monotonic() - self._saved > 60 * self.settings.every_minutes
        stopping, late, failed = dist.any_true(
            (flag.number != 0, late, self._writer.has_failed), self.device
        )
        if late or failed or stopping or last or (every > 0 and done % every == 0):
            self.settle()
            self.seconds()
            found = self.state.tensors()
            dist.on_main(functools.partial(self._save, done, found, wait=stopping or last))
            self._saved = time.monotonic()
        return stopping and not last

    def _save(self, done: int, found: _Tensors | None, *, wait: bool) -> None:
        self._writer.start(done, *self.state.parts(done, found))
        self._done = done
        if wait:
            self._writer.join()

    def before_error(self, done: int) -> str:
        """Save the state after `done` steps before an error ends the run, on the main process.

        Returns:
            One sentence that says where the newest good checkpoint is.
        """
        # What is divided cannot be gathered any more: the other processes may be gone.
        divided = self.state.is_divided
        if done and done != self._done and dist.is_main() and not divided:
            self.seconds()
            # Without room on the disk, or finite weights, what was saved before is all there is.
            with contextlib.suppress(NotFinite, OSError):
                self._save(done, None, wait=True)
        good = self.store.newest_good()
        if good is None:
            return "There is no checkpoint to go on from: start again with --overwrite."
        return f"The last good weights are saved in {good}: continue with --resume."

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        """Wait for the last save, and raise its error, unless another one ends the run."""
        try:
            self._writer.join()
        except Exception:
            if kind is None:
                raise


class _Writer:
    """Writes one checkpoint at a time, in a thread."""

    def __init__(self, store: CheckpointStore) -> None:
        self.store = store
        self._copies: dict[str, dict[str, Tensor]] = {"model": {}, "optimizer": {}}
        self._thread: threading.Thread | None = None
        self._error: Exception | None = None

    @property
    def has_failed(self) -> bool:
        """Whether the last save ended with an error, which `join` raises."""
        return self._error is not None

    def start(
        self,
        step: int,
        model: Mapping[str, Tensor],
        optimizer: Mapping[str, Tensor],
        state: Mapping[str, Any],
    ) -> None:
        """Copy the tensors, and begin to write them, after the save before is done."""
        self.join()
        copies = [self._copy("model", model), self._copy("optimizer", optimizer)]
        self._thread = threading.Thread(target=self._write, args=(step, *copies, state))
        self._thread.start()

    def _copy(self, part: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Copy tensors to the memory of the last copy, which is free again."""
        old, new = self._copies[part], {}
        for name, tensor in tensors.items():
            copy = old.get(name)
            if copy is None or (copy.shape, copy.dtype) != (tensor.shape, tensor.dtype):
                copy = torch.empty(tensor.shape, dtype=tensor.dtype)
            new[name] = copy.copy_(tensor.detach())
        self._copies[part] = new
        return new

    def _write(self, *parts: Any) -> None:
        try:
            self.store.save(*parts)
        except Exception as error:
            self._error = error

    def join(self) -> None:
        """Wait for the save that was begun, and raise its error."""
        if self._thread is not None:
            self._thread.join()
            self._thread = None
        if self._error is not None:
            error, self._error = self._error, None
            raise error
