"""What the siamese methods share: how views pass through a network, which of them are targets, what tells a collapse.

BatchNorm makes the way of passing matter: its statistics are those of one pass. `each_view` gives
every view statistics of its own, as SimSiam, BYOL and MoCo v3 do; `one_pass` puts all views of one
size through together, as SimCLR and LeJEPA do. Without BatchNorm the two agree.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from typing import ClassVar, Literal

import torch
from torch import Tensor, nn

from mezzotint.methods.method import Branch, BranchName, Method
from mezzotint.types import Step, Views

Reduction = Literal["sum", "mean"]


class Siamese(Method, ABC, abstract=True):
    """A method that compares what the trained branch predicts of some views with what is said of others.

    The three parts stand apart so that a wrapper (SSQL) can run the trained branch twice and
    compare both times with the same targets.

    Attributes:
        own_targets: whether the targets are projections of the trained branch itself, and not of a
            momentum copy.
    """

    own_targets: ClassVar[bool] = False
    projector: nn.Module

    def branches(self) -> Mapping[BranchName, Branch]:
        return {"online": Branch(self.encoder, self.projector)}

    @abstractmethod
    def online(self, views: Views) -> tuple[list[Tensor], list[Tensor]]:
        """The trained branch: projections and predictions of each view, `[B, D]`; the same where nothing predicts."""

    @abstractmethod
    def targets(self, views: Views, zs: Sequence[Tensor]) -> dict[int, Tensor]:
        """What is to be predicted, by the place of its view.

        Args:
            views: all of them.
            zs: projections of the trained branch.
        """

    @abstractmethod
    def compare(
        self, ps: Sequence[Tensor], ts: Mapping[int, Tensor], views: Views
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """The loss of predictions against targets, and scalars worth logging."""

    def forward(self, views: Views) -> Step:
        """The loss on these views."""
        self.require_views(views)
        zs, ps = self.online(views)
        ts = self.targets(views, zs)
        loss, logs = self.compare(ps, ts, views)
        return Step(loss, {**logs, **self.signals(zs, ts)})

    def signals(self, zs: Sequence[Tensor], ts: Mapping[int, Tensor]) -> dict[str, Tensor]:
        """`collapse_signals` of the projections; where a single view is projected, its target is the other."""
        return collapse_signals(zs if len(zs) > 1 else [*zs, *ts.values()])


def each_view(module: nn.Module, xs: Sequence[Tensor]) -> list[Tensor]:
    """One pass a view: a list of `[B, …]`."""
    return [module(x) for x in xs]


def one_pass(module: nn.Module, xs: Sequence[Tensor]) -> list[Tensor]:
    """One pass for all views of the same size (one for global crops, one for local ones): a list of `[B, …]`."""
    groups: dict[tuple[int, ...], list[int]] = {}
    for place, x in enumerate(xs):
        groups.setdefault(tuple(x.shape), []).append(place)
    outputs: dict[int, Tensor] = {}
    for places in groups.values():
        joined = module(torch.cat([xs[place] for place in places]))
        outputs.update(zip(places, joined.chunk(len(places)), strict=True))
    return [outputs[place] for place in range(len(xs))]


def target_views(views: Views) -> list[int]:
    """Places of the views that are targets: those of the pairs that the view generator asks for.

    Where it asks for none: all but local crops, which see too little to be predicted from.

    Raises:
        ValueError: when every view is a local crop.
    """
    places = sorted({target for _, target in views.pairs})
    places = places or [place for place, tag in enumerate(views.tags) if tag != "local"]
    if not places:
        raise ValueError(
            "all views are local crops, and at least one must be global; add global crops to views:"
        )
    return places


def pairs(views: Views) -> list[tuple[int, int]]:
    """The (prediction, target) pairs that are compared.

    Those that the view generator asks for; else every global target with every other view.
    """
    if views.pairs:
        return list(views.pairs)
    return [(p, t) for t in target_views(views) for p in range(len(views.x)) if p != t]


def over_pairs(
    distance: Callable[[Tensor, Tensor], Tensor],
    ps: Sequence[Tensor],
    ts: Mapping[int, Tensor],
    views: Views,
    reduction: Reduction,
) -> Tensor:
    """A loss of all pairs of views: the one place where pairs are compared, weighed and reduced.

    Args:
        distance: of predictions and targets, `[B, D]` each; a scalar.
        ps: predictions, by place; later views than these predict nothing.
        ts: targets, by place.
        views: say which pairs are compared, and how much each weighs.
        reduction: `"sum"` grows with the number of pairs; `"mean"` is over their weights, and does
            not.
    """
    chosen = [(row, p, t) for row, (p, t) in enumerate(pairs(views)) if p < len(ps) and t in ts]
    terms = torch.stack([distance(ps[p], ts[t]) for _, p, t in chosen])
    if views.weights is None:
        return terms.sum() if reduction == "sum" else terms.mean()
    weights = torch.stack([views.weights[row] for row, _, _ in chosen])
    total = (terms * weights).sum()
    return total if reduction == "sum" else total / weights.sum()


def weights_of(views: Views) -> Tensor | None:
    """The weight of each pair, `[V, V]` by prediction and target, 0 for the others; `None` where none are asked for."""
    if not views.pairs:
        return None
    weights = views.x[0].new_zeros(len(views.x), len(views.x), dtype=torch.float32)
    p, t = zip(*views.pairs, strict=True)
    weights[list(p), list(t)] = 1.0 if views.weights is None else views.weights
    return weights


@torch.no_grad()
def collapse_signals(zs: Sequence[Tensor]) -> dict[str, Tensor]:
    """Two scalars that tell whether the projections collapse, of this rank's samples.

    `alignment` is the mean cosine of two views of a sample. `feature_std` is the standard deviation
    over the batch of L2-normalized projections, averaged over dimensions and multiplied by √D
    (SimSiam, figure 2, where it is not multiplied): about 1 when they spread over the whole sphere,
    0 when all are one point. An alignment near 1 together with a `feature_std` near 0 is a
    collapse.

    Args:
        zs: projections of each view, `[B, D]`.
    """
    units = torch.nn.functional.normalize(torch.stack([z.float() for z in zs]), dim=2)  # [V, B, D]
    count, _, dim = units.shape
    total = units.sum(dim=0).square().sum(dim=1)  # |Σ_v u_v|² = V + Σ_{v≠w} cos
    alignment = ((total - count) / (count * (count - 1))).mean()
    spread = units.std(dim=1, correction=0).mean() * dim**0.5
    return {"alignment": alignment, "feature_std": spread}
