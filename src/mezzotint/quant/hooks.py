"""What a network does when it runs: which module feeds which, in what order units come, what enters and leaves them.

Found by hooks in one pass over an example, so that it holds for any network, whatever its modules
are called.
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
    """Switch every module to eval mode inside the block, and back to its own mode after it."""
    modes = [(module, module.training) for module in network.modules()]
    network.eval()
    try:
        yield
    finally:
        for module, training in modes:
            module.training = training


@contextmanager
def hooked(hooks: Iterable[torch.utils.hooks.RemovableHandle]) -> Iterator[None]:
    """Remove hooks at the end."""
    handles = list(hooks)
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def example_of(encoder: nn.Module, example: Tensor | None) -> Tensor:
    """A batch for one pass: the one given, or two inputs of the shape that the encoder states.

    Raises:
        ValueError: when there is neither.
    """
    if example is not None:
        return example
    stated = getattr(encoder, "input", None)
    if stated is None:
        raise ValueError(
            f"got {type(encoder).__name__}, which states no input; give an example batch"
        )
    numbers = torch.Generator().manual_seed(0)
    like = next(encoder.parameters())
    return torch.randn(2, *stated.shape, generator=numbers).to(like)


@torch.no_grad()
def feeds(
    network: nn.Module, example: Tensor, sources: Types, targets: Types
) -> dict[str, list[str]]:
    """Which targets take the very tensor that a source returns.

    Args:
        network: run once, in eval mode.
        example: a batch.
        sources: classes of modules that return one tensor.
        targets: classes of modules that take it.

    Returns:
        Names of targets by name of their source; sources that feed none, and modules that run more
        than once, are left out.
    """
    names = {module: name for name, module in network.named_modules()}
    runs: dict[nn.Module, int] = {}
    returned: list[tuple[Tensor, nn.Module]] = []
    found: dict[nn.Module, list[nn.Module]] = {}

    def entering(module: nn.Module, args: tuple[Any, ...]) -> None:
        runs[module] = runs.get(module, 0) + 1
        for value, source in returned:
            if args and value is args[0] and isinstance(module, targets):
                found.setdefault(source, []).append(module)

    def leaving(module: nn.Module, args: tuple[Any, ...], out: Tensor) -> None:
        if isinstance(module, sources):
            returned.append((out, module))

    watched = [m for m in network.modules() if isinstance(m, sources + targets)]
    hooks = [m.register_forward_pre_hook(entering) for m in watched] + [
        m.register_forward_hook(leaving) for m in watched
    ]
    with hooked(hooks), evaluating(network):
        network(example)
    return {
        names[source]: [names[target] for target in taken]
        for source, taken in found.items()
        if all(runs[module] == 1 for module in (source, *taken))
    }


def units(encoder: nn.Module, example: Tensor, kind: Unit) -> list[str]:
    """Parts of a quantizable network that are reconstructed one after the other, in the order in which they run.

    A block is an element of a `Sequential` or `ModuleList` that is neither a layer nor another
    list, with quantized layers and without such an element inside; layers outside of blocks are
    units themselves.
    """
    layers = [name for name, _ in quantized_layers(encoder)]
    blocks = _blocks(encoder, layers) if kind == "block" else []
    loose = [name for name in layers if not any(name.startswith(f"{block}.") for block in blocks)]
    order: list[str] = []

    def note(name: str) -> Callable[..., None]:
        return lambda *_: None if name in order else order.append(name)

    hooks = [
        encoder.get_submodule(name).register_forward_pre_hook(note(name)) for name in blocks + loose
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


class _Reached(Exception):
    """The unit has run; the rest of the network is not needed."""


@torch.no_grad()
def record(
    encoder: nn.Module, name: str, batches: Iterable[Tensor]
) -> tuple[Tensor, Tensor, tuple[Any, ...]]:
    """What enters and leaves one unit.

    Returns:
        Inputs and outputs of all samples, and the other positional arguments of the last call,
        which must not depend on the samples.

    Raises:
        ValueError: when the unit takes no tensor first, or returns none.
    """
    entered: list[Tensor] = []
    left: list[Tensor] = []
    others: list[tuple[Any, ...]] = []

    def leaving(module: nn.Module, args: tuple[Any, ...], out: Tensor) -> None:
        if not (args and isinstance(args[0], Tensor) and isinstance(out, Tensor)):
            raise ValueError(
                f"{name} does not map one tensor to one; reconstruct by layer instead: granularity='layer'"
            )
        entered.append(args[0].detach().clone())
        left.append(out.detach().clone())
        others.append(args[1:])
        raise _Reached

    with hooked([encoder.get_submodule(name).register_forward_hook(leaving)]):
        for x in batches:
            try:
                encoder(x)
            except _Reached:
                continue
    return torch.cat(entered), torch.cat(left), others[-1]
