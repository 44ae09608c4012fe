"""NormRescale (Huang et al. 2022, arXiv 2208.00275): give the weights of one encoder the norms of another.

A convolution in front of a BatchNorm computes the same whatever its scale, but not the same *step*:
its effective learning rate is lr / ‖w‖². An encoder that was pretrained with LARS has other norms
than SGD is used to, and moves too little or too much when it is fine-tuned with SGD. So each weight
is multiplied by the ratio of the anchor's norm to its own; its direction stays.

By default only scale-invariant weights are changed: those of convolutions and linears that a
BatchNorm follows. With their running statistics changed along (mean by the ratio, variance by its
square), the function stays the same in eval mode too, up to the BatchNorm's ε. `everything` does
what the authors' code does: every floating tensor, also the scales and running statistics of
BatchNorms, which changes the function. Their demo loads both checkpoints into one variable and
fails; a zero norm is left alone here, where it would divide by zero there.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from mezzotint.encoders.encoder import Encoder
from mezzotint.quant.hooks import evaluating, hooked

_WEIGHTED = (nn.modules.conv._ConvNd, nn.Linear)


@dataclass(frozen=True)
class Change:
    """What was done to one tensor.

    Attributes:
        name: of the tensor.
        norm: before, L2.
        anchor: of the anchor's tensor.
        ratio: what it was multiplied by; 1 where a norm is zero.
    """

    name: str
    norm: float
    anchor: float
    ratio: float


def scale_invariant(encoder: Encoder) -> dict[str, str]:
    """Names of the convolutions and linears that a BatchNorm follows at once → the name of that BatchNorm.

    What follows what is seen by running the encoder once on zeros, in eval mode: a BatchNorm takes
    the very tensor that the layer returned, and nothing else does.
    """
    made: dict[int, str] = {}
    kept: list[Tensor] = []  # so that no address is given out twice
    readers: dict[str, list[str]] = {}
    norms: dict[str, str] = {}
    hooks = []
    for name, module in encoder.named_modules():
        if any(True for _ in module.children()):
            continue

        def note(m: nn.Module, inputs: tuple[Any, ...], output: Any, name: str = name) -> None:
            for x in inputs:
                if isinstance(x, Tensor) and id(x) in made:
                    readers.setdefault(made[id(x)], []).append(name)
                    if isinstance(m, _BatchNorm):
                        norms[made[id(x)]] = name
            if isinstance(m, _WEIGHTED) and m.bias is None and isinstance(output, Tensor):
                made[id(output)] = name
                kept.append(output)

        hooks.append(module.register_forward_hook(note))
    with hooked(hooks), evaluating(encoder), torch.no_grad():
        parameter = next(encoder.parameters())
        encoder(
            torch.zeros(1, *encoder.input.shape, device=parameter.device, dtype=parameter.dtype)
        )
    return {layer: norm for layer, norm in norms.items() if readers[layer] == [norm]}


@torch.no_grad()
def norm_rescale(encoder: Encoder, anchor: Encoder, *, everything: bool = False) -> list[Change]:
    """Multiply the encoder's weights, in place, so that their norms are the anchor's.

    Args:
        encoder: is changed.
        anchor: of the same architecture, trained with the optimizer that is to come.
        everything: every floating tensor by name, also those that are not scale-invariant: the
            function changes.

    Raises:
        ValueError: when the two differ in architecture, hold values that are not finite, or no
            weight can be changed.
    """
    own, other = dict(encoder.state_dict()), dict(anchor.state_dict())
    differing = sorted(
        n
        for n in own.keys() | other.keys()
        if n not in own or n not in other or own[n].shape != other[n].shape
    )
    if differing:
        raise ValueError(
            f"got an anchor of another architecture, first differing in {differing[0]!r}; allowed is the same encoder, "
            "trained otherwise"
        )
    if any(
        t.is_floating_point() and not t.isfinite().all() for t in (*own.values(), *other.values())
    ):
        raise ValueError(
            "got weights that are not finite; allowed are finite ones: check encoder and anchor"
        )
    if everything:
        names = [name for name, t in own.items() if t.is_floating_point()]
        return [_rescaled(name, own[name], other[name]) for name in names]
    followed = scale_invariant(encoder)
    if not followed:
        raise ValueError(
            "no convolution or linear of this encoder is followed by a BatchNorm, so no weight is free in its scale; "
            "--all rescales every tensor, and changes the function"
        )
    changes = []
    for layer, norm in followed.items():
        change = _rescaled(f"{layer}.weight", own[f"{layer}.weight"], other[f"{layer}.weight"])
        if f"{norm}.running_mean" in own:
            own[f"{norm}.running_mean"].mul_(change.ratio)
            own[f"{norm}.running_var"].mul_(change.ratio**2)
        changes.append(change)
    return changes


def _rescaled(name: str, tensor: Tensor, anchor: Tensor) -> Change:
    norm, wanted = float(tensor.double().norm()), float(anchor.double().norm())
    ratio = wanted / norm if norm > 0.0 and wanted > 0.0 else 1.0
    tensor.mul_(ratio)
    return Change(name, norm, wanted, ratio)


def norms(encoders: Mapping[str, Encoder], anchor: Encoder) -> list[tuple[str, dict[str, float]]]:
    """Norm of each weight tensor over the anchor's, for several encoders: the authors' weight analysis.

    Args:
        encoders: by name, of the anchor's architecture.
        anchor: what they are compared with.

    Returns:
        For each weight of two or more dimensions its name, and the ratio by encoder.
    """
    base = {name: float(t.double().norm()) for name, t in _weights(anchor)}
    found = {name: dict(_weights(encoder)) for name, encoder in encoders.items()}
    wrong = next((name for name, tensors in found.items() if tensors.keys() != base.keys()), None)
    if wrong is not None:
        raise ValueError(
            f"{wrong} has other layers than the anchor; allowed are encoders of one architecture"
        )
    return [
        (
            layer,
            {
                name: float(tensors[layer].double().norm()) / (norm or 1.0)
                for name, tensors in found.items()
            },
        )
        for layer, norm in base.items()
    ]


def _weights(encoder: Encoder) -> Iterator[tuple[str, Tensor]]:
    return ((name, p.detach()) for name, p in encoder.named_parameters() if p.ndim > 1)


def as_text(changes: Sequence[Change]) -> str:
    """A line a tensor: norm, anchor's norm, ratio."""
    width = max(len(change.name) for change in changes)
    lines = [f"{'tensor':<{width}}  {'norm':>9}  {'anchor':>9}  {'ratio':>7}"]
    return "\n".join(
        [
            *lines,
            *(
                f"{c.name:<{width}}  {c.norm:9.3f}  {c.anchor:9.3f}  {c.ratio:7.3f}"
                for c in changes
            ),
        ]
    )


def as_svg(rows: Sequence[tuple[str, Mapping[str, float]]]) -> str:
    """A picture of `norms`: a line an encoder over the layers, on a logarithmic scale; 1 is the anchor."""
    import html
    import math

    width, height, left, top = 720, 260, 44, 16
    values = [v for _, own in rows for v in own.values() if v > 0.0] + [0.5, 2.0]
    low, high = math.log10(min(values)), math.log10(max(values))

    def y(value: float) -> float:
        return round(
            top + (high - math.log10(max(value, 10**low))) / (high - low) * (height - 2 * top), 1
        )

    def x(place: int) -> float:
        return round(left + place * (width - left - 150) / max(1, len(rows) - 1), 1)

    colors = ("#a5361a", "#2f6f9f", "#4b8b3b", "#b87a0c", "#7a4e9e", "#1f8a85")
    ticks = [
        t
        for t in (0.01, 0.03, 0.1, 0.3, 0.5, 1.0, 2.0, 3.0, 10.0, 30.0, 100.0)
        if low <= math.log10(t) <= high
    ]
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" font-family="sans-serif" '
        'font-size="11">',
        f'<rect width="{width}" height="{height}" fill="#fdfaf3"/>',
    ]
    for tick in ticks:
        parts.append(
            f'<path d="M{left} {y(tick)}H{x(len(rows) - 1)}" stroke="#dcd2c1" stroke-width="{2 if tick == 1 else 1}"/>'
        )
        parts.append(
            f'<text x="{left - 6}" y="{y(tick) + 4}" text-anchor="end" fill="#655c50">{tick:g}</text>'
        )
    for number, name in enumerate(rows[0][1] if rows else ()):
        color = colors[number % len(colors)]
        line = " ".join(f"{x(place)},{y(own[name])}" for place, (_, own) in enumerate(rows))
        parts.append(f'<polyline points="{line}" fill="none" stroke="{color}" stroke-width="1.6"/>')
        for place, (layer, own) in enumerate(rows):
            title = f"{html.escape(name)}, {html.escape(layer)}: {own[name]:.3f}"
            parts.append(
                f'<circle cx="{x(place)}" cy="{y(own[name])}" r="2.5" fill="{color}"><title>{title}</title></circle>'
            )
        parts.append(
            f'<text x="{width - 140}" y="{top + 14 + 16 * number}" fill="{color}">{html.escape(name)}</text>'
        )
    parts.append(
        f'<text x="{left}" y="{height - 2}" fill="#655c50">weights in order; norm over the anchor\'s</text>'
    )
    return "\n".join([*parts, "</svg>"]) + "\n"
