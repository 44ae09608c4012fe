"""Batch normalization over the batches of all processes, on any device.

`torch.nn.SyncBatchNorm` refuses CPU tensors. This one gathers the mean and variance of each rank
(one small collective per layer, with its gradient) and pools them; that is exact and stable, while
a mean of squares minus a squared mean would cancel. On one process it equals `torch.nn.BatchNorm`
bit for bit. All ranks must have the same number of values.
"""

from typing import Any, TypeVar, cast

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from mezzotint import dist

M = TypeVar("M", bound=nn.Module)


class SynchronizedBatchNorm(_BatchNorm):
    """BatchNorm for `[B, C, …]` of any dimension with the training statistics of the global batch.

    Parameters and buffers have the names and shapes of `torch.nn.BatchNorm2d`. It can carry the
    dropout and activation that timm builds into its norm layers.
    """

    def __init__(self, num_features: int, **settings: Any) -> None:
        super().__init__(num_features, **settings)
        self.drop: nn.Module | None = None
        self.act: nn.Module | None = None

    def _check_input_dim(self, x: Tensor) -> None:
        if x.dim() < 2:
            raise ValueError(
                f"BatchNorm takes [batch, channels, …], got {x.dim()} dimensions. Add a batch "
                "dimension."
            )

    def forward(self, input: Tensor) -> Tensor:
        """`[B, C, …]`, normalized over all but dimension 1 and all ranks."""
        uses_batch = self.training or self.running_mean is None
        alone = dist.world_size() == 1 or not uses_batch
        out = super().forward(input) if alone else self._synchronized(input)
        if self.drop is not None:
            out = self.drop(out)
        return out if self.act is None else self.act(out)

    def _synchronized(self, x: Tensor) -> Tensor:
        self._check_input_dim(x)
        axes = [axis for axis in range(x.dim()) if axis != 1]
        count = x.numel() // x.shape[1] * dist.world_size()
        values = x.float()
        local_var, local_mean = torch.var_mean(values, dim=axes, correction=0)
        local = torch.stack([local_mean, local_var]).unsqueeze(0)
        means, variances = dist.gather(local).unbind(1)  # [world, C]
        mean = means.mean(dim=0)
        var = (variances + (means - mean).square()).mean(dim=0)
        # n / (n − 1): running variances are unbiased in torch, those of the batch are not.
        self._track(mean.detach(), var.detach() * (count / (count - 1)))
        scale = torch.rsqrt(var + self.eps)
        if self.affine:
            scale = scale * self.weight
        shift = -mean * scale
        if self.affine:
            shift = shift + self.bias
        shape = [1, -1, *[1] * (x.dim() - 2)]
        return torch.addcmul(shift.view(shape), values, scale.view(shape)).to(x.dtype)

    @torch.no_grad()
    def _track(self, mean: Tensor, var: Tensor) -> None:
        """Move the running statistics; `var` is unbiased, as torch keeps it."""
        if not (self.training and self.track_running_stats):
            return
        if self.running_mean is None or self.running_var is None:
            return
        assert self.num_batches_tracked is not None
        self.num_batches_tracked += 1
        weight = 1.0 / float(self.num_batches_tracked) if self.momentum is None else self.momentum
        self.running_mean.lerp_(mean.to(self.running_mean.dtype), weight)
        self.running_var.lerp_(var.to(self.running_var.dtype), weight)


_PLAIN = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)


def synchronize_batch_norm(module: M) -> M:
    """Replace every BatchNorm in a module, or the module itself; parameters are shared, not copied.

    Args:
        module: network to change in place.

    Returns:
        The module, or its replacement.

    Raises:
        TypeError: for an unknown subclass of BatchNorm, which would silently differ between ranks.
    """
    if isinstance(module, _BatchNorm) and not isinstance(
        module, (SynchronizedBatchNorm, nn.SyncBatchNorm)
    ):
        return cast(M, _replacement(module))
    for name, child in module.named_children():
        changed = synchronize_batch_norm(child)
        if changed is not child:
            setattr(module, name, changed)
    return module


def _replacement(norm: _BatchNorm) -> SynchronizedBatchNorm:
    fused = hasattr(norm, "drop") and hasattr(norm, "act")  # timm's BatchNormAct2d
    if type(norm) not in _PLAIN and not fused:
        raise TypeError(
            f"{type(norm).__name__} cannot be synchronized. Supported: BatchNorm1d, BatchNorm2d, "
            "BatchNorm3d and timm's BatchNormAct2d. Replace it, or train on one process."
        )
    new = SynchronizedBatchNorm(
        norm.num_features,
        eps=norm.eps,
        momentum=norm.momentum,
        affine=norm.affine,
        track_running_stats=norm.track_running_stats,
        device="meta",  # its own tensors are replaced below
    )
    for name in ("weight", "bias", "running_mean", "running_var", "num_batches_tracked"):
        setattr(new, name, getattr(norm, name))
    if fused:
        new.drop, new.act = cast(nn.Module, norm.drop), cast(nn.Module, norm.act)
    new.train(norm.training)
    return new
