"""Fold BatchNorm into the layer before it, and correct the bias that rounding a weight brings.

A runtime folds BatchNorm before it quantizes, so what it rounds is the folded weight. SSQL rounds
the weight before BatchNorm; fold first to see what a runtime will do.

Bias correction is that of Nagel et al. 2019 (arXiv 1906.04721, §4.2), measured on data: rounding
shifts the mean of each output channel, and the shift can be taken away.

Put BatchNorm's statistics right for weights that have been rounded.

Rounding a weight to two bits changes the mean and the power of each channel it makes, and BatchNorm
goes on dividing by what the float network had. One pass over calibration data tells by how much;
the statistics of one width are then as right as those of the float network. It costs no training
and, since BatchNorm is folded or stored anyway, nothing when the network runs. Networks of any
precision keep a BatchNorm for each width for the same reason (Yu et al. 2021, arXiv 1911.07346);
here a width's statistics come from the data when the width is chosen.

What is corrected is the difference: running statistics are those of augmented training views, and
calibration data are not augmented, so the statistics of the data themselves would move the float
network as well.
"""

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from mezzotint.quant.bitwidth import bits, calibrate, off
from mezzotint.quant.convert import parameter_of, quantized_layers
from mezzotint.quant.hooks import evaluating, example_of, feeds, hooked

_LAYERS = (nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.Linear)


@torch.no_grad()
def fold_batch_norm_(encoder: nn.Module, example: Tensor | None = None) -> dict[str, str]:
    """Multiply each BatchNorm's scale into the layer that feeds it, in place; in eval mode the outputs stay equal.

    The layer gets a bias where it had none, and an `Identity` takes the BatchNorm's place (timm's,
    which brings an activation function, leaves that). The names in the state dict change by this. A
    BatchNorm that no layer feeds, that shares its layer with others, or that has no running
    statistics is left.

    Args:
        encoder: in any mode; quantizable or not.
        example: a batch; by default of the shape that the encoder states.

    Returns:
        Name of the layer by name of the folded BatchNorm.

    Raises:
        ValueError: when the outputs change, because a folded layer's output is also used elsewhere;
            nothing is changed then.
    """
    example = example_of(encoder, example)
    pairs = feeds(encoder, example, _LAYERS, (_BatchNorm,))
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
            f"folding changes the outputs of {type(encoder).__name__}; allowed are networks in which a layer's output "
            "goes to its BatchNorm alone: leave this one unfolded"
        )
    return done


def _output(encoder: nn.Module, example: Tensor) -> Tensor:
    with evaluating(encoder):
        out: Tensor = encoder(example)
    return out


def _fold(layer: nn.Module, norm: _BatchNorm) -> tuple[Tensor, Tensor | None]:
    """Change the layer; returns its weight and bias as they were."""
    weight, bias = parameter_of(layer), layer._parameters["bias"]
    were = weight.clone(), None if bias is None else bias.clone()
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
    return were


@dataclass(frozen=True)
class Correction:
    """What was corrected in one layer.

    Attributes:
        name: of the layer.
        shift: mean magnitude of its output channels' shift, over the mean of their standard
            deviations in float.
    """

    name: str
    shift: float


@torch.no_grad()
def correct_bias_(
    encoder: nn.Module, batches: Iterable[Tensor], *, weight: int = 4, activation: int = 32
) -> list[Correction]:
    """Take away, at one width, the shift of each layer's mean output; other widths and the float network are untouched.

    Layers are corrected in the order in which they run, each with those before it corrected. The
    correction is stored with the quantizer of the weight and is part of `layer.bias` whenever the
    layer runs at that width (a layer with a width of its own always does).

    Args:
        encoder: quantizable and, unless `activation` is 32, calibrated.
        batches: normalized inputs, of the training data and without augmentation.
        weight: bits of the weights.
        activation: bits of the activations.

    Returns:
        The layers, in the order of the modules.

    Raises:
        ValueError: without samples.
    """
    data = list(batches)
    if not data:
        raise ValueError(
            "the calibration set is empty; allowed is one sample or more: give batches of inputs"
        )
    layers = dict(quantized_layers(encoder))
    with evaluating(encoder):
        with off(encoder):
            wanted = _moments(encoder, layers, data)
        with bits(encoder, weight=weight, activation=activation):
            for layer in layers.values():
                layer.weight_quantizer.untune("shift", layer.weight_quantizer.width)
            done = []
            for name in wanted:  # in the order of execution
                mean, deviation = wanted[name]
                shift = mean - _moments(encoder, {name: layers[name]}, data)[name][0]
                layers[name].weight_quantizer.tune("shift", shift)
                done.append(
                    Correction(name, float(shift.abs().mean() / deviation.mean().clamp_min(1e-12)))
                )
    return done


def _moments(
    encoder: nn.Module, layers: dict[str, nn.Module], data: list[Tensor]
) -> dict[str, tuple[Tensor, Tensor]]:
    """Mean and standard deviation of each output channel, by name, in the order in which layers run."""
    sums: dict[str, list[Tensor]] = {}
    names = {module: name for name, module in layers.items()}

    def leaving(module: nn.Module, args: tuple[Tensor, ...], out: Tensor) -> None:
        rows = (
            out.flatten(0, -2)
            if isinstance(module, nn.Linear)
            else out.movedim(1, -1).flatten(0, -2)
        ).double()
        found = [rows.new_tensor(float(len(rows))), rows.sum(0), rows.square().sum(0)]
        name = names[module]
        sums[name] = (
            [a + b for a, b in zip(sums[name], found, strict=True)] if name in sums else found
        )

    with hooked([module.register_forward_hook(leaving) for module in layers.values()]):
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
def correct_batch_norm_(encoder: nn.Module, batches: Iterable[Tensor], *, weight: int) -> int:
    """Correct the running statistics for weights of this width, and choose the ranges of activations anew for them.

    In place, and right for this width only: the float network is no longer what it was. Use a copy,
    or `batch_norm_corrected`.

    Args:
        encoder: that `quantize_` has prepared, with the statistics of its float weights.
        batches: normalized inputs, of the training data and without augmentation.
        weight: bits of the weights, 1 to 8.

    Returns:
        How many BatchNorms were corrected; 0 for a network without running statistics, of which
        only the ranges change.

    Raises:
        ValueError: without samples, or for a width that does not exist.
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
def batch_norm_corrected(
    encoder: nn.Module, batches: Sequence[Tensor], *, weight: int
) -> Iterator[nn.Module]:
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


def _batch_norm_moments(encoder: nn.Module, data: list[Tensor]) -> Moments:
    """Mean and variance of what enters each BatchNorm, with those before it normalizing by the same data."""
    norms = _norms(encoder)
    kept = statistics(encoder)
    with evaluating(encoder), averaged_statistics(norms.values()):
        for x in data:
            encoder(x)
    found = {
        name: (norm.running_mean.clone(), norm.running_var.clone())  # type: ignore[union-attr]
        for name, norm in norms.items()
    }
    encoder.load_state_dict(kept, strict=False)
    return found


@contextmanager
def averaged_statistics(norms: Iterable[_BatchNorm]) -> Iterator[None]:
    """Estimate running statistics again: they become the mean over the batches that run inside.

    Args:
        norms: BatchNorms to estimate; they are left in training mode.
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
