"""The nearest codes of many vectors, without a matrix of all distances.

The nearest code is the one with the largest `x · e − ½|e|²`: one matrix product, taken over as many rows at a time as
fit into a fixed buffer, so that memory does not grow with vectors times codes. Distances that are returned are computed
from differences, as `|x|² − 2 x · e + |e|²` loses its digits when vectors lie close together far from the origin. For
the same reason the search itself moves the origin into the middle of the book.

Shapes: N vectors, K codes, D width, k nearest.
"""

import torch
from torch import Tensor

_BUFFER = {"cpu": 1 << 18}  # 1 MiB of float32, about what a core's cache holds
_BUFFER_ACCELERATOR = 1 << 24


def _rows_at_once(x: Tensor, width: int) -> int:
    return max(1, _BUFFER.get(x.device.type, _BUFFER_ACCELERATOR) // width)


def _scorer(book_KD: Tensor, on_sphere: bool) -> tuple[Tensor, Tensor | None]:
    """Transposed directions and offsets, so that the nearest code has the largest `x · direction − offset`."""
    if on_sphere:
        return book_KD.t(), None
    centre = book_KD.mean(0)
    around = book_KD - centre
    return around.t(), around.square().sum(1).mul_(0.5).add_(around @ centre).neg_()


def _scores(x: Tensor, directions: Tensor, offset: Tensor | None, out: Tensor) -> Tensor:
    return torch.mm(x, directions, out=out) if offset is None else torch.addmm(offset, x, directions, out=out)


def nearest(x_ND: Tensor, book_KD: Tensor, *, on_sphere: bool = False) -> tuple[Tensor, Tensor]:
    """The nearest code of each vector; of several at the same distance, the first.

    Args:
        x_ND: float32 vectors.
        book_KD: float32 codes.
        on_sphere: all codes have length 1, so that the largest dot product is the nearest, and is the cosine when the
            vectors have length 1 too.

    Returns:
        int64 `[N]`, and the winning score `[N]` (the dot product where `on_sphere`).
    """
    rows = _rows_at_once(x_ND, book_KD.shape[0])
    directions, offset = _scorer(book_KD, on_sphere)
    indices = x_ND.new_empty(x_ND.shape[0], dtype=torch.int64)
    best = x_ND.new_empty(x_ND.shape[0])
    last = book_KD.shape[0] - 1
    from_last = torch.arange(last, -1, -1, dtype=x_ND.dtype, device=x_ND.device)  # exact up to 2²⁴ codes
    buffer = x_ND.new_empty(min(rows, x_ND.shape[0]), book_KD.shape[0])
    for start in range(0, x_ND.shape[0], rows):
        part = slice(start, min(start + rows, x_ND.shape[0]))
        scores = _scores(x_ND[part], directions, offset, buffer[: part.stop - start])
        # A largest value and its place in one go are found value by value on a CPU; a largest value alone is not.
        highest = torch.amax(scores, 1, out=best[part])
        indices[part] = last - scores.ge_(highest.unsqueeze(1)).mul_(from_last).amax(1)
    return indices, best


def k_nearest(x_ND: Tensor, book_KD: Tensor, k: int, *, on_sphere: bool = False) -> tuple[Tensor, Tensor]:
    """The k nearest codes of each vector, nearest first.

    Args:
        x_ND: float32 vectors.
        book_KD: float32 codes.
        k: 1 to K.
        on_sphere: all codes have length 1.

    Returns:
        int64 `[N, k]`, and their squared distances `[N, k]`.
    """
    rows = _rows_at_once(x_ND, max(book_KD.shape[0], k * book_KD.shape[1]))
    directions, offset = _scorer(book_KD, on_sphere)
    indices = x_ND.new_empty(x_ND.shape[0], k, dtype=torch.int64)
    distances = x_ND.new_empty(x_ND.shape[0], k)
    buffer = x_ND.new_empty(min(rows, x_ND.shape[0]), book_KD.shape[0])
    for start in range(0, x_ND.shape[0], rows):
        part = slice(start, min(start + rows, x_ND.shape[0]))
        chunk = x_ND[part]
        scores = _scores(chunk, directions, offset, buffer[: part.stop - start])
        indices[part] = scores.topk(k, dim=1).indices
        distances[part] = (chunk.unsqueeze(1) - book_KD[indices[part]]).square().sum(2)
    return indices, distances


def tally(x_ND: Tensor, indices_N: Tensor, sums_KD: Tensor, counts_K: Tensor) -> None:
    """Add each vector to the sum, and 1 to the count, of its code.

    On CUDA the order of these sums is not fixed unless `torch.use_deterministic_algorithms(True)` is set.
    """
    sums_KD.index_add_(0, indices_N, x_ND)
    counts_K.index_add_(0, indices_N, x_ND.new_ones(1).expand(x_ND.shape[0]))
