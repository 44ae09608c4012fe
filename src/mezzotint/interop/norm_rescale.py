"""NormRescale (Huang et al. 2022, arXiv 2208.00275): rescale weights to another encoder's norms.

The output of a convolution before a BatchNorm does not depend on its scale, but the effective
learning rate does: it is lr / ‖w‖². An encoder that was pretrained with LARS has other norms than
one trained with SGD, and changes too slowly or too fast when it is fine-tuned with SGD. So each
weight is multiplied by the ratio of the anchor's norm to its own; its direction stays.

By default only scale-invariant weights are rescaled: convolutions and linear layers that a
BatchNorm follows. Their running statistics are rescaled too (the mean by the ratio, the variance by
its square), so that the function stays the same in eval mode, up to the BatchNorm's ε. `everything`
does what the authors' code does: it rescales every floating-point tensor, including scales and
running statistics of BatchNorms, which changes the function. Their demo loads both checkpoints into
one variable and fails; a zero norm, which divides by zero there, is skipped here.
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
    """Rescaling of one tensor.

    Attributes:
        name: name of the tensor.
        norm: L2 norm before.
        anchor: L2 norm of the anchor's tensor.
        ratio: factor of the tensor; 1 if a norm is zero.
    """

    name: str
    norm: float
    anchor: float
    ratio: float


def scale_invariant(encoder: Encoder) -> dict[str, str]:
    """Map convolutions and linear layers to the BatchNorm that follows them directly.

    The encoder is run once on zeros, in eval mode. A BatchNorm follows a layer if it takes the
    tensor object that the layer returned, and no other module does.
    """
    made: dict[int, str] = {}
    alive: list[Tensor] = []  # so that no id is reused
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
                alive.append(output)

        hooks.append(module.register_forward_hook(note))
    with hooked(hooks), evaluating(encoder), torch.no_grad():
        parameter = next(encoder.parameters())
        x = encoder.input.blank().to(parameter.device)
        encoder(x.to(parameter.dtype) if x.is_floating_point() else x)
    return {layer: norm for layer, norm in norms.items() if readers[layer] == [norm]}


@torch.no_grad()
def norm_rescale(encoder: Encoder, anchor: Encoder, *, everything: bool = False) -> list[Change]:
    """Rescale weights in place to match another encoder's per-layer norms.

    Args:
        encoder: encoder that is changed.
        anchor: encoder of the same architecture, trained with the optimizer of the fine-tuning.
        everything: rescale every floating-point tensor, which changes the function.

    Raises:
        ValueError: for encoders of different architectures, values that are not finite, or an
            encoder without scale-invariant weights.
    """
    own, other = dict(encoder.state_dict()), dict(anchor.state_dict())
    differing = sorted(
        n
        for n in own.keys() | other.keys()
        if n not in own or n not in other or own[n].shape != other[n].shape
    )
    if differing:
        raise ValueError(
            f"The anchor has another architecture, first differing in {differing[0]!r}. Give an "
            "encoder of the same architecture."
        )
    if any(
        t.is_floating_point() and not t.isfinite().all() for t in (*own.values(), *other.values())
    ):
        raise ValueError(
            "Weights contain NaN or inf. Check encoder and anchor. Did training diverge?"
        )
    if everything:
        names = [name for name, t in own.items() if t.is_floating_point()]
        return [_rescaled(name, own[name], other[name]) for name in names]
    followed = scale_invariant(encoder)
    if not followed:
        raise ValueError(
            "No convolution or linear layer of the encoder is followed by a BatchNorm, so no "
            "weight is "
            "scale-invariant. Use --all to rescale every tensor, which changes the function."
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
    norm, target = float(tensor.double().norm()), float(anchor.double().norm())
    ratio = target / norm if norm > 0.0 and target > 0.0 else 1.0
    tensor.mul_(ratio)
    return Change(name, norm, target, ratio)


def norms(encoders: Mapping[str, Encoder], anchor: Encoder) -> list[tuple[str, dict[str, float]]]:
    """Compute the ratio of weight norms to the anchor's, as in the authors' weight analysis.

    Args:
        encoders: encoders of the anchor's architecture, by name.
        anchor: encoder that they are compared with.

    Returns:
        For each weight of two or more dimensions, its name and the ratio by encoder.
    """
    base = {name: float(t.double().norm()) for name, t in _weights(anchor)}
    weights = {name: dict(_weights(encoder)) for name, encoder in encoders.items()}
    other = next((name for name, tensors in weights.items() if tensors.keys() != base.keys()), None)
    if other is not None:
        raise ValueError(
            f"`{other}` has other layers than the anchor. Give encoders of one architecture."
        )
    return [
        (
            layer,
            {
                name: float(tensors[layer].double().norm()) / (norm or 1.0)
                for name, tensors in weights.items()
            },
        )
        for layer, norm in base.items()
    ]


def _weights(encoder: Encoder) -> Iterator[tuple[str, Tensor]]:
    return ((name, p.detach()) for name, p in encoder.named_parameters() if p.ndim > 1)


def as_text(changes: Sequence[Change]) -> str:
    """Format one line per tensor: norm, anchor's norm, ratio."""
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
    """Plot `norms`: one line per encoder over the layers, on a logarithmic scale."""
    import html
    import math

    width, height, left, top = 720, 260, 44, 16
    values = [v for _, own in rows for v in own.values() if v > 0.0] + [0.5, 2.0]
    low, high = math.log10(min(values)), math.log10(max(values))

    def y(value: float) -> float:
        return round(
            top + (high - math.log10(max(value, 10**low))) / (high - low) * (height - 2 * top), 1
        )

    def x(index: int) -> float:
        return round(left + index * (width - left - 150) / max(1, len(rows) - 1), 1)

    colors = ("#a5361a", "#2f6f9f", "#4b8b3b", "#b87a0c", "#7a4e9e", "#1f8a85")
    ticks = [
        t
        for t in (0.01, 0.03, 0.1, 0.3, 0.5, 1.0, 2.0, 3.0, 10.0, 30.0, 100.0)
        if low <= math.log10(t) <= high
    ]
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" '
        'font-family="sans-serif" '
        'font-size="11">',
        f'<rect width="{width}" height="{height}" fill="#fdfaf3"/>',
    ]
    for tick in ticks:
        parts.append(
            f'<path d="M{left} {y(tick)}H{x(len(rows) - 1)}" stroke="#dcd2c1" '
            f'stroke-width="{2 if tick == 1 else 1}"/>'
        )
        parts.append(
            f'<text x="{left - 6}" y="{y(tick) + 4}" text-anchor="end" '
            f'fill="#655c50">{tick:g}</text>'
        )
    for number, name in enumerate(rows[0][1] if rows else ()):
        color = colors[number % len(colors)]
        line = " ".join(f"{x(index)},{y(own[name])}" for index, (_, own) in enumerate(rows))
        parts.append(f'<polyline points="{line}" fill="none" stroke="{color}" stroke-width="1.6"/>')
        for index, (layer, own) in enumerate(rows):
            title = f"{html.escape(name)}, {html.escape(layer)}: {own[name]:.3f}"
            parts.append(
                f'<circle cx="{x(index)}" cy="{y(own[name])}" r="2.5" '
                f'fill="{color}"><title>{title}</title></circle>'
            )
        parts.append(
            f'<text x="{width - 140}" y="{top + 14 + 16 * number}" '
            f'fill="{color}">{html.escape(name)}</text>'
        )
    parts.append(
        f'<text x="{left}" y="{height - 2}" fill="#655c50">'
        "weights in order; norm over the anchor's</text>"
    )
    return "\n".join([*parts, "</svg>"]) + "\n"
