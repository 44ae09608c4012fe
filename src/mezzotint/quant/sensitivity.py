"""Where a network suffers from few bits: one layer at a time, by curvature, and by the shape of its distributions.

The Hessian's trace is Hutchinson's estimate with Rademacher probes, its largest eigenvalue that of
power iteration, as in HAWQ (Dong et al. 2019, arXiv 1905.03696; HAWQ-V2, arXiv 1911.03852). Without
a loss, the squared error of the features is taken: it needs no labels, it is 0 at the weights
themselves, and so its Hessian is that of Gauss and Newton, never negative.
"""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from mezzotint.quant.bitwidth import bits, off
from mezzotint.quant.convert import named_activation_quantizers, parameter_of, quantized_layers
from mezzotint.quant.hooks import evaluating, hooked
from mezzotint.seeding import key_of

Loss = Callable[[nn.Module, Tensor], Tensor]
"""From the network and a batch to a scalar."""


@dataclass(frozen=True)
class LayerSensitivity:
    """What one layer does to the features when it alone is quantized.

    Attributes:
        name: of the layer, or of the module whose activations are quantized.
        what: `"weight"` or `"activation"`.
        cosine: mean over samples of that between the features and the float network's.
        error: squared error of the features over their variance.
    """

    name: str
    what: str
    cosine: float
    error: float


@torch.no_grad()
def layer_sensitivity(
    encoder: nn.Module, batches: Iterable[Tensor], *, weight: int = 4, activation: int = 32
) -> list[LayerSensitivity]:
    """Quantize one weight, then one activation, at a time.

    Args:
        encoder: quantizable and, unless `activation` is 32, calibrated.
        batches: normalized inputs.
        weight: bits of the weights; 32 leaves them out.
        activation: bits of the activations; 32 leaves them out.

    Returns:
        The most sensitive first.
    """
    data = list(batches)
    if not data:
        raise ValueError("got no batches; allowed is one sample or more: give batches of inputs")
    with evaluating(encoder), bits(encoder, weight=weight, activation=activation):
        places = [
            (name, "weight", layer.weight_quantizer) for name, layer in quantized_layers(encoder)
        ]
        places += [
            (name, "activation", quantizer)
            for name, quantizer in named_activation_quantizers(encoder)
        ]
        wanted = [place for place in places if place[2].mode == "quantize"]
        for _, _, quantizer in places:
            quantizer.mode = "off"
        float_features = torch.cat([encoder(x) for x in data])
        spread = (float_features - float_features.mean(0)).square().sum().clamp_min(1e-30)
        found = []
        for name, what, quantizer in wanted:
            quantizer.mode = "quantize"
            features = torch.cat([encoder(x) for x in data])
            quantizer.mode = "off"
            cosine = nn.functional.cosine_similarity(features, float_features).mean()
            error = (features - float_features).square().sum() / spread
            found.append(LayerSensitivity(name, what, float(cosine), float(error)))
    return sorted(found, key=lambda entry: -entry.error)


@dataclass(frozen=True)
class Distribution:
    """The shape of one weight, or of what enters one layer.

    Attributes:
        name: of the layer.
        what: `"weight"` or `"activation"`.
        kurtosis: fourth central moment over the variance squared: 3 of a normal distribution, 1.8
            of a uniform one.
        peak: largest deviation from the mean, in standard deviations.
        outliers: share of the values beyond six standard deviations.
        channel_ratio: largest magnitude of the widest channel over that of the median channel;
            where it is large, one range for the tensor wastes bits on most channels.
    """

    name: str
    what: str
    kurtosis: float
    peak: float
    outliers: float
    channel_ratio: float


@torch.no_grad()
def distributions(encoder: nn.Module, batches: Iterable[Tensor]) -> list[Distribution]:
    """Weights and inputs of all quantized layers, those of the largest kurtosis first.

    Args:
        encoder: quantizable.
        batches: normalized inputs, all of which are used together; what enters one layer is held in
            memory.
    """
    data = list(batches)
    found = []
    with evaluating(encoder), off(encoder):
        for name, layer in quantized_layers(encoder):
            weight = parameter_of(layer)
            found.append(_shape_of(name, "weight", weight.flatten(1)))
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
                found.append(_shape_of(name, "activation", rows))
    return sorted(found, key=lambda entry: -entry.kurtosis)


def _shape_of(name: str, what: str, rows: Tensor) -> Distribution:
    """Of values `[channels, N]`."""
    centered = rows.double() - rows.double().mean()
    variance = centered.square().mean().clamp_min(1e-60)
    deviations = centered.abs() / variance.sqrt()
    widest = rows.abs().amax(1)
    return Distribution(
        name,
        what,
        float(deviations.pow(4).mean()),
        float(deviations.max()),
        float((deviations > 6.0).double().mean()),
        float(widest.max() / widest.median().clamp_min(1e-12)),
    )


def feature_loss(encoder: nn.Module, x: Tensor) -> Tensor:
    """Half the squared distance of the features from where they are now, the mean over samples: 0, with curvature."""
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
    """Mean eigenvalue of each layer's block of the Hessian: the trace over the number of weights.

    All layers are probed at once; their cross terms have mean 0.

    Args:
        encoder: quantizable; the Hessian is that of the float network in eval mode.
        batches: normalized inputs, whose losses are averaged.
        loss: from network and batch; by default the label-free squared error of the features.
        probes: Rademacher vectors.
        seed: of the probes.
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
                    share = float((vector * product).sum()) / (vector.numel() * probes * len(data))
                    totals[name] = totals.get(name, 0.0) + share
    return totals


def hessian_eigenvalue(
    encoder: nn.Module,
    batches: Iterable[Tensor],
    *,
    loss: Loss = feature_loss,
    steps: int = 20,
    seed: int = 0,
) -> dict[str, float]:
    """Largest eigenvalue of each layer's block of the Hessian, by power iteration.

    Args:
        encoder: as for `hessian_trace`.
        batches: as there.
        loss: as there.
        steps: of the iteration.
        seed: of the start.
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
            place = names.index(name)
            (part,) = torch.autograd.grad(gradients[place], weights[place], grad_outputs=vector)
            product += part / len(data)
        value = float((vector * product).sum())
        vector = product
    return value


def _gradients(
    encoder: nn.Module, x: Tensor, loss: Loss
) -> tuple[list[str], list[Tensor], list[Tensor]]:
    """Names, weights, and gradients that can be differentiated again."""
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
