"""Optimizers of recipes: settings that build a `torch.optim.Optimizer` for a model.

Every parameter group has `param_names` and `base_lr` (see `groups`); schedules multiply `base_lr`.
The learning rate may be given per 256 samples, as in many papers (`lr_scaling="batch/256"`, linear
scaling of Goyal et al. 2017, arXiv 1706.02677).
"""

import math
from abc import ABC, abstractmethod
from typing import Literal

import torch
from torch import Tensor, nn

from mezzotint.optim.groups import Exclude, Group, LayerScales, named_groups
from mezzotint.optim.lars import LARCOptimizer, LARSOptimizer
from mezzotint.optim.mup import rules
from mezzotint.optim.mup.rules import Factors
from mezzotint.optim.mup.shapes import Growth
from mezzotint.recipe.component import Component

Scaling = Literal["none", "batch/256"]


class Optimizer(Component, ABC, abstract=True):
    """Settings of an optimizer.

    Attributes:
        lr: learning rate of the recipe.
        weight_decay: weight decay of the parameters that are not excluded.
        final_weight_decay: weight decay at the end of the run, reached along half a cosine; `None`
            for a constant one.
        exclude: parameters without weight decay.
        lr_scaling: whether `lr` is per 256 samples.
        scales: factors of the learning rate by layer.
    """

    final_weight_decay: float | None = None

    def __init__(
        self,
        lr: float,
        weight_decay: float,
        exclude: Exclude,
        lr_scaling: Scaling,
        scales: LayerScales | None,
    ) -> None:
        if lr <= 0.0:
            raise ValueError(
                f"`optimizer.lr` must be positive, got {lr}. Try 0.05, or see the method's recipe."
            )
        if weight_decay < 0.0:
            raise ValueError(
                f"`optimizer.weight_decay` must be at least 0, got {weight_decay}. 0 turns it off."
            )
        self.lr, self.weight_decay, self.exclude, self.lr_scaling = (
            lr,
            weight_decay,
            exclude,
            lr_scaling,
        )
        self.scales = scales

    def base_lr(self, batch_size: int) -> float:
        """Compute the learning rate that schedules multiply.

        Args:
            batch_size: samples per step, over all ranks and micro-batches.
        """
        return self.lr * batch_size / 256 if self.lr_scaling == "batch/256" else self.lr

    def groups(self, model: nn.Module, batch_size: int) -> list[Group]:
        """Build the parameter groups, scaled for a model in muP; see `named_groups`."""
        lr = self.base_lr(batch_size)
        groups = named_groups(
            model, lr=lr, weight_decay=self.weight_decay, exclude=self.exclude, scales=self.scales
        )
        return rules.scale_named_groups(model, self.split(model, groups), self.mup_factors)

    def split(self, model: nn.Module, groups: list[Group]) -> list[Group]:
        """Split groups further, or add settings, before they are scaled by muP."""
        return groups

    def mup_factors(self, growth: Growth, group: Group) -> Factors:
        """Say how rate, decay and eps of a parameter scale with the width in muP."""
        raise ValueError(
            f"The model is in muP, and {type(self).__name__} has no rule for it. Use sgd, adamw, "
            "lars or muon, or define `mup_factors`."
        )

    def set_rates(
        self, optimizer: torch.optim.Optimizer, factor: float, progress: float
    ) -> dict[str, float]:
        """Set the learning rate of a step and, if it changes, the weight decay.

        Args:
            optimizer: optimizer that `build` returned.
            factor: factor of the learning rate.
            progress: fraction of the run's steps that are done, in [0, 1).

        Returns:
            Values to log: `lr` of the first group and, if it changes, `weight_decay`.
        """
        for group in optimizer.param_groups:
            group["lr"] = group["base_lr"] * factor
        first = optimizer.param_groups[0]
        rates = {"lr": first["lr"] / first.get("lr_factor", 1.0)}
        if self.final_weight_decay is None:
            return rates
        fall = (1.0 + math.cos(math.pi * progress)) / 2.0
        decay = self.final_weight_decay + (self.weight_decay - self.final_weight_decay) * fall
        for group in optimizer.param_groups:
            factor = group.get("weight_decay_factor", 1.0)  # lr · decay is free of the width in muP
            group["weight_decay"] = 0.0 if group["excluded"] else decay * factor
        return {**rates, "weight_decay": decay}

    @abstractmethod
    def build(self, model: nn.Module, batch_size: int) -> torch.optim.Optimizer:
        """Build the optimizer of a model.

        Args:
            model: model whose parameters with `requires_grad` are trained.
            batch_size: samples per step, over all ranks and micro-batches.
        """


class SGD(Optimizer):
    """Stochastic gradient descent with momentum; weight decay is added to the gradient.

    Args:
        lr: learning rate.
        momentum: momentum of the buffer.
        weight_decay: L2 penalty.
        nesterov: use Nesterov momentum.
        exclude: parameters without weight decay.
        lr_scaling: `"batch/256"` multiplies the learning rate by the batch size over 256.
        scales: factors of the learning rate by layer, for fine-tuning; `None` for none.
    """

    def __init__(
        self,
        *,
        lr: float,
        momentum: float = 0.9,
        weight_decay: float = 0.0,
        nesterov: bool = False,
        exclude: Exclude = "none",
        lr_scaling: Scaling = "none",
        scales: LayerScales | None = None,
    ) -> None:
        super().__init__(lr, weight_decay, exclude, lr_scaling, scales)
        _check_momentum(momentum)
        if nesterov and momentum == 0.0:
            raise ValueError(
                "`optimizer.nesterov` needs a positive momentum, got 0. Set momentum: 0.9, or "
                "nesterov: false."
            )
        self.momentum, self.nesterov = momentum, nesterov

    def mup_factors(self, growth: Growth, group: Group) -> Factors:
        return rules.sgd(growth, group)

    def build(self, model: nn.Module, batch_size: int) -> torch.optim.Optimizer:
        groups = self.groups(model, batch_size)
        return torch.optim.SGD(groups, momentum=self.momentum, nesterov=self.nesterov)


class AdamW(Optimizer):
    """Adam with decoupled weight decay (Loshchilov and Hutter 2017, arXiv 1711.05101).

    Args:
        lr: learning rate.
        betas: decay rates of the first and second moments.
        eps: term added to the root of the second moment.
        weight_decay: decoupled weight decay, multiplied by the learning rate.
        final_weight_decay: weight decay at the end of the run, reached along half a cosine, as in
            DINO; `None` for a constant one.
        exclude: parameters without weight decay.
        lr_scaling: `"batch/256"` multiplies the learning rate by the batch size over 256.
        scales: factors of the learning rate by layer, for fine-tuning; `None` for none.
    """

    def __init__(
        self,
        *,
        lr: float,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.01,
        final_weight_decay: float | None = None,
        exclude: Exclude = "none",
        lr_scaling: Scaling = "none",
        scales: LayerScales | None = None,
    ) -> None:
        super().__init__(lr, weight_decay, exclude, lr_scaling, scales)
        if not all(0.0 <= beta < 1.0 for beta in betas):
            raise ValueError(
                f"`optimizer.betas` must be in [0, 1), got {list(betas)}. Try [0.9, 0.999]."
            )
        if eps < 0.0:
            raise ValueError(f"`optimizer.eps` must be 0 or more, got {eps}. Try 1e-8.")
        if final_weight_decay is not None and final_weight_decay < 0.0:
            raise ValueError(
                f"`optimizer.final_weight_decay` must be at least 0, got {final_weight_decay}. "
                "Leave it out to keep weight_decay."
            )
        self.betas, self.eps, self.final_weight_decay = (
            (betas[0], betas[1]),
            eps,
            final_weight_decay,
        )

    def mup_factors(self, growth: Growth, group: Group) -> Factors:
        return rules.adam(growth, group)

    def split(self, model: nn.Module, groups: list[Group]) -> list[Group]:
        """Give each group its `eps`, which muP scales."""
        return [{**group, "eps": self.eps} for group in groups]

    def build(self, model: nn.Module, batch_size: int) -> torch.optim.Optimizer:
        groups = self.groups(model, batch_size)
        fused = all(_is_dense_on_cpu(p) for group in groups for _, p in group["params"])
        return OnePassAdamW(groups, betas=self.betas, eps=self.eps, fused=fused or None)


class OnePassAdamW(torch.optim.AdamW):
    """torch's AdamW with `fused`, which reads and writes memory once in a step, made safe.

    On the CPU it takes a quarter of the time, because it makes no temporary tensors. But its kernel
    takes numbers in the order of memory, whatever the strides, and does not mark parameters as
    changed. So gradients get the memory format of their parameters first, and versions are counted.
    """

    def _init_group(
        self, group: Group, params: list[Tensor], grads: list[Tensor], *rest: list[Tensor]
    ) -> bool:
        has_complex: bool = super()._init_group(  # type: ignore[no-untyped-call]
            group, params, grads, *rest
        )
        if group["fused"]:
            for index, (p, grad) in enumerate(zip(params, grads, strict=True)):
                if grad.stride() != p.stride():
                    grads[index] = torch.empty_like(p).copy_(grad)
            torch.autograd.graph.increment_version(params)
        return has_complex


def _is_dense_on_cpu(p: Tensor) -> bool:
    """Whether every number in a parameter's part of memory belongs to it, and is a float."""
    dense = torch.empty_like(p).stride() == p.stride()
    return p.device.type == "cpu" and p.is_floating_point() and dense


class LARS(Optimizer):
    """SGD whose step is scaled to each tensor's own norm; see `mezzotint.optim.lars`.

    Args:
        lr: learning rate.
        momentum: momentum of the buffer.
        weight_decay: weight decay of the parameters that are not excluded.
        trust: trust coefficient η.
        exclude: parameters without weight decay and trust ratio.
        lr_in_buffer: multiply the learning rate into the momentum buffer, as in the paper;
            otherwise apply it last, as in MoCo v3.
        lr_scaling: `"batch/256"` multiplies the learning rate by the batch size over 256.
        scales: factors of the learning rate by layer, for fine-tuning; `None` for none.
    """

    def __init__(
        self,
        *,
        lr: float,
        momentum: float = 0.9,
        weight_decay: float = 1e-6,
        trust: float = 1e-3,
        exclude: Exclude = "norm_and_bias",
        lr_in_buffer: bool = False,
        lr_scaling: Scaling = "none",
        scales: LayerScales | None = None,
    ) -> None:
        super().__init__(lr, weight_decay, exclude, lr_scaling, scales)
        _check_momentum(momentum)
        _check_trust(trust)
        self.momentum, self.trust, self.lr_in_buffer = momentum, trust, lr_in_buffer

    def mup_factors(self, growth: Growth, group: Group) -> Factors:
        return rules.lars(growth, group)

    def build(self, model: nn.Module, batch_size: int) -> torch.optim.Optimizer:
        groups = self.groups(model, batch_size)
        return LARSOptimizer(
            groups,
            lr=self.lr,
            momentum=self.momentum,
            trust=self.trust,
            lr_in_buffer=self.lr_in_buffer,
        )


class LARC(Optimizer):
    """SGD whose step each tensor's norm scales or clips, as apex's; see `mezzotint.optim.lars`.

    Args:
        lr: learning rate.
        momentum: momentum of the buffer.
        weight_decay: weight decay of the parameters that are not excluded.
        trust: trust coefficient η.
        clip: clip the step to that of SGD; SSQL's linear evaluation scales it instead, with a trust
            of 0.001.
        exclude: parameters without weight decay and trust ratio.
        lr_scaling: `"batch/256"` multiplies the learning rate by the batch size over 256.
        scales: factors of the learning rate by layer, for fine-tuning; `None` for none.
    """

    def __init__(
        self,
        *,
        lr: float,
        momentum: float = 0.9,
        weight_decay: float = 0.0,
        trust: float = 0.02,
        clip: bool = True,
        exclude: Exclude = "none",
        lr_scaling: Scaling = "none",
        scales: LayerScales | None = None,
    ) -> None:
        super().__init__(lr, weight_decay, exclude, lr_scaling, scales)
        _check_momentum(momentum)
        _check_trust(trust)
        self.momentum, self.trust, self.clip = momentum, trust, clip

    def build(self, model: nn.Module, batch_size: int) -> torch.optim.Optimizer:
        groups = self.groups(model, batch_size)
        return LARCOptimizer(
            groups, lr=self.lr, momentum=self.momentum, trust=self.trust, clip=self.clip
        )


def _check_trust(trust: float) -> None:
    if trust <= 0.0:
        raise ValueError(f"`optimizer.trust` must be positive, got {trust}. Try 0.001.")


def _check_momentum(momentum: float) -> None:
    if not 0.0 <= momentum < 1.0:
        raise ValueError(f"`optimizer.momentum` must be in [0, 1), got {momentum}. Try 0.9.")
