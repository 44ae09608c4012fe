"""Estimate what a run will cost, from a few timed steps: `mezzotint pretrain --dry-run`.

The steps run in a process of their own, so that a run that needs more memory than there is ends
that process and not the answer. It starts with few samples a step, and takes the whole batch only
where it is predicted to fit; else memory and time are extrapolated.
"""

import contextlib
import json
import os
import resource
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import torch

from mezzotint.data.loader import batches
from mezzotint.recipe.recipe import Recipe
from mezzotint.train.callbacks import ForwardPassCounter
from mezzotint.train.log import Meter
from mezzotint.train.loop import Trainer

_STEPS = 5
_MOST_SECONDS = 12.0
_FITS = 0.6
"""Fraction of the free memory below which a whole batch is tried."""


def preview(recipe: Recipe) -> str:
    """Run a few steps in another process without writing anything, and estimate the whole run.

    Args:
        recipe: the run's.

    Returns:
        The resolved recipe and, as comments, steps, parameters, memory and time.
    """
    device = recipe.run.compute.torch_device()
    trainer = Trainer(recipe, device)
    found = _measured(recipe)
    count = sum(p.numel() for p in recipe.encoder.parameters())
    facts = [
        f"# samples      {len(recipe.data):,}",
        f"# steps        {trainer.total:,} ({trainer.plan.steps_per_epoch:,} per epoch)",
        f"# encoder      {count / 1e6:.2f} M parameters, {recipe.encoder.dim} features",
    ]
    if found is None:
        facts += [
            "# memory       a step of a few samples already needs more than there is; choose a "
            "smaller encoder or input",
            *_groups(trainer.optimizer),
        ]
        return recipe.to_yaml() + "\n".join(facts)
    seconds = found["seconds"] * trainer.total
    facts += [
        f"# views        {recipe.views.num_views} per sample: {found['trained']:g} forward passes "
        f"with gradient and {found['frozen']:g} without; compare methods at equal forward passes",
        f"# memory       {memory_words(found, trainer.plan.batch_size, device.type)}",
        *_groups(trainer.optimizer),
        f"# time         {_duration(seconds)} to train, without evaluation "
        f"({found['seconds'] * 1000:.0f} ms per step, {_basis(found)}; "
        f"{trainer.plan.batch_size / found['seconds']:,.0f} samples/s)",
    ]
    return recipe.to_yaml() + "\n".join(facts)


def memory_words(found: dict[str, Any], batch_size: int, device: str) -> str:
    """Write the peak memory of a step, and what to do where it does not fit."""
    peak, free = found["peak"] / 2**20, found["free"] / 2**20
    words = f"{peak:,.0f} MiB at the peak on {device}, {_basis(found)}"
    if peak <= free:
        return words
    fixed, each = found["fixed"] / 2**20, found["each"] / 2**20
    most = int(max(0.0, 0.9 * free - fixed) / each) if each > 0 else 0
    advice = (
        f"run.batch_size={most} should fit" if most > 1 else "choose a smaller encoder or input"
    )
    return f"{words}: it does not fit into the {free:,.0f} MiB that are free; {advice}"


def _basis(found: dict[str, Any]) -> str:
    sizes = found["sizes"]
    if found["whole"]:
        return f"median of {_STEPS} steps" if found["steps"] > 1 else "one step"
    return f"extrapolated from steps of {' and '.join(map(str, sizes))} samples"


def _measured(recipe: Recipe) -> dict[str, Any] | None:
    """Measure in another process; `None` if the system ended it for its memory."""
    code = "from mezzotint.train.preview import measure_stdin; measure_stdin()"
    done = subprocess.run(
        [sys.executable, "-c", code],
        input=json.dumps(recipe.config()),
        capture_output=True,
        text=True,
        check=False,
    )
    lines = [line for line in done.stdout.splitlines() if line.startswith("{")]
    if done.returncode and done.returncode not in (-9, 137) and "out of memory" not in done.stderr:
        last = (done.stderr.strip().splitlines() or ["no message"])[-1]
        raise ValueError(f"The steps of the dry run failed: {last}")
    found: dict[str, Any] | None = json.loads(lines[-1]) if lines else None
    return found


def measure_stdin() -> None:
    """Read a recipe from stdin, and print a JSON line after each size of batch."""
    config = json.loads(sys.stdin.read())
    points: list[dict[str, Any]] = []
    whole = Trainer(Recipe.build(config), _device(config)).plan.batch_size
    for size in micro_batches(whole, config["run"].get("micro_batches", 1)):
        try:
            points.append(_steps(config, size, 2))
        except ValueError:  # a method that needs larger batches
            points.clear()
            break
        print(json.dumps(extrapolated(points, whole)), flush=True)
    if points:
        found = extrapolated(points, whole)
        if found["peak"] > _FITS * found["free"] or found["seconds"] * _STEPS > _MOST_SECONDS:
            return
    print(json.dumps(extrapolated([_steps(config, whole, _STEPS)], whole)), flush=True)


def micro_batches(batch_size: int, unit: int = 1) -> list[int]:
    """Choose two small divisors of a batch, the second at least twice the first; or the batch.

    Both are multiples of `unit`, the parts that a batch is accumulated in.
    """
    divisors = [n for n in range(2, batch_size + 1) if batch_size % n == 0 and n % unit == 0]
    first = next((n for n in divisors if n >= 4), batch_size)
    second = next((n for n in divisors if n >= 2 * first), None)
    return [first] if second is None else [first, second]


def extrapolated(points: list[dict[str, Any]], batch_size: int) -> dict[str, Any]:
    """Return memory and time of a step of the whole batch, linear in the samples."""
    last = points[-1]
    result = {**last, "sizes": [p["size"] for p in points], "whole": last["size"] == batch_size}
    result |= {"fixed": 0.0, "each": last["peak"] / last["size"]}
    if len(points) > 1:
        more = last["size"] - points[0]["size"]
        result["each"] = max(0.0, last["peak"] - points[0]["peak"]) / more
        result["fixed"] = last["peak"] - result["each"] * last["size"]
    if not result["whole"]:
        result["peak"] = result["fixed"] + result["each"] * batch_size
        result["seconds"] = last["seconds"] * batch_size / last["size"]
    return result


def _device(config: dict[str, Any]) -> torch.device:
    device: torch.device = Recipe.build(config).run.compute.torch_device()
    return device


def _steps(config: dict[str, Any], size: int, steps: int) -> dict[str, Any]:
    """Run steps of one size of batch, and measure the peak memory and the median time."""
    recipe = Recipe.build({**config, "run": {**config["run"], "batch_size": size}})
    device = recipe.run.compute.torch_device()
    trainer = Trainer(recipe, device)
    stop = min(steps, trainer.total)
    _reset_peak(device)
    free = _free(device)
    times = []
    counter = ForwardPassCounter(recipe.method)
    counter.start()
    for step, batch in enumerate(
        batches(recipe.data, recipe.views, trainer.plan, start=0, stop=stop, workers=0)
    ):
        began = time.perf_counter()
        trainer.step(step, batch, Meter())
        times.append(time.perf_counter() - began)
    trained, frozen = (count / (stop * trainer.plan.batch_size) for count in counter.stop())
    return {
        "size": trainer.plan.batch_size, "steps": stop, "trained": trained, "frozen": frozen,
        "seconds": statistics.median(times[1:] or times), "peak": _peak(device), "free": free,
    }  # fmt: skip


def _reset_peak(device: torch.device) -> None:
    """Reset the peak memory of the process."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")


def _peak(device: torch.device) -> float:
    """Return the peak memory in bytes."""
    if device.type == "cuda":
        return float(torch.cuda.max_memory_allocated(device))
    with contextlib.suppress(OSError):
        return _kib("/proc/self/status", "VmHWM") * 1024
    return float(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024)


def _free(device: torch.device) -> float:
    """Return the bytes that the process could have, with those that it has."""
    if device.type == "cuda":
        return float(torch.cuda.mem_get_info(device)[0] + torch.cuda.memory_reserved(device))
    with contextlib.suppress(OSError):
        own = _kib("/proc/self/status", "VmRSS")
        return (_kib("/proc/meminfo", "MemAvailable") + own) * 1024
    return float(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"))


def _kib(file: str, name: str) -> float:
    for line in Path(file).read_text(encoding="ascii").splitlines():
        if line.startswith(f"{name}:"):
            return float(line.split()[1])
    raise OSError(f"{file} has no {name}")


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
