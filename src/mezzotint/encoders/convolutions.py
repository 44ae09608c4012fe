"""Convolutions on the CPU: two faults of torch, and how a run keeps clear of them.

**Channels-last.** torch 2.14.1 (oneDNN 3.12) writes outside of its memory when it computes the
gradient of the input of a convolution that is channels-last, fp32 and 1 × 1, has a stride above 1,
one group, no padding, fewer input channels than a vector register has lanes (16 with AVX-512, 8
with AVX2), and more than about 500 output positions, and whose stride does not reach the last row.
The heap is then corrupt: runs crash at random, or not at all. Found with an allocator that puts an
unreadable page next to every tensor; kernels of 2 to 7 pixels, bf16, fp64 and padding are sound.
These are the shortcuts of narrow residual networks. `keep_contiguous` is wider than the condition,
because the layers that it finds in addition are as cheap.

**bf16 on maps smaller than a kernel.** With AVX-512 the same versions leave parts of the gradient
of bf16 weights as they find them in memory, from 0 to 1e36, or corrupt the heap: of kernels of 3 or
more pixels with a stride of 2 on maps of one pixel, as at the end of ResNets on small images; with
a stride of 4 on maps of up to three; and in three dimensions also without a stride, for maps
smaller than the kernel. fp32 and fp16 are sound. Found by filling freed memory with large numbers.
`autocast` computes all of these in fp32, and others that are as small.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

_LANES = 16
_CONVOLUTIONS: tuple[Callable[..., Tensor], ...] = (F.conv1d, F.conv2d, F.conv3d)


def keep_contiguous(layer: nn.Module) -> bool:
    """Tell whether a layer must not be channels-last on the CPU."""
    return (
        isinstance(layer, nn.Conv2d)
        and layer.kernel_size == (1, 1)
        and max(layer.stride) > 1
        and layer.groups == 1
        and layer.in_channels < _LANES
    )


def to_channels_last(network: nn.Module, device: torch.device) -> list[str]:
    """Convert a network to the channels-last memory format in place.

    On a CPU, layers that are not safe in it stay contiguous, and convert their input.

    Args:
        network: network on its device.
        device: that device.

    Returns:
        One note for the log that names what stays contiguous; empty if nothing does.
    """
    network.to(memory_format=torch.channels_last)
    names = [name for name, layer in network.named_modules() if keep_contiguous(layer)]
    if device.type != "cpu" or not names:
        return []
    for name in names:
        layer = network.get_submodule(name)
        layer.to(memory_format=torch.contiguous_format)
        layer.register_forward_pre_hook(_make_contiguous)
    more = f" and {len(names) - 1} more" if len(names) > 1 else ""
    return [
        f"{names[0]}{more} kept contiguous: on the CPU, the channels-last gradient of narrow "
        "1 × 1 convolutions with a stride writes outside of its memory"
    ]


def _make_contiguous(layer: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    # A clone, because `contiguous` leaves a single channel the strides of channels-last.
    return tuple(x.clone(memory_format=torch.contiguous_format) for x in inputs)


@contextmanager
def autocast(device: torch.device, dtype: torch.dtype) -> Iterator[None]:
    """Compute in `dtype` what `torch.autocast` does, without the fault of bf16 on the CPU.

    Args:
        device: of the network.
        dtype: `torch.float32` changes nothing.
    """
    with torch.autocast(device.type, dtype, enabled=dtype != torch.float32):
        if device.type == "cpu" and dtype == torch.bfloat16:
            with _SmallMaps():
                yield
        else:
            yield


class _SmallMaps(TorchFunctionMode):
    """Computes convolutions of maps that are smaller than their kernel or stride in fp32."""

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        if func not in _CONVOLUTIONS or not _is_small(*args, **kwargs):
            return func(*args, **kwargs)
        with torch.autocast("cpu", enabled=False):
            wide = [a.float() if isinstance(a, Tensor) else a for a in args]
            named = {k: a.float() if isinstance(a, Tensor) else a for k, a in kwargs.items()}
            return func(*wide, **named).bfloat16()


def _is_small(
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: int | tuple[int, ...] = 1,
    padding: str | int | tuple[int, ...] = 0,
    dilation: int | tuple[int, ...] = 1,
    groups: int = 1,
) -> bool:
    """Whether a side of the map is smaller than the kernel's, or than the stride."""
    sides = weight.shape[2:]
    strides, gaps = (v * len(sides) if len(v) == 1 else v for v in map(_each, (stride, dilation)))
    return any(
        size < max(gap * (side - 1) + 1, step)
        for size, side, step, gap in zip(
            input.shape[-len(sides) :], sides, strides, gaps, strict=True
        )
    )


def _each(value: int | tuple[int, ...]) -> tuple[int, ...]:
    return (value,) if isinstance(value, int) else tuple(value)
