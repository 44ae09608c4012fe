"""The loop: read this first.

    source → batches → views → method → loss → guard → optimizer → method.after_step
           → log, online kNN, checkpoint

It knows no method, modality or view by name. The state of a run is its step, the tensors of the
method and of the optimizer, and a few counters. The order of samples, every augmentation and the
learning rate are functions of the step, so that a resumed run continues as if it had never stopped.
"""

from collections.abc import Iterator
from contextlib import ExitStack
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from mezzotint import dist, memory, timing
from mezzotint.augment.views import ViewContext
from mezzotint.data.loader import BatchPlan, batches
from mezzotint.encoders.convolutions import autocast, to_channels_last
from mezzotint.encoders.saving import save_encoder
from mezzotint.files import write_json, write_text
from mezzotint.methods.method import synchronize_norms
from mezzotint.recipe.recipe import Recipe
from mezzotint.seeding import key_of
from mezzotint.train import continued, faults, postmortem, rundir
from mezzotint.train.callbacks import EpochCallback, ForwardPassCounter
from mezzotint.train.checkpoint import CheckpointStore
from mezzotint.train.collapse import CollapseAlarm
from mezzotint.train.guard import SentScalars, StepGuard
from mezzotint.train.log import Meter, Progress, RunLog, log_checked, require_trackers
from mezzotint.train.online import OnlineClassifier
from mezzotint.train.saver import Saver
from mezzotint.train.sharding import divide, entrance, gradient_norm, whole_encoder
from mezzotint.train.signals import Interrupted, StopFlag, catch_signals
from mezzotint.train.state import Average, RunState
from mezzotint.train.undo import Undo
from mezzotint.types import Batch, Views

_Logs = dict[str, Tensor]


def pretrain(
    recipe: Recipe,
    out: str | Path | None = None,
    *,
    resume: bool = False,
    overwrite: bool = False,
    progress: str = "bar",
) -> Path:
    """Pretrain an encoder.

    Args:
        recipe: data, views, method, optimizer and settings of the run.
        out: directory of the run; `runs/DATE` by default.
        resume: continue from the newest good checkpoint in `out`.
        overwrite: remove an earlier run in `out`.
        progress: `bar`, `quiet` or `json`.

    Returns:
        The run's directory, with `recipe.yaml`, `metrics.jsonl`, `checkpoints/` and `encoder/`.

    Raises:
        Interrupted: after a signal; a checkpoint was saved.
        NotFinite: when the loss is NaN or inf too often; the last good weights are saved.
        ValueError: before the first step, for a recipe or directory that cannot be used.
    """
    memory.keep_freed_memory()
    device = recipe.run.compute.torch_device()
    continued.go_on(recipe, Path(str(out))) if resume else continued.begin(recipe)
    with ExitStack() as stack:
        stack.enter_context(dist.process_group(device))
        folder = Path(dist.broadcast_object(str(out or rundir.default_directory("run"))))
        trainer = Trainer(recipe, device)
        dist.on_main(lambda: require_trackers(recipe.run.log.trackers))
        dist.on_main(lambda: rundir.prepare(folder, resume=resume, overwrite=overwrite))
        if dist.is_main():
            stack.enter_context(rundir.locked(folder))
        flag = stack.enter_context(catch_signals())
        continued.keep(recipe, folder, fresh=not resume)
        trainer.fit(folder, flag, resume=resume, progress=progress)
        continued.hand_over(recipe, folder, progress)
    return folder


class Trainer:
    """One run: setup in the constructor, training in `fit`.

    Args:
        recipe: the run's recipe.
        device: device of the method and the views.
    """

    def __init__(self, recipe: Recipe, device: torch.device) -> None:
        # A batch of more samples than there are is lowered for everything that reads the recipe.
        recipe.run = recipe.run.lowered(BatchPlan.samples_of(recipe.data), dist.world_size())
        self.recipe, self.run, self.device = recipe, recipe.run, device
        compute = recipe.run.compute
        if compute.threads:
            torch.set_num_threads(compute.threads)
        ranks = dist.rank(), dist.world_size()
        self.plan = BatchPlan.of(recipe.data, self.run.batch_size, self.run.seed, *ranks)
        self.total = self.run.epochs * self.plan.steps_per_epoch
        self.method = recipe.method
        self.run.require_accumulable(self.method, dist.world_size())
        if dist.world_size() > 1:
            synchronize_norms(self.method, compute.sync_batch_norm)
        self.method.to(device)
        self.notes = to_channels_last(self.method, device) if compute.channels_last else []
        self.method.train()
        self.twin = divide(self.method, recipe)
        self.optimizer = recipe.optimizer.build(self.method, self.run.batch_size)
        self.scaler = torch.amp.GradScaler(device.type, enabled=compute.precision == "fp16")
        guard = StepGuard(self.run.guard.patience)
        self.state = RunState(
            self.method, self.optimizer, self.scaler, recipe.data, guard, self.run.batch_size
        )
        self.average = Average(self.method, compute.average) if compute.average else None
        self.classifier = OnlineClassifier.of(recipe, device)
        average = self.average.method if self.average else None
        self.state.modules = {"average": average, "classifier": self.classifier}
        self.undo, self.updating = Undo(self.state), False
        self.alarm = CollapseAlarm.of(recipe)
        self.callback = EpochCallback(recipe, self.plan.steps_per_epoch, self.twin)
        self.environment = rundir.environment(device.type)
        self.counter = ForwardPassCounter(self.method, enabled=not compute.compile)
        self.timed = None if compute.compile else self.method.encoder
        self.entrance = entrance(self.method, self.run, device)

    # ------------------------------------------------------------------ one step

    def step(self, step: int, batch: Batch, meter: Meter, *, wait: bool = True) -> dict[str, float]:
        """Train on one batch, and return the metrics to log; without `wait` they are not known."""
        factor = self.recipe.schedule(step, self.total, self.plan.steps_per_epoch)
        rates = self.recipe.optimizer.set_rates(self.optimizer, factor, step / self.total)
        loss, logs = self.undo.settled(lambda: self.gradients(step, batch, meter))
        if self.classifier is not None:
            logs |= self.classifier.learn((step, self.total, self.plan.steps_per_epoch))
        with timing.part("optimizer"):
            return self.update(step, loss, logs, wait=wait) | rates

    def gradients(self, step: int, batch: Batch, meter: Meter) -> tuple[Tensor, _Logs]:
        """Compute the gradients of a batch, and return its loss and what the method logs."""
        # Dropout draws from torch's generator, whoever wrote the network.
        torch.manual_seed(key_of(self.run.seed, step, "layers", dist.rank()))
        self.optimizer.zero_grad(set_to_none=True)
        continued.set_modes(self.recipe, step)
        self.undo.before.keep()
        self.alarm.start(step)
        if self.classifier is not None:
            self.classifier.start()
        self.method.before_step()
        losses: list[Tensor] = []
        logs: _Logs = {}
        parts = batch.split(self.run.accumulated)
        for position, part in enumerate(parts):
            with meter.making_views():
                views = self.undo.once(position, partial(self.views, part, step))
            with (
                dist.no_sync(self.entrance, position < len(parts) - 1),
                autocast(self.device, self.run.compute.dtype),
            ):
                try:
                    with timing.part("forward"):
                        outcome = self.entrance(views)
                except FloatingPointError:  # a codebook cannot start from NaN or inf
                    losses.append(torch.tensor(torch.nan, device=self.device))
                    break
                loss = outcome.loss / len(parts)
                if faults.point("loop.loss", step):
                    loss = loss * torch.nan
                with timing.part("backward"):
                    self.scaler.scale(loss).backward()
            if self.classifier is not None and part.labels is not None:
                self.classifier.note(part.labels)
            losses.append(loss.detach())
            for name, value in outcome.logs.items():
                logs[name] = logs.get(name, 0.0) + value / len(parts)
        faults.point("loop.after_backward", step)
        return torch.stack(losses).sum(), logs | self.alarm.finish(logs)

    def views(self, batch: Batch, step: int) -> Views:
        """Make the views of a batch, in the memory format of the convolutions."""
        context = ViewContext(self.recipe.encoder.input, self.run.seed, self.plan.epoch_of(step))
        views = self.recipe.views(
            batch, context, step=step, progress=step / self.total, device=self.device
        )
        return views.channels_last() if self.run.compute.channels_last else views

    def update(self, step: int, loss: Tensor, logs: _Logs, *, wait: bool) -> dict[str, float]:
        """Update the weights if loss, gradient and buffers are finite; return loss, norm, logs."""
        continued.drop_gradients(self.recipe, step)
        self.scaler.unscale_(self.optimizer)
        parameters = list(self.method.parameters())
        norm = gradient_norm(parameters)
        sent = SentScalars(loss, norm, self.undo.before.is_finite(self.device), logs)
        check = self.undo.check(step, sent, wait=wait, scaled=self.scaler.is_enabled())
        if check.allowed:
            self.updating = True
            if self.run.clip_norm is not None:
                torch.nn.utils.clip_grads_with_norm_(parameters, self.run.clip_norm, norm)
            self.scaler.update()
            if not check.overflow:  # the scaler's own step would read this from the device again
                self.optimizer.step()
                self.method.after_step((step + 1) / self.total)
                if self.average is not None:
                    self.average.follow(self.method, step)
            self.updating = False
        else:
            self.scaler.update(self.scaler.get_scale())  # or it refuses the next step
        faults.point("loop.after_step", step)
        return check.metrics

    # ------------------------------------------------------------------ the run

    def fit(self, out: Path, flag: StopFlag, *, resume: bool, progress: str) -> None:
        """Train to the end, or until a signal."""
        checkpoints, recipe = self.run.checkpoints, self.recipe
        store = CheckpointStore(out / "checkpoints", keep=checkpoints.keep)
        start, notes = self.state.restore(store) if resume else (0, [])
        bar = Progress(self.total, start, progress if dist.is_main() else "quiet")
        said = (*self.run.notes, *recipe.own_classes(), *recipe.data.described())
        for note in (*notes, *self.notes, *said):
            bar.note(note)
        log = None
        if dist.is_main():
            store.sweep()
            rundir.refuse_if_too_small(out, self.state.bytes(), store.keep)
            write_text(out / "recipe.yaml", recipe.to_yaml(), sealed=True)
            described = self.state.describe(recipe, self.counter, start)
            write_json(out / "environment.json", self.environment | described, sealed=True)
            log = RunLog(out, recipe.config(), self.run.log.trackers, start, bar)
        try:
            with Saver(self.state, store, checkpoints, self.device, self.undo.settle) as saver:
                self._train(out, start, flag, log, saver)
        finally:
            if log:
                log.close()
            bar.close()
        encoder = whole_encoder((self.average or self).method.encoder, self.twin)
        if dist.is_main():
            made_by = {"recipe": recipe.config(), "steps": self.total, **self.environment}
            save_encoder(encoder, out / "encoder", made_by, source=recipe.data)
            described = self.state.describe(recipe, self.counter, self.total)
            write_json(out / "environment.json", self.environment | described, sealed=True)

    def _train(
        self, out: Path, start: int, flag: StopFlag, log: RunLog | None, saver: Saver
    ) -> None:
        meter, every, done = Meter(), self.run.log.every_steps, start
        stream = self.batches_from(start, flag)
        if start == 0:
            self.callback(out, 0)
        self.counter.start()
        try:
            while done < self.total:
                with meter.waiting_for_data():
                    batch = next(stream)
                self.state.count_bad(batch, self.run.loader.max_unreadable_fraction)
                wait = self.callback.is_due(done + 1) or not self.run.checks_late(self.device)
                with meter.measured(done, batch, self.timed, self.device):
                    metrics = self.step(done, batch, meter, wait=wait)
                self.counter.stop()  # every step makes the same number of forward passes
                meter.images += self.run.batch_size
                done += 1
                knn = self.callback(out, done)
                if done % every == 0 or done == self.total or knn:
                    counts = self.state.counts(saver.seconds(), done / self.plan.steps_per_epoch)
                    line = {**counts, **metrics, **meter.metrics(), **knn}
                    self.undo.tell(partial(log_checked, log, self.alarm, done, line))
                    meter = Meter()
                if saver.after_step(done, flag, last=done == self.total):
                    raise Interrupted(flag.number or 15)
        except Exception as error:
            # On any error but one in the update itself, the state is that after `done` steps.
            if not self.updating:
                done = self.undo.take_back(error, done)
                error.add_note(saver.before_error(done))
                postmortem.keep(error, out, self.recipe, self.state, done)
            raise

    def batches_from(self, start: int, flag: StopFlag) -> Iterator[Batch]:
        """Load the batches from a step on, after making the views that later ones remember."""
        own = self.run.batch_size // dist.world_size()
        again = min(start, -(-self.recipe.views.memory_size // own))
        loader = self.run.loader
        stream = batches(
            self.recipe.data, self.recipe.views, self.plan, start=start - again, stop=self.total,
            workers=loader.processes(self.recipe.data), on_unreadable=loader.on_unreadable,
            pin_memory=self.device.type == "cuda", timeout_s=loader.timeout_seconds,
            while_waiting=flag.check,
        )  # fmt: skip
        for step in range(start - again, start):
            for part in next(stream).split(self.run.accumulated):
                self.views(part, step)
        return stream
