"""BatchNorm and quantization: folding, re-estimation of the statistics, bias correction.

**Folding.** A runtime folds BatchNorm before it quantizes, so it rounds the folded weight. SSQL
rounds the weight before BatchNorm. Fold first to simulate the runtime.

**Re-estimation.** Rounding a weight to two bits changes the mean and the variance of its output
channels, and BatchNorm still normalizes by the statistics of the fp32 network. One pass over
calibration data measures the change. It costs no training, and nothing at inference, since
BatchNorm is folded or stored anyway. Any-precision networks keep one BatchNorm per bit-width for
the same reason (Yu et al. 2021, arXiv 1911.07346); here the statistics come from calibration data
when the bits are chosen.

Only the *difference* between the rounded and the fp32 network is applied. Running statistics come
from augmented training views and calibration data are not augmented, so the statistics of the
calibration data themselves would change the fp32 network too.

**Bias correction** (Nagel et al. 2019, arXiv 1906.04721, §4.2), measured on data: rounding shifts
the mean of each output channel, and subtracting the shift from the bias removes it.
"""

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from mezzotint.quant.bitwidth import bits, calibrate, off
from mezzotint.quant.convert import parameter_of, quantized_layers
from mezzotint.quant.hooks import evaluating, example_of, find_consumers, hooked

_LAYERS = (nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.Linear)


@torch.no_grad()
def fold_batch_norm_(encoder: nn.Module, example: Tensor | None = None) -> dict[str, str]:
    """Fold each BatchNorm into the layer that feeds it, in place; eval-mode outputs stay equal.

    The layer gets a bias if it had none, and an `Identity` replaces the BatchNorm (timm's fused
    BatchNormAct leaves its activation function). This changes the names in the state dict. A
    BatchNorm is left if no layer feeds it, if it shares its layer with others, or if it has no
    running statistics.

    Args:
        encoder: network in any mode, quantizable or not.
        example: a batch; by default of the encoder's own input shape.

    Returns:
        Name of the layer by name of the folded BatchNorm.

    Raises:
        ValueError: when the outputs change because a folded layer's output is also used elsewhere;
            the network is then left unchanged.
    """
    example = example_of(encoder, example)
    pairs = find_consumers(encoder, example, _LAYERS, (_BatchNorm,))
    done: dict[str, str] = {}
    undo: list[tuple[nn.Module, str, nn.Module, nn.Module, Tensor, Tensor | None]] = []
    before = _output(encoder, example)
    for layer_name, (norm_name, *more) in pairs.items():
        layer, norm = encoder.get_submodule(layer_name), encoder.get_submodule(norm_name)
        if (
            more
            or not isinstance(norm, _BatchNorm)
            or norm.running_mean is None
            or norm.running_var is None
        ):
            continue
        parent = encoder.get_submodule(norm_name.rpartition(".")[0])
        undo.append((parent, norm_name.rpartition(".")[2], norm, layer, *_fold(layer, norm)))
        setattr(parent, norm_name.rpartition(".")[2], getattr(norm, "act", nn.Identity()))
        done[norm_name] = layer_name
    after = _output(encoder, example)
    if not torch.allclose(before, after, rtol=1e-3, atol=1e-3 * float(before.abs().max())):
        for parent, name, norm, layer, weight, bias in undo:
            setattr(parent, name, norm)
            parameter_of(layer).copy_(weight)
            layer._parameters["bias"] = None if bias is None else nn.Parameter(bias)
        raise ValueError(
            f"Folding changes the outputs of {type(encoder).__name__}: a layer's output must go to "
            "its BatchNorm alone. Leave this network unfolded."
        )
    return done


def _output(encoder: nn.Module, example: Tensor) -> Tensor:
    with evaluating(encoder):
        out: Tensor = encoder(example)
    return out


def _fold(layer: nn.Module, norm: _BatchNorm) -> tuple[Tensor, Tensor | None]:
    """Fold into the layer; return its old weight and bias."""
    weight, bias = parameter_of(layer), layer._parameters["bias"]
    before = weight.clone(), None if bias is None else bias.clone()
    assert norm.running_mean is not None and norm.running_var is not None
    scale = (norm.running_var + norm.eps).rsqrt()
    if norm.weight is not None:
        scale = scale * norm.weight
    shift = (0.0 if bias is None else bias) - norm.running_mean
    shift = shift * scale if norm.bias is None else shift * scale + norm.bias
    weight.mul_(scale.reshape(-1, *(1 for _ in weight.shape[1:])))
    if bias is None:
        layer.register_parameter("bias", nn.Parameter(shift))
    else:
        bias.copy_(shift)
    return before


@dataclass(frozen=True)
class Correction:
    """Bias correction of one layer.

    Attributes:
        name: name of the layer.
        shift: mean |shift| of its output channels, relative to their mean fp32 standard deviation.
    """

    name: str
    shift: float


@torch.no_grad()
def correct_bias_(
    encoder: nn.Module, batches: Iterable[Tensor], *, weight: int = 4, activation: int = 32
) -> list[Correction]:
    """Subtract the shift of each layer's mean output at one bit-width.

    The fp32 network and other bit-widths are untouched. Layers are corrected in execution order,
    each with its predecessors corrected. The correction is stored with the weight's quantizer and
    is part of `layer.bias` whenever the layer runs at these bits (a layer with fixed bits always
    does).

    Args:
        encoder: quantizable network, calibrated unless `activation` is 32.
        batches: normalized inputs of the training data, without augmentation.
        weight: bits of the weights.
        activation: bits of the activations.

    Returns:
        The corrected layers in execution order.

    Raises:
        ValueError: without samples.
    """
    data = list(batches)
    if not data:
        raise ValueError(
            "The calibration set is empty. It needs one sample or more: pass batches of inputs."
        )
    layers = dict(quantized_layers(encoder))
    with evaluating(encoder):
        with off(encoder):
            targets = _moments(encoder, layers, data)
        with bits(encoder, weight=weight, activation=activation):
            for layer in layers.values():
                layer.weight_quantizer.untune("shift", layer.weight_quantizer.num_bits)
            done = []
            for name, (mean, std) in targets.items():  # in execution order
                shift = mean - _moments(encoder, {name: layers[name]}, data)[name][0]
                layers[name].weight_quantizer.tune("shift", shift)
                done.append(
                    Correction(name, float(shift.abs().mean() / std.mean().clamp_min(1e-12)))
                )
    return done


def _moments(
    encoder: nn.Module, layers: dict[str, nn.Module], data: list[Tensor]
) -> dict[str, tuple[Tensor, Tensor]]:
    """Return mean and std of each layer's output channels, in execution order."""
    sums: dict[str, list[Tensor]] = {}
    names = {module: name for name, module in layers.items()}

    def add(module: nn.Module, args: tuple[Tensor, ...], out: Tensor) -> None:
        rows = (
            out.flatten(0, -2)
            if isinstance(module, nn.Linear)
            else out.movedim(1, -1).flatten(0, -2)
        ).double()
        batch = [rows.new_tensor(float(len(rows))), rows.sum(0), rows.square().sum(0)]
        name = names[module]
        sums[name] = (
            [a + b for a, b in zip(sums[name], batch, strict=True)] if name in sums else batch
        )

    with hooked([module.register_forward_hook(add) for module in layers.values()]):
        for x in data:
            encoder(x)
    moments = {}
    for name, (count, total, squares) in sums.items():
        mean = total / count
        moments[name] = (
            mean.float(),
            (squares / count - mean.square()).clamp_min(0.0).sqrt().float(),
        )
    return moments


Moments = dict[str, tuple[Tensor, Tensor]]


@torch.no_grad()
def reestimate_batch_norm_(encoder: nn.Module, batches: Iterable[Tensor], *, weight: int) -> int:
    """Re-estimate the running statistics for rounded weights, and calibrate the activations again.

    This works in place and holds for these bits only; the fp32 network changes as well. Use a copy,
    or the context manager `batch_norm_reestimated`.

    Args:
        encoder: network after `quantize_`, with the statistics of its fp32 weights.
        batches: normalized inputs of the training data, without augmentation.
        weight: bits of the weights, 1 to 8.

    Returns:
        Number of re-estimated BatchNorms; 0 for a network without running statistics, where only
        the activations' ranges change.

    Raises:
        ValueError: without samples, or for an unsupported number of bits.
    """
    data = list(batches)
    with off(encoder):
        exact = _batch_norm_moments(encoder, data)
    with bits(encoder, weight=weight, activation=32):
        rounded = _batch_norm_moments(encoder, data)
    for name, (mean, variance) in rounded.items():
        norm = encoder.get_submodule(name)
        norm.running_mean.add_(mean - exact[name][0])  # type: ignore[operator]
        norm.running_var.mul_(variance / exact[name][1].clamp_min(1e-12))  # type: ignore[operator]
    calibrate(encoder, data, weight=weight)
    return len(rounded)


@contextmanager
def batch_norm_reestimated(
    encoder: nn.Module, batches: Sequence[Tensor], *, weight: int
) -> Iterator[nn.Module]:
    """Apply `reestimate_batch_norm_` inside the block, and undo it after.

    Args:
        encoder: network calibrated on the same batches with fp32 weights.
        batches: as for `reestimate_batch_norm_`.
        weight: bits of the weights.
    """
    kept = statistics(encoder)
    try:
        reestimate_batch_norm_(encoder, batches, weight=weight)
        yield encoder
    finally:
        encoder.load_state_dict(kept, strict=False)
        calibrate(encoder, batches)


def statistics(encoder: nn.Module) -> dict[str, Tensor]:
    """Copy all running statistics, by their names in the state dict."""
    return {
        f"{name}.{part}": getattr(norm, part).clone()
        for name, norm in _norms(encoder).items()
        for part in ("running_mean", "running_var", "num_batches_tracked")
    }


def _batch_norm_moments(encoder: nn.Module, data: list[Tensor]) -> Moments:
    """Return mean and variance of each BatchNorm's input, with all in training mode."""
    norms = _norms(encoder)
    kept = statistics(encoder)
    with evaluating(encoder), averaged_statistics(norms.values()):
        for x in data:
            encoder(x)
    moments = {
        name: (norm.running_mean.clone(), norm.running_var.clone())  # type: ignore[union-attr]
        for name, norm in norms.items()
    }
    encoder.load_state_dict(kept, strict=False)
    return moments


@contextmanager
def averaged_statistics(norms: Iterable[_BatchNorm]) -> Iterator[None]:
    """Re-estimate running statistics as the mean over the batches that run inside the block.

    Args:
        norms: BatchNorms to re-estimate; they stay in training mode.
    """
    momenta = [(norm, norm.momentum) for norm in norms]
    for norm, _ in momenta:
        norm.reset_running_stats()
        norm.momentum = None  # torch then averages over all batches instead of exponentially
        norm.train()
    try:
        yield
    finally:
        for norm, momentum in momenta:
            norm.momentum = momentum


def _norms(encoder: nn.Module) -> dict[str, _BatchNorm]:
    return {
        name: module
        for name, module in encoder.named_modules()
        if isinstance(module, _BatchNorm)
        and module.running_mean is not None
        and module.running_var is not None
    }
