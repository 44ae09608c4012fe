"""Codes as targets: initialization, cache, loss and health.

Shapes: B samples, L patches, M masked patches, S levels of K codes, c codes per level.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from mezzotint import dist
from mezzotint.codebooks.codebook import Codebook, need_finite
from mezzotint.codebooks.health import measure_health
from mezzotint.modality.patches import take
from mezzotint.types import Codes

_LOGGED = 4096
"""Number of vectors of a batch from which the health of codes is logged."""


@dataclass(frozen=True)
class Targets:
    """Codes to predict for each patch.

    Attributes:
        indices: int64 `[B, L, S, c]`, nearest first.
        weights: float32 `[B, L, S, c]`, probabilities of the c codes; `None` if each of them has
            its own head.
    """

    indices: Tensor
    weights: Tensor | None = None


@torch.compiler.disable  # type: ignore[untyped-decorator]
@torch.no_grad()
def start(codebook: Codebook, z: Tensor) -> None:
    """Initialize a codebook, even a frozen one, from the first vectors of all ranks.

    A codebook that is initialized already stays as it is.

    Raises:
        NotFiniteVectors: if a vector has NaN or inf, on any rank.
        ValueError: if all vectors are equal, or there are fewer vectors than codes.
    """
    if codebook.ready:
        return
    rows = z.detach().flatten(0, -2).float()
    need_finite(dist.mean(rows.isfinite().all().float()) == 1.0)
    differ = bool(rows.std(dim=0, correction=0).max() > 1e-6 * rows.abs().mean())
    if not dist.any_true([differ], z.device)[0]:
        raise ValueError(
            "All patches of the first batch are equal, such as silence or a single color. Check "
            "the "
            "data with `mezzotint doctor`, and its normalization."
        )
    codebook.initialize(z)


def find_targets(
    codebook: Codebook, z: Tensor, per_level: int, temperature: float | None
) -> tuple[Targets, Codes]:
    """Look up the codes of vectors `[B, L, D]` as targets; the codebook does not change.

    Args:
        codebook: initialized codebook.
        z: vectors of all patches.
        per_level: number of nearest codes, c.
        temperature: temperature of soft targets over these codes; `None` for one head per code.
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
    """Average the cross-entropy of predicted codes over masked patches.

    Args:
        outputs: logits `[B, M, S · heads · K]`, with c heads without weights and 1 with
            them.
        targets: targets of all patches.
        hidden: int64 `[B, M]`, the masked patches.
        num_codes: number of codes, K.

    Returns:
        The loss, and by level: accuracy (of the nearest code), cross-entropy, and `unigram`, the
        cross-entropy of predicting the frequencies of codes in this batch. A cross-entropy below
        `unigram` shows that something was learned.
    """
    indices = take(targets.indices, hidden)
    logits = outputs.float().unflatten(2, (indices.shape[2], -1, num_codes))
    if targets.weights is None:
        losses = cross_entropy(logits.flatten(0, 3), indices.flatten(), reduction="none").view(
            indices.shape
        )
    else:
        chances = logits.log_softmax(-1).squeeze(3).gather(3, indices)
        losses = -(take(targets.weights, hidden) * chances).sum(3, keepdim=True)
    logs = {}
    with torch.no_grad():
        predicted = logits[:, :, :, 0].argmax(-1)
        for level in range(indices.shape[2]):
            nearest = indices[:, :, level, 0]
            counts = nearest.new_zeros(num_codes, dtype=torch.float32)
            counts.index_add_(0, nearest.flatten(), counts.new_ones(1).expand(nearest.numel()))
            frequency = counts / nearest.numel()
            logs[f"accuracy_{level + 1}"] = (predicted[:, :, level] == nearest).float().mean()
            logs[f"ce_{level + 1}"] = losses[:, :, level].mean()
            logs[f"unigram_{level + 1}"] = -torch.xlogy(frequency, frequency).sum()
    return losses.mean(), logs


@torch.compiler.disable  # type: ignore[untyped-decorator]
@torch.no_grad()
def health_logs(codes: Codes, where: Tensor) -> dict[str, Tensor]:
    """Compute scalars that show whether codes `[B, L, S]` are worth predicting.

    See `codebooks.health`.
    """
    length = codes.indices.shape[1]
    some = max(1, _LOGGED // length)
    positions = torch.arange(length, device=where.device) if where.shape[0] == 1 else None
    return measure_health(replace(codes, indices=codes.indices[:some]), positions).logs()


class TokenCache:
    """Caches the targets of a frozen tokenizer for views that come again, bit for bit.

    Targets are stored with a checksum of their view. If a view differs in the next epoch, the
    checksum differs and the targets are computed again, so the cache never returns wrong targets.
    It grows by 2 · L · S · c bytes per sample, and is not part of a checkpoint.
    """

    def __init__(self) -> None:
        self.entries: dict[int, tuple[int, list[Tensor]]] = {}

    @torch.compiler.disable  # type: ignore[untyped-decorator]
    @torch.no_grad()
    def __call__(
        self, ids: Tensor, x: Tensor, make: Callable[[Tensor], Sequence[Tensor | None]]
    ) -> tuple[list[Tensor], bool]:
        """Return the targets of views, and compute the missing ones.

        Args:
            ids: int64 `[B]`, ids of the samples.
            x: views of the samples.
            make: function from rows, int64 `[K]`, to tensors with one row per sample: whole numbers
                below 2¹⁵, or probabilities.

        Returns:
            The tensors, and whether any row was computed now.
        """
        names, sums = torch.stack([ids, checksum(x)]).tolist()
        unknown = [
            i for i, (n, s) in enumerate(zip(names, sums, strict=True)) if self._known(n, s) is None
        ]
        if unknown:
            made = [t for t in make(torch.tensor(unknown, device=x.device)) if t is not None]
            small = [
                t.to(torch.float16 if t.is_floating_point() else torch.int16).cpu() for t in made
            ]
            for index, row in enumerate(unknown):
                self.entries[names[row]] = (sums[row], [t[index].clone() for t in small])
        rows = [self.entries[name][1] for name in names]
        stacked = [
            torch.stack(parts).to(x.device, non_blocking=True) for parts in zip(*rows, strict=True)
        ]
        return [t.float() if t.is_floating_point() else t.long() for t in stacked], bool(unknown)

    def _known(self, name: int, checksum: int) -> list[Tensor] | None:
        entry = self.entries.get(name)
        return entry[1] if entry is not None and entry[0] == checksum else None


@torch.no_grad()
def checksum(x: Tensor) -> Tensor:
    """Compute an int64 for each row `[B, …]` that changes with any bit of the row."""
    values = x.flatten(1)
    bits = (
        values.long() if not values.is_floating_point() else values.float().view(torch.int32).long()
    )
    odd = torch.arange(bits.shape[1], device=x.device) * 0x9E3779B97F4A7C1 + 0x5851F42D4C957F2D | 1
    return (bits * odd).sum(1)  # products and sums overflow on purpose
