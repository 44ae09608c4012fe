"""LARS (You, Gitman and Ginsburg 2017, arXiv 1708.03888): SGD with steps scaled to weight norms.

Two forms exist, and differ when the learning rate changes. In MoCo v3's, momentum accumulates
scaled gradients and the learning rate is applied last, as torch's SGD does; the trust ratio is η
|w| / |g + λ w|. In the paper's own (algorithm 1, and revisitAIRL's), the learning rate goes into
the momentum buffer; the ratio is η |w| / (|g| + λ |w|). Groups that are `excluded` (norms and
biases) are plain momentum SGD in either form; unlike in revisitAIRL's code, a weight decay of 0
does not turn the trust ratio off.

LARC (apex's variant, which SSQL's linear evaluation uses) has the paper's ratio, applies the
learning rate last, and can clip the ratio so that no tensor moves faster than by SGD.
"""

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor

from mezzotint.optim.groups import Group, GroupOptimizer

Tensors = list[Tensor] | tuple[Tensor, ...]
_EPS = 1e-8


class LARSOptimizer(GroupOptimizer):
    """Scale each tensor's step to its norm (layer-wise adaptive rate scaling).

    Args:
        params: groups as `torch.optim` takes them; one with `excluded=True` gets no trust ratio.
        lr: learning rate.
        momentum: momentum of the buffer.
        weight_decay: weight decay λ.
        trust: trust coefficient η.
        lr_in_buffer: multiply the learning rate into the momentum buffer, as in the paper.
    """

    def __init__(
        self,
        params: Iterable[Any],
        *,
        lr: float,
        momentum: float = 0.9,
        weight_decay: float = 0.0,
        trust: float = 1e-3,
        lr_in_buffer: bool = False,
    ) -> None:
        settings = {
            "momentum": momentum,
            "weight_decay": weight_decay,
            "trust": trust,
            "lr_in_buffer": lr_in_buffer,
        }
        super().__init__(params, {"lr": lr, "excluded": False, **settings})

    def _update(self, group: Group, params: list[Tensor]) -> None:
        updates: Tensors = [p.grad for p in params if p.grad is not None]
        ratios = None if group["excluded"] else _trust_ratios(group, params, updates)
        if group["weight_decay"] != 0.0:
            updates = torch._foreach_add(updates, params, alpha=group["weight_decay"])
        if ratios is not None:
            updates = torch._foreach_mul(updates, ratios)
        for p in params:
            if "momentum_buffer" not in self.state[p]:
                self.state[p]["momentum_buffer"] = torch.zeros_like(p)
        buffers = [self.state[p]["momentum_buffer"] for p in params]
        inside, outside = (group["lr"], 1.0) if group["lr_in_buffer"] else (1.0, group["lr"])
        torch._foreach_mul_(buffers, group["momentum"])
        torch._foreach_add_(buffers, updates, alpha=inside)
        torch._foreach_add_(params, buffers, alpha=-outside)


def _trust_ratios(group: Group, params: list[Tensor], grads: Tensors) -> list[Tensor]:
    """Compute one ratio per tensor; 1 if the norm of the weight or of the gradient is 0."""
    decay = group["weight_decay"]
    weight_norm = torch.stack(torch._foreach_norm(params))
    if group["lr_in_buffer"]:
        base = torch.stack(torch._foreach_norm(grads))
        scale = base + decay * weight_norm
    else:
        base = scale = torch.stack(
            torch._foreach_norm(torch._foreach_add(grads, params, alpha=decay))
        )
    defined = (weight_norm > 0.0) & (base > 0.0)
    return list(torch.where(defined, group["trust"] * weight_norm / scale, 1.0).unbind())


class LARCOptimizer(GroupOptimizer):
    """Scale or clip each tensor's step by its norm (layer-wise adaptive rate control).

    The gradient becomes `r (g + λ w)` with r = η |w| / (|g| + λ |w|), or min(r / lr, 1) with
    `clip`; then momentum SGD. Where a norm is 0, it stays as it is, without weight decay.

    Args:
        params: groups as `torch.optim` takes them; one with `excluded=True` is momentum SGD.
        lr: learning rate.
        momentum: momentum of the buffer.
        weight_decay: weight decay λ.
        trust: trust coefficient η.
        clip: clip the step to that of SGD instead of scaling it.
    """

    def __init__(
        self,
        params: Iterable[Any],
        *,
        lr: float,
        momentum: float = 0.9,
        weight_decay: float = 0.0,
        trust: float = 0.02,
        clip: bool = True,
    ) -> None:
        settings = {"momentum": momentum, "weight_decay": weight_decay}
        own = {"trust": trust, "clip": clip, "excluded": False}
        super().__init__(params, {"lr": lr, **settings, **own})

    def _update(self, group: Group, params: list[Tensor]) -> None:
        for p in params:
            assert p.grad is not None
            self._update_one(group, p, p.grad)

    def _update_one(self, group: Group, p: Tensor, gradient: Tensor) -> None:
        update = gradient.add(p, alpha=group["weight_decay"])
        if not group["excluded"]:
            weight_norm, gradient_norm = p.norm(), gradient.norm()
            ratio = group["trust"] * weight_norm
            ratio /= gradient_norm + group["weight_decay"] * weight_norm + _EPS
            if group["clip"]:
                ratio = (ratio / group["lr"]).clamp_max(1.0)
            defined = (weight_norm > 0.0) & (gradient_norm > 0.0)
            update = torch.where(defined, update * ratio, gradient)
        if "momentum_buffer" not in self.state[p]:
            self.state[p]["momentum_buffer"] = torch.zeros_like(p)
        buffer = self.state[p]["momentum_buffer"].mul_(group["momentum"]).add_(update)
        p.sub_(buffer * group["lr"])
