"""Momentum contrast, four methods in one: MoCo v1 and v2, MoCo v2+ and S-MoCo v2+.

(He et al. 2019, arXiv 1911.05722; Chen et al. 2020, arXiv 2003.04297; Huang et al. 2022, arXiv
2208.00275.)

A query is told from the keys of earlier batches, which a queue holds; keys come from a momentum
copy. The four differ in head, symmetry of the loss and momentum only:

| | head | symmetric | momentum | temperature | dim |
|---|---|---|---|---|---|
| v1 | `linear` | false | 0.999 constant | 0.07 | 128 |
| v2 | `mlp` | false | 0.999 constant | 0.2 | 128 |
| v2+ | `byol`: a predictor on the trained branch alone | true | 0.99 rising to 1 | 0.2 | 256 |
| S-v2+ | `symmetric`: the same layers on both branches | true | 0.99 rising to 1 | 0.2 | 256 |

Keys enter the queue after the step, of one view for all ranks: in both directions that view is
drawn from a count of steps, where the authors' code draws it on each rank. BatchNorm statistics
over all ranks stand in for shuffled batches; with statistics of each rank alone
(`run.compute.sync_batch_norm: false`, v1 and v2 of the authors), `shuffle` keeps a query from
recognizing its key by the company that it was normalized in.
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
from mezzotint.methods.siamese import Reduction, Siamese, each_view, over_pairs, target_views
from mezzotint.seeding import Draws, key_of
from mezzotint.types import Views

Head = Literal["linear", "mlp", "byol", "symmetric", "projector"]
MomentumSchedule = Literal["constant", "cosine"]


def queue_contrast(
    q_BD: Tensor, k_BD: Tensor, queue_KD: Tensor, temperature: float
) -> tuple[Tensor, Tensor]:
    """InfoNCE of queries with their own keys against a queue of others (equation 1 of MoCo).

    Args:
        q_BD: queries, `[B, D]`, not normalized.
        k_BD: keys of the same samples, `[B, D]`; no gradient flows into them.
        queue_KD: keys of other samples, normalized.
        temperature: of the softmax.

    Returns:
        The loss, and the share of queries whose nearest key is their own (no gradient).
    """
    with torch.autocast(q_BD.device.type, enabled=False):
        q, k = normalize(q_BD.float(), dim=1), normalize(k_BD.detach().float(), dim=1)
        logits = torch.cat([(q * k).sum(dim=1, keepdim=True), q @ queue_KD.T], dim=1) / temperature
        first = torch.zeros(len(q), dtype=torch.int64, device=q.device)
        accuracy = (logits.detach().argmax(dim=1) == 0).float().mean()
        return cross_entropy(logits, first), accuracy


class MoCo(Siamese):
    """Tell the momentum copy's key of another view from a queue of earlier keys.

    Args:
        encoder: to be trained.
        head: which layers stand on the encoder, and on which branch; see the table above.
            `"projector"` is the first half of `"symmetric"`.
        symmetric: contrast every view with every other global view; otherwise the first view is
            contrasted with the others.
        hidden_dim: width of the head's hidden layers.
        dim: width of queries and keys.
        queue_size: keys in the queue; at least the global batch.
        temperature: of the softmax.
        momentum: of the momentum copy at the start.
        momentum_schedule: `"constant"` keeps it, `"cosine"` raises it to 1 over training.
        reduction: over the pairs of query and key; the authors' v2+ takes the sum.
        shuffle: encode the keys of a rank among those of other ranks.
    """

    max_views: ClassVar[int | None] = None
    asymmetric_views: ClassVar[bool] = True
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
        if temperature <= 0.0:
            raise ValueError(
                f"temperature must be above 0, got {temperature}; 0.07 to 0.2 is usual"
            )
        if not 0.0 <= momentum <= 1.0:
            raise ValueError(f"momentum must lie in [0, 1], got {momentum}; 0.99 to 0.999 is usual")
        if queue_size < 1:
            raise ValueError(
                f"queue_size must be at least the global batch, got {queue_size}; 65536 is published"
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
        """Projections and queries: of the first view, or of both."""
        zs = each_view(
            self.projector, each_view(self.encoder, views.x if self.symmetric else views.x[:1])
        )
        return zs, each_view(self.predictor, zs)

    @torch.no_grad()
    def targets(self, views: Views, zs: Sequence[Tensor]) -> dict[int, Tensor]:
        """The keys; they wait for `after_step` to enter the queue."""
        places = [place for place in target_views(views) if place > 0 or self.symmetric]
        ts = {place: self.keys(views.x[place], place) for place in places}
        self._fresh.append(ts)
        return ts

    @torch.no_grad()
    def keys(self, x: Tensor, place: int) -> Tensor:
        """Keys of a view, `[B, D]`; with `shuffle` they are made among rows of other ranks, and put back."""
        if not self.shuffle or dist.world_size() == 1:
            out: Tensor = self.key_projector(self.key_encoder(x))
            return out
        rows = slice(dist.rank() * len(x), (dist.rank() + 1) * len(x))
        draws = Draws(self.steps.view(1), key_of("moco.shuffle", place))
        order = draws.permutation("rows", len(x) * dist.world_size())[0]  # the same on all ranks
        mixed = self.key_projector(self.key_encoder(dist.gather(x)[order[rows]]))
        everyone = dist.gather(mixed)
        return everyone[order.argsort()[rows]]

    def compare(
        self, ps: Sequence[Tensor], ts: Mapping[int, Tensor], views: Views
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """InfoNCE against the queue; the sum or mean over pairs."""
        queue = (
            self.queue.clone()
        )  # the queue moves on before a compiled backward pass may have read it
        accuracies = []

        def contrast(q: Tensor, k: Tensor) -> Tensor:
            loss, accuracy = queue_contrast(q, k, queue, self.temperature)
            accuracies.append(accuracy)
            return loss

        loss = over_pairs(contrast, ps, ts, views, self.reduction)
        return loss, {"accuracy": torch.stack(accuracies).mean()}

    def require_batch(self, size: int) -> None:
        """A batch of keys must have room in the queue."""
        if size > len(self.queue):
            raise ValueError(
                f"method.queue_size is {len(self.queue)}, less than the global batch of {size}; allowed is at least "
                "the batch: raise method.queue_size"
            )

    def before_step(self) -> None:
        """Drop the keys of a step whose update was left out."""
        self._fresh = []

    @torch.no_grad()
    def after_step(self, progress: float) -> None:
        """Move the momentum copy toward the trained network, and the step's keys into the queue."""
        constant = self.momentum_schedule == "constant"
        momentum = self.momentum if constant else cosine_momentum(self.momentum, progress)
        momentum_update(self.key_encoder, self.encoder, momentum)
        momentum_update(self.key_projector, self.projector, momentum)
        if self._fresh:
            draws = Draws(self.steps.view(1), key_of("moco.view"))
            places = list(self._fresh[0])
            place = places[int(draws.integers("view", high=len(places)))]
            self.enqueue(dist.gather(torch.cat([ts[place] for ts in self._fresh])))
            self._fresh = []
        self.steps += 1

    @torch.no_grad()
    def enqueue(self, keys_ND: Tensor) -> None:
        """Let keys of all ranks replace the oldest ones, wrapping round; the queue's size need not be a multiple.

        Raises:
            ValueError: when there are more keys than places.
        """
        count, size = len(keys_ND), len(self.queue)
        self.require_batch(count)
        places = (self.pointer + torch.arange(count, device=self.queue.device)) % size
        self.queue[places] = normalize(keys_ND.float(), dim=1).to(self.queue.dtype)
        self.pointer.copy_((self.pointer + count) % size)


def _head(head: Head, features: int, hidden: int, dim: int) -> tuple[nn.Module, nn.Module]:
    """Projector and predictor."""
    if head == "linear":
        return nn.Linear(features, dim), nn.Identity()
    if head == "mlp":
        return nn.Sequential(
            nn.Linear(features, hidden), nn.ReLU(inplace=True), nn.Linear(hidden, dim)
        ), nn.Identity()
    if head == "byol":
        return mlp([features, hidden, dim]), mlp([dim, hidden, dim])
    if head == "projector":
        return mlp([features, hidden, dim], last_bias=False), nn.Identity()
    both = [
        *mlp([features, hidden, dim], last_bias=False),
        *mlp([dim, hidden, dim], last_bias=False),
    ]
    return nn.Sequential(*both), nn.Identity()
