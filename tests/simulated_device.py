"""A simulated accelerator that counts how often the host waits for it.

Its tensors compute on the CPU and say that they are on another device (`meta`, which autograd
serves without a driver), so that code takes its way for accelerators. An operation that would make
the host read the device is counted, with the line of the package that asked for it: values (`item`,
`tolist`, `bool`), sizes that depend on values (`nonzero`, masks as indices, `bincount`), copies to
the CPU. A copy to the device that is not `non_blocking` waits for all work before it, and is
counted too.
"""

import sys
from collections import Counter
from collections.abc import Callable
from typing import Any, Self

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map

DEVICE = torch.device("meta")
_aten = torch.ops.aten
_READS = {
    _aten._local_scalar_dense, _aten.nonzero, _aten.masked_select, _aten._unique,
    _aten._unique2, _aten.unique_dim, _aten.unique_consecutive, _aten.bincount, _aten.equal,
    _aten._linalg_check_errors, _aten.linalg_eigh, _aten._linalg_eigh, _aten._linalg_svd,
    _aten.linalg_lstsq, _aten.linalg_eig,
}  # fmt: skip
_INDEXED = {_aten.index, _aten.index_put, _aten.index_put_, _aten._index_put_impl_}


class _Remote(Tensor):
    """A tensor on the simulated device; `value` is its content."""

    value: Tensor

    @staticmethod
    def __new__(cls, value: Tensor) -> "_Remote":
        remote = Tensor._make_wrapper_subclass(
            cls, value.shape, strides=value.stride(), storage_offset=value.storage_offset(),
            dtype=value.dtype, device=DEVICE,
        )  # fmt: skip
        remote.value = value
        return remote

    @classmethod
    def __torch_dispatch__(  # type: ignore[override]
        cls, func: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        raise RuntimeError(f"{func} works on the simulated device inside of `SimulatedDevice` only")


class SimulatedDevice(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Simulate the device within the block, and count.

    Attributes:
        reads: number of reads of the device, by operation and line of the package.
        waits: number of copies to the device that wait for it, alike.
    """

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.reads: Counter[str] = Counter()
        self.waits: Counter[str] = Counter()
        self._functions = _Functions(self)
        self._autocast = torch.autocast

    def __enter__(self) -> Self:
        torch.autocast = _Autocast  # type: ignore[misc]
        self._functions.__enter__()  # type: ignore[no-untyped-call]
        return super().__enter__()  # type: ignore[no-any-return, no-untyped-call]

    def __exit__(self, *error: Any) -> None:
        super().__exit__(*error)  # type: ignore[no-untyped-call]
        self._functions.__exit__(*error)  # type: ignore[no-untyped-call]
        torch.autocast = self._autocast  # type: ignore[misc]

    def reset(self) -> None:
        """Count from zero."""
        self.reads.clear()
        self.waits.clear()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = dict(kwargs or {})
        inside = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, _Remote)]
        packet, device = func.overloadpacket, kwargs.get("device")
        if device is not None:
            device = torch.device(device)
            kwargs["device"] = torch.device("cpu")
        if packet is _aten._to_copy:
            self._count_copy(kwargs, inside, device)
        elif inside:
            self._count(func, packet, args, kwargs)
        wrappers = {id(remote.value): remote for remote in inside}
        own_args, own_kwargs = tree_map(_value, (args, kwargs))
        out = func(*own_args, **own_kwargs)
        to_host = device is not None and device != DEVICE
        if (not inside and device != DEVICE) or to_host or packet is _aten._local_scalar_dense:
            return out
        # What an operation changes in place stays the same object.
        found = tree_map(lambda t: _wrapped(t, wrappers), out)
        # A CPU tensor that a device is copied into stays one.
        return args[0] if packet is _aten.copy_ else found

    def _count_copy(self, kwargs: Any, inside: list[Any], device: torch.device | None) -> None:
        if inside and device is not None and device != DEVICE:
            self.note(self.reads, "copy to the CPU")
        elif not inside and device == DEVICE and not kwargs.get("non_blocking"):
            self.note(self.waits, "copy to the device")

    def _count(self, func: Any, packet: Any, args: Any, kwargs: Any) -> None:
        is_mask = packet in _INDEXED and any(
            isinstance(i, Tensor) and i.dtype in (torch.bool, torch.uint8) for i in args[1]
        )
        repeats = func is _aten.repeat_interleave.Tensor and kwargs.get("output_size") is None
        if packet in _READS or is_mask or repeats:
            self.note(self.reads, str(func))
        elif packet is _aten.copy_ and not isinstance(args[0], _Remote):
            self.note(self.reads, "copy to the CPU")
        elif packet is _aten.copy_ and not isinstance(args[1], _Remote) and args[1].ndim:
            if not (args[2] if len(args) > 2 else kwargs.get("non_blocking")):
                self.note(self.waits, "copy to the device")

    def note(self, counter: "Counter[str]", what: str) -> None:
        """Count, with the innermost line of the package."""
        frame = sys._getframe(1)
        while frame.f_back is not None and "/mezzotint/" not in frame.f_code.co_filename:
            frame = frame.f_back
        name = frame.f_code.co_filename.rpartition("/mezzotint/")[2]
        counter[f"{what} in {name}:{frame.f_lineno} ({frame.f_code.co_name})"] += 1


class _Autocast(torch.autocast):
    """Autocast of the CPU, which the simulated device has none of."""

    def __init__(self, device_type: str, *args: Any, **kwargs: Any) -> None:
        own = "cpu" if device_type == DEVICE.type else device_type
        super().__init__(own, *args, **kwargs)


class _Functions(TorchFunctionMode):
    """Functions that make or read tensors below the dispatcher."""

    def __init__(self, device: SimulatedDevice) -> None:
        super().__init__()
        self.device = device

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        kwargs = dict(kwargs or {})
        if func in (Tensor.tolist, Tensor.numpy) and isinstance(args[0], _Remote):
            return func(args[0].cpu())
        if func is Tensor.new_tensor and isinstance(args[0], _Remote):
            kwargs = {"dtype": args[0].dtype, "device": DEVICE, **kwargs}
            func, args = torch.tensor, args[1:]
        made = func in (torch.tensor, torch.as_tensor)
        if made and torch.device(kwargs.get("device") or "cpu") == DEVICE:
            if isinstance(args[0], _Remote):
                return args[0].to(kwargs.get("dtype"))
            self.device.note(self.device.waits, "new tensor from numbers")
            host = func(*args, **{**kwargs, "device": "cpu"})
            return host.to(DEVICE, non_blocking=True)
        return func(*args, **kwargs)


def _value(leaf: Any) -> Any:
    return leaf.value if isinstance(leaf, _Remote) else leaf


def _wrapped(leaf: Any, wrappers: dict[int, _Remote]) -> Any:
    if not isinstance(leaf, Tensor):
        return leaf
    own = wrappers.get(id(leaf))
    if own is None:
        return _Remote(leaf)
    assert own.shape == leaf.shape, "changing a shape in place is not simulated"
    return own
