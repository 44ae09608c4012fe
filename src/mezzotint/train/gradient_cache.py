"""Losses over a large batch in little memory (Gao et al. 2021, "GradCache", arXiv 2101.06983).

A contrastive loss needs the projections of all samples at once, but not their activations. So the
parts of a batch are encoded without a graph, the loss of all projections and its gradient in them
are computed, and then each part is encoded again, with the random state it had, to carry that
gradient to the weights. The gradient is that of the whole batch; the price is a second forward
pass. Layers that normalize over a batch (BatchNorm) see one part.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_flatten, tree_unflatten

from mezzotint import dist
from mezzotint.encoders.convolutions import autocast
from mezzotint.methods.method import Method
from mezzotint.recipe.schema import RecipeError
from mezzotint.types import Step, Views


def require_cacheable(method: Method) -> None:
    """Refuse a method whose loss is not one of rows that can be computed part by part.

    Raises:
        RecipeError: with the way to go on.
    """
    if method.has_rows:
        return
    kind = method.config["kind"]
    if method.no_accumulation:
        raise RecipeError(
            f"`run.compute.gradient_cache` must be false for {kind}, because "
            f"{method.no_accumulation}, and so do its forward passes. Lower run.batch_size if "
            "memory is short."
        )
    raise RecipeError(
        f"`run.compute.gradient_cache` must be false for {kind}, whose loss is a sum over samples. "
        "run.micro_batches alone gives the gradient of the whole batch."
    )


class GradientCache(nn.Module):
    """Call a method on parts of a batch, with the loss and the gradient of the whole batch.

    With several processes, the gradients are averaged over them at the end of the backward pass.

    Args:
        method: a method with `has_rows`.
        parts: number of parts of a batch.
    """

    def __init__(self, method: Method, parts: int) -> None:
        super().__init__()
        require_cacheable(method)
        self.method, self.parts = method, parts
        dist.share_tensors(method)

    def forward(self, views: Views) -> Step:
        self.method.require_views(views)
        replay = _Replay(self.method, views.split(self.parts))
        whole = replay.encode()
        anchor = torch.zeros((), device=whole[0].device, requires_grad=True)
        leaves = _Rows.apply(replay, anchor, *whole)
        return self.method.compare_rows(replay.nested(leaves), views)


class _Replay:
    """The parts of a batch, encoded once without and once with a graph."""

    def __init__(self, method: Method, parts: Sequence[Views]) -> None:
        self.method, self.parts = method, parts
        self.device = parts[0].x[0].device
        is_mixed = torch.is_autocast_enabled(self.device.type)
        self.dtype = torch.get_autocast_dtype(self.device.type) if is_mixed else torch.float32
        self.states: list[list[Tensor]] = []
        self.positions: list[int] = []
        self.spec: Any = None

    @torch.no_grad()
    def encode(self) -> list[Tensor]:
        """Compute the rows of all parts, each tensor of them once."""
        columns = []
        for part in self.parts:
            self.states.append(_random_state(self.device))
            nest = self.method.rows(part)
            columns.append(self._tensors(nest))
        return [torch.cat(column) for column in zip(*columns, strict=True)]

    def _tensors(self, nest: Any) -> list[Tensor]:
        """Flatten a nest; a tensor that it has twice (a prediction and a target) is one."""
        flat, self.spec = tree_flatten(nest)
        unique: dict[int, Tensor] = {id(tensor): tensor for tensor in flat}
        order = list(unique)
        self.positions = [order.index(id(tensor)) for tensor in flat]
        return list(unique.values())

    def nested(self, tensors: Sequence[Tensor]) -> Any:
        """Nest tensors as `Method.rows` does."""
        return tree_unflatten([tensors[index] for index in self.positions], self.spec)

    def backward(self, gradients: Sequence[Tensor | None]) -> None:
        """Encode each part again, and carry the gradients of its rows to the weights."""
        # What the first passes moved (statistics of BatchNorm) must not move twice.
        moved = [buffer.clone() for buffer in self.method.buffers()]
        devices = [self.device] if self.device.type == "cuda" else []
        start = 0
        with torch.random.fork_rng(devices), torch.enable_grad():
            for part, state in zip(self.parts, self.states, strict=True):
                _set_random_state(self.device, state)
                stop = start + len(part.x[0])
                with autocast(self.device, self.dtype):
                    tensors = self._tensors(self.method.rows(part))
                pairs = [
                    (tensor, gradient[start:stop])
                    for tensor, gradient in zip(tensors, gradients, strict=True)
                    if gradient is not None and tensor.requires_grad
                ]
                torch.autograd.backward([t for t, _ in pairs], [g for _, g in pairs])
                start = stop
        with torch.no_grad():
            for buffer, value in zip(self.method.buffers(), moved, strict=True):
                buffer.copy_(value)
        dist.average_gradients(self.method)


class _Rows(torch.autograd.Function):
    """The rows of the whole batch; their gradient goes through `_Replay.backward`."""

    @staticmethod
    def forward(ctx: Any, replay: _Replay, anchor: Tensor, *whole: Tensor) -> tuple[Tensor, ...]:
        ctx.replay = replay
        ctx.set_materialize_grads(False)
        return tuple(tensor.view_as(tensor) for tensor in whole)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor | None) -> tuple[None, ...]:
        ctx.replay.backward(gradients)
        return (None,) * (2 + len(gradients))


def _random_state(device: torch.device) -> list[Tensor]:
    states = [torch.get_rng_state()]
    return [*states, torch.cuda.get_rng_state(device)] if device.type == "cuda" else states


def _set_random_state(device: torch.device, states: Sequence[Tensor]) -> None:
    torch.set_rng_state(states[0])
    if device.type == "cuda":
        torch.cuda.set_rng_state(states[1], device)
