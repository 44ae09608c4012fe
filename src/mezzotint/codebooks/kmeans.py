"""K-means over the vectors of all ranks: k-means++ seeds, then Lloyd's iterations with pooled sums.

Every rank ends with the same centers, which are those that one process with all vectors would find,
up to the rounding of sums. The seeds (Arthur and Vassilvitskii 2007) are drawn from a sample of the
vectors that every rank holds, one after the other, as each depends on those before; Lloyd's
iterations see all vectors and pool only sums and counts. The spherical variant keeps centers of
length 1 and assigns by the largest cosine (Dhillon and Modha 2001). In the first half of the
iterations, centers of nearly empty clusters go to clusters that are far too large.

Draws are keyed by the place of a vector in the rows of all ranks, so they do not depend on how the
rows are split.

The nearest codes of many vectors, without a matrix of all distances.

The nearest code is the one with the largest `x · e − ½|e|²`: one matrix product, taken over as many
rows at a time as fit into a fixed buffer, so that memory does not grow with vectors times codes.
Distances that are returned are computed from differences, as `|x|² − 2 x · e + |e|²` loses its
digits when vectors lie close together far from the origin. For the same reason the search itself
moves the origin into the middle of the book.

Shapes: N vectors, K codes, D width, k nearest.
"""

import torch
import torch.distributed as td
from torch import Tensor

from mezzotint import dist
from mezzotint.codebooks.gradient import unit
from mezzotint.seeding import Draws, key_of

_BUFFER = {"cpu": 1 << 18}  # 1 MiB of float32, about what a core's cache holds
_BUFFER_ACCELERATOR = 1 << 24


def _rows_at_once(x: Tensor, width: int) -> int:
    return max(1, _BUFFER.get(x.device.type, _BUFFER_ACCELERATOR) // width)


def _scorer(book_KD: Tensor, on_sphere: bool) -> tuple[Tensor, Tensor | None]:
    """Transposed directions and offsets, so that the nearest code has the largest `x · direction − offset`."""
    if on_sphere:
        return book_KD.t(), None
    center = book_KD.mean(0)
    around = book_KD - center
    return around.t(), around.square().sum(1).mul_(0.5).add_(around @ center).neg_()


def _scores(x: Tensor, directions: Tensor, offset: Tensor | None, out: Tensor) -> Tensor:
    return (
        torch.mm(x, directions, out=out)
        if offset is None
        else torch.addmm(offset, x, directions, out=out)
    )


def nearest(x_ND: Tensor, book_KD: Tensor, *, on_sphere: bool = False) -> tuple[Tensor, Tensor]:
    """The nearest code of each vector; of several at the same distance, the first.

    Args:
        x_ND: float32 vectors.
        book_KD: float32 codes.
        on_sphere: all codes have length 1, so that the largest dot product is the nearest, and is
            the cosine when the vectors have length 1 too.

    Returns:
        int64 `[N]`, and the winning score `[N]` (the dot product where `on_sphere`).
    """
    rows = _rows_at_once(x_ND, book_KD.shape[0])
    directions, offset = _scorer(book_KD, on_sphere)
    indices = x_ND.new_empty(x_ND.shape[0], dtype=torch.int64)
    best = x_ND.new_empty(x_ND.shape[0])
    last = book_KD.shape[0] - 1
    from_last = torch.arange(
        last, -1, -1, dtype=x_ND.dtype, device=x_ND.device
    )  # exact up to 2²⁴ codes
    buffer = x_ND.new_empty(min(rows, x_ND.shape[0]), book_KD.shape[0])
    for start in range(0, x_ND.shape[0], rows):
        part = slice(start, min(start + rows, x_ND.shape[0]))
        scores = _scores(x_ND[part], directions, offset, buffer[: part.stop - start])
        # A largest value and its place in one go are found value by value on a CPU; a largest value
        # alone is not.
        highest = torch.amax(scores, 1, out=best[part])
        indices[part] = last - scores.ge_(highest.unsqueeze(1)).mul_(from_last).amax(1)
    return indices, best


def k_nearest(
    x_ND: Tensor, book_KD: Tensor, k: int, *, on_sphere: bool = False
) -> tuple[Tensor, Tensor]:
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

    On CUDA the order of these sums is not fixed unless `torch.use_deterministic_algorithms(True)`
    is set.
    """
    sums_KD.index_add_(0, indices_N, x_ND)
    counts_K.index_add_(0, indices_N, x_ND.new_ones(1).expand(x_ND.shape[0]))


_SEED_ROWS = 8192
_SEED_ROWS_PER_CENTER = 4
_SMALL = 0.1
"""A cluster of less than this share of the mean size is nearly empty."""


def pool(x: Tensor) -> Tensor:
    """Sum over ranks, in place; the identity on one process."""
    if dist.world_size() > 1:
        td.all_reduce(x)
    return x


class RowSample:
    """Rows drawn without replacement from the rows of all ranks; every rank makes it together.

    Attributes:
        total: rows of all ranks.
        found: how many were drawn, the lesser of `count` and `total`.

    Args:
        rows: how many this rank has.
        count: how many to draw.
        key: of the draw.
        device: of the rows.
    """

    def __init__(self, rows: int, count: int, key: int, device: torch.device) -> None:
        start, self.total = _place(rows, device)
        self.count = count
        self.found = min(count, self.total)
        priority = Draws(torch.arange(start, start + rows, device=device), key).bits("rows")
        self.own = priority.argsort(stable=True)[:count]
        if dist.world_size() == 1:
            self.slots = torch.arange(self.found, device=device)
            return
        offered = torch.full((count,), 1 << 40, device=device)
        offered[: len(self.own)] = priority[self.own]
        order = dist.gather(offered).argsort(stable=True)[: self.found]
        mine = order // count == dist.rank()
        self.slots = mine.nonzero().squeeze(1)
        self.own = self.own[order[mine] % count]

    def take(self, x: Tensor) -> Tensor:
        """The drawn rows of `[rows, D]`, `[count, D]` on every rank; zeros where fewer were found."""
        out = x.new_zeros(self.count, x.shape[1])
        out[self.slots] = x[self.own]
        return pool(out)


def _place(rows: int, device: torch.device) -> tuple[int, int]:
    """Where this rank's rows start among those of all ranks, and how many there are."""
    if dist.world_size() == 1:
        return 0, rows
    counts: list[int] = dist.gather(torch.tensor([rows], device=device)).tolist()
    return sum(counts[: dist.rank()]), sum(counts)


def plus_plus(x_MD: Tensor, num_centers: int, *, key: int) -> Tensor:
    """Seeds by D² sampling: each row is chosen with a probability that grows with its squared distance to the last.

    One row at a time: a seed's probabilities depend on all seeds before it. Nothing here waits for
    the device.

    Args:
        x_MD: float32 rows.
        num_centers: K, at most M.
        key: of the draws.

    Returns:
        `[K, D]`, rows of `x_MD`.
    """
    chance = Draws(torch.arange(num_centers, device=x_MD.device), key).uniform("seeds").double()
    around = x_MD - x_MD.mean(0)
    squares = around.square().sum(1)
    distance = torch.full_like(squares, torch.inf)
    chosen = torch.empty(num_centers, dtype=torch.int64, device=x_MD.device)
    chosen[0] = (chance[0] * len(x_MD)).long()
    for i in range(1, num_centers):
        last = chosen[i - 1 : i]
        center = around.index_select(0, last).squeeze(0)
        to_last = torch.addmv(squares + squares[last], around, center, alpha=-2.0).index_fill_(
            0, last, 0.0
        )
        torch.minimum(distance, to_last.clamp_min_(0.0), out=distance)
        reached = distance.cumsum(0, dtype=torch.float64)
        chosen[i] = torch.searchsorted(reached, chance[i] * reached[-1], right=True).clamp_max_(
            len(x_MD) - 1
        )
    return x_MD[chosen]


@torch.no_grad()
def kmeans(
    x_ND: Tensor,
    num_centers: int,
    *,
    spherical: bool = False,
    iterations: int = 10,
    key: int = 0,
    start: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Centers of the vectors of all ranks, which call it together.

    Args:
        x_ND: this rank's float32 vectors; of length 1 if `spherical`. Ranks may have different
            numbers of them.
        num_centers: K.
        spherical: assign by cosine, and keep the centers of length 1.
        iterations: of Lloyd's algorithm.
        key: of the draws.
        start: centers `[K, D]` to start from; k-means++ if `None`.

    Returns:
        `[K, D]`, and how many vectors of all ranks belong to each, float32 `[K]`.

    Raises:
        ValueError: when all ranks together have fewer vectors than centers.
    """
    drawn = RowSample(len(x_ND), num_centers, key_of(key, "split"), x_ND.device)
    need_rows(drawn.total, num_centers)
    rows = drawn.take(x_ND)
    if start is None:
        sample = RowSample(
            len(x_ND), max(_SEED_ROWS, _SEED_ROWS_PER_CENTER * num_centers), key, x_ND.device
        )
        start = plus_plus(sample.take(x_ND)[: sample.found], num_centers, key=key_of(key, "seeds"))
    centers = start.clone()
    for round in range(iterations):
        sums, counts = _sums(x_ND, centers, spherical)
        means = sums / counts.clamp_min(1.0).unsqueeze(1)
        means = unit(means) if spherical else means
        kept = (counts == 0.0).unsqueeze(1) | (means == 0.0).all(1, keepdim=True) & spherical
        centers = torch.where(kept, centers, means)
        if round < iterations // 2:
            centers = _split(centers, counts, rows, spherical)
    return centers, _sums(x_ND, centers, spherical)[1]


def _split(centers_KD: Tensor, counts_K: Tensor, rows_KD: Tensor, spherical: bool) -> Tensor:
    """Put centers of nearly empty clusters `beside` those of rows drawn at random, so in proportion to their sizes.

    As many as are missing where clusters are more than twice the mean size; others may be small by
    right.
    """
    mean = counts_K.mean().clamp_min(1.0)
    room = (counts_K / mean).floor().sub(1.0).clamp_min(0.0).sum()
    place = counts_K.argsort(stable=True).argsort()
    moved = (counts_K < _SMALL * mean) & (place < room)
    split = beside(centers_KD[nearest(rows_KD, centers_KD, on_sphere=spherical)[0]], rows_KD)[place]
    return torch.where(moved.unsqueeze(1), unit(split) if spherical else split, centers_KD)


def beside(centers: Tensor, vectors: Tensor) -> Tensor:
    """Places from where a code takes a share of another's vectors: `1/√D` of the way to a vector.

    In many dimensions a code that lies on a vector attracts no other vector: to all of them a code
    that is a mean is nearer, and is left with everything. Of vectors that differ in D independent
    directions, a code this close to the mean takes about a third. This is the splitting of Linde,
    Buzo and Gray (1980) with a step that fits the width.
    """
    return centers.lerp(vectors, centers.shape[-1] ** -0.5)


def _sums(x_ND: Tensor, centers_KD: Tensor, spherical: bool) -> tuple[Tensor, Tensor]:
    both = x_ND.new_zeros(centers_KD.numel() + len(centers_KD))
    sums, counts = both[: centers_KD.numel()].view_as(centers_KD), both[centers_KD.numel() :]
    tally(x_ND, nearest(x_ND, centers_KD, on_sphere=spherical)[0], sums, counts)
    pool(both)
    return sums, counts


def need_rows(total: int, num_codes: int) -> None:
    """Refuse to make a book out of fewer vectors than it has codes."""
    if total < num_codes:
        raise ValueError(
            f"got {total} vectors to start {num_codes} codes from; allowed is at least one a code: give a larger first "
            f"batch, take fewer codes, or start with init='uniform_sphere'"
        )
