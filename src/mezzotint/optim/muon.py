"""Muon (Jordan et al. 2024, kellerjordan.github.io/posts/muon): steps of orthogonal matrices.

The momentum of a weight matrix is replaced by the nearest matrix whose singular values are all
about 1, found by five Newton-Schulz iterations in bfloat16. Convolution kernels are flattened to
`[out, in · kernel]`. Norms, biases, embeddings, tokens and everything else that is no weight matrix
is trained by AdamW, inside the same optimizer.

Two-dimensional weights move exactly as in `torch.optim.Muon`. Differs from it in that convolutions
and the AdamW part belong to the same optimizer, and in that the Newton-Schulz iterations may run in
float32. Weight decay is decoupled: a step multiplies weights by 1 − lr · decay.

Two scalings of the step are in use, for a matrix of A rows and B columns: `original`,
√max(1, A / B), and `match_rms_adamw`, 0.2 √max(A, B) (Liu et al. 2025, arXiv 2502.16982), which
makes a learning rate that was tuned for AdamW fit.
"""

import math
from collections.abc import Iterable
from typing import Any, Literal

import torch
from torch import Tensor, nn

from mezzotint.optim.groups import Exclude, Group, GroupOptimizer, LayerScales
from mezzotint.optim.mup import rules
from mezzotint.optim.mup.rules import Factors
from mezzotint.optim.mup.shapes import Growth
from mezzotint.optim.optimizer import Optimizer, Scaling

StepScaling = Literal["original", "match_rms_adamw"]
Arithmetic = Literal["bf16", "fp32"]
_DTYPES = {"bf16": torch.bfloat16, "fp32": torch.float32}
_COEFFICIENTS = (3.4445, -4.7750, 2.0315)  # of the quintic whose slope at 0 is greatest
_NORM_EPS = 1e-7


def orthogonalize(matrix: Tensor, *, steps: int = 5, dtype: torch.dtype = torch.bfloat16) -> Tensor:
    """Replace the singular values of a matrix by values of about 1 (0.7 to 1.2).

    Args:
        matrix: `[A, B]`.
        steps: Newton-Schulz iterations.
        dtype: type of the arithmetic and of the result.

    Returns:
        `[A, B]`: U S' Vᵀ where the matrix is U S Vᵀ; zeros stay zeros.
    """
    a, b, c = _COEFFICIENTS
    tall = matrix.shape[0] > matrix.shape[1]
    x = matrix.to(dtype)
    x = x.T if tall else x
    x = x / x.norm().clamp(min=_NORM_EPS)  # the iteration converges for spectral norms up to 1
    for _ in range(steps):
        gram = x @ x.T
        polynomial = torch.addmm(gram, gram, gram, beta=b, alpha=c)
        x = torch.addmm(x, polynomial, x, beta=a)
    return x.T if tall else x


def step_scale(scaling: StepScaling, rows: float, columns: float) -> float:
    """Factor of an orthogonal step of a matrix with these numbers of rows and columns."""
    if scaling == "original":
        return math.sqrt(max(1.0, rows / columns))
    return 0.2 * math.sqrt(max(rows, columns))


class MuonOptimizer(GroupOptimizer):
    """Muon for weight matrices, AdamW for everything else.

    Args:
        params: groups as `torch.optim` takes them. Groups with `orthogonal` true (the default) hold
            weights of two dimensions or more and are orthogonalized, the others are for AdamW.
        lr: learning rate.
        momentum: momentum of orthogonalized groups.
        nesterov: whether the step looks ahead along the momentum.
        weight_decay: decoupled weight decay.
        scaling: `"original"` or `"match_rms_adamw"`.
        steps: Newton-Schulz iterations.
        arithmetic: type of the Newton-Schulz iterations, `"bf16"` or `"fp32"`.
        betas: decay of AdamW's moments.
        eps: what AdamW adds to the root of the second moment.
    """

    def __init__(
        self,
        params: Iterable[Any],
        *,
        lr: float = 1e-3,
        momentum: float = 0.95,
        nesterov: bool = True,
        weight_decay: float = 0.1,
        scaling: StepScaling = "original",
        steps: int = 5,
        arithmetic: Arithmetic = "bf16",
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
    ) -> None:
        muon = {"momentum": momentum, "nesterov": nesterov, "scaling": scaling, "steps": steps}
        adam = {"betas": betas, "eps": eps}
        shared = {"lr": lr, "weight_decay": weight_decay, "orthogonal": True}
        super().__init__(params, {**shared, **muon, "arithmetic": arithmetic, **adam})
        for group in self.param_groups:
            if group["orthogonal"] and any(p.ndim < 2 for p in group["params"]):
                shape = next(tuple(p.shape) for p in group["params"] if p.ndim < 2)
                raise ValueError(
                    f"An orthogonalized group holds a parameter of shape {shape}. Muon takes "
                    "weights of two dimensions or more. Put it into a group of `orthogonal: False`."
                )

    def _update(self, group: Group, params: list[Tensor]) -> None:
        if group["orthogonal"]:
            self._orthogonal_step(group, params)
        else:
            self._adamw_step(group, params)

    def _orthogonal_step(self, group: Group, params: list[Tensor]) -> None:
        beta, lr = group["momentum"], group["lr"]
        for p in params:
            assert p.grad is not None
            state = self.state[p]
            if "momentum_buffer" not in state:
                state["momentum_buffer"] = torch.zeros_like(p)
            buffer = state["momentum_buffer"].lerp_(p.grad, 1.0 - beta)
            update = p.grad.lerp(buffer, beta) if group["nesterov"] else buffer
            matrix = update.flatten(1)
            step = orthogonalize(matrix, steps=group["steps"], dtype=_DTYPES[group["arithmetic"]])
            scale = step_scale(group["scaling"], *matrix.shape)
            p.mul_(1.0 - lr * group["weight_decay"])
            p.add_(step.reshape(p.shape), alpha=-lr * scale)

    def _adamw_step(self, group: Group, params: list[Tensor]) -> None:
        beta1, beta2 = group["betas"]
        for p in params:
            state = self.state[p]
            if "exp_avg" not in state:
                state["step"] = torch.tensor(0.0)
                state["exp_avg"], state["exp_avg_sq"] = torch.zeros_like(p), torch.zeros_like(p)
            state["step"] += 1.0
        grads = [p.grad for p in params if p.grad is not None]
        first = [self.state[p]["exp_avg"] for p in params]
        second = [self.state[p]["exp_avg_sq"] for p in params]
        torch._foreach_mul_(params, 1.0 - group["lr"] * group["weight_decay"])
        torch._foreach_lerp_(first, grads, 1.0 - beta1)
        torch._foreach_mul_(second, beta2)
        torch._foreach_addcmul_(second, grads, grads, 1.0 - beta2)
        counts = [float(self.state[p]["step"]) for p in params]
        roots = torch._foreach_sqrt(second)
        torch._foreach_div_(roots, [math.sqrt(1.0 - beta2**count) for count in counts])
        torch._foreach_add_(roots, group["eps"])
        sizes = [-group["lr"] / (1.0 - beta1**count) for count in counts]
        torch._foreach_addcdiv_(params, first, roots, sizes)


def weight_matrices(model: nn.Module) -> set[str]:
    """Names of the parameters that Muon orthogonalizes: weights of linears and convolutions."""
    embeddings = {
        f"{prefix}.weight" if prefix else "weight"
        for prefix, module in model.named_modules()
        if isinstance(module, (nn.Embedding, nn.EmbeddingBag))
    }
    return {
        name
        for name, p in model.named_parameters()
        if p.ndim >= 2 and name.rpartition(".")[2].endswith("weight") and name not in embeddings
    }


class Muon(Optimizer):
    """Momentum whose steps are orthogonal matrices, for weight matrices; AdamW for everything else.

    Args:
        lr: learning rate of weight matrices.
        adamw_lr: learning rate of everything else; `None` takes `lr`, which suits
            `match_rms_adamw`.
        momentum: momentum of weight matrices.
        weight_decay: decoupled weight decay, multiplied by the learning rate.
        scaling: `"original"` multiplies the step of an A × B matrix by √max(1, A / B),
            `"match_rms_adamw"` by 0.2 √max(A, B), so that learning rates are AdamW's.
        arithmetic: type of the Newton-Schulz iterations.
        betas: decay of AdamW's moments.
        exclude: what gets no weight decay.
        lr_scaling: `"batch/256"` multiplies the learning rates by the batch size over 256.
        scales: learning rates of layers, for fine-tuning; `None` treats all alike.
    """

    def __init__(
        self,
        *,
        lr: float,
        adamw_lr: float | None = None,
        momentum: float = 0.95,
        weight_decay: float = 0.01,
        scaling: StepScaling = "match_rms_adamw",
        arithmetic: Arithmetic = "bf16",
        betas: tuple[float, float] = (0.9, 0.999),
        exclude: Exclude = "none",
        lr_scaling: Scaling = "none",
        scales: LayerScales | None = None,
    ) -> None:
        super().__init__(lr, weight_decay, exclude, lr_scaling, scales)
        if adamw_lr is not None and adamw_lr <= 0.0:
            raise ValueError(
                f"`optimizer.adamw_lr` must be positive, got {adamw_lr}. Try 0.001, or none."
            )
        if not 0.0 <= momentum < 1.0:
            raise ValueError(f"`optimizer.momentum` must be in [0, 1), got {momentum}. Try 0.95.")
        if not all(0.0 <= beta < 1.0 for beta in betas):
            raise ValueError(
                f"`optimizer.betas` must be in [0, 1), got {list(betas)}. Try [0.9, 0.999]."
            )
        self.adamw_lr, self.momentum, self.scaling = adamw_lr, momentum, scaling
        self.arithmetic, self.betas = arithmetic, (betas[0], betas[1])

    def mup_factors(self, growth: Growth, group: Group) -> Factors:
        return rules.muon(growth, group)

    def split(self, model: nn.Module, groups: list[Group]) -> list[Group]:
        """Put weight matrices and everything else into groups of their own."""
        matrices = weight_matrices(model)
        factor = 1.0 if self.adamw_lr is None else self.adamw_lr / self.lr
        made = []
        for group in groups:
            for orthogonal in (True, False):
                chosen = [pair for pair in group["params"] if (pair[0] in matrices) is orthogonal]
                if chosen:
                    lr = group["lr"] if orthogonal else group["lr"] * factor
                    own = {"params": chosen, "lr": lr, "base_lr": lr, "orthogonal": orthogonal}
                    made.append({**group, **own, "scaling": self.scaling, "eps": 1e-8})
        return made

    def build(self, model: nn.Module, batch_size: int) -> torch.optim.Optimizer:
        return MuonOptimizer(
            self.groups(model, batch_size),
            lr=self.lr,
            momentum=self.momentum,
            scaling=self.scaling,
            arithmetic=self.arithmetic,
            betas=self.betas,
        )
