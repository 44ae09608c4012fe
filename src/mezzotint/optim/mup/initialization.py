"""With which standard deviation a constructor draws each parameter, found without drawing anything.

A network is built on the meta device, where random functions do no work, and the calls of these
functions are listened to. What Xavier, Kaiming or an initialization of one's own gives at one width
and at another is then known exactly, whatever formula is behind it.
"""

from collections.abc import Callable
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

M = TypeVar("M", bound=nn.Module)


class _Listener(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Follows the std of each storage through random functions, factors and copies."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.stds: dict[int, float] = {}
        self._alive: list[Tensor] = []  # storages are told apart by address

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        out = func(*args, **(kwargs or {}))
        name = func.overloadpacket.__name__
        if isinstance(out, Tensor):
            self._alive.append(out)
            key = storage_of(out)
            if name == "normal_":
                self.stds[key] = float(_argument(args, kwargs, 2, "std", 1.0))
            elif name == "uniform_":
                low = _argument(args, kwargs, 1, "from", 0.0)
                high = _argument(args, kwargs, 2, "to", 1.0)
                self.stds[key] = (high - low) / 12.0**0.5
            elif name == "mul_" and key in self.stds and isinstance(args[1], (int, float)):
                self.stds[key] *= abs(float(args[1]))
            elif name in ("zero_", "fill_") and out.numel() == _size(out):
                self.stds.pop(key, None)
            elif name in ("clone", "_to_copy") and storage_of(args[0]) in self.stds:
                self.stds[key] = self.stds[storage_of(args[0])]
        return out


def listen(build: Callable[[], M]) -> tuple[M, dict[str, float]]:
    """Build a module on the meta device, and learn how its parameters are drawn.

    Args:
        build: makes the module.

    Returns:
        The module, and the standard deviation of each parameter that is drawn at random, by name.
    """
    listener = _Listener()
    with torch.random.fork_rng(devices=[]), torch.device("meta"), listener:
        module = build()
    drawn = {
        name: listener.stds[storage_of(p)]
        for name, p in module.named_parameters()
        if storage_of(p) in listener.stds
    }
    return module, drawn


def storage_of(tensor: Tensor) -> int:
    """Identity of the memory that a tensor lies in."""
    address: int = tensor.untyped_storage()._cdata
    return address


def _size(tensor: Tensor) -> int:
    return tensor.untyped_storage().nbytes() // tensor.element_size()


def _argument(args: tuple[Any, ...], kwargs: Any, index: int, name: str, default: float) -> float:
    if len(args) > index:
        return float(args[index])
    return float((kwargs or {}).get(name, default))
