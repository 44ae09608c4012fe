"""The contract of a method, and the momentum copy that several of them keep."""

import copy
import math
from typing import ClassVar, Literal, TypeVar

import torch
from torch import nn

from mezzotint.encoders.batch_norm import synchronize_batch_norm
from mezzotint.encoders.encoder import Encoder
from mezzotint.recipe.component import Component
from mezzotint.types import Step, Views

M = TypeVar("M", bound=nn.Module)

COPIES = ("target", "key", "momentum", "teacher")
"""How the parts of momentum copies are called: `target_encoder`, `key_projector` and so on."""


class Method(nn.Module, Component):
    """A way to train an encoder without labels.

    `forward` is the only entrance, so that distributed training, autocast and compilation need no
    special case.

    Attributes:
        encoder: what is evaluated, quantized and exported.
        no_accumulation: why the loss of k micro-batches is not the loss of their union; empty when
            it is.
        num_views: how many views `forward` takes; 0 for any number from two.
        needs: parts that an earlier phase must have trained, by name; see `train.plan`.
        given: parts that one has.
    """

    encoder: Encoder
    no_accumulation: ClassVar[str] = ""
    num_views: ClassVar[int] = 2
    needs: tuple[str, ...] = ()
    given: tuple[str, ...] = ()

    def __init__(self, encoder: Encoder) -> None:
        super().__init__()
        self.encoder = encoder

    def forward(self, views: Views) -> Step:
        """The loss on these views."""
        raise TypeError(f"{type(self).__name__} has no forward")

    def require_given(self) -> None:
        """Raise `ValueError` when a part that an earlier phase must have trained is not given."""
        missing = [part for part in self.needs if part not in self.given]
        if missing:
            raise ValueError(
                f"got a phase of {self.config['kind']} without its predecessor, which trains its {missing[0]}; allowed "
                "is a phase after that one: write both under phases:, and say what the second is to load, such as "
                f"load: {{{missing[0]}: {missing[0]}}}"
            )

    def require_batch(self, size: int) -> None:
        """Raise `ValueError` when the method cannot learn from batches of `size` samples, over all processes."""

    def before_step(self) -> None:
        """Called before a step's first micro-batch: forget what an abandoned step may have left."""

    def after_step(self, progress: float) -> None:
        """Called after each optimizer step, with the share of training done (in (0, 1]): momentum, centering."""


def momentum_copy(module: M) -> M:
    """A copy that is updated by `momentum_update` and never by gradients; its BatchNorms see its own batches."""
    twin = copy.deepcopy(module)
    return twin.requires_grad_(False)


@torch.no_grad()
def momentum_update(target: nn.Module, online: nn.Module, momentum: float) -> None:
    """Exponential moving average of the parameters: `target ← momentum · target + (1 − momentum) · online`.

    Parameters only: BatchNorm statistics come from the target's own passes (MoCo v3, BYOL).
    """
    torch._foreach_lerp_(
        list(target.parameters()), [p.detach() for p in online.parameters()], 1.0 - momentum
    )


def cosine_momentum(base: float, progress: float) -> float:
    """The momentum that rises from `base` to 1 along half a cosine over training."""
    return 1.0 - (1.0 - base) * (1.0 + math.cos(math.pi * progress)) / 2.0


def synchronize_norms(method: Method, of: bool | Literal["online", "target"]) -> None:
    """Let BatchNorms see the batches of all processes.

    Args:
        method: changed in place.
        of: all of them, none, or those of one branch: what is trained, or its momentum copy.

    Raises:
        ValueError: for one branch of a method that keeps no momentum copy.
    """
    own: nn.Module = getattr(method, "base", method)
    parts = dict(own.named_children())
    copies = [name for name in parts if name.startswith(COPIES)]
    if of is True:
        synchronize_batch_norm(method)
    elif of and not copies:
        raise ValueError(
            f"got run.compute.sync_batch_norm={of}, and {type(own).__name__} keeps no momentum copy; allowed are true "
            "and false: set one of them"
        )
    elif of:
        for name, part in parts.items():
            if (name in copies) == (of == "target"):
                setattr(own, name, synchronize_batch_norm(part))
