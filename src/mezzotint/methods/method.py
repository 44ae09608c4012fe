"""The contract of a method, its branches, and the momentum copy that several of them keep."""

import copy
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, TypeVar

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from mezzotint.augment.views import ViewGenerator
from mezzotint.data.source import Source
from mezzotint.encoders.batch_norm import synchronize_batch_norm
from mezzotint.encoders.encoder import Encoder
from mezzotint.recipe.component import Component
from mezzotint.seeding import Draws
from mezzotint.types import Input, Step, Views

M = TypeVar("M", bound=nn.Module)
BranchName = Literal["online", "target"]


@dataclass(frozen=True)
class Branch:
    """A network of a method that can be evaluated.

    Attributes:
        encoder: backbone of the branch.
        projector: head that follows it in training, `[B, encoder.dim]` → `[B, D]`; `None` for a
            method without one.
    """

    encoder: Encoder
    projector: nn.Module | None = None

    def modules(self) -> set[nn.Module]:
        """Collect the modules of encoder and projector."""
        parts = [self.encoder] if self.projector is None else [self.encoder, self.projector]
        return {module for part in parts for module in part.modules()}


class Method(nn.Module, Component):
    """A way to train an encoder without labels.

    `forward` is the only entry point, so that distributed training, autocast and compilation need
    no special case. The class variables state facts about a method, with its default keywords; the
    training loop checks a recipe by them, and the contract tests check them.

    Attributes:
        encoder: network that is trained, evaluated, quantized and exported.
        needs: parts that an earlier phase must have trained, by name; see `train.plan`.
        given: parts that an earlier phase has trained.
    """

    encoder: Encoder
    cache: object | None = None
    """What it keeps of each sample, so that later epochs need not compute it again."""
    needs: tuple[str, ...] = ()
    given: tuple[str, ...] = ()

    min_views: ClassVar[int] = 2
    """Fewest views of a sample that `forward` takes."""
    max_views: ClassVar[int | None] = 2
    """Most views of a sample that `forward` takes; `None` for any number."""
    min_samples: ClassVar[int] = 1
    """Fewest samples in a batch, over all processes; 2 if the loss has a statistic of the batch or
    takes other samples as negatives."""
    asymmetric_views: ClassVar[bool] = False
    """Whether the loss depends on the order of the views."""
    takes_target_views: ClassVar[bool] = False
    """Whether a momentum copy can encode views of its own (`Views.target_x`)."""
    needs_patches: ClassVar[bool] = False
    """Whether the encoder must be a transformer over patches."""
    needs_labels: ClassVar[bool] = False
    """Whether training samples must have labels."""
    reports_collapse: ClassVar[bool] = True
    """Whether `alignment` and `feature_std` are logged; false for methods that cannot collapse."""
    no_accumulation: ClassVar[str] = ""
    """Why the loss of k micro-batches is not the loss of their union; empty if it is."""
    has_rows: ClassVar[bool] = False
    """Whether the loss is `compare_rows(rows(views), views)`, with `rows` computed for each sample
    on its own, so that `train.gradient_cache` can compute it part by part."""
    unshardable: ClassVar[str] = ""
    """Why the parameters cannot be divided over processes; empty if they can."""
    process_dependence: ClassVar[str] = ""
    """Why several processes train differently from one with the same samples; empty if not."""

    def __init__(self, encoder: Encoder) -> None:
        super().__init__()
        self.encoder = encoder

    def __call__(self, views: Views | Tensor | Sequence[Tensor]) -> Step:
        """Compute the loss of a batch of views, as `forward`.

        Args:
            views: from a view generator; or a tensor per view `[B, …]`, in a tuple or a list, or a
                single tensor, normalized as the encoder takes it, row for row of the same samples.
                For tensors, torch's generator seeds the method's own draws.

        Raises:
            ValueError: for tensors with different numbers of samples.
        """
        step: Step = super().__call__(views if isinstance(views, Views) else views_of(views))
        return step

    def forward(self, views: Views) -> Step:
        """Compute the loss of a batch, and scalars to log."""
        raise TypeError(f"{type(self).__name__} has no forward.")

    def rows(self, views: Views) -> Any:
        """Compute what the loss compares: a nest of tensors with one row per sample, `[B, D]`."""
        raise NotImplementedError(f"{type(self).__name__} has no rows.")

    def compare_rows(self, rows: Any, views: Views) -> Step:
        """Compute the loss of the rows of a whole batch, as `forward`.

        Args:
            rows: as `rows` returns them.
            views: of all rows.
        """
        raise NotImplementedError(f"{type(self).__name__} has no rows.")

    def branches(self) -> Mapping[BranchName, Branch]:
        """Name the networks that can be evaluated.

        `online` is the trained network. A method that keeps a momentum copy adds it as `target`.
        """
        return {"online": Branch(self.encoder)}

    def require_views(self, views: Views) -> None:
        """Refuse views that the method does not take.

        Raises:
            ValueError: for fewer than `min_views` or more than `max_views`, and for views of a
                momentum copy that the method does not keep.
        """
        if views.target_x and not self.takes_target_views:
            raise ValueError(
                "`views.per_branch` needs a method with a momentum copy, which "
                f"{type(self).__name__} does not keep. Leave it out, or choose mocov3, moco, byol "
                "or dino."
            )
        count, most = len(views.x), self.max_views
        if count >= self.min_views and (most is None or count <= most):
            return
        accepted = (
            f"at least {self.min_views} views"
            if most is None
            else f"exactly {most} view{'s' * (most != 1)}"
            if most == self.min_views
            else f"{self.min_views} to {most} views"
        )
        raise ValueError(
            f"{type(self).__name__} takes {accepted}, got {count}. Change `views` in the recipe, "
            "or choose another method."
        )

    def require_generator(self, views: ViewGenerator, input: Input) -> None:
        """Refuse a view generator that the method's settings do not allow; by default none.

        Args:
            views: of the recipe.
            input: of the samples.

        Raises:
            ValueError: with the keys to change.
        """

    def require_source(self, source: Source) -> None:
        """Refuse training samples that the method's own encoders cannot take; by default none.

        Args:
            source: the training samples.

        Raises:
            ValueError: with the keys to change.
        """

    def require_given(self) -> None:
        """Refuse to train before an earlier phase has trained the parts that are needed.

        Raises:
            ValueError: if a part of `needs` was not loaded.
        """
        missing = [part for part in self.needs if part not in self.given]
        if missing:
            raise ValueError(
                f"{self.config['kind']} needs a trained {missing[0]}. It must come from an earlier "
                "phase. Write both phases under `phases`, and load the part in the second: "
                f"`load: {{{missing[0]}: {missing[0]}}}`."
            )

    def require_batch(self, size: int) -> None:
        """Refuse a batch size that the method cannot learn from.

        Args:
            size: samples in a batch, over all processes.

        Raises:
            ValueError: for fewer than `min_samples`.
        """
        if size < self.min_samples:
            raise ValueError(
                f"`run.batch_size` must be at least {self.min_samples} for {self.config['kind']}, "
                f"got {size}. Try 256."
            )

    def before_step(self) -> None:
        """Forget what an abandoned step may have left; called before a step's first micro-batch."""

    def after_step(self, progress: float) -> None:
        """Update momentum copies, centers or queues; called after each optimizer step.

        Args:
            progress: fraction of training that is done, in (0, 1].
        """


def views_of(tensors: Tensor | Sequence[Tensor]) -> Views:
    """Wrap tensors as the views of a batch, for a training loop without a view generator.

    Args:
        tensors: one tensor `[B, …]` per view, or a single one.

    Raises:
        ValueError: for tensors of different numbers of samples.
        TypeError: for anything else.
    """
    x = (tensors,) if isinstance(tensors, Tensor) else tuple(tensors)
    if not x or not all(isinstance(view, Tensor) for view in x):
        raise TypeError(
            f"A method takes views or tensors, got {[type(view).__name__ for view in x]}. Pass a "
            "tuple with one tensor per view."
        )
    counts = {len(view) for view in x}
    if len(counts) > 1:
        raise ValueError(
            f"Views must have the same samples, got {[len(view) for view in x]} samples. Pass one "
            "tensor per view, row for row of the same samples."
        )
    ids = torch.arange(len(x[0]), device=x[0].device)
    draws = Draws(ids, int(torch.randint(2**62, ())))
    zero = torch.zeros((), device=x[0].device)
    return Views(x, ("global",) * len(x), draws, epoch=zero, progress=zero)


def momentum_copy(module: M) -> M:
    """Copy a network that `momentum_update` will move and gradients will not.

    The copy's BatchNorms use the statistics of its own batches.
    """
    twin = copy.deepcopy(module)
    return twin.requires_grad_(False)


@torch.no_grad()
def momentum_update(target: nn.Module, online: nn.Module, momentum: float) -> None:
    """Average parameters exponentially: `target ← momentum · target + (1 − momentum) · online`.

    Buffers stay: BatchNorm statistics come from the target's own forward passes (MoCo v3, BYOL).
    """
    torch._foreach_lerp_(
        list(target.parameters()), [p.detach() for p in online.parameters()], 1.0 - momentum
    )


def cosine_momentum(base: float, progress: float) -> float:
    """Compute the momentum that rises from `base` to 1 along half a cosine over training."""
    return 1.0 - (1.0 - base) * (1.0 + math.cos(math.pi * progress)) / 2.0


def synchronize_norms(method: Method, branch: bool | BranchName) -> None:
    """Pool BatchNorm statistics over all processes.

    Args:
        method: method that is changed in place.
        branch: true for all BatchNorms, false for none, or the branch whose BatchNorms are pooled;
            everything outside the momentum copy counts as `online`.

    Raises:
        ValueError: for one branch of a method without a momentum copy.
    """
    if branch is True:
        synchronize_batch_norm(method)
    if isinstance(branch, bool):
        return
    target = method.branches().get("target")
    if target is None:
        raise ValueError(
            f"`run.compute.sync_batch_norm` must be true or false for {method.config['kind']}, "
            "which "
            f"keeps no momentum copy, got {branch}. Set one of them."
        )
    copied = target.modules()
    for parent in list(method.modules()):
        for name, child in parent.named_children():
            if isinstance(child, _BatchNorm) and (child in copied) == (branch == "target"):
                setattr(parent, name, synchronize_batch_norm(child))
