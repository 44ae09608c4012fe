"""Bit packing: eight codes of b bits take b bytes, without gaps, for any b from 1 to 8.

Code i of a group of eight occupies bits b · i … b · i + b − 1 of a little-endian word of 8 · b
bits. Bits that do not divide 8 (3, 5, 6, 7) need no special case and waste no space.
"""

import torch
from torch import Tensor


def packed_size(count: int, bits: int) -> int:
    """Return the number of bytes of `count` packed codes."""
    return -(-count * bits // 8)


def pack(codes: Tensor, bits: int) -> Tensor:
    """Pack codes into bytes.

    Args:
        codes: integers of `0 … 2^bits − 1`, of any shape, in row-major order.
        bits: bits per code, 1 to 8.

    Returns:
        uint8 `[packed_size(N, bits)]`.

    Raises:
        ValueError: for other bits, or a code that does not fit.
    """
    _check(bits)
    flat = codes.reshape(-1).to(torch.int64)
    if flat.numel() and not 0 <= int(flat.min()) <= int(flat.max()) < 1 << bits:
        raise ValueError(
            f"`codes` must be 0 to {(1 << bits) - 1} for {bits} bits, got {int(flat.min())} to "
            f"{int(flat.max())}. Subtract the lowest code first."
        )
    eights = torch.nn.functional.pad(flat, (0, -len(flat) % 8)).reshape(-1, 8)
    # The bits are disjoint, so the sum is their union.
    words = (eights << (bits * torch.arange(8))).sum(dim=1, keepdim=True)
    parts = (words >> (8 * torch.arange(bits))) & 0xFF
    return parts.to(torch.uint8).reshape(-1)[: packed_size(len(flat), bits)].contiguous()


def unpack(data: Tensor, bits: int, count: int) -> Tensor:
    """Unpack the bytes of `pack`.

    Args:
        data: uint8 bytes of `pack`.
        bits: bits per code, 1 to 8.
        count: number of codes.

    Returns:
        int16 `[count]`.

    Raises:
        ValueError: for other bits, or data of the wrong length.
    """
    _check(bits)
    if data.numel() != packed_size(count, bits):
        raise ValueError(
            f"{count} codes of {bits} bits must be {packed_size(count, bits)} bytes, got "
            f"{data.numel()}. The file is damaged: write it again."
        )
    parts = torch.nn.functional.pad(data.to(torch.int64), (0, -data.numel() % bits)).reshape(
        -1, bits
    )
    words = (parts << (8 * torch.arange(bits))).sum(dim=1, keepdim=True)
    codes = (words >> (bits * torch.arange(8))) & ((1 << bits) - 1)
    return codes.reshape(-1)[:count].to(torch.int16)


def _check(bits: int) -> None:
    if not 1 <= bits <= 8:
        raise ValueError(f"`bits` must be 1 to 8, got {bits}.")
