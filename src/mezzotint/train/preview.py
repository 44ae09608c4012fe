"""Estimate what a run will cost, from a few timed steps: `mezzotint pretrain --dry-run`."""

import resource
import statistics
import time

import torch

from mezzotint.data.loader import batches
from mezzotint.recipe.recipe import Recipe
from mezzotint.train.callbacks import ForwardPassCounter
from mezzotint.train.log import Meter
from mezzotint.train.loop import Trainer

_STEPS = 5


def preview(recipe: Recipe) -> str:
    """Run a few steps without writing anything, and estimate the whole run.

    Args:
        recipe: the run's; the steps change its weights.

    Returns:
        The resolved recipe and, as comments, steps, parameters, memory and time.
    """
    device = recipe.run.compute.torch_device()
    trainer = Trainer(recipe, device)
    stop = min(_STEPS, trainer.total)
    times = []
    counter = ForwardPassCounter(recipe.method)
    counter.start()
    for step, batch in enumerate(
        batches(recipe.data, recipe.views, trainer.plan, start=0, stop=stop, workers=0)
    ):
        began = time.perf_counter()
        trainer.step(step, batch, Meter())
        times.append(time.perf_counter() - began)
    trained, frozen = (count / (stop * recipe.run.batch_size) for count in counter.stop())
    step_time = statistics.median(times[1:] or times)
    seconds = step_time * trainer.total
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    if device.type == "cuda":
        peak = torch.cuda.max_memory_allocated(device)
    count = sum(p.numel() for p in recipe.encoder.parameters())
    facts = (
        f"# samples      {len(recipe.data):,}",
        f"# steps        {trainer.total:,} ({trainer.plan.steps_per_epoch:,} per epoch)",
        f"# encoder      {count / 1e6:.2f} M parameters, {recipe.encoder.dim} features",
        f"# views        {recipe.views.num_views} per sample: {trained:g} forward passes with "
        f"gradient and {frozen:g} without; compare methods at equal forward passes",
        f"# memory       {peak / 2**20:,.0f} MiB at the peak of {stop} steps on {device.type}, "
        "this process",
        *(f"# batch        {note}" for note in recipe.run.notes),
        *_groups(trainer.optimizer),
        f"# time         {_duration(seconds)} to train, without evaluation "
        f"({step_time * 1000:.0f} ms per step, median of {len(times)}; "
        f"{recipe.run.batch_size / step_time:,.0f} samples/s)",
    )
    return recipe.to_yaml() + "\n".join(facts)


def _groups(optimizer: torch.optim.Optimizer) -> list[str]:
    """A line for each parameter group, with its first parameter's name."""
    lines = [f"# groups       {len(optimizer.param_groups)} of the optimizer"]
    for group in optimizer.param_groups:
        names, count = group["param_names"], sum(p.numel() for p in group["params"])
        rule = " orthogonalized," if group.get("orthogonal") else ""
        lines.append(
            f"#   lr {group['base_lr']:.3g}, weight decay {group['weight_decay']:.3g},{rule} "
            f"{len(names)} tensors, {count / 1e6:.2f} M: {names[0]}{', …' * (len(names) > 1)}"
        )
    return lines


def _duration(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.1f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
