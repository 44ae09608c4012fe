"""Put BatchNorm's statistics right for weights that have been rounded.

Rounding a weight to two bits changes the mean and the power of each channel it makes, and BatchNorm goes on dividing
by what the float network had. One pass over calibration data tells by how much; the statistics of one width are then
as right as those of the float network. It costs no training and, since BatchNorm is folded or stored anyway, nothing
when the network runs. Networks of any precision keep a BatchNorm for each width for the same reason (Yu et al. 2021,
arXiv 1911.07346); here a width's statistics come from the data when the width is chosen.

What is corrected is the difference: running statistics are those of augmented training views, and calibration data
are not augmented, so the statistics of the data themselves would move the float network as well.
"""

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from mezzotint.quant.tracing import evaluating
from mezzotint.quant.widths import bits, calibrate, off

Moments = dict[str, tuple[Tensor, Tensor]]


@torch.no_grad()
def correct_batch_norm_(encoder: nn.Module, batches: Iterable[Tensor], *, weight: int) -> int:
    """Correct the running statistics for weights of this width, and choose the ranges of activations anew for them.

    In place, and right for this width only: the float network is no longer what it was. Use a copy, or
    `batch_norm_corrected`.

    Args:
        encoder: that `quantize_` has prepared, with the statistics of its float weights.
        batches: normalised inputs, of the training data and without augmentation.
        weight: bits of the weights, 1 to 8.

    Returns:
        How many BatchNorms were corrected; 0 for a network without running statistics, of which only the ranges change.

    Raises:
        ValueError: without samples, or for a width that does not exist.
    """
    data = list(batches)
    with off(encoder):
        exact = _moments(encoder, data)
    with bits(encoder, weight=weight, activation=32):
        rounded = _moments(encoder, data)
    for name, (mean, variance) in rounded.items():
        norm = encoder.get_submodule(name)
        norm.running_mean.add_(mean - exact[name][0])  # type: ignore[operator]
        norm.running_var.mul_(variance / exact[name][1].clamp_min(1e-12))  # type: ignore[operator]
    calibrate(encoder, data, weight=weight)
    return len(rounded)


@contextmanager
def batch_norm_corrected(encoder: nn.Module, batches: Sequence[Tensor], *, weight: int) -> Iterator[nn.Module]:
    """Run a network with what `correct_batch_norm_` does for this width, and as before afterwards.

    Args:
        encoder: calibrated on the same batches with float weights.
        batches: as for `correct_batch_norm_`.
        weight: bits of the weights.
    """
    kept = statistics(encoder)
    try:
        correct_batch_norm_(encoder, batches, weight=weight)
        yield encoder
    finally:
        encoder.load_state_dict(kept, strict=False)
        calibrate(encoder, batches)


def statistics(encoder: nn.Module) -> dict[str, Tensor]:
    """Copies of all running statistics, by their names in the state dict."""
    return {
        f"{name}.{part}": getattr(norm, part).clone()
        for name, norm in _norms(encoder).items()
        for part in ("running_mean", "running_var", "num_batches_tracked")
    }


def _moments(encoder: nn.Module, data: list[Tensor]) -> Moments:
    """Mean and variance of what enters each BatchNorm, with those before it normalising by the same data."""
    norms = _norms(encoder)
    kept = statistics(encoder)
    momenta = {name: norm.momentum for name, norm in norms.items()}
    with evaluating(encoder):
        for norm in norms.values():
            norm.reset_running_stats()
            norm.momentum = None  # the mean over batches
            norm.train()
        for x in data:
            encoder(x)
    found = {name: (norm.running_mean.clone(), norm.running_var.clone()) for name, norm in norms.items()}  # type: ignore[union-attr]
    for name, momentum in momenta.items():
        norms[name].momentum = momentum
    encoder.load_state_dict(kept, strict=False)
    return found


def _norms(encoder: nn.Module) -> dict[str, _BatchNorm]:
    return {
        name: module
        for name, module in encoder.named_modules()
        if isinstance(module, _BatchNorm) and module.running_mean is not None and module.running_var is not None
    }
