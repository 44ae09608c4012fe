"""Codes as targets: how they are started, remembered, charged for and looked at.

Shapes: B samples, L patches of which M are hidden, S levels of K codes, c codes a level.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from mezzotint import dist
from mezzotint.codebooks.codebook import Codebook
from mezzotint.codebooks.health import health
from mezzotint.modality.patches import take
from mezzotint.types import Codes

_LOOKED_AT = 4096
"""How many vectors of a batch the informations of a log line are taken from."""


@dataclass(frozen=True)
class Targets:
    """What is to be predicted of each patch.

    Attributes:
        indices: int64 `[B, L, S, c]`, nearest first.
        weights: float32 `[B, L, S, c]`, probabilities of the c codes; `None` where each of them has
            a head of its own.
    """

    indices: Tensor
    weights: Tensor | None = None


@torch.compiler.disable  # type: ignore[untyped-decorator]
@torch.no_grad()
def start(codebook: Codebook, z: Tensor) -> None:
    """Start a codebook from the first vectors of all ranks, if it has none yet; frozen books too.

    Raises:
        ValueError: when all vectors are alike, or when there are fewer than codes.
    """
    if codebook.ready:
        return
    rows = z.detach().flatten(0, -2).float()
    differ = bool(rows.std(dim=0, correction=0).max() > 1e-6 * rows.abs().mean())
    if not dist.any_true([differ], z.device)[0]:
        raise ValueError(
            "got a first batch whose patches are all alike, such as silence or a single color; allowed are patches "
            "that differ: look at the data with `mezzotint doctor`, or at how they are normalized"
        )
    codebook.initialize(z)


def find_targets(
    codebook: Codebook, z: Tensor, per_level: int, temperature: float | None
) -> tuple[Targets, Codes]:
    """The codes of vectors `[B, L, D]` as targets; writes nothing into the codebook.

    Args:
        codebook: started.
        z: of all patches.
        per_level: c, how many of the nearest codes.
        temperature: of the probabilities that they share; `None` for a head each.
    """
    with torch.no_grad(), codebook.freezing():
        codes = codebook(z)
        if per_level == 1:
            return Targets(codes.indices.unsqueeze(-1)), codes
        if temperature is None:
            return Targets(codebook.nearest(z, per_level)[0]), codes
        return Targets(*codebook.soft_targets(z, per_level, temperature)), codes


def code_loss(
    outputs: Tensor, targets: Targets, hidden: Tensor, num_codes: int
) -> tuple[Tensor, dict[str, Tensor]]:
    """Cross-entropy of predicted codes at hidden patches, the mean over all of them.

    Args:
        outputs: logits `[B, M, S · heads · K]`, `heads` being c without weights and 1 with them.
        targets: of all patches.
        hidden: int64 `[B, M]`.
        num_codes: K.

    Returns:
        The loss, and by level: accuracy (of the nearest code), cross-entropy, and `unigram`, the
            cross-entropy of one
        who knows how frequent each code is in this batch and nothing else. Below that, something
        was learned.
    """
    indices = take(targets.indices, hidden)
    logits = outputs.float().unflatten(2, (indices.shape[2], -1, num_codes))  # type: ignore[no-untyped-call]
    if targets.weights is None:
        losses = cross_entropy(logits.flatten(0, 3), indices.flatten(), reduction="none").view(
            indices.shape
        )
    else:
        chances = logits.log_softmax(-1).squeeze(3).gather(3, indices)
        losses = -(take(targets.weights, hidden) * chances).sum(3, keepdim=True)
    logs = {}
    with torch.no_grad():
        guessed = logits[:, :, :, 0].argmax(-1)
        for level in range(indices.shape[2]):
            nearest = indices[:, :, level, 0]
            counts = nearest.new_zeros(num_codes, dtype=torch.float32)
            counts.index_add_(0, nearest.flatten(), counts.new_ones(1).expand(nearest.numel()))
            frequency = counts / nearest.numel()
            logs[f"accuracy_{level + 1}"] = (guessed[:, :, level] == nearest).float().mean()
            logs[f"ce_{level + 1}"] = losses[:, :, level].mean()
            logs[f"unigram_{level + 1}"] = -torch.xlogy(frequency, frequency).sum()
    return losses.mean(), logs


@torch.compiler.disable  # type: ignore[untyped-decorator]
@torch.no_grad()
def health_logs(codes: Codes, where: Tensor) -> dict[str, Tensor]:
    """Scalars that show whether the codes of a batch `[B, L, S]` are worth predicting; see `codebooks.health`."""
    length = codes.indices.shape[1]
    some = max(1, _LOOKED_AT // length)
    positions = torch.arange(length, device=where.device) if where.shape[0] == 1 else None
    return health(replace(codes, indices=codes.indices[:some]), positions).logs()


class TokenCache:
    """Remembers what a frozen tokenizer said of views that come again, bit for bit.

    A sample's targets are kept beside a checksum of the view they were made from: where views are
    drawn afresh in every epoch, the checksum differs and they are made again, so that a cache never
    gives wrong targets. It grows by 2 · L · S · c bytes a sample, and is no part of a checkpoint.
    """

    def __init__(self) -> None:
        self.kept: dict[int, tuple[int, list[Tensor]]] = {}

    @torch.compiler.disable  # type: ignore[untyped-decorator]
    @torch.no_grad()
    def __call__(
        self, ids: Tensor, x: Tensor, make: Callable[[Tensor], Sequence[Tensor | None]]
    ) -> tuple[list[Tensor], bool]:
        """Targets of views, made where they are not known.

        Args:
            ids: int64 `[B]`, of the samples.
            x: their views.
            make: tensors with a row a sample, of the rows int64 `[K]`; whole numbers below 2¹⁵, or
                probabilities.

        Returns:
            The tensors, and whether any row was made now.
        """
        names, sums = ids.tolist(), checksum(x).tolist()
        unknown = [
            i for i, (n, s) in enumerate(zip(names, sums, strict=True)) if self._known(n, s) is None
        ]
        if unknown:
            made = [t for t in make(torch.tensor(unknown, device=x.device)) if t is not None]
            small = [
                t.to(torch.float16 if t.is_floating_point() else torch.int16).cpu() for t in made
            ]
            for place, row in enumerate(unknown):
                self.kept[names[row]] = (sums[row], [t[place].clone() for t in small])
        rows = [self.kept[name][1] for name in names]
        found = [torch.stack(parts).to(x.device) for parts in zip(*rows, strict=True)]
        return [t.float() if t.is_floating_point() else t.long() for t in found], bool(unknown)

    def _known(self, name: int, checksum: int) -> list[Tensor] | None:
        kept = self.kept.get(name)
        return kept[1] if kept is not None and kept[0] == checksum else None


@torch.no_grad()
def checksum(x: Tensor) -> Tensor:
    """A whole number for each row `[B, …]`, which changes with any bit of it: int64 `[B]`."""
    values = x.flatten(1)
    bits = (
        values.long() if not values.is_floating_point() else values.float().view(torch.int32).long()
    )
    odd = torch.arange(bits.shape[1], device=x.device) * 0x9E3779B97F4A7C1 + 0x5851F42D4C957F2D | 1
    return (bits * odd).sum(1)  # products and sums wrap, as they should
