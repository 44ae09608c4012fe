"""Write a quantized encoder with its weights as packed integers.

`mezzotint.encoders.saving` describes the format and reads it.
"""

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from mezzotint import quant
from mezzotint.encoders.encoder import Encoder
from mezzotint.encoders.saving import describe, keep_files
from mezzotint.encoders.saving import load_packed as load_packed
from mezzotint.files import replacing, write_json
from mezzotint.quant.bitwidth import Bits
from mezzotint.quant.convert import named_activation_quantizers, parameter_of, quantized_layers
from mezzotint.quant.fake import Layout, Quantizer
from mezzotint.quant.grid import Grid
from mezzotint.quant.packing import pack


def save_packed(
    encoder: Encoder,
    path: str | Path,
    bits: Bits,
    *,
    made_by: Mapping[str, Any] | None = None,
) -> Path:
    """Write an encoder with its weights packed in 1 to 8 bits.

    Args:
        encoder: encoder prepared by `quantize_`, and calibrated by `calibrate` unless its
            activations stay in fp32.
        path: directory to write, created if missing.
        bits: bit-widths: weights of 1 to 8 bits are packed (layers with a bit-width of their own
            keep it), activations are simulated when the encoder is loaded.
        made_by: provenance to store with the encoder, such as the command.

    Returns:
        The directory, from which `load_packed` reads an encoder with the outputs of
        `quant.bits(encoder, bits)`.

    Raises:
        ValueError: if the weights are fp32, or a quantizer's values are not on one uniform grid.
    """
    if bits.weight == 32:
        raise ValueError(
            f"`bits` must have weights of 1 to 8 bits, got {bits}. "
            "Use `save_encoder` for fp32 weights."
        )
    folder = Path(path)
    folder.mkdir(parents=True, exist_ok=True)
    tensors: dict[str, Tensor] = {}
    weights: dict[str, Any] = {}
    activations: dict[str, Any] = {}
    with quant.bits(encoder, bits), torch.no_grad():
        for name, layer in quantized_layers(encoder):
            weights[f"{name}.weight"] = _store_weight(tensors, f"{name}.weight", layer)
            if layer.bias is not None:
                tensors[f"{name}.bias"] = layer.bias.detach().clone()
        if bits.activation != 32:
            for name, quantizer in named_activation_quantizers(encoder):
                layer = encoder.get_submodule(name)
                side = "input" if hasattr(layer, "weight_quantizer") else "output"
                activations[f"{name}:{side}"] = _store_grid(
                    tensors, f"{name}:{side}", quantizer.layout, quantizer.grid(), quantizer
                )
        quantizers = {
            name for name, module in encoder.named_modules() if isinstance(module, Quantizer)
        }
    for name, value in encoder.state_dict().items():
        module = name.rpartition(".")[0]
        if name not in weights and name not in tensors and module not in quantizers:
            tensors[name] = value
    file = folder / "packed.safetensors"
    with replacing(file) as temporary:
        save_file(
            {name: value.detach().cpu().contiguous() for name, value in tensors.items()}, temporary
        )
    keep_files(encoder, folder)
    description = describe(encoder, made_by) | {
        "bits": str(bits),
        "weights": weights,
        "activations": activations,
        "sha256": hashlib.sha256(file.read_bytes()).hexdigest(),
    }
    write_json(folder / "packed.json", description, sealed=True)
    return folder


def _store_weight(tensors: dict[str, Tensor], name: str, layer: Any) -> dict[str, Any]:
    quantizer, parameter = layer.weight_quantizer, parameter_of(layer)
    grid: Grid = quantizer.grid_of(parameter)
    rows = quantizer.codes(parameter)
    layout: Layout = quantizer.layout
    if not torch.equal(layout.unrows(grid.values(rows), parameter.shape), layer.weight):
        raise ValueError(
            f"{type(quantizer).__name__} of `{name}` has values off its uniform grid and cannot be "
            "packed. Its integer codes and scales must determine every value. Use another policy."
        )
    bits, lowest = int(quantizer.bits), int(grid.low)
    tensors[f"{name}.codes"] = pack(layout.unrows(rows, parameter.shape) - lowest, bits)
    tensors[f"{name}.scale"] = grid.scale
    if grid.zero_point is not None:
        tensors[f"{name}.zero_point"] = grid.zero_point
    return {
        "bits": bits,
        "lowest": lowest,
        "shape": list(parameter.shape),
        "layout": _describe_layout(layout),
    }


def _store_grid(
    tensors: dict[str, Tensor], name: str, layout: Layout, grid: Grid, quantizer: Quantizer
) -> dict[str, Any]:
    tensors[f"{name}.scale"] = grid.scale
    if grid.zero_point is not None:
        tensors[f"{name}.zero_point"] = grid.zero_point
    return {
        "bits": int(quantizer.bits),
        "lowest": int(grid.low),
        "highest": int(grid.high),
        "divide": grid.divide,
        "layout": _describe_layout(layout),
    }


def _describe_layout(layout: Layout) -> dict[str, Any]:
    return {"granularity": layout.granularity, "axis": layout.axis, "group": layout.group}
