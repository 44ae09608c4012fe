"""A few steps of a run in a process of its own, for `mezzotint check`: `python -m … SPEC.json`.

The steps are those of the middle of the run, where the learning rate is no warm-up's, with new
weights. What happened goes into `outcome.json`: losses, norms of gradients, and a hash of every
tensor at the end. An error goes into `error.txt`.
"""

import hashlib
import json
import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn.modules.batchnorm import _BatchNorm

from mezzotint import dist
from mezzotint.encoders.saving import save_encoder
from mezzotint.files import write_text
from mezzotint.recipe.recipe import Recipe
from mezzotint.seeding import Draws
from mezzotint.train.checkpoint import CheckpointStore
from mezzotint.train.log import Meter
from mezzotint.train.loop import Trainer
from mezzotint.train.signals import StopFlag

_LAST_BIT = 2.0**-23
_TIMEOUT_S = 600.0  # the processes of a busy machine start minutes apart


def rehearse(spec: Mapping[str, Any], recipe: Recipe) -> dict[str, Any]:
    """Train the steps of a rehearsal.

    Args:
        spec: `steps`; `out`, a directory; and `action`: `train`; `resume` from the checkpoint that
            the rehearsal `source` left in its middle; `perturb` the last bit of every weight
            first; `round` every weight to bf16 first; or `nan`, a NaN loss in the second step.
        recipe: that is trained.

    Returns:
        The content of `outcome.json`.
    """
    out, action = Path(spec["out"]), spec["action"]
    recipe.method.given = recipe.method.needs  # parts of earlier phases are new here
    trainer = Trainer(recipe, recipe.run.compute.torch_device())
    first = min(trainer.total // 2, max(0, trainer.total - spec["steps"]))
    last = min(trainer.total, first + spec["steps"])
    start = first
    if action == "resume":
        start, _ = trainer.state.restore(CheckpointStore(Path(spec["source"]) / "checkpoints"))
    elif action == "perturb":
        _perturb(trainer.method)
    elif action == "round":
        _round(trainer.method)
    losses, norms, changed = [], [], list[str]()
    stream = trainer.batches_from(start, StopFlag())
    for step in range(start, last):
        if action == "train" and step == (first + last) // 2 and dist.is_main():
            CheckpointStore(out / "checkpoints").save(step, *trainer.state.parts(step))
        poisoned = action == "nan" and step == first + 1
        before = _hashes(trainer) if poisoned else {}
        if poisoned:
            os.environ["MEZZOTINT_FAULT"] = f"loop.loss:step={step}:nan"
        metrics = trainer.step(step, next(stream), Meter())
        if poisoned:
            after = _hashes(trainer)
            changed = [key for key in before | after if before.get(key) != after.get(key)]
        losses.append(metrics["loss"])
        norms.append(metrics["grad_norm"])
    if action == "train" and dist.is_main():
        save_encoder(recipe.encoder, out / "run" / "encoder", {"steps": last}, source=recipe.data)
        write_text(out / "run" / "recipe.yaml", recipe.to_yaml())
    return {
        "first": start - first, "losses": losses, "norms": norms, "hashes": _hashes(trainer),
        "changed": changed, "in_memory": recipe.data.in_memory,
        "no_accumulation": recipe.method.no_accumulation,
        "batch_norm": any(isinstance(module, _BatchNorm) for module in recipe.method.modules()),
        "process_dependence": _process_dependence(recipe),
    }  # fmt: skip


def _process_dependence(recipe: Recipe) -> str:
    """Say why the rows of a process depend on its other rows; empty if they do not."""
    if recipe.views.mixes_samples:
        return "views mix or normalize the samples of a process together"
    return recipe.method.process_dependence


@torch.no_grad()
def _perturb(method: torch.nn.Module) -> None:
    """Change the last bit of about half of all weights, up or down."""
    for index, parameter in enumerate(method.parameters()):
        draws = Draws(torch.arange(parameter.numel()), index)
        signs = draws.integers("sign", low=-1, high=2).view(parameter.shape)
        parameter.mul_(1.0 + _LAST_BIT * signs.to(parameter.device))


@torch.no_grad()
def _round(method: torch.nn.Module) -> None:
    for parameter in method.parameters():
        parameter.copy_(parameter.bfloat16())


def _hashes(trainer: Trainer) -> dict[str, str]:
    """Hash every tensor of method and optimizer, buffers that no checkpoint keeps among them."""
    _, rest = trainer.state.tensors()  # empty but on the main process
    named = [*trainer.method.named_parameters(), *trainer.method.named_buffers(), *rest.items()]
    return {name: _hash(tensor) for name, tensor in named}


def _hash(tensor: Tensor) -> str:
    flat = tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8)
    return hashlib.sha256(flat.numpy().tobytes()).hexdigest()[:16]


def main() -> None:
    """Rehearse what a file describes, on all processes of `torchrun` if it started this one."""
    spec = json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))
    out = Path(spec["out"])
    try:
        recipe = Recipe.build(spec["config"])
        with dist.process_group(recipe.run.compute.torch_device(), _TIMEOUT_S):
            outcome = rehearse(spec, recipe)
            if dist.is_main():
                write_text(out / "outcome.json", json.dumps(outcome))  # with NaN, if there is one
    except Exception as error:
        # The first process that fails says why; the others only lose their connection to it.
        if not (out / "error.txt").exists():
            text = " ".join(f"{type(error).__name__}: {error}".split())
            write_text(out / "error.txt", text)
        raise


if __name__ == "__main__":
    main()
