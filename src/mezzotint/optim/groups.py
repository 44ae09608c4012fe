"""Named parameter groups: weight decay and learning rates of parameters.

Each group has `params` and, in the same order, `param_names`, so that checkpoints are matched by
name; `base_lr`, which schedules multiply; and `excluded`, true for the norms and biases without
weight decay and LARS. Learning rates may differ by layer: lower ones below the top when a
pretrained encoder is fine-tuned (layer decay: Clark et al. 2020, arXiv 2003.10555), a higher one
for the new classifier.
"""

import re
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import Any, Literal, overload

import torch
from torch import Tensor, nn

from mezzotint.recipe.component import Component

Exclude = Literal["none", "norm_and_bias"]
Group = dict[str, Any]
_CONTAINER = re.compile(r"(layer|stage|block)s?_?\d*")


class GroupOptimizer(torch.optim.Optimizer, ABC):
    """An optimizer that updates one group after the other."""

    @overload
    def step(self, closure: None = None) -> None: ...

    @overload
    def step(self, closure: Callable[[], float]) -> float: ...

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:
        """Update the parameters that have a gradient."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            params = [p for p in group["params"] if p.grad is not None]
            if params:
                self._update(group, params)
        return loss

    @abstractmethod
    def _update(self, group: Group, params: list[Tensor]) -> None:
        """Update parameters of a group; each has a gradient."""


def is_norm_or_bias(name: str, parameter: Tensor) -> bool:
    """Recognize a bias or the scale of a norm: at most one dimension, or the name `bias`."""
    return parameter.ndim <= 1 or name.rpartition(".")[2] == "bias"


class LayerScales(Component):
    """Scale the learning rates of layers.

    Args:
        decay: factor between a block of the encoder and the block above it. The stem counts as a
            block, and so does the head: the last block has the rate `decay`, the first one
            `decay ** depth`, the stem `decay ** (depth + 1)`. 1 for equal rates; 0.65 to 0.75 is
            usual for vision transformers.
        head: factor of everything that is not the encoder.
    """

    def __init__(self, *, decay: float = 1.0, head: float = 1.0) -> None:
        if not 0.0 < decay <= 1.0 or head <= 0.0:
            raise ValueError(
                "`optimizer.scales.decay` must be in (0, 1] and `head` positive, got "
                f"{decay} and {head}. Try 0.75 and 1.0."
            )
        self.decay, self.head = decay, head

    def of(self, names: Sequence[str | None]) -> list[float]:
        """Compute a factor for each parameter: `decay` to the number of blocks from it to the top.

        A block is what a numbered module contains: `layer3.1` of a ResNet, `blocks.7` of a
        transformer, `stages.2.blocks.0` of a ConvNeXt (where a downsampling layer between stages
        counts too), in the encoder's order. The stem before the first block counts as one more
        block. The top is above the last block: it has the norm after the blocks, and the head. So
        the rates are those of BEiT (Bao et al. 2021, arXiv 2106.08254) and MAE (He et al. 2021,
        arXiv 2111.06377).

        Args:
            names: names within the encoder, in its order; `None` outside the encoder.
        """
        depths, top = depths_of(names)
        factors = [self.head if depth is None else self.decay ** (top - depth) for depth in depths]
        return factors


def depths_of(names: Sequence[str | None]) -> tuple[list[int | None], int]:
    """Number the blocks that parameters of an encoder belong to.

    Args:
        names: names within the encoder, in its order; `None` outside the encoder.

    Returns:
        For each parameter 0 for the stem, 1 for the first block, and so on, `None` outside the
        encoder; and the number of what is above the last block.
    """
    blocks = ["" if name is None else _block_of(name.split(".")) for name in names]
    order = {block: depth for depth, block in enumerate(dict.fromkeys(filter(None, blocks)), 1)}
    last, depth = len(order), 0
    depths: list[int | None] = []
    for name, block in zip(names, blocks, strict=True):
        if name is None:
            depths.append(None)
            continue
        depth = order.get(block, last + 1 if last and depth >= last else depth)
        depths.append(depth)
    return depths, last + 1


def _block_of(parts: Sequence[str]) -> str:
    """Name the numbered modules that contain a parameter; empty if there are none."""
    index = next((i for i, part in enumerate(parts) if _CONTAINER.fullmatch(part)), len(parts))
    names: list[str] = []
    while (
        index + 1 < len(parts) and _CONTAINER.fullmatch(parts[index]) and parts[index + 1].isdigit()
    ):
        names += parts[index : index + 2]
        index += 2
    return ".".join(names)


def named_groups(
    model: nn.Module,
    *,
    lr: float,
    weight_decay: float,
    exclude: Exclude,
    scales: LayerScales | None = None,
) -> list[Group]:
    """Split the trained parameters into groups with and without weight decay.

    Args:
        model: model; parameters without `requires_grad` (momentum copies, frozen layers) are left
            out.
        lr: base learning rate of all groups.
        weight_decay: weight decay of the groups that are not excluded.
        exclude: `"norm_and_bias"` gives norms and biases groups without weight decay.
        scales: factors of the learning rate by layer; each factor has its own groups.

    Returns:
        Groups for `torch.optim`; `params` are (name, parameter) pairs, from which torch makes
        `params` and `param_names`.

    Raises:
        ValueError: if no parameter is trained.
    """
    trained = [(name, p) for name, p in model.named_parameters() if p.requires_grad]
    if not trained:
        raise ValueError(
            "The model has no parameter to train. Set `requires_grad` on the parameters to train."
        )
    left_out = {
        name for name, p in trained if exclude == "norm_and_bias" and is_norm_or_bias(name, p)
    }
    factors = [1.0] * len(trained) if scales is None else scales.of(_within_encoder(model, trained))
    groups = []
    for factor in sorted(set(factors), reverse=True):
        for excluded in (False, True):
            alike = [pair for pair, own in zip(trained, factors, strict=True) if own == factor]
            chosen = [(name, p) for name, p in alike if (name in left_out) is excluded]
            if chosen:
                decay = 0.0 if excluded else weight_decay
                settings = {
                    "lr": lr * factor,
                    "base_lr": lr * factor,
                    "weight_decay": decay,
                    "excluded": excluded,
                }
                groups.append({"params": chosen, **settings})
    return groups


def _within_encoder(
    model: nn.Module, trained: Sequence[tuple[str, nn.Parameter]]
) -> list[str | None]:
    """Name parameters within the model's encoder; `None` for those of other parts."""
    encoder = getattr(model, "encoder", None)
    own = (
        {parameter: name for name, parameter in encoder.named_parameters()}
        if isinstance(encoder, nn.Module)
        else {}
    )
    return [own.get(parameter) for _, parameter in trained]
