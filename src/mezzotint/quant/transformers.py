"""Quantization of transformers: SmoothQuant, and a logarithmic grid for the attention.

`smooth_` is SmoothQuant (Xiao et al. 2022, arXiv 2211.10438). The inputs of a transformer's linear
layers have a few channels of large values, which cost all other channels their precision. Dividing
each channel by s in the LayerNorm and multiplying the weight of the linear layer by s keeps the
fp32 outputs and makes the activations easier to quantize.

`quantize_softmax_` quantizes attention to powers of two (FQ-ViT, Lin et al. 2021, arXiv
2111.13824). Most attention values are close to 0, where a uniform grid has almost no points.
"""

from collections.abc import Iterable
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from mezzotint.quant.bitwidth import Quantizers
from mezzotint.quant.convert import parameter_of, quantize_output_
from mezzotint.quant.fake import Layout, Rangeless
from mezzotint.quant.grid import round_ste
from mezzotint.quant.hooks import evaluating, find_consumers, hooked


@torch.no_grad()
def smooth_(
    encoder: nn.Module, batches: Iterable[Tensor], *, alpha: float = 0.5
) -> dict[str, list[str]]:
    """Equalize the channels of activations by scaling norms and weights, in place.

    For each norm that feeds linear layers, channel j is divided by `max |x_j|^α / max |w_j|^(1 −
    α)`; the fp32 outputs stay equal. Call it before `calibrate`.

    Args:
        encoder: network with LayerNorm or RMSNorm before linear layers, such as timm's ViTs;
            quantizable or not.
        batches: normalized inputs of the training data, without augmentation.
        alpha: migration strength: 0 leaves the activations as they are, 1 equalizes them fully.

    Returns:
        Names of the linear layers by name of the norm that feeds them.

    Raises:
        ValueError: without samples, when no norm feeds a linear layer, or when the outputs change
            because a norm's output is also used elsewhere; the network is then left unchanged.
    """
    if not 0.0 <= alpha <= 1.0:
        raise ValueError(f"`alpha` must be 0 to 1, got {alpha}. Try 0.5.")
    data = list(batches)
    if not data:
        raise ValueError(
            "The calibration set is empty. It needs one sample or more: pass batches of inputs."
        )
    candidates = find_consumers(encoder, data[0][:2], (nn.LayerNorm, nn.RMSNorm), (nn.Linear,))
    pairs = {
        norm: linears
        for norm, linears in candidates.items()
        if _affine(encoder.get_submodule(norm)) is not None
    }
    if not pairs:
        raise ValueError(
            f"{type(encoder).__name__} has no LayerNorm that feeds a linear layer. Smoothing is "
            "for transformers such as timm's ViTs. Leave it out for this network."
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
                f"Smoothing changes the outputs of {type(encoder).__name__}: a norm's output must "
                "go to linear layers alone. Leave it out for this network."
            )
    return pairs


def _affine(norm: nn.Module) -> Tensor | None:
    weight = getattr(norm, "weight", None)
    return weight if isinstance(weight, Tensor) else None


def _peaks(
    encoder: nn.Module, pairs: dict[str, list[str]], data: list[Tensor]
) -> dict[str, Tensor]:
    """Return the largest magnitude of each channel of the norms' outputs."""
    names = {encoder.get_submodule(norm): norm for norm in pairs}
    peaks: dict[str, Tensor] = {}

    def update(module: nn.Module, args: tuple[Any, ...], out: Tensor) -> None:
        peak = out.abs().flatten(0, -2).amax(0)
        peaks[names[module]] = torch.maximum(peaks.get(names[module], peak), peak)

    with hooked([norm.register_forward_hook(update) for norm in names]):
        for x in data:
            encoder(x)
    return peaks


def _rescale(encoder: nn.Module, norm_name: str, linears: list[str], scale: Tensor) -> None:
    for parameter in encoder.get_submodule(norm_name).parameters():  # weight and optional bias
        parameter.div_(scale)
    for name in linears:
        parameter_of(encoder.get_submodule(name)).mul_(scale)


class Log2(Rangeless):
    """Powers of two: `x̂ = 2^(−round(−log2 x))` for 0 < x ≤ 1, with 2^b codes.

    Values below the smallest power become 0. The gradient is straight-through for the rounding of
    the exponent, and 0 where x̂ is 0. No calibration is needed.

    Args:
        fixed_bits: bits that `quant.bits` does not change.
    """

    supported_bits: ClassVar[range] = range(1, 9)

    def __init__(self, *, fixed_bits: int | None = None) -> None:
        super().__init__(Layout(), "affine", fixed_bits=fixed_bits)

    def quantize(self, x: Tensor) -> Tensor:
        """Round to powers of two."""
        last = torch.exp2(self.bits).round() - 1  # the code of 0
        code = round_ste(-torch.log2(x.clamp_min(2.0**-126)))
        return torch.where((code < last) & (x > 0.0), torch.exp2(-code), 0.0)


def quantize_softmax_(encoder: nn.Module, *, fixed_bits: int | None = None) -> list[str]:
    """Quantize the attention of timm's ViTs to powers of two whenever activations are quantized.

    This switches off fused attention, which does not expose its probabilities. fp32 results then
    agree up to rounding errors.

    Args:
        encoder: network with timm's `Attention`, after `quantize_`.
        fixed_bits: bits of the attention; `None` follows the activations.

    Returns:
        Names of the attention modules.

    Raises:
        ValueError: when there is none, or `quantize_` has not been called.
    """
    attentions: list[tuple[str, Any]] = [
        (name, module)
        for name, module in encoder.named_modules()
        if hasattr(module, "fused_attn")
        and isinstance(getattr(module, "attn_drop", None), nn.Dropout)
    ]
    if not attentions:
        raise ValueError(
            f"{type(encoder).__name__} has no attention with timm's attributes `fused_attn` and "
            "`attn_drop`. Leave the softmax of this network in fp32."
        )
    device = Quantizers.of(encoder).weights[0][1].bits.device
    for _, module in attentions:
        module.fused_attn = False
        quantize_output_(module.attn_drop, Log2(fixed_bits=fixed_bits).to(device))
    return [name for name, _ in attentions]
