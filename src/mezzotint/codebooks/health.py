"""Health metrics of a codebook from one batch of codes, cheap enough for every log line.

- usage: fraction of the codes that occur. Low usage is collapse.
- perplexity / K: `exp(entropy) / K`, 1 when all codes are equally frequent.
- information between levels: mutual information of two levels; near 1, they are clusterings of the
  same vectors.
- information about position: how well the position in the grid predicts a code. A tokenizer whose
  codes name positions gives the encoder targets that it knows from the position.
- residual: energy after each level. It must fall.

A few thousand codes among K × K pairs show much mutual information by chance. Both information
metrics are therefore adjusted, as the adjusted mutual information of Vinh et al. 2010 (JMLR 11): 0
for independent codes, 1 when one determines the other. The value by chance is measured on a
permutation of the same codes. Joint counts come from sorted pairs, without a K × K table. Nothing
waits for the device.

Shapes: N vectors, S levels, K codes.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from mezzotint.seeding import Draws, key_of
from mezzotint.types import Codes


@dataclass(frozen=True)
class Health:
    """Metrics of one batch, float32, on its device.

    Attributes:
        usage: fraction of codes that occur, `[S]`.
        perplexity: perplexity as a fraction of K, `[S]`.
        entropy: entropy of the codes in nats, `[S]`.
        between_levels: adjusted mutual information of levels, as a fraction of their mean entropy,
            `[S, S]`.
        about_position: adjusted mutual information of code and position, as a fraction of the
            code's entropy, `[S]`; `None` without positions.
        residual: energy after each level, as a fraction of the input's, `[S]`.
    """

    usage: Tensor
    perplexity: Tensor
    entropy: Tensor
    between_levels: Tensor
    about_position: Tensor | None
    residual: Tensor

    def logs(self, prefix: str = "codes/") -> dict[str, Tensor]:
        """Return scalars for a log line: each metric by level, and the largest `between_levels`."""
        by_level = {
            "usage": self.usage,
            "perplexity": self.perplexity,
            "entropy": self.entropy,
            "residual": self.residual,
            "about_position": self.about_position,
        }
        scalars = {
            f"{prefix}{name}_{level}": value
            for name, values in by_level.items()
            if values is not None
            for level, value in enumerate(values, 1)
        }
        if len(self.usage) > 1:
            # Subtracting 2 excludes the diagonal from the maximum.
            pairs = self.between_levels - 2.0 * torch.eye(len(self.usage), device=self.usage.device)
            scalars[f"{prefix}between_levels"] = pairs.max()
        return scalars


@torch.no_grad()
def measure_health(codes: Codes, positions: Tensor | None = None) -> Health:
    """Compute the metrics of one batch of codes.

    Args:
        codes: result of `Codebook.forward`.
        positions: position of each vector in its sample's grid, integers in the shape of
            `codes.indices` without its last dimension, or a shape that broadcasts to it.
    """
    indices = codes.indices.reshape(-1, codes.indices.shape[-1])
    num_codes = codes.usage.shape[1]
    fraction = codes.usage / codes.usage.sum(1, keepdim=True).clamp_min(1.0)
    entropy = -torch.xlogy(fraction, fraction).sum(1)
    levels = list(indices.unbind(1))
    between = torch.eye(len(levels), device=fraction.device)
    for a, first in enumerate(levels):
        for b in range(a + 1, len(levels)):
            between[a, b] = between[b, a] = adjusted_information(first, levels[b])
    about = None
    if positions is not None:
        flat = positions.expand(codes.indices.shape[:-1]).reshape(-1)
        about = torch.stack([adjusted_information(level, flat, of_first=True) for level in levels])
    used = (codes.usage > 0).float().mean(1)
    return Health(used, entropy.exp() / num_codes, entropy, between, about, codes.residual)


def entropy_of(labels: Tensor) -> Tensor:
    """Return the entropy in nats of integers `[N]` of any size, from their counts in the batch."""
    ordered = labels.sort().values
    first = torch.ones_like(ordered)
    first[1:] = ordered[1:] != ordered[:-1]
    counts = torch.zeros(len(labels), device=labels.device).index_add_(
        0, first.cumsum(0) - 1, torch.ones(1, device=labels.device).expand(len(labels))
    )
    fraction = counts / max(1, len(labels))
    return -torch.xlogy(fraction, fraction).sum()


def adjusted_information(a: Tensor, b: Tensor, *, of_first: bool = False) -> Tensor:
    """Return the mutual information of two labelings: 0 at chance level, 1 when complete.

    `(I − I₀) / (H − I₀)`, where I₀ is the information after a permutation of one labeling.

    Args:
        a: labels, integers `[N]` of 0 or more.
        b: labels, integers `[N]` of 0 or more.
        of_first: use the entropy of `a` for H, instead of the mean of both.
    """
    base = b.max() + 1
    own, other = entropy_of(a), entropy_of(b)
    order = Draws(torch.arange(len(a), device=a.device), key_of("health")).bits("order").argsort()
    information = own + other - entropy_of(a * base + b)
    chance = own + other - entropy_of(a * base + b[order])
    entropy = own if of_first else (own + other) / 2.0
    return (information - chance) / (entropy - chance).clamp_min(1e-6)
