"""Processes: rank, world size and collectives; on one process each collective is the identity.

`torchrun` starts the processes and sets `RANK`, `WORLD_SIZE` and `LOCAL_RANK`. Gradients follow the
convention of `DistributedDataParallel`, which averages over ranks: a method returns the mean loss
over *its own* rows, and `gather` sums the gradients from all ranks, so that n ranks give the
gradient of one.
"""

import itertools
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from datetime import timedelta
from typing import Any, TypeVar

import torch
import torch.distributed as td
from torch import Tensor

T = TypeVar("T")
_groups = itertools.count()


def rank() -> int:
    """Return the rank of this process; 0 without `torchrun`."""
    return td.get_rank() if _active() else 0


def world_size() -> int:
    """Return the number of processes; 1 without `torchrun`."""
    return td.get_world_size() if _active() else 1


def local_rank() -> int:
    """Return the rank of this process on its machine, which is the number of its GPU."""
    return int(os.environ.get("LOCAL_RANK", "0"))


def launched_as_main() -> bool:
    """Return whether `torchrun` launched this process as rank 0, even before it joins the group."""
    return int(os.environ.get("RANK", "0")) == 0


def is_main() -> bool:
    """Return whether this process writes files and prints."""
    return rank() == 0


def _active() -> bool:
    return td.is_available() and td.is_initialized()


@contextmanager
def process_group(device: torch.device, timeout_s: float = 600.0) -> Iterator[None]:
    """Join the process group of `torchrun`, and leave it at the end; do nothing without `torchrun`.

    Args:
        device: device of the tensors: nccl for CUDA, with gloo for what the host must know, such
            as signals; gloo alone otherwise.
        timeout_s: seconds after which a waiting collective raises on every rank, so that one stuck
            process cannot block the others.
    """
    if _active() or int(os.environ.get("WORLD_SIZE", "1")) == 1:
        yield
        return
    from torch.distributed import PrefixStore, rendezvous  # type: ignore[attr-defined]

    timeout = timedelta(seconds=timeout_s)
    store, own_rank, size = next(rendezvous("env://", timeout=timeout))
    # The store of torchrun outlives a group: a second one, or that of a restart, would find the
    # addresses of the first there.
    attempt = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")
    name = f"mezzotint/{attempt}/{next(_groups)}"
    td.init_process_group(
        "cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo",
        store=PrefixStore(name, store), rank=own_rank, world_size=size, timeout=timeout,
    )  # fmt: skip
    try:
        yield
        td.barrier()  # leaving early closes connections that other ranks still use
    finally:
        td.destroy_process_group()


class _Gather(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        parts = [torch.empty_like(x) for _ in range(world_size())]
        td.all_gather(parts, x.contiguous())
        ctx.rows = x.shape[0]
        return torch.cat(parts)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        # A copy: other branches of the graph may get the same tensor as their gradient.
        grad = grad.clone(memory_format=torch.contiguous_format)
        td.all_reduce(grad)
        start = rank() * ctx.rows
        return grad[start : start + ctx.rows]


class _Mean(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        total = x.clone()
        td.all_reduce(total)
        return total / world_size()

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        grad = grad.clone()
        td.all_reduce(grad)
        return grad / world_size()


def gather(x: Tensor) -> Tensor:
    """Concatenate the rows of all ranks, `[B, …]` → `[world · B, …]`; differentiable."""
    return x if world_size() == 1 else _Gather.apply(x)


def mean(x: Tensor) -> Tensor:
    """Average a tensor of any shape over ranks, element by element; differentiable."""
    return x if world_size() == 1 else _Mean.apply(x)


def average_gradients(module: torch.nn.Module) -> None:
    """Average the gradients of a module over ranks, in buckets, as `DistributedDataParallel` does.

    All ranks must have gradients of the same parameters.
    """
    if world_size() == 1:
        return
    for bucket in _buckets([p.grad for p in module.parameters() if p.grad is not None]):
        flat = torch.cat([grad.flatten() for grad in bucket])
        td.all_reduce(flat)
        flat /= world_size()
        for grad, mean in zip(bucket, flat.split([g.numel() for g in bucket]), strict=True):
            grad.copy_(mean.view_as(grad))


@torch.no_grad()
def share_tensors(module: torch.nn.Module) -> None:
    """Give every rank the parameters and buffers of rank 0."""
    if world_size() == 1:
        return
    for tensor in (*module.parameters(), *module.buffers()):
        td.broadcast(tensor.view(torch.uint8) if tensor.dtype == torch.bool else tensor, src=0)


def _buckets(tensors: Sequence[Tensor], most: int = 25 * 2**20) -> Iterator[list[Tensor]]:
    """Group tensors of one type to about `most` bytes."""
    bucket: list[Tensor] = []
    size = 0
    for tensor in tensors:
        if bucket and (size >= most or tensor.dtype != bucket[0].dtype):
            yield bucket
            bucket, size = [], 0
        bucket.append(tensor)
        size += tensor.numel() * tensor.element_size()
    if bucket:
        yield bucket


def host(device: torch.device) -> torch.device:
    """Return the device of tensors whose collectives wait for no accelerator, if there is one.

    That is the CPU if the process group has a backend for it, and else `device`.
    """
    own = {each.type for each in td.distributed_c10d._get_default_group()._device_types}
    return torch.device("cpu") if "cpu" in own else device


def all_true(flag: bool, device: torch.device) -> bool:
    """Return whether the flag is set on every rank."""
    if world_size() == 1:
        return flag
    value = torch.tensor(int(flag), device=host(device))
    td.all_reduce(value, op=td.ReduceOp.MIN)
    return bool(value.item())


def any_true(flags: Sequence[bool], device: torch.device) -> list[bool]:
    """Return for each flag whether it is set on any rank, by one collective for all flags."""
    if world_size() == 1:
        return list(flags)
    values = torch.tensor([int(flag) for flag in flags], device=host(device))
    td.all_reduce(values, op=td.ReduceOp.MAX)
    return [bool(value) for value in values.tolist()]


def broadcast_object(value: T) -> T:
    """Return the value of rank 0 on every rank."""
    if world_size() == 1:
        return value
    box = [value]
    td.broadcast_object_list(box, src=0)
    return box[0]


def gather_objects(value: T) -> list[T]:
    """Return the value of each rank, on every rank."""
    values = [value] * world_size()
    if len(values) > 1:
        td.all_gather_object(values, value)
    return values


def on_main(action: Callable[[], T]) -> T:
    """Run on rank 0 only; return its result, or raise its error, on every rank."""
    if world_size() == 1:
        return action()
    outcome: tuple[bool, Any] = (True, None)
    if is_main():
        try:
            outcome = (True, action())
        except Exception as error:  # noqa: B902 - raised again on every rank
            outcome = (False, error)
    good, value = broadcast_object(outcome)
    if not good:
        raise value
    return value  # type: ignore[no-any-return]


def no_sync(module: torch.nn.Module, enabled: bool) -> AbstractContextManager[None]:
    """Skip the gradient reduction of a `DistributedDataParallel` module, if enabled.

    All micro-batches but the last one skip it.
    """
    if enabled and isinstance(module, torch.nn.parallel.DistributedDataParallel):
        return module.no_sync()  # type: ignore[no-any-return, unused-ignore]
    return nullcontext()
