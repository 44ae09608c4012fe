"""Run the step again that stopped a run, and find the first value that is NaN or inf."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from mezzotint.recipe.recipe import Recipe
from mezzotint.recipe.schema import construct
from mezzotint.train import continued
from mezzotint.train.checkpoint import CheckpointStore
from mezzotint.train.guard import NotFinite, first_not_finite
from mezzotint.train.log import Meter
from mezzotint.train.loop import Trainer
from mezzotint.train.postmortem import Bundle, read_bundle, read_samples
from mezzotint.train.signals import StopFlag
from mezzotint.types import Views


@dataclass(frozen=True)
class Replay:
    """What a replay found.

    Attributes:
        bundle: that was replayed.
        step: at which it stopped; `None` if it ran through.
        loss: of this step, as in the bundle.
        grad_norm: norm of the gradient, likewise.
        first: where the first NaN or inf is, in words.
        samples: names of the samples that it is in; empty if that cannot be told.
    """

    bundle: Bundle
    step: int | None
    loss: str
    grad_norm: str
    first: str
    samples: Sequence[str]

    @property
    def is_same(self) -> bool:
        """Whether the same values of the same step are NaN or inf as in the run."""
        kinds = [
            [_kind(value) for value in values]
            for values in (
                (self.loss, self.grad_norm),
                (self.bundle.loss, self.bundle.grad_norm),
            )
        ]
        # Weights that an update ruined may stop a run before the next step is tried.
        is_known = self.bundle.loss != "None"
        return self.step == self.bundle.step and (kinds[0] == kinds[1] or not is_known)

    def __str__(self) -> str:
        if self.step is None:
            return (
                f"Steps {self.bundle.start} to {self.bundle.step} ran through: nothing was NaN or "
                "inf. Replay on the device of the run, with its versions: mezzotint "
                f"{self.bundle.versions['mezzotint']}, torch {self.bundle.versions['torch']}."
            )
        same = "as in the run" if self.is_same else (
            f"but in the run step {self.bundle.step} had loss {self.bundle.loss}, gradient norm "
            f"{self.bundle.grad_norm}"
        )  # fmt: skip
        lines = [f"step {self.step}: loss {self.loss}, gradient norm {self.grad_norm}, {same}"]
        lines.append(f"first NaN or inf: {self.first}")
        if self.samples:
            more = f" and {len(self.samples) - 5} more" if len(self.samples) > 5 else ""
            lines.append(f"samples: {', '.join(self.samples[:5])}{more}")
        return "\n".join(lines)


def _kind(value: str) -> str:
    return value if value in ("nan", "inf", "-inf", "None") else "finite"


def replay(folder: str) -> Replay:
    """Replay a bundle.

    Raises:
        RecipeError: when it is no bundle, is damaged, is of another version, or its data changed.
    """
    bundle = read_bundle(folder)
    recipe = Recipe.load(bundle.folder)
    config = recipe.run.config
    # One process runs it; hooks would break up a compiled graph, whose steps are the same.
    compute = {**config["compute"], "compile": False, "sharding": "none"}
    recipe.run = construct({**config, "compute": compute}, "Run", {})
    if bundle.has_checkpoint:
        continued.go_on(recipe, bundle.folder.parent.parent)  # the run
    else:
        continued.begin(recipe)
    trainer = Trainer(recipe, recipe.run.compute.torch_device())
    if bundle.has_checkpoint:
        trainer.state.restore(CheckpointStore(bundle.folder / "checkpoints"))
    stream = trainer.batches_from(bundle.start, StopFlag())
    names = read_samples(recipe, bundle)
    for step in range(bundle.start, bundle.step + 1):
        batch, finder = next(stream), _Finder(trainer.method)
        if step == bundle.step:
            trainer.state.guard.patience = 0
            finder.start()
        try:
            trainer.step(step, batch, Meter())
        except NotFinite as error:
            rejected = trainer.state.guard.rejected
            loss, norm = ("None", "None") if rejected is None else (
                str(rejected.loss), str(rejected.grad_norm),
            )  # fmt: skip
            ids = batch.ids.tolist()
            rows = sorted({row % len(ids) for row in finder.rows})
            found = [names.get(ids[row], str(ids[row])) for row in rows]
            return Replay(bundle, step, loss, norm, finder.first or str(error), found)
        finally:
            finder.stop()
    return Replay(bundle, None, "", "", "", ())


@dataclass
class _Finder:
    """Hooks that note the first value of a step that is NaN or inf, in the order of computation.

    Attributes:
        method: whose modules and parameters are watched.
        first: where the value is, in words; empty if all are finite.
        rows: rows of the batch that it is in; empty if all are, or for a parameter.
    """

    method: nn.Module
    first: str = ""
    rows: Sequence[int] = ()
    _hooks: list[RemovableHandle] = field(default_factory=list)

    def start(self) -> None:
        """Check parameters, and watch views, outputs of modules and gradients."""
        name = first_not_finite(self.method.named_parameters())
        if name is not None:
            self.first = f"the weights {name}, before the step"
            return
        self._hooks.append(self.method.register_forward_pre_hook(self._see_views))
        for name, module in self.method.named_modules():
            kind = type(module).__name__
            what = f"the output of {name} ({kind})" if name else f"the loss of {kind}"
            self._hooks.append(module.register_forward_hook(self._output_hook(what)))
        for name, parameter in self.method.named_parameters():
            if parameter.requires_grad:
                see = self._gradient_hook(name)
                hook = parameter.register_post_accumulate_grad_hook(see)  # type: ignore[no-untyped-call]
                self._hooks.append(hook)

    def stop(self) -> None:
        """Remove the hooks; the findings stay."""
        while self._hooks:
            self._hooks.pop().remove()

    def _see_views(self, module: nn.Module, inputs: tuple[Any, ...]) -> None:
        for views in (value for value in inputs if isinstance(value, Views)):
            for number, x in enumerate((*views.x, *views.target_x), 1):
                self._check(f"view {number} of the samples", x)

    def _output_hook(self, what: str) -> Any:
        def see(module: nn.Module, inputs: object, output: object) -> None:
            for tensor in _tensors(output):
                self._check(what, tensor)

        return see

    def _gradient_hook(self, name: str) -> Any:
        def see(parameter: Tensor) -> None:
            if parameter.grad is not None:
                self._check(f"the gradient of {name}, of a finite loss", parameter.grad, rows=False)

        return see

    @torch.no_grad()
    def _check(self, what: str, tensor: Tensor, *, rows: bool = True) -> None:
        if self.first or not tensor.is_floating_point() or bool(tensor.isfinite().all()):
            return
        self.first = what
        if rows and tensor.ndim > 1:
            bad = ~tensor.isfinite().flatten(1).all(dim=1)
            self.rows = [] if bool(bad.all()) else bad.nonzero()[:, 0].tolist()


def _tensors(value: Any) -> list[Tensor]:
    """Find the tensors of an output: of a tensor, a sequence, a mapping or a data class."""
    if isinstance(value, Tensor):
        return [value]
    if isinstance(value, dict):
        value = list(value.values())
    elif hasattr(value, "__dataclass_fields__"):
        value = [getattr(value, name) for name in value.__dataclass_fields__]
    if isinstance(value, (list, tuple)):
        return [tensor for part in value for tensor in _tensors(part)]
    return []
