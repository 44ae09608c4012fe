"""What vision transformers need besides: SmoothQuant, and attention on a logarithmic grid.

`smooth_` is SmoothQuant (Xiao et al. 2022, arXiv 2211.10438): what enters a transformer's linears
has a few channels of large values, which cost all others their precision. Dividing each channel by
s in the LayerNorm and multiplying the linear's weight by s changes nothing in float and moves the
difficulty to where there is room for it.

`quantize_softmax_` puts attention on powers of two (FQ-ViT, Lin et al. 2021, arXiv 2111.13824):
most of its values are close to 0, where a uniform grid has hardly a point.
"""

from collections.abc import Iterable
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from mezzotint.quant.bitwidth import Quantizers
from mezzotint.quant.convert import parameter_of, quantize_output_
from mezzotint.quant.fake import Layout, Rangeless
from mezzotint.quant.grid import round_ste
from mezzotint.quant.hooks import evaluating, feeds, hooked


@torch.no_grad()
def smooth_(
    encoder: nn.Module, batches: Iterable[Tensor], *, alpha: float = 0.5
) -> dict[str, list[str]]:
    """Move the differences between channels from activations into weights, in place: in float nothing changes.

    For each norm that feeds linears, channel j is divided by `max |x_j|^α / max |w_j|^(1 − α)`. To
    be called before `calibrate`.

    Args:
        encoder: with LayerNorm or RMSNorm before linears, as timm's ViTs; quantizable or not.
        batches: normalized inputs, of the training data and without augmentation.
        alpha: how much of the difficulty moves: 0 none of the activations', 1 all of it.

    Returns:
        Names of the linears by name of the norm that feeds them.

    Raises:
        ValueError: without samples, when no norm feeds a linear, or when the outputs change because
            a norm's output is also used elsewhere; nothing is changed then.
    """
    if not 0.0 <= alpha <= 1.0:
        raise ValueError(f"got alpha={alpha}; allowed is 0 to 1: choose 0.5")
    data = list(batches)
    if not data:
        raise ValueError(
            "the calibration set is empty; allowed is one sample or more: give batches of inputs"
        )
    found = feeds(encoder, data[0][:2], (nn.LayerNorm, nn.RMSNorm), (nn.Linear,))
    pairs = {
        norm: linears
        for norm, linears in found.items()
        if _affine(encoder.get_submodule(norm)) is not None
    }
    if not pairs:
        raise ValueError(
            f"no LayerNorm of {type(encoder).__name__} feeds a linear; allowed are transformers such as timm's ViTs: "
            "leave this network as it is"
        )
    with evaluating(encoder):
        before: Tensor = encoder(data[0])
        peaks = _peaks(encoder, pairs, data)
        scales = {}
        for norm, linears in pairs.items():
            weight = torch.stack(
                [parameter_of(encoder.get_submodule(name)).abs().amax(0) for name in linears]
            ).amax(0)
            scale = peaks[norm].clamp_min(1e-5) ** alpha / weight.clamp_min(1e-5) ** (1.0 - alpha)
            scales[norm] = torch.where((peaks[norm] > 0.0) & (weight > 0.0), scale, 1.0)
            _rescale(encoder, norm, linears, scales[norm])
        after: Tensor = encoder(data[0])
        if not torch.allclose(before, after, rtol=1e-3, atol=1e-3 * float(before.abs().max())):
            for norm, linears in pairs.items():
                _rescale(encoder, norm, linears, 1.0 / scales[norm])
            raise ValueError(
                f"smoothing changes the outputs of {type(encoder).__name__}; allowed are networks in which a norm's "
                "output goes to linears alone: leave this one as it is"
            )
    return pairs


def _affine(norm: nn.Module) -> Tensor | None:
    weight = getattr(norm, "weight", None)
    return weight if isinstance(weight, Tensor) else None


def _peaks(
    encoder: nn.Module, pairs: dict[str, list[str]], data: list[Tensor]
) -> dict[str, Tensor]:
    """Largest magnitude of each channel of what the norms return."""
    names = {encoder.get_submodule(norm): norm for norm in pairs}
    found: dict[str, Tensor] = {}

    def leaving(module: nn.Module, args: tuple[Any, ...], out: Tensor) -> None:
        peak = out.abs().flatten(0, -2).amax(0)
        found[names[module]] = torch.maximum(found.get(names[module], peak), peak)

    with hooked([norm.register_forward_hook(leaving) for norm in names]):
        for x in data:
            encoder(x)
    return found


def _rescale(encoder: nn.Module, norm_name: str, linears: list[str], scale: Tensor) -> None:
    for parameter in encoder.get_submodule(
        norm_name
    ).parameters():  # weight and, where there is one, bias
        parameter.div_(scale)
    for name in linears:
        parameter_of(encoder.get_submodule(name)).mul_(scale)


class Log2(Rangeless):
    """Powers of two: `x̂ = 2^(−round(−log2 x))` for 0 < x ≤ 1, with 2^b codes; what is below the least is 0.

    The gradient is that of the powers with the rounding passed over, and 0 where x̂ is 0. It needs
    no calibration.

    Args:
        fixed_bits: width that `quant.bits` does not change.
    """

    widths: ClassVar[range] = range(1, 9)

    def __init__(self, *, fixed_bits: int | None = None) -> None:
        super().__init__(Layout(), "affine", fixed_bits=fixed_bits)

    def quantize(self, x: Tensor) -> Tensor:
        """On the powers."""
        last = (
            torch.exp2(self.bits).round() - 1
        )  # the code of 0; one less is that of the least power
        code = round_ste(-torch.log2(x.clamp_min(2.0**-126)))
        return torch.where((code < last) & (x > 0.0), torch.exp2(-code), 0.0)


def quantize_softmax_(encoder: nn.Module, *, fixed_bits: int | None = None) -> list[str]:
    """Put the attention of timm's ViTs on powers of two whenever activations are quantized.

    Fused attention is switched off, since it never shows its probabilities; in float, results agree
    to its rounding.

    Args:
        encoder: with timm's `Attention`, that `quantize_` has prepared.
        fixed_bits: width of the attention; `None` follows the activations.

    Returns:
        Names of the attentions.

    Raises:
        ValueError: when there is none, or `quantize_` has not been called.
    """
    found: list[tuple[str, Any]] = [
        (name, module)
        for name, module in encoder.named_modules()
        if hasattr(module, "fused_attn")
        and isinstance(getattr(module, "attn_drop", None), nn.Dropout)
    ]
    if not found:
        raise ValueError(
            f"got {type(encoder).__name__}, which has no attention of timm's kind (fused_attn, attn_drop); allowed are "
            "its ViTs: leave this network's softmax in float"
        )
    device = Quantizers.of(encoder).weights[0][1].bits.device
    for _, module in found:
        module.fused_attn = False
        quantize_output_(module.attn_drop, Log2(fixed_bits=fixed_bits).to(device))
    return [name for name, _ in found]
