"""The channels-last memory format, without the layers whose backward pass is not safe in it.

torch 2.14.1 (oneDNN 3.12) on the CPU writes outside of its memory when it computes the gradient of
the input of a convolution that is channels-last, fp32 and 1 × 1, has a stride above 1, one group,
no padding, fewer input channels than a vector register has lanes (16 with AVX-512, 8 with AVX2),
and more than about 500 output positions, and whose stride does not reach the last row. The heap is
then corrupt: runs crash at random, or not at all. Found with an allocator that puts an unreadable
page next to every tensor; kernels of 2 to 7 pixels, bf16, fp64 and padding are sound. These are
the shortcuts of narrow residual networks. `keep_contiguous` is wider than the condition, because
the layers that it finds in addition are as cheap.
"""

import torch
from torch import Tensor, nn

_LANES = 16


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
