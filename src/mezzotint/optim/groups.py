"""Named parameter groups: which weights decay, and what every group remembers.

Each group has `params` and, in the same order, `param_names`, so that a checkpoint can be matched
by name; `base_lr`, which schedules multiply; and `excluded`, which says whether it holds the norms
and biases that are left out of weight decay and of LARS. Layers may have learning rates of their
own: lower ones below the top when a pretrained encoder is fine-tuned (layer decay: Clark et al.
2020, arXiv 2003.10555), a higher one for the fresh classifier.
"""

import re
from collections.abc import Sequence
from typing import Any, Literal

from torch import Tensor, nn

from mezzotint.recipe.component import Component

Exclude = Literal["none", "norm_and_bias"]
Group = dict[str, Any]
_CONTAINER = re.compile(r"(layer|stage|block)s?_?\d*")


def is_norm_or_bias(name: str, parameter: Tensor) -> bool:
    """Whether a parameter is a bias or the scale of a norm: at most one dimension, or the name `bias`."""
    return parameter.ndim <= 1 or name.rpartition(".")[2] == "bias"


class LayerScales(Component):
    """Learning rates of layers, as factors of the stated one.

    Args:
        decay: of a block of the encoder to the block above it; the stem counts as a block. 1 treats
            all alike, 0.65 to 0.75 is usual for vision transformers.
        head: of everything that is not the encoder.
    """

    def __init__(self, *, decay: float = 1.0, head: float = 1.0) -> None:
        if not 0.0 < decay <= 1.0 or head <= 0.0:
            raise ValueError(
                f"got decay={decay}, head={head}; allowed are a decay in (0, 1] and a head above 0"
            )
        self.decay, self.head = decay, head

    def of(self, names: Sequence[str | None]) -> list[float]:
        """Compute a factor for each parameter: `decay` to the number of blocks from it to the top.

        A block is what a numbered module contains: `layer3.1` of a ResNet, `blocks.7` of a
        transformer, `stages.2.blocks.0` of a ConvNeXt (where a downsampling layer between stages
        counts too), in the encoder's order. The stem before the first block counts as one more
        block; layers after the last block belong to the top.

        Args:
            names: names within the encoder, in its order; `None` outside the encoder.
        """
        order: dict[str, int] = {}
        depths: list[int | None] = []
        for name in names:
            if name is None:
                depths.append(None)
                continue
            block = _block_of(name.split("."))
            if block:
                order.setdefault(block, len(order) + 1)
            depths.append(order[block] if block else len(order))
        top = len(order)
        return [self.head if depth is None else self.decay ** (top - depth) for depth in depths]


def _block_of(parts: Sequence[str]) -> str:
    """The numbered modules that a parameter lies in; empty when it lies in none."""
    place = next((i for i, part in enumerate(parts) if _CONTAINER.fullmatch(part)), len(parts))
    found: list[str] = []
    while (
        place + 1 < len(parts) and _CONTAINER.fullmatch(parts[place]) and parts[place + 1].isdigit()
    ):
        found += parts[place : place + 2]
        place += 2
    return ".".join(found)


def named_groups(
    model: nn.Module,
    *,
    lr: float,
    weight_decay: float,
    exclude: Exclude,
    scales: LayerScales | None = None,
) -> list[Group]:
    """Split the parameters that take gradients into those that decay and those that do not.

    Args:
        model: parameters with `requires_grad` false (momentum copies, frozen layers) are left out.
        lr: base learning rate of all groups.
        weight_decay: of the first group; the excluded one has 0.
        exclude: `"norm_and_bias"` makes a group of them; `"none"` lets everything decay.
        scales: learning rates of layers; each makes groups of its own.

    Returns:
        Groups as `torch.optim` takes them; `params` holds (name, parameter) pairs, of which torch
        makes `params` and `param_names`.

    Raises:
        ValueError: when nothing can be trained.
    """
    trained = [(name, p) for name, p in model.named_parameters() if p.requires_grad]
    if not trained:
        raise ValueError(
            "the model has no parameter that takes gradients; set requires_grad on what is to be trained"
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
