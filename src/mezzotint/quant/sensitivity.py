"""Sensitivity of layers to quantization: one layer at a time, by curvature, and by distribution.

The trace of the Hessian is Hutchinson's estimate with Rademacher probes, its largest eigenvalue is
found by power iteration, as in HAWQ (Dong et al. 2019, arXiv 1905.03696; HAWQ-V2, arXiv
1911.03852). The default loss is the squared error of the features. It needs no labels and is 0 at
the current weights, so its Hessian equals the Gauss-Newton matrix and is never negative.
"""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from mezzotint.quant.bitwidth import Bits, bits, off
from mezzotint.quant.convert import named_activation_quantizers, parameter_of, quantized_layers
from mezzotint.quant.hooks import evaluating, hooked
from mezzotint.seeding import key_of

Loss = Callable[[nn.Module, Tensor], Tensor]
"""Maps the network and a batch to a scalar."""


@dataclass(frozen=True)
class LayerSensitivity:
    """Effect on the features when one layer alone is quantized.

    Attributes:
        name: name of the layer, or of the module whose activations are quantized.
        what: `"weight"` or `"activation"`.
        cosine: mean cosine similarity to the fp32 features.
        error: squared error of the features, relative to their variance.
    """

    name: str
    what: str
    cosine: float
    error: float


@torch.no_grad()
def layer_sensitivity(
    encoder: nn.Module, batches: Iterable[Tensor], to: Bits = Bits(4)
) -> list[LayerSensitivity]:
    """Quantize one weight or one activation at a time, and measure the change of the features.

    Args:
        encoder: quantizable network, calibrated unless its activations stay fp32.
        batches: normalized inputs.
        to: bit-widths; a side of 32 is skipped.

    Returns:
        Weights and activations, the most sensitive first.
    """
    data = list(batches)
    if not data:
        raise ValueError("`batches` is empty. Pass one batch of inputs or more.")
    with evaluating(encoder), bits(encoder, to):
        candidates = [
            (name, "weight", layer.weight_quantizer) for name, layer in quantized_layers(encoder)
        ]
        candidates += [
            (name, "activation", quantizer)
            for name, quantizer in named_activation_quantizers(encoder)
        ]
        quantized = [entry for entry in candidates if entry[2].mode == "quantize"]
        for _, _, quantizer in candidates:
            quantizer.mode = "off"
        float_features = torch.cat([encoder(x) for x in data])
        spread = (float_features - float_features.mean(0)).square().sum().clamp_min(1e-30)
        effects = []
        for name, what, quantizer in quantized:
            quantizer.mode = "quantize"
            features = torch.cat([encoder(x) for x in data])
            quantizer.mode = "off"
            cosine = nn.functional.cosine_similarity(features, float_features).mean()
            error = (features - float_features).square().sum() / spread
            effects.append(LayerSensitivity(name, what, float(cosine), float(error)))
    return sorted(effects, key=lambda entry: -entry.error)


@dataclass(frozen=True)
class Distribution:
    """Shape of the distribution of one weight, or of one layer's input.

    Attributes:
        name: name of the layer.
        what: `"weight"` or `"activation"`.
        kurtosis: fourth central moment over the variance squared: 3 for a normal distribution, 1.8
            for a uniform one.
        peak: largest distance from the mean, in standard deviations.
        outliers: fraction of the values beyond six standard deviations.
        channel_ratio: largest magnitude of the widest channel over the median channel's. If it is
            large, one range for the tensor wastes bits on most channels.
    """

    name: str
    what: str
    kurtosis: float
    peak: float
    outliers: float
    channel_ratio: float


@torch.no_grad()
def distributions(encoder: nn.Module, batches: Iterable[Tensor]) -> list[Distribution]:
    """Describe the weights and inputs of all quantized layers, the largest kurtosis first.

    Args:
        encoder: quantizable network.
        batches: normalized inputs, used together; the inputs of one layer are kept in memory.
    """
    data = list(batches)
    shapes = []
    with evaluating(encoder), off(encoder):
        for name, layer in quantized_layers(encoder):
            weight = parameter_of(layer)
            shapes.append(_shape_of(name, "weight", weight.flatten(1)))
            entered: list[Tensor] = []

            def note(
                module: nn.Module, args: tuple[Any, ...], entered: list[Tensor] = entered
            ) -> None:
                entered.append(args[0].detach())

            with hooked([layer.register_forward_pre_hook(note)]):
                for x in data:
                    encoder(x)
            axis = -1 if isinstance(layer, nn.Linear) else 1
            if entered:
                rows = torch.cat([x.movedim(axis, 0).flatten(1) for x in entered], 1)
                shapes.append(_shape_of(name, "activation", rows))
    return sorted(shapes, key=lambda entry: -entry.kurtosis)


def _shape_of(name: str, what: str, rows: Tensor) -> Distribution:
    """Describe values `[channels, N]`."""
    centered = rows.double() - rows.double().mean()
    variance = centered.square().mean().clamp_min(1e-60)
    scores = centered.abs() / variance.sqrt()  # |z-scores|
    widest = rows.abs().amax(1)
    return Distribution(
        name,
        what,
        float(scores.pow(4).mean()),
        float(scores.max()),
        float((scores > 6.0).double().mean()),
        float(widest.max() / widest.median().clamp_min(1e-12)),
    )


def feature_loss(encoder: nn.Module, x: Tensor) -> Tensor:
    """Return half the squared distance of the features from themselves: 0, with curvature."""
    features: Tensor = encoder(x)
    return 0.5 * (features - features.detach()).square().sum() / len(x)


def hessian_trace(
    encoder: nn.Module,
    batches: Iterable[Tensor],
    *,
    loss: Loss = feature_loss,
    probes: int = 50,
    seed: int = 0,
) -> dict[str, float]:
    """Estimate the mean eigenvalue of each layer's Hessian block: the trace per weight.

    All layers are probed at once; their cross terms have mean 0.

    Args:
        encoder: quantizable network; the Hessian is computed in fp32 and eval mode.
        batches: normalized inputs, whose losses are averaged.
        loss: loss of network and batch; by default the label-free squared error of the features.
        probes: number of Rademacher vectors.
        seed: seed of the probes.
    """
    data = list(batches)
    totals: dict[str, float] = {}
    with evaluating(encoder), off(encoder):
        for probe in range(probes):
            for x in data:
                names, weights, gradients = _gradients(encoder, x, loss)
                vectors = _rademacher(weights, key_of(seed, "trace", probe))
                products = torch.autograd.grad(gradients, weights, grad_outputs=vectors)
                for name, vector, product in zip(names, vectors, products, strict=True):
                    term = float((vector * product).sum()) / (vector.numel() * probes * len(data))
                    totals[name] = totals.get(name, 0.0) + term
    return totals


def hessian_eigenvalue(
    encoder: nn.Module,
    batches: Iterable[Tensor],
    *,
    loss: Loss = feature_loss,
    steps: int = 20,
    seed: int = 0,
) -> dict[str, float]:
    """Compute the largest eigenvalue of each layer's Hessian block, by power iteration.

    Args:
        encoder: as for `hessian_trace`.
        batches: as for `hessian_trace`.
        loss: as for `hessian_trace`.
        steps: number of iterations.
        seed: seed of the initial vector.
    """
    data = list(batches)
    with evaluating(encoder), off(encoder):
        return {
            name: _top(encoder, data, loss, name, steps, seed)
            for name, _ in quantized_layers(encoder)
        }


def _top(
    encoder: nn.Module, data: list[Tensor], loss: Loss, name: str, steps: int, seed: int
) -> float:
    weight = parameter_of(encoder.get_submodule(name))
    (vector,) = _rademacher([weight], key_of(seed, "eigenvalue", name))
    value = 0.0
    for _ in range(steps):
        vector = vector / vector.norm().clamp_min(1e-30)
        product = torch.zeros_like(vector)
        for x in data:
            names, weights, gradients = _gradients(encoder, x, loss)
            index = names.index(name)
            (part,) = torch.autograd.grad(gradients[index], weights[index], grad_outputs=vector)
            product += part / len(data)
        value = float((vector * product).sum())
        vector = product
    return value


def _gradients(
    encoder: nn.Module, x: Tensor, loss: Loss
) -> tuple[list[str], list[Tensor], list[Tensor]]:
    """Return names, weights, and gradients that can be differentiated again."""
    named = [(name, parameter_of(layer)) for name, layer in quantized_layers(encoder)]
    weights = [weight for _, weight in named]
    with torch.enable_grad():
        gradients = torch.autograd.grad(loss(encoder, x), weights, create_graph=True)
    return [name for name, _ in named], weights, list(gradients)


def _rademacher(like: Iterable[Tensor], key: int) -> list[Tensor]:
    return list(_signs(like, torch.Generator().manual_seed(key)))


def _signs(like: Iterable[Tensor], generator: torch.Generator) -> Iterator[Tensor]:
    for tensor in like:
        yield (torch.randint(0, 2, tensor.shape, generator=generator) * 2 - 1).to(tensor)
