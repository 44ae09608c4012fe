"""What a run will cost, from a few timed steps: `mezzotint pretrain --dry-run`."""

import resource
import statistics
import time

from mezzotint.data.loader import batches
from mezzotint.recipe.recipe import Recipe
from mezzotint.train.log import Meter
from mezzotint.train.loop import Trainer
from mezzotint.train.watch import Passes

_STEPS = 5


def preview(recipe: Recipe) -> str:
    """Run a few steps without writing anything, and say what the whole will take.

    Args:
        recipe: of the run; its weights are changed by the steps.

    Returns:
        The resolved recipe and, as comments, steps, parameters, memory and time.
    """
    device = recipe.run.compute.torch_device()
    trainer = Trainer(recipe, device)
    stop = min(_STEPS, trainer.total)
    times = []
    passes = Passes(recipe.method)
    passes.start()
    for step, batch in enumerate(
        batches(recipe.data, recipe.views, trainer.plan, start=0, stop=stop, workers=0)
    ):
        began = time.perf_counter()
        trainer.step(step, batch, Meter())
        times.append(time.perf_counter() - began)
    learning, watching = (count / (stop * recipe.run.batch_size) for count in passes.stop())
    a_step = statistics.median(times[1:] or times)
    seconds = a_step * trainer.total
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    if device.type == "cuda":
        import torch

        peak = torch.cuda.max_memory_allocated(device)
    count = sum(p.numel() for p in recipe.encoder.parameters())
    facts = (
        f"# samples      {len(recipe.data):,}",
        f"# steps        {trainer.total:,} ({trainer.plan.steps_per_epoch:,} an epoch)",
        f"# encoder      {count / 1e6:.2f} M parameters, {recipe.encoder.dim} features",
        f"# views        {recipe.views.num_views} a sample: {learning:g} passes through the encoder with gradient and "
        f"{watching:g} without; compare methods at equal passes",
        f"# memory       {peak / 2**20:,.0f} MiB at the peak of {stop} steps on {device.type}, this process",
        f"# time         {_duration(seconds)} to train ({a_step * 1000:.0f} ms a step, median of {len(times)}; "
        f"{recipe.run.batch_size / a_step:,.0f} samples/s), evaluation not counted",
    )
    return recipe.to_yaml() + "\n".join(facts)


def _duration(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.1f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
