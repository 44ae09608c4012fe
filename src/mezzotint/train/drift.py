"""How far an encoder has moved from its start, on a fixed set of training samples, without labels.

- `drift/cosine`: mean cosine of a sample's features before and now; 1 for no change.
- `drift/cka`: linear centered kernel alignment (Kornblith et al. 2019, arXiv 1905.00414) of both
  sets of features; 1 if they differ by a rotation and a scale alone.
- `drift/rank`: effective rank of the features (RankMe, arXiv 2210.02885) over that of the start. A
  fall means that training takes directions away that the start had.
"""

from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor
from torch.nn.functional import cosine_similarity

from mezzotint.data.source import Source
from mezzotint.encoders.encoder import Encoder
from mezzotint.evaluation.features import extract_readable
from mezzotint.evaluation.label_free import rankme
from mezzotint.train.continued import START, load_like

LEAST_RANK = 0.8
"""Below this fraction of the start's effective rank, a run warns."""


class Drift:
    """Compare an encoder with the start of its run.

    Args:
        source: samples.
        indices: the training samples that are compared, int64 `[N]`.
    """

    def __init__(self, source: Source, indices: Tensor) -> None:
        self.source, self.indices = source, indices
        self._start: Tensor | None = None

    def measure(self, encoder: Encoder, run: Path) -> dict[str, float]:
        """Return the metrics of this module; nothing for features that are not finite."""
        if self._start is None:
            # Read again, and not kept from the first step, so that a resumed run has it too.
            self._start = self._features(load_like(encoder, run / START))
        now = self._features(encoder)
        if not bool(now.isfinite().all()):
            return {}  # the guard decides what becomes of a run that diverges
        return drift(self._start, now)

    def _features(self, encoder: Encoder) -> Tensor:
        return extract_readable(encoder, self.source, indices=self.indices).x


def drift(start: Tensor, now: Tensor) -> dict[str, float]:
    """Compare the features `[N, D]` of the same samples, row for row."""
    return {
        "drift/cosine": float(cosine_similarity(start, now, dim=1).mean()),
        "drift/cka": cka(start, now),
        "drift/rank": rankme(now) / rankme(start),
    }


def cka(a: Tensor, b: Tensor) -> float:
    """Return the linear centered kernel alignment of features `[N, D]` and `[N, E]`.

    It is 0 where either side has no variance.
    """
    a, b = (x.double() - x.double().mean(dim=0) for x in (a, b))
    norms = (a.T @ a).norm() * (b.T @ b).norm()
    shared = (a.T @ b).square().sum()
    return float(torch.where(norms > 0, shared / norms, 0.0))


def warning(metrics: Mapping[str, float]) -> str:
    """Say that the features have lost directions of the start; empty if they have not."""
    rank = metrics.get("drift/rank", 1.0)
    if not rank < LEAST_RANK:
        return ""
    return (
        f"warning: the effective rank of the features is {rank:.2f} of the start's. Lower "
        "optimizer.lr, or set init.warmup_steps, init.lora or optimizer.scales."
    )
