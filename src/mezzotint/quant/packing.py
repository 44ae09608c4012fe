"""Codes of few bits in as many bits: eight codes of b bits are b bytes, without gaps, for any b of 1 to 8.

Code i of a group of eight stands in bits b · i … b · i + b − 1 of a little-endian word of 8 · b
bits. Widths that do not divide 8 (3, 5, 6, 7) need no special case and waste nothing.
"""

import torch
from torch import Tensor


def packed_size(count: int, bits: int) -> int:
    """Bytes that so many codes take."""
    return -(-count * bits // 8)


def pack(codes: Tensor, bits: int) -> Tensor:
    """Pack codes.

    Args:
        codes: integers of `0 … 2^bits − 1`, of any shape; taken in row-major order.
        bits: 1 to 8.

    Returns:
        uint8 `[packed_size(N, bits)]`.

    Raises:
        ValueError: for another width, or a code that does not fit.
    """
    _check(bits)
    flat = codes.reshape(-1).to(torch.int64)
    if flat.numel() and not 0 <= int(flat.min()) <= int(flat.max()) < 1 << bits:
        raise ValueError(
            f"got codes of {int(flat.min())} to {int(flat.max())}; allowed are 0 to {(1 << bits) - 1} in {bits} bits: "
            "subtract the lowest code first"
        )
    eights = torch.nn.functional.pad(flat, (0, -len(flat) % 8)).reshape(-1, 8)
    words = (eights << (bits * torch.arange(8))).sum(
        dim=1, keepdim=True
    )  # disjoint bits: the sum is their union
    parts = (words >> (8 * torch.arange(bits))) & 0xFF
    return parts.to(torch.uint8).reshape(-1)[: packed_size(len(flat), bits)].contiguous()


def unpack(data: Tensor, bits: int, count: int) -> Tensor:
    """Undo `pack`.

    Args:
        data: uint8, as `pack` returned it.
        bits: as given to `pack`.
        count: number of codes.

    Returns:
        int16 `[count]`.

    Raises:
        ValueError: for another width, or data of another length.
    """
    _check(bits)
    if data.numel() != packed_size(count, bits):
        raise ValueError(
            f"got {data.numel()} bytes for {count} codes of {bits} bits; allowed are {packed_size(count, bits)}: "
            "the file is damaged, write it again"
        )
    parts = torch.nn.functional.pad(data.to(torch.int64), (0, -data.numel() % bits)).reshape(
        -1, bits
    )
    words = (parts << (8 * torch.arange(bits))).sum(dim=1, keepdim=True)
    codes = (words >> (bits * torch.arange(8))) & ((1 << bits) - 1)
    return codes.reshape(-1)[:count].to(torch.int16)


def _check(bits: int) -> None:
    if not 1 <= bits <= 8:
        raise ValueError(f"got {bits} bits; allowed are 1 to 8: choose one of them")
