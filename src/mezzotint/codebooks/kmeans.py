"""K-means over the vectors of all ranks, and the search for the nearest codes.

*K-means* takes k-means++ seeds, then Lloyd's iterations with pooled sums. Every rank ends with the
same centers, which one process with all vectors would find too, up to the rounding of sums. The
seeds (Arthur and Vassilvitskii 2007) are drawn one after the other from a sample of the vectors
that every rank has; Lloyd's iterations use all vectors and pool only sums and counts. The spherical
variant keeps centers at length 1 and assigns by the largest cosine (Dhillon and Modha 2001). In the
first half of the iterations, centers of nearly empty clusters move to clusters that are far too
large. Draws are keyed by the row's index among the rows of all ranks, so they do not depend on how
the rows are split.

*The search* builds no matrix of all distances. The nearest code has the largest `x · e − ½|e|²`:
one matrix product, over as many rows at a time as fit into a fixed buffer, so memory does not grow
with vectors times codes. Returned distances are computed from differences, because
`|x|² − 2 x · e + |e|²` is inexact for vectors that are close together and far from the origin. For
the same reason the search moves the origin to the mean of the codes.

Shapes: N vectors, K codes, D dimensions, k nearest, M sampled rows.
"""

import torch
import torch.distributed as td
from torch import Tensor

from mezzotint import dist
from mezzotint.codebooks.gradient import unit
from mezzotint.seeding import Draws, key_of

_BUFFER = {"cpu": 1 << 18}  # 1 MiB of float32, about the size of a core's cache
_BUFFER_ACCELERATOR = 1 << 24


def _rows_at_once(x: Tensor, width: int) -> int:
    return max(1, _BUFFER.get(x.device.type, _BUFFER_ACCELERATOR) // width)


def _scorer(codes_KD: Tensor, on_sphere: bool) -> tuple[Tensor, Tensor | None]:
    """Return transposed directions d and offsets; the nearest code maximizes `x · d − offset`."""
    if on_sphere:
        return codes_KD.t(), None
    center = codes_KD.mean(0)
    around = codes_KD - center
    return around.t(), around.square().sum(1).mul_(0.5).add_(around @ center).neg_()


def _scores(x: Tensor, directions: Tensor, offset: Tensor | None, out: Tensor) -> Tensor:
    return (
        torch.mm(x, directions, out=out)
        if offset is None
        else torch.addmm(offset, x, directions, out=out)
    )


def nearest(x_ND: Tensor, codes_KD: Tensor, *, on_sphere: bool = False) -> tuple[Tensor, Tensor]:
    """Return the nearest code of each vector; of equally near codes, the first.

    Args:
        x_ND: vectors, float32.
        codes_KD: codes, float32.
        on_sphere: whether all codes have length 1. The nearest code then has the largest dot
            product, which is the cosine if the vectors have length 1 too.

    Returns:
        Indices, int64 `[N]`, and their scores `[N]` (the dot product if `on_sphere`).
    """
    rows = _rows_at_once(x_ND, codes_KD.shape[0])
    directions, offset = _scorer(codes_KD, on_sphere)
    indices = x_ND.new_empty(x_ND.shape[0], dtype=torch.int64)
    best = x_ND.new_empty(x_ND.shape[0])
    last = codes_KD.shape[0] - 1
    # Float32 indices are exact up to 2²⁴ codes.
    from_last = torch.arange(last, -1, -1, dtype=x_ND.dtype, device=x_ND.device)
    buffer = x_ND.new_empty(min(rows, x_ND.shape[0]), codes_KD.shape[0])
    for start in range(0, x_ND.shape[0], rows):
        part = slice(start, min(start + rows, x_ND.shape[0]))
        scores = _scores(x_ND[part], directions, offset, buffer[: part.stop - start])
        # torch vectorizes a maximum on a CPU, but not a maximum with its index.
        highest = torch.amax(scores, 1, out=best[part])
        indices[part] = last - scores.ge_(highest.unsqueeze(1)).mul_(from_last).amax(1)
    return indices, best


def k_nearest(
    x_ND: Tensor, codes_KD: Tensor, k: int, *, on_sphere: bool = False
) -> tuple[Tensor, Tensor]:
    """Return the k nearest codes of each vector, nearest first.

    Args:
        x_ND: vectors, float32.
        codes_KD: codes, float32.
        k: number of codes, 1 to K.
        on_sphere: whether all codes have length 1.

    Returns:
        Indices, int64 `[N, k]`, and their squared distances `[N, k]`.
    """
    rows = _rows_at_once(x_ND, max(codes_KD.shape[0], k * codes_KD.shape[1]))
    directions, offset = _scorer(codes_KD, on_sphere)
    indices = x_ND.new_empty(x_ND.shape[0], k, dtype=torch.int64)
    distances = x_ND.new_empty(x_ND.shape[0], k)
    buffer = x_ND.new_empty(min(rows, x_ND.shape[0]), codes_KD.shape[0])
    for start in range(0, x_ND.shape[0], rows):
        part = slice(start, min(start + rows, x_ND.shape[0]))
        chunk = x_ND[part]
        scores = _scores(chunk, directions, offset, buffer[: part.stop - start])
        indices[part] = scores.topk(k, dim=1).indices
        distances[part] = (chunk.unsqueeze(1) - codes_KD[indices[part]]).square().sum(2)
    return indices, distances


def accumulate(x_ND: Tensor, indices_N: Tensor, sums_KD: Tensor, counts_K: Tensor) -> None:
    """Add each vector to the sum of its code, and 1 to its count.

    On CUDA the order of these sums is not fixed unless `torch.use_deterministic_algorithms(True)`
    is set.
    """
    sums_KD.index_add_(0, indices_N, x_ND)
    counts_K.index_add_(0, indices_N, x_ND.new_ones(1).expand(x_ND.shape[0]))


_SEED_ROWS = 8192
_SEED_ROWS_PER_CENTER = 4
_SMALL = 0.1
"""A cluster below this fraction of the mean size is nearly empty."""


def pool(x: Tensor) -> Tensor:
    """Sum over ranks in place; on one process return `x`."""
    if dist.world_size() > 1:
        td.all_reduce(x)
    return x


class RowSample:
    """Rows drawn without replacement from the rows of all ranks, which construct it together.

    Attributes:
        total: number of rows of all ranks.
        drawn: number of drawn rows, the smaller of `count` and `total`.

    Args:
        rows: number of this rank's rows.
        count: number of rows to draw.
        key: key of the draw.
        device: device of the rows.
    """

    def __init__(self, rows: int, count: int, key: int, device: torch.device) -> None:
        start, self.total = _row_offset(rows, device)
        self.count = count
        self.drawn = min(count, self.total)
        priority = Draws(torch.arange(start, start + rows, device=device), key).bits("rows")
        self.own = priority.argsort(stable=True)[:count]
        self.mine: Tensor | None = None
        if dist.world_size() == 1:
            return
        # Each rank offers its rows of smallest priority; larger than any priority: no row.
        offered = torch.full((count,), 1 << 40, device=device)
        offered[: len(self.own)] = priority[self.own]
        order = dist.gather(offered).argsort(stable=True)[: self.drawn]
        self.mine = order // count == dist.rank()
        if rows:
            self.own = self.own[(order % count).clamp(max=len(self.own) - 1)]

    def take(self, x: Tensor) -> Tensor:
        """Return the drawn rows of `[rows, D]`, `[count, D]` on every rank, padded with zeros."""
        out = x.new_zeros(self.count, x.shape[1])
        if self.mine is None:
            out[: self.drawn] = x[self.own]
        elif len(x):  # rows of other ranks are zeros here, so that no size depends on the draw
            out[: self.drawn] = x[self.own].masked_fill(~self.mine.unsqueeze(1), 0.0)
        return pool(out)


def _row_offset(rows: int, device: torch.device) -> tuple[int, int]:
    """Return the index of this rank's first row among all ranks' rows, and their number."""
    if dist.world_size() == 1:
        return 0, rows
    host = dist.host(device)
    counts: list[int] = dist.gather(torch.tensor([rows], device=host)).tolist()
    return sum(counts[: dist.rank()]), sum(counts)


def plus_plus(x_MD: Tensor, num_centers: int, *, key: int) -> Tensor:
    """Choose seeds by D² sampling, with a probability in proportion to the squared distance.

    One row at a time, since a seed's probabilities depend on all earlier seeds. Nothing waits for
    the device.

    Args:
        x_MD: rows, float32.
        num_centers: number of seeds K, at most M.
        key: key of the draws.

    Returns:
        Seeds `[K, D]`, rows of `x_MD`.
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
    """Cluster the vectors of all ranks, which call it together.

    Args:
        x_ND: this rank's vectors, float32; of length 1 if `spherical`. Ranks may have different
            numbers of vectors.
        num_centers: number of centers K.
        spherical: assign by cosine, and keep the centers at length 1.
        iterations: number of Lloyd's iterations.
        key: key of the draws.
        start: centers `[K, D]` to start from; k-means++ if `None`.

    Returns:
        Centers `[K, D]`, and the number of vectors of all ranks in each cluster, float32 `[K]`.

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
        start = plus_plus(sample.take(x_ND)[: sample.drawn], num_centers, key=key_of(key, "seeds"))
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
    """Move centers of nearly empty clusters near the centers of random rows.

    Large clusters are chosen in proportion to their size. As many centers move as clusters larger
    than twice the mean size lack; other clusters may be small for good reason.
    """
    mean = counts_K.mean().clamp_min(1.0)
    missing = (counts_K / mean).floor().sub(1.0).clamp_min(0.0).sum()
    rank = counts_K.argsort(stable=True).argsort()
    moved = (counts_K < _SMALL * mean) & (rank < missing)
    own = centers_KD[nearest(rows_KD, centers_KD, on_sphere=spherical)[0]]
    split = split_toward(own, rows_KD)[rank]
    return torch.where(moved.unsqueeze(1), unit(split) if spherical else split, centers_KD)


def split_toward(centers: Tensor, vectors: Tensor) -> Tensor:
    """Return the points `1/√D` of the way from centers to vectors, at which codes split clusters.

    In many dimensions a code that equals a vector attracts no other vector: the mean of the cluster
    is nearer to all of them, and keeps them all. For vectors that differ in D independent
    directions, a code this close to the mean attracts about a third of the cluster. This is the
    splitting of Linde, Buzo and Gray (1980) with a step that depends on D.
    """
    return centers.lerp(vectors, centers.shape[-1] ** -0.5)


def _sums(x_ND: Tensor, centers_KD: Tensor, spherical: bool) -> tuple[Tensor, Tensor]:
    both = x_ND.new_zeros(centers_KD.numel() + len(centers_KD))
    sums, counts = both[: centers_KD.numel()].view_as(centers_KD), both[centers_KD.numel() :]
    accumulate(x_ND, nearest(x_ND, centers_KD, on_sphere=spherical)[0], sums, counts)
    pool(both)
    return sums, counts


def need_rows(total: int, num_codes: int) -> None:
    """Refuse to initialize a codebook from fewer vectors than codes.

    Raises:
        ValueError: when there are too few vectors.
    """
    if total < num_codes:
        raise ValueError(
            f"The first batch must have at least one vector per code, got {total} vectors for "
            f"{num_codes} codes. Use a larger first batch, fewer codes, or init='uniform_sphere'."
        )
