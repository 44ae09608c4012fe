"""LoRA: train low-rank updates of frozen weights (Hu et al. 2021, arXiv 2106.09685).

A layer computes with `W + alpha / rank · B A`. A starts random and B at zero, so that the first
step sees the network as it was loaded. `merge_lora` adds the updates to the weights, after which
the network has its own names again and costs what it did before. A convolution's kernel is taken as
a matrix of output channels and everything else.
"""

import copy
import math
from collections.abc import Sequence
from fnmatch import fnmatch
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from mezzotint.encoders.encoder import Encoder
from mezzotint.recipe.component import Component
from mezzotint.seeding import key_of

_LAYERS = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)


class LoRA(Component, kind="lora"):
    """Train low-rank updates of an encoder's layers instead of their weights.

    Args:
        rank: rank of each update.
        targets: names of linear and convolution layers, with `*` for any text, such as
            `blocks.*.attn.qkv`.
        alpha: an update is multiplied by `alpha / rank`; `None` for the rank itself.
        norms: train norms and biases too.
    """

    def __init__(
        self,
        *,
        rank: int = 8,
        targets: Sequence[str] = ("*",),
        alpha: float | None = None,
        norms: bool = True,
    ) -> None:
        if rank < 1:
            raise ValueError(f"`lora.rank` must be at least 1, got {rank}. Try 8.")
        if not targets:
            raise ValueError("`lora.targets` must name layers, got none. Leave it out for all.")
        if alpha is not None and not (alpha > 0.0 and math.isfinite(alpha)):
            raise ValueError(f"`lora.alpha` must be positive and finite, got {alpha}. Try 8.")
        self.rank, self.targets, self.norms = rank, tuple(targets), norms
        self.alpha = float(rank if alpha is None else alpha)

    def add(self, encoder: nn.Module) -> list[str]:
        """Freeze an encoder's weights and add updates to its layers, in place.

        Args:
            encoder: network whose layers are not quantizable.

        Returns:
            Names of the layers.

        Raises:
            ValueError: when no layer has such a name, a layer is smaller than the rank, or the
                network is quantizable.
        """
        layers = {name: m for name, m in encoder.named_modules() if isinstance(m, _LAYERS)}
        chosen = {
            name: layer
            for name, layer in layers.items()
            if any(fnmatch(name, pattern) for pattern in self.targets)
        }
        for pattern in self.targets:
            if not any(fnmatch(name, pattern) for name in layers):
                some = ", ".join(list(layers)[:4])
                raise ValueError(
                    f"`lora.targets` must name layers of the encoder ({some}, …), and none is "
                    f"called {pattern!r}. Use * for any text, as in blocks.*.attn.qkv."
                )
        for name, layer in chosen.items():
            most = min(layer.weight.shape[0], layer.weight[0].numel())
            if self.rank > most:
                raise ValueError(
                    f"`lora.rank` must be at most {most} for the layer {name} of shape "
                    f"{list(layer.weight.shape)}, got {self.rank}. Lower it, or leave the layer "
                    "out of lora.targets."
                )
            if isinstance(getattr(type(layer), "weight", None), property):
                raise ValueError(
                    "LoRA cannot train a network at low bits, because its updates are not "
                    "quantized. Leave `init.lora` out, or choose the method that ssql wraps."
                )
        encoder.requires_grad_(False)
        for name, parameter in encoder.named_parameters():
            last = name.rpartition(".")[2]
            parameter.requires_grad_(self.norms and (parameter.ndim == 1 or last == "bias"))
        for name, layer in chosen.items():
            update = _Update(layer.weight, self.rank, self.alpha / self.rank, name)
            parametrize.register_parametrization(layer, "weight", update)
        return list(chosen)


class _Update(nn.Module):
    """`W [O, …]` → `W + scale · B A`."""

    def __init__(self, weight: Tensor, rank: int, scale: float, name: str) -> None:
        super().__init__()
        self.scale = scale
        rows, columns = weight.shape[0], weight[0].numel()
        generator = torch.Generator().manual_seed(key_of("lora", name))
        bound = 1.0 / math.sqrt(columns)  # Kaiming's with a = √5, as in the authors' code
        down = torch.rand(rank, columns, generator=generator) * (2.0 * bound) - bound
        self.down = nn.Parameter(down.to(weight))
        self.up = nn.Parameter(weight.new_zeros(rows, rank))

    def forward(self, weight: Tensor) -> Tensor:
        return weight + self.scale * (self.up @ self.down).view_as(weight)


def has_lora(encoder: nn.Module) -> bool:
    """Whether an encoder has updates that are not merged."""
    return any(isinstance(module, _Update) for module in encoder.modules())


def merge_lora(encoder: Encoder) -> Encoder:
    """Return a copy of an encoder with its updates added to the weights.

    Args:
        encoder: any; one without updates is returned as it is.
    """
    if not has_lora(encoder):
        return encoder
    merged = copy.deepcopy(encoder)
    modules: list[Any] = list(merged.modules())
    for module in modules:
        if parametrize.is_parametrized(module, "weight"):
            weight = nn.Parameter(module.weight.detach().clone())
            del module.parametrizations
            # torch's `remove_parametrizations` would take the weight from the original too, because
            # copies share the class.
            module.__class__ = type(module).__bases__[0]
            module._parameters = {"weight": weight, **module._parameters}
    return merged.requires_grad_(True)
