"""How well a codebook works, from one batch of codes: cheap enough for every log line, without waiting for the device.

- usage: which share of the codes occurs. Low usage is collapse.
- perplexity / K: `exp(entropy) / K`, 1 when all codes are equally frequent.
- information between levels: what one level says about another; near 1, the levels are clusterings
  of the same thing.
- information about position: how much of a code is known from where it stands. A tokenizer whose
  codes name positions asks the encoder for what it already knows.
- residual: the energy that each level leaves. It must fall.

A few thousand codes out of K × K pairs show much mutual information even when there is none. Both
measures are thus adjusted for chance, as in the adjusted mutual information of Vinh et al. 2010
(JMLR 11): 0 for independent codes, 1 when one determines the other. What chance gives is measured
on a permutation of the same codes. Joint counts are taken from sorted pairs, so no K × K table is
made.

Shapes: N vectors, S levels, K codes.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from mezzotint.seeding import Draws, key_of
from mezzotint.types import Codes


@dataclass(frozen=True)
class Health:
    """Measures of one batch, float32, on its device.

    Attributes:
        usage: share of codes that occur, `[S]`.
        perplexity: as a share of K, `[S]`.
        entropy: of the codes, in nats, `[S]`.
        between_levels: adjusted mutual information of levels, as a share of their mean entropy,
            `[S, S]`.
        about_position: adjusted mutual information of code and position, as a share of the code's
            entropy, `[S]`; `None` without positions.
        residual: energy that is left after each level, as a share of the input's, `[S]`.
    """

    usage: Tensor
    perplexity: Tensor
    entropy: Tensor
    between_levels: Tensor
    about_position: Tensor | None
    residual: Tensor

    def logs(self, prefix: str = "codes/") -> dict[str, Tensor]:
        """Scalars for a log line: each measure by level, and the largest information between two levels."""
        by_level = {
            "usage": self.usage,
            "perplexity": self.perplexity,
            "entropy": self.entropy,
            "residual": self.residual,
            "about_position": self.about_position,
        }
        found = {
            f"{prefix}{name}_{level}": value
            for name, values in by_level.items()
            if values is not None
            for level, value in enumerate(values, 1)
        }
        if len(self.usage) > 1:
            apart = self.between_levels - 2.0 * torch.eye(len(self.usage), device=self.usage.device)
            found[f"{prefix}between_levels"] = apart.max()
        return found


@torch.no_grad()
def health(codes: Codes, positions: Tensor | None = None) -> Health:
    """Measure one batch of codes.

    Args:
        codes: of `Codebook.forward`.
        positions: whole numbers of the shape of `codes.indices` without its last dimension, or one
            that broadcasts to it: the place of each vector in its sample's grid.
    """
    indices = codes.indices.reshape(-1, codes.indices.shape[-1])
    num_codes = codes.usage.shape[1]
    share = codes.usage / codes.usage.sum(1, keepdim=True).clamp_min(1.0)
    entropy = -torch.xlogy(share, share).sum(1)
    levels = list(indices.unbind(1))
    between = torch.eye(len(levels), device=share.device)
    for a, first in enumerate(levels):
        for b in range(a + 1, len(levels)):
            between[a, b] = between[b, a] = adjusted_information(first, levels[b])
    about = None
    if positions is not None:
        where = positions.expand(codes.indices.shape[:-1]).reshape(-1)
        about = torch.stack([adjusted_information(level, where, of_first=True) for level in levels])
    used = (codes.usage > 0).float().mean(1)
    return Health(used, entropy.exp() / num_codes, entropy, between, about, codes.residual)


def entropy_of(labels: Tensor) -> Tensor:
    """Entropy in nats of whole numbers `[N]`, from their counts in this batch; any numbers, however large."""
    ordered = labels.sort().values
    first = torch.ones_like(ordered)
    first[1:] = ordered[1:] != ordered[:-1]
    counts = torch.zeros(len(labels), device=labels.device).index_add_(
        0, first.cumsum(0) - 1, torch.ones(1, device=labels.device).expand(len(labels))
    )
    share = counts / max(1, len(labels))
    return -torch.xlogy(share, share).sum()


def adjusted_information(a: Tensor, b: Tensor, *, of_first: bool = False) -> Tensor:
    """Mutual information of two labelings, 0 when no more than chance and 1 when complete.

    `(I − I₀) / (H − I₀)`, where I₀ is the information that remains when one of the two is permuted.

    Args:
        a: whole numbers `[N]`, not negative.
        b: the same.
        of_first: H is the entropy of `a`, rather than the mean of both.
    """
    width = b.max() + 1
    own, other = entropy_of(a), entropy_of(b)
    order = Draws(torch.arange(len(a), device=a.device), key_of("health")).bits("order").argsort()
    found = own + other - entropy_of(a * width + b)
    chance = own + other - entropy_of(a * width + b[order])
    whole = own if of_first else (own + other) / 2.0
    return (found - chance) / (whole - chance).clamp_min(1e-6)
