"""Analyze a network by hooks: which module feeds which, the order of units, inputs and outputs.

One forward pass of an example gives the answer for any network, whatever its modules are called.
"""

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any, Literal

import torch
from torch import Tensor, nn

from mezzotint.quant.convert import quantized_layers

Unit = Literal["block", "layer"]
Types = tuple[type[nn.Module], ...]


@contextmanager
def evaluating(network: nn.Module) -> Iterator[None]:
    """Switch every module to eval mode inside the block, and restore its own mode after it."""
    modes = [(module, module.training) for module in network.modules()]
    network.eval()
    try:
        yield
    finally:
        for module, training in modes:
            module.training = training


@contextmanager
def hooked(hooks: Iterable[torch.utils.hooks.RemovableHandle]) -> Iterator[None]:
    """Remove hooks at the end of the block."""
    handles = list(hooks)
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def example_of(encoder: nn.Module, example: Tensor | None) -> Tensor:
    """Return the given batch, or two random inputs of the encoder's own input shape.

    Raises:
        ValueError: when there is neither.
    """
    if example is not None:
        return example
    stated = getattr(encoder, "input", None)
    if stated is None:
        raise ValueError(
            f"{type(encoder).__name__} has no attribute `input`, so its input shape is unknown. "
            "Pass an example batch."
        )
    numbers = torch.Generator().manual_seed(0)
    like = next(encoder.parameters())
    return torch.randn(2, *stated.shape, generator=numbers).to(like)


@torch.no_grad()
def find_consumers(
    network: nn.Module, example: Tensor, producers: Types, consumers: Types
) -> dict[str, list[str]]:
    """Find the modules that take, unchanged, the tensor that another module returns.

    Args:
        network: network, run once in eval mode.
        example: a batch.
        producers: classes of modules that return one tensor.
        consumers: classes of modules that take it.

    Returns:
        Names of the consumers by name of their producer; producers without consumers, and modules
        that run more than once, are left out.
    """
    names = {module: name for name, module in network.named_modules()}
    runs: dict[nn.Module, int] = {}
    returned: list[tuple[Tensor, nn.Module]] = []
    pairs: dict[nn.Module, list[nn.Module]] = {}

    def entering(module: nn.Module, args: tuple[Any, ...]) -> None:
        runs[module] = runs.get(module, 0) + 1
        for value, producer in returned:
            if args and value is args[0] and isinstance(module, consumers):
                pairs.setdefault(producer, []).append(module)

    def leaving(module: nn.Module, args: tuple[Any, ...], out: Tensor) -> None:
        if isinstance(module, producers):
            returned.append((out, module))

    watched = [m for m in network.modules() if isinstance(m, producers + consumers)]
    hooks = [m.register_forward_pre_hook(entering) for m in watched] + [
        m.register_forward_hook(leaving) for m in watched
    ]
    with hooked(hooks), evaluating(network):
        network(example)
    return {
        names[producer]: [names[consumer] for consumer in taken]
        for producer, taken in pairs.items()
        if all(runs[module] == 1 for module in (producer, *taken))
    }


def units(encoder: nn.Module, example: Tensor, kind: Unit) -> list[str]:
    """List the units of reconstruction of a quantizable network, in execution order.

    A block is an innermost element of a `Sequential` or `ModuleList` that contains quantized layers
    and is itself neither a layer nor a list. Layers outside of blocks are units of their own.
    """
    layers = [name for name, _ in quantized_layers(encoder)]
    blocks = _blocks(encoder, layers) if kind == "block" else []
    single = [name for name in layers if not any(name.startswith(f"{block}.") for block in blocks)]
    order: list[str] = []

    def note(name: str) -> Callable[..., None]:
        return lambda *_: None if name in order else order.append(name)

    hooks = [
        encoder.get_submodule(name).register_forward_pre_hook(note(name))
        for name in blocks + single
    ]
    with hooked(hooks), evaluating(encoder), torch.no_grad():
        encoder(example)
    return order


def _blocks(encoder: nn.Module, layers: list[str]) -> list[str]:
    lists = (nn.Sequential, nn.ModuleList)
    names = [
        f"{name}.{child}" if name else child
        for name, module in encoder.named_modules()
        if isinstance(module, lists)
        for child, element in module.named_children()
        if not isinstance(element, lists)
    ]
    whole = [name for name in names if any(layer.startswith(f"{name}.") for layer in layers)]
    return [name for name in whole if not any(other.startswith(f"{name}.") for other in whole)]


class _UnitDone(Exception):
    """Stops a forward pass after the unit; the rest of the network is not needed."""


@torch.no_grad()
def record(
    encoder: nn.Module, name: str, batches: Iterable[Tensor]
) -> tuple[Tensor, Tensor, tuple[Any, ...]]:
    """Record the inputs and outputs of one unit.

    Returns:
        Inputs and outputs of all samples, and the other positional arguments of the last call,
        which must not depend on the samples.

    Raises:
        ValueError: when the unit's first argument or its result is not a tensor.
    """
    entered: list[Tensor] = []
    left: list[Tensor] = []
    others: list[tuple[Any, ...]] = []

    def leaving(module: nn.Module, args: tuple[Any, ...], out: Tensor) -> None:
        if not (args and isinstance(args[0], Tensor) and isinstance(out, Tensor)):
            raise ValueError(
                f"`{name}` does not map one tensor to one tensor, so it cannot be reconstructed as "
                "a block. Use granularity='layer'."
            )
        entered.append(args[0].detach().clone())
        left.append(out.detach().clone())
        others.append(args[1:])
        raise _UnitDone

    with hooked([encoder.get_submodule(name).register_forward_hook(leaving)]):
        for x in batches:
            try:
                encoder(x)
            except _UnitDone:
                continue
    return torch.cat(entered), torch.cat(left), others[-1]
