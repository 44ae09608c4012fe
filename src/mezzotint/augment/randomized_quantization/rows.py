"""Quantization of tensors of any layout, as rows of numbers with their ranges and levels.

The range of a row is the range of its finite, unmasked numbers. NaN, masked elements, and rows
without a range are restored at the end.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from mezzotint.augment.randomized_quantization.levels import (
    Levels,
    code_dtype,
    look_up,
    without_branches,
)

_DTYPES = (
    *(torch.float16, torch.bfloat16, torch.float32, torch.float64),
    *(torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64),
)


def quantize_channels(
    x: Tensor,
    levels: Levels,
    *,
    channel_dim: int,
    applied: Tensor | None = None,
    mask: Tensor | None = None,
    straight_through: bool = False,
    return_codes: bool = False,
) -> tuple[Tensor, Tensor | None]:
    """Quantize each channel of each sample with its own levels, in any layout.

    Args:
        x: batch `[B, …]` with C channels.
        levels: levels of B · C rows.
        channel_dim: dimension of the channels, not 0.
        applied: samples to quantize, bool `[B]`; None for all.
        mask: elements to quantize, bool, of the rank of `x` and broadcastable to it; None for all.
        straight_through: see `quantize_rows`.
        return_codes: see `quantize_rows`.
    """
    channel_dim = checked_channel_dim(x.shape, channel_dim)
    if x.numel() == 0:
        return x.clone(), torch.empty_like(
            x, dtype=code_dtype(levels.bins)
        ) if return_codes else None
    channels_first = x.movedim(channel_dim, 1)
    size = channels_first.shape
    count = size[0] * size[1]

    def restored(rows: Tensor) -> Tensor:
        y = rows.view(size).movedim(1, channel_dim)
        return y if y.stride() == x.stride() else torch.empty_like(x, dtype=rows.dtype).copy_(y)

    y, codes = quantize_rows(
        channels_first.reshape(count, -1),
        levels,
        applied=None if applied is None else applied.repeat_interleave(size[1], output_size=count),
        mask=None
        if mask is None
        else _checked_mask(mask, x).movedim(channel_dim, 1).reshape(count, -1),
        straight_through=straight_through,
        return_codes=return_codes,
    )
    return restored(y), None if codes is None else restored(codes)


def quantize_rows(
    rows: Tensor,
    levels: Levels,
    *,
    applied: Tensor | None = None,
    mask: Tensor | None = None,
    straight_through: bool = False,
    return_codes: bool = False,
) -> tuple[Tensor, Tensor | None]:
    """Quantize each row of `[R, S]` with its own levels.

    Args:
        rows: numbers, floating point or integers; R and S at least 1.
        levels: levels of R rows.
        applied: rows to quantize, bool `[R]`; None for all.
        mask: elements to quantize, which define the range, bool `[R, S]`; None for all.
        straight_through: pass the gradient of quantized elements unchanged, instead of none.
        return_codes: also return the index of each element's bin, uint8, or int32 for more than 256
            bins.

    Raises:
        TypeError: for another dtype.
    """
    if rows.dtype not in _DTYPES:
        supported = ", ".join(str(dtype).removeprefix("torch.") for dtype in _DTYPES)
        raise TypeError(
            f"The dtype must be one of {supported}, got a tensor of {rows.dtype}. Convert it first."
        )
    if not straight_through and applied is None and mask is None:
        rows = rows.detach()
    y, codes = _QuantizeRows.apply(
        rows.contiguous(),
        levels.edges,
        levels.values,
        levels.counts,
        applied,
        mask,
        (levels.bins, levels.reference, straight_through, return_codes),
    )
    return y, codes


class _QuantizeRows(torch.autograd.Function):
    """The only branch on data, hidden from autograd and `torch.func.vmap`."""

    @staticmethod
    def forward(
        rows: Tensor,
        edges: Tensor | None,
        values: Tensor | None,
        counts: Tensor | None,
        applied: Tensor | None,
        mask: Tensor | None,
        options: tuple[int, bool, bool, bool],
    ) -> tuple[Tensor, Tensor | None]:
        bins, reference, _, return_codes = options
        levels = Levels(bins, edges, values, counts, reference)
        if applied is None:
            return _quantized(rows, levels, mask, return_codes)
        if without_branches(rows) or return_codes:
            y, codes = _quantized(rows, levels, mask, return_codes)
            return torch.where(applied.unsqueeze(1), y, rows), codes
        chosen = applied.nonzero().squeeze(1)
        y, _ = _quantized(
            rows[chosen], levels[chosen], None if mask is None else mask[chosen], False
        )
        return rows.index_copy(0, chosen, y), None

    @staticmethod
    def setup_context(
        ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor | None]
    ) -> None:
        applied, mask, (_, _, ctx.straight_through, _) = inputs[4:]
        ctx.save_for_backward(applied, mask)
        if output[1] is not None:
            ctx.mark_non_differentiable(output[1])

    @staticmethod
    def backward(ctx: Any, grad: Tensor, _: Any) -> tuple[Tensor | None, ...]:
        if not ctx.straight_through:
            applied, mask = ctx.saved_tensors
            if applied is None:
                changed = mask
            else:
                changed = applied.unsqueeze(1) if mask is None else mask & applied.unsqueeze(1)
            grad = grad.masked_fill(changed, 0)
        return grad, None, None, None, None, None, None

    @staticmethod
    def vmap(
        info: Any, in_dims: tuple[int | None, ...], *inputs: Any
    ) -> tuple[tuple[Tensor, Tensor | None], tuple[int, int | None]]:
        """Flatten a mapped dimension into the rows, which are independent."""

        def flat(tensor: Tensor | None, dim: int | None) -> Tensor | None:
            if tensor is None:
                return None
            mapped = (
                tensor.expand(info.batch_size, *tensor.shape)
                if dim is None
                else tensor.movedim(dim, 0)
            )
            return mapped.flatten(0, 1)

        *tensors, options = inputs
        y, codes = _QuantizeRows.apply(
            *(flat(tensor, dim) for tensor, dim in zip(tensors, in_dims, strict=False)), options
        )
        sizes = (info.batch_size, -1)
        if codes is None:
            return (y.unflatten(0, sizes), None), (0, None)
        return (y.unflatten(0, sizes), codes.unflatten(0, sizes)), (0, 0)


def _quantized(
    rows: Tensor, levels: Levels, mask: Tensor | None, return_codes: bool
) -> tuple[Tensor, Tensor | None]:
    """Compute ranges and levels, look the levels up, and restore what must not change."""
    low, high, kept = _ranges(rows, mask)
    thresholds, values = levels.scaled(low, high, not rows.dtype.is_floating_point)
    y, codes = look_up(rows, thresholds, values, return_codes)
    if kept is not None:
        y = torch.where(kept, rows, y)
    return y, codes


def _ranges(rows: Tensor, mask: Tensor | None) -> tuple[Tensor, Tensor, Tensor | None]:
    """Return both ends of each row's range, `[R, 1]`, and the elements to restore, bool `[R, S]`.

    The elements are None if there are none.
    """
    dtype = _computed_in(rows.dtype)
    if mask is None and not without_branches(rows):
        low, high = (
            rows.amin(dim=1, keepdim=True).to(dtype),
            rows.amax(dim=1, keepdim=True).to(dtype),
        )
        if bool((low.isfinite() & high.isfinite()).all()):
            return low, high, None
    ranged = rows.isfinite() if mask is None else rows.isfinite() & mask
    x = rows.to(dtype)
    low = torch.where(ranged, x, torch.inf).amin(dim=1, keepdim=True)
    high = torch.where(ranged, x, -torch.inf).amax(dim=1, keepdim=True)
    empty = low > high
    kept = rows.isnan() | empty if mask is None else rows.isnan() | empty | ~mask
    return low.masked_fill(empty, 0), high.masked_fill(empty, 0), kept


def _computed_in(dtype: torch.dtype) -> torch.dtype:
    return torch.float64 if dtype in (torch.float64, torch.int32, torch.int64) else torch.float32


def checked_channel_dim(shape: Sequence[int], channel_dim: int) -> int:
    """Return the dimension of the channels, counted from the front."""
    if len(shape) < 2:
        raise ValueError(
            f"A batch must have rank 2 or more, [B, C, …], got shape {tuple(shape)}. Use x[None]."
        )
    if not -len(shape) < channel_dim < len(shape) or channel_dim == 0:
        raise ValueError(
            f"`channel_dim` must be 1 to {len(shape) - 1}, or negative, but not the batch, "
            f"got {channel_dim} for rank {len(shape)}. Use x[None] if there is no batch."
        )
    return channel_dim % len(shape)


def _checked_mask(mask: Tensor, x: Tensor) -> Tensor:
    """Return the mask in the shape of `x`."""
    if mask.dtype != torch.bool:
        raise TypeError(
            f"`mask` must be torch.bool, true for valid values, got {mask.dtype}. Use mask.bool()."
        )
    if mask.ndim != x.ndim or any(
        m not in (1, n) for m, n in zip(mask.shape, x.shape, strict=True)
    ):
        raise ValueError(
            f"`mask` must have the rank of `x`, {tuple(x.shape)}, with equal sizes or 1, "
            f"got shape {tuple(mask.shape)}. Use unsqueeze to add missing dimensions."
        )
    return mask.expand_as(x)
