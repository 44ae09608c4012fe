"""How much an encoder at low bits agrees with itself in float, where no labels tell what is lost: neighbours kept."""

import torch
from torch import Tensor

from mezzotint.evaluate.evaluator import Row
from mezzotint.evaluate.features import Extraction
from mezzotint.evaluate.neighbours import similarities
from mezzotint.evaluate.rank import at_most

_K = 10
_MOST = 4_096
"""Samples that are compared; of more, so many at equal steps."""


def agreement(level: Extraction, found: Extraction) -> Row:
    """The figure `all/kept`: of the 10 nearest neighbours (cosine) in float, the share that are so at low bits, too.

    Args:
        level: features in float.
        found: features of the same samples at low bits.
    """
    count = min(len(level.x), _MOST)
    k = min(_K, count - 1)
    before, after = (_nearest(at_most(part.x, count), k) for part in (level, found))
    kept = (before.unsqueeze(2) == after.unsqueeze(1)).any(dim=2).double().mean().item() if k > 0 else 1.0
    return Row("neighbours", "all/kept", kept, 32, 32, "float32", 0, f"neighbours/1 k={k} samples={count}")


def _nearest(x: Tensor, k: int) -> Tensor:
    """int64 `[N, k]`: the rows nearest to each row, without itself."""
    chosen = []
    for rows, near in similarities(x, x, metric="cosine", center=False):
        own = torch.arange(rows.start, rows.stop)
        near[own - rows.start, own] = -torch.inf
        chosen.append(near.topk(k, dim=1).indices)
    return torch.cat(chosen)
