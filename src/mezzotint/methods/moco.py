"""MoCo v1, MoCo v2, MoCo v2+ and S-MoCo v2+: momentum contrast with a queue.

(He et al. 2019, arXiv 1911.05722; Chen et al. 2020, arXiv 2003.04297; Huang et al. 2022, arXiv
2208.00275.)

A query is contrasted with its key, the momentum copy's projection of another view, against a queue
of keys of earlier batches. The four differ in head, symmetry of the loss and momentum only:

| | head | symmetric | momentum | temperature | dim |
|---|---|---|---|---|---|
| v1 | `linear` | false | 0.999 constant | 0.07 | 128 |
| v2 | `mlp` | false | 0.999 constant | 0.2 | 128 |
| v2+ | `byol`: a predictor on the online branch only | true | 0.99 rising to 1 | 0.2 | 256 |
| S-v2+ | `symmetric`: the same layers on both branches | true | 0.99 rising to 1 | 0.2 | 256 |

Keys of one view enter the queue after the step. With a symmetric loss, the view is drawn from the
step's number, the same on all ranks; the authors' code draws it on each rank. BatchNorm statistics
over all ranks replace shuffled batches. With statistics of each rank alone
(`run.compute.sync_batch_norm: false`, v1 and v2 of the authors), `shuffle` prevents that a query
recognizes its key by the batch that it was normalized in.
"""

from collections.abc import Mapping, Sequence
from typing import ClassVar, Literal

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, normalize

from mezzotint import dist
from mezzotint.encoders.encoder import Encoder
from mezzotint.encoders.heads import mlp
from mezzotint.methods.method import (
    Branch,
    BranchName,
    cosine_momentum,
    momentum_copy,
    momentum_update,
)
from mezzotint.methods.siamese import (
    Reduction,
    Siamese,
    each_view,
    enqueue,
    over_pairs,
    require_in_queue,
    target_views,
)
from mezzotint.recipe.component import require_sizes
from mezzotint.seeding import Draws, key_of
from mezzotint.types import Views

Head = Literal["linear", "mlp", "byol", "symmetric", "projector"]
MomentumSchedule = Literal["constant", "cosine"]


def queue_contrast(
    q_BD: Tensor, k_BD: Tensor, queue_KD: Tensor, temperature: float
) -> tuple[Tensor, Tensor]:
    """Compute InfoNCE of queries and their keys against a queue (equation 1 of MoCo).

    Args:
        q_BD: queries, `[B, D]`, not normalized.
        k_BD: keys of the same samples, `[B, D]`; no gradient flows into them.
        queue_KD: keys of other samples, normalized.
        temperature: temperature of the softmax.

    Returns:
        The loss, and the fraction of queries whose nearest key is their own (no gradient).
    """
    with torch.autocast(q_BD.device.type, enabled=False):
        q, k = normalize(q_BD.float(), dim=1), normalize(k_BD.detach().float(), dim=1)
        logits = torch.cat([(q * k).sum(dim=1, keepdim=True), q @ queue_KD.T], dim=1) / temperature
        first = torch.zeros(len(q), dtype=torch.int64, device=q.device)
        accuracy = (logits.detach().argmax(dim=1) == 0).float().mean()
        return cross_entropy(logits, first), accuracy


class MoCo(Siamese):
    """Contrast a query with its key against a queue of negatives (InfoNCE).

    Args:
        encoder: network to train.
        head: layers on the encoder and their branches; see the table of the module. `"projector"`
            is the first half of `"symmetric"`.
        symmetric: contrast every view with every other global view; otherwise the first view is
            contrasted with the others.
        hidden_dim: width of the head's hidden layers.
        dim: width of queries and keys.
        queue_size: keys in the queue; at least the global batch size.
        temperature: temperature of the softmax.
        momentum: momentum of the key encoder at the start.
        momentum_schedule: `"constant"` keeps the momentum, `"cosine"` raises it to 1 over training.
        reduction: reduction over pairs of query and key; the authors' v2+ uses `"sum"`.
        shuffle: shuffle samples over ranks before encoding keys.
    """

    max_views: ClassVar[int | None] = None
    asymmetric_views: ClassVar[bool] = True
    takes_target_views: ClassVar[bool] = True
    queue: Tensor
    pointer: Tensor
    steps: Tensor

    def __init__(
        self,
        encoder: Encoder,
        *,
        head: Head = "mlp",
        symmetric: bool = False,
        hidden_dim: int = 2048,
        dim: int = 128,
        queue_size: int = 65536,
        temperature: float = 0.2,
        momentum: float = 0.999,
        momentum_schedule: MomentumSchedule = "constant",
        reduction: Reduction = "sum",
        shuffle: bool = False,
    ) -> None:
        super().__init__(encoder)
        require_sizes("method", hidden_dim=hidden_dim, dim=dim)
        if temperature <= 0.0:
            raise ValueError(f"`method.temperature` must be positive, got {temperature}. Try 0.2.")
        if not 0.0 <= momentum <= 1.0:
            raise ValueError(f"`method.momentum` must be in [0, 1], got {momentum}. Try 0.999.")
        if queue_size < 1:
            raise ValueError(
                f"`method.queue_size` must be at least the global batch size, got {queue_size}. "
                "Try 65536."
            )
        self.symmetric, self.temperature = symmetric, temperature
        self.momentum, self.momentum_schedule = momentum, momentum_schedule
        self.reduction, self.shuffle = reduction, shuffle
        self.projector, self.predictor = _head(head, encoder.dim, hidden_dim, dim)
        self.key_encoder = momentum_copy(encoder)
        self.key_projector = momentum_copy(self.projector)
        self.register_buffer("queue", normalize(torch.randn(queue_size, dim), dim=1))
        self.register_buffer("pointer", torch.zeros((), dtype=torch.int64))
        self.register_buffer("steps", torch.zeros((), dtype=torch.int64))
        self._fresh: list[dict[int, Tensor]] = []

    def branches(self) -> Mapping[BranchName, Branch]:
        target = Branch(self.key_encoder, self.key_projector)
        return {**super().branches(), "target": target}

    def online(self, views: Views) -> tuple[list[Tensor], list[Tensor]]:
        """Compute projections and queries of the first view, or of all with `symmetric`."""
        zs = each_view(
            self.projector, each_view(self.encoder, views.x if self.symmetric else views.x[:1])
        )
        return zs, each_view(self.predictor, zs)

    @torch.no_grad()
    def targets(self, views: Views, zs: Sequence[Tensor]) -> dict[int, Tensor]:
        """Compute the keys; `after_step` puts them into the queue."""
        indices = [index for index in target_views(views) if index > 0 or self.symmetric]
        ts = {index: self.keys(views.x[index], index) for index in indices}
        self._fresh.append(ts)
        return ts

    @torch.no_grad()
    def keys(self, x: Tensor, index: int) -> Tensor:
        """Compute the keys of a view, `[B, D]`; with `shuffle`, in batches mixed over ranks."""
        if not self.shuffle or dist.world_size() == 1:
            out: Tensor = self.key_projector(self.key_encoder(x))
            return out
        rows = slice(dist.rank() * len(x), (dist.rank() + 1) * len(x))
        draws = Draws(self.steps.view(1), key_of("moco.shuffle", index))
        order = draws.permutation("rows", len(x) * dist.world_size())[0]  # the same on all ranks
        mixed = self.key_projector(self.key_encoder(dist.gather(x)[order[rows]]))
        everyone = dist.gather(mixed)
        return everyone[order.argsort()[rows]]

    def compare(
        self, ps: Sequence[Tensor], ts: Mapping[int, Tensor], views: Views
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Compute InfoNCE against the queue; sum or mean over pairs."""
        # The queue changes before a compiled backward pass has read it.
        queue = self.queue.clone()
        accuracies = []

        def contrast(q: Tensor, k: Tensor) -> Tensor:
            loss, accuracy = queue_contrast(q, k, queue, self.temperature)
            accuracies.append(accuracy)
            return loss

        loss = over_pairs(contrast, ps, ts, views, self.reduction)
        return loss, {"accuracy": torch.stack(accuracies).mean()}

    def require_batch(self, size: int) -> None:
        super().require_batch(size)
        require_in_queue(size, self.queue)

    def before_step(self) -> None:
        """Drop the keys of a skipped step."""
        self._fresh = []

    @torch.no_grad()
    def after_step(self, progress: float) -> None:
        """Update the key encoder, and put the step's keys into the queue."""
        constant = self.momentum_schedule == "constant"
        momentum = self.momentum if constant else cosine_momentum(self.momentum, progress)
        momentum_update(self.key_encoder, self.encoder, momentum)
        momentum_update(self.key_projector, self.projector, momentum)
        if self._fresh:
            draws = Draws(self.steps.view(1), key_of("moco.view"))
            views = [torch.cat([ts[index] for ts in self._fresh]) for index in self._fresh[0]]
            # By a tensor, so that the host need not read which view was drawn.
            keys = (
                views[0]
                if len(views) == 1
                else torch.stack(views)
                .index_select(0, draws.integers("view", high=len(views)))
                .squeeze(0)
            )
            self.enqueue(dist.gather(keys))
            self._fresh = []
        self.steps += 1

    @torch.no_grad()
    def enqueue(self, keys_ND: Tensor) -> None:
        """Replace the oldest keys by keys of all ranks, wrapping around at the end of the queue.

        Raises:
            ValueError: for more keys than the queue has.
        """
        self.require_batch(len(keys_ND))
        enqueue(self.queue, self.pointer, normalize(keys_ND.float(), dim=1))


def _head(head: Head, features: int, hidden: int, dim: int) -> tuple[nn.Module, nn.Module]:
    """Build projector and predictor."""
    if head == "linear":
        return nn.Linear(features, dim), nn.Identity()
    if head == "mlp":
        return mlp([features, hidden, dim], hidden_norm=False), nn.Identity()
    if head == "byol":
        return mlp([features, hidden, dim]), mlp([dim, hidden, dim])
    if head == "projector":
        return mlp([features, hidden, dim], last_bias=False), nn.Identity()
    both = [
        *mlp([features, hidden, dim], last_bias=False),
        *mlp([dim, hidden, dim], last_bias=False),
    ]
    return nn.Sequential(*both), nn.Identity()
