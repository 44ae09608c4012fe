"""What siamese methods share: forward passes over views, targets, losses over pairs, collapse.

BatchNorm takes its statistics from one forward pass. With `each_view` every view has its own
statistics, as in SimSiam, BYOL and MoCo v3; with `one_pass` all views of one size share them, as in
SimCLR and LeJEPA. Without BatchNorm the two agree.
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
    """A method that compares predictions of some views with targets of others.

    The three parts are separate so that a wrapper (SSQL) can run the trained branch twice and
    compare both results with the same targets.

    Attributes:
        own_targets: whether the targets are projections of the trained branch, instead of a
            momentum copy.
        projector: head on the encoder.
        at_low_bits: whether SSQL wraps the method.
    """

    own_targets: ClassVar[bool] = False
    projector: nn.Module
    at_low_bits: bool = False

    def branches(self) -> Mapping[BranchName, Branch]:
        return {"online": Branch(self.encoder, self.projector)}

    @abstractmethod
    def online(self, views: Views) -> tuple[list[Tensor], list[Tensor]]:
        """Run the trained branch: projections and predictions of each view, `[B, D]`.

        Without a predictor, both are the same.
        """

    @abstractmethod
    def targets(self, views: Views, zs: Sequence[Tensor]) -> dict[int, Tensor]:
        """Compute the targets, by the index of their view.

        Args:
            views: all views of the batch.
            zs: projections of the trained branch.
        """

    @abstractmethod
    def compare(
        self, ps: Sequence[Tensor], ts: Mapping[int, Tensor], views: Views
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Compute the loss of predictions and targets, and scalars to log."""

    def on_grid(
        self, pqs: Sequence[Tensor], ts: Mapping[int, Tensor], ps: Sequence[Tensor], bits: Tensor
    ) -> tuple[list[Tensor], dict[int, Tensor]]:
        """Prepare what SSQL compares at low bits; unchanged by default.

        Args:
            pqs: predictions at low bits.
            ts: targets, by index.
            ps: predictions in fp32.
            bits: bits of the activations in this step, a 0-d tensor.
        """
        return list(pqs), dict(ts)

    def forward(self, views: Views) -> Step:
        self.require_views(views)
        return self.compare_rows(self.rows(views), views)

    def rows(self, views: Views) -> tuple[list[Tensor], list[Tensor], dict[int, Tensor]]:
        """Compute projections, predictions and targets."""
        zs, ps = self.online(views)
        return zs, ps, self.targets(views.for_targets(), zs)

    def compare_rows(
        self, rows: tuple[list[Tensor], list[Tensor], dict[int, Tensor]], views: Views
    ) -> Step:
        zs, ps, ts = rows
        loss, logs = self.compare(ps, ts, views)
        return Step(loss, {**logs, **self.signals(zs, ts)})

    def signals(self, zs: Sequence[Tensor], ts: Mapping[int, Tensor]) -> dict[str, Tensor]:
        """Compute `collapse_signals`; a single projected view is paired with its targets."""
        return collapse_signals(zs if len(zs) > 1 else [*zs, *ts.values()])


def each_view(module: nn.Module, xs: Sequence[Tensor]) -> list[Tensor]:
    """Run one forward pass per view: a list of `[B, …]`."""
    return [module(x) for x in xs]


def one_pass(module: nn.Module, xs: Sequence[Tensor]) -> list[Tensor]:
    """Run one forward pass for all views of the same size: a list of `[B, …]`.

    Global crops share one pass, and local crops another.
    """
    groups: dict[tuple[int, ...], list[int]] = {}
    for index, x in enumerate(xs):
        groups.setdefault(tuple(x.shape), []).append(index)
    outputs: dict[int, Tensor] = {}
    for indices in groups.values():
        joined = module(torch.cat([xs[index] for index in indices]))
        outputs.update(zip(indices, joined.chunk(len(indices)), strict=True))
    return [outputs[index] for index in range(len(xs))]


def target_views(views: Views) -> list[int]:
    """Return the indices of the views that are targets.

    They come from the pairs of the view generator. Without pairs, all views are targets except
    local crops, which show too little of the sample.

    Raises:
        ValueError: if every view is a local crop.
    """
    indices = sorted({target for _, target in views.pairs})
    indices = indices or [index for index, tag in enumerate(views.tags) if tag != "local"]
    if not indices:
        raise ValueError(
            "All views are local crops. At least one must be global. Add global crops to `views`."
        )
    return indices


def pairs(views: Views) -> list[tuple[int, int]]:
    """Return the (prediction, target) pairs that are compared.

    They come from the view generator; without pairs, every global target is compared with every
    other view.
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
    """Compare, weight and reduce all pairs of views to one loss.

    Args:
        distance: function of predictions and targets, `[B, D]` each, that returns a scalar.
        ps: predictions, by index; later views predict nothing.
        ts: targets, by index.
        views: views with their pairs and the weights of pairs.
        reduction: `"sum"` grows with the number of pairs; `"mean"` divides by the sum of weights.
    """
    chosen = [(row, p, t) for row, (p, t) in enumerate(pairs(views)) if p < len(ps) and t in ts]
    terms = torch.stack([distance(ps[p], ts[t]) for _, p, t in chosen])
    if views.weights is None:
        return terms.sum() if reduction == "sum" else terms.mean()
    weights = torch.stack([views.weights[row] for row, _, _ in chosen])
    total = (terms * weights).sum()
    return total if reduction == "sum" else total / weights.sum()


def weights_of(views: Views) -> Tensor | None:
    """Return the weight of each (prediction, target) pair, `[V, V]`; `None` without pairs."""
    if not views.pairs:
        return None
    weights = views.x[0].new_zeros(len(views.x), len(views.x), dtype=torch.float32)
    p, t = zip(*views.pairs, strict=True)
    weights[list(p), list(t)] = 1.0 if views.weights is None else views.weights
    return weights


def require_in_queue(size: int, queue: Tensor) -> None:
    """Refuse a global batch of more samples than a queue `[K, D]` has.

    Raises:
        ValueError: with the keys to change.
    """
    if size > len(queue):
        raise ValueError(
            f"`method.queue_size` must be at least the global batch size of {size}, got "
            f"{len(queue)}. Increase it, or lower `run.batch_size`."
        )


@torch.no_grad()
def enqueue(queue: Tensor, pointer: Tensor, rows: Tensor) -> None:
    """Replace the oldest rows of a queue in place, wrapping around at its end.

    Args:
        queue: `[K, D]`.
        pointer: int64 scalar, the position of the oldest row; it moves on.
        rows: `[N, D]`, those of all processes.
    """
    require_in_queue(len(rows), queue)
    indices = (pointer + torch.arange(len(rows), device=queue.device)) % len(queue)
    queue[indices] = rows.to(queue.dtype)
    pointer.copy_((pointer + len(rows)) % len(queue))


@torch.no_grad()
def collapse_signals(zs: Sequence[Tensor]) -> dict[str, Tensor]:
    """Compute two scalars that show whether the projections of this rank collapse.

    `alignment` is the mean cosine of two views of a sample. `feature_std` is the standard deviation
    over the batch of L2-normalized projections, averaged over dimensions and multiplied by √D
    (SimSiam, figure 2, without that factor): about 1 if they spread over the whole sphere, 0 if all
    are one point. An alignment near 1 together with a `feature_std` near 0 is a collapse.

    Args:
        zs: projections of each view, `[B, D]`.
    """
    units = torch.nn.functional.normalize(torch.stack([z.float() for z in zs]), dim=2)  # [V, B, D]
    count, _, dim = units.shape
    total = units.sum(dim=0).square().sum(dim=1)  # |Σ_v u_v|² = V + Σ_{v≠w} cos
    alignment = ((total - count) / (count * (count - 1))).mean()
    spread = units.std(dim=1, correction=0).mean() * dim**0.5
    return {"alignment": alignment, "feature_std": spread}
