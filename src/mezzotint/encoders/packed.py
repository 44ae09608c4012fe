"""An encoder with packed integer weights on disk: `packed.safetensors` and `packed.json`.

A weight of b bits takes b bits. It is made float when the encoder is loaded, so what is saved is storage and not time:
the arithmetic is float32. Ranges of activations are stored too when the encoder is to be served with quantized
activations, which are then simulated. The outputs are those of the simulation (`mezzotint.quant.bits`), exactly.

For each quantized weight there are `NAME.codes` (uint8, see `mezzotint.quant.packing`) and `NAME.scale` (float32, one a
channel or group); the rest of the encoder stands under its own names. Nothing is pickled.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from mezzotint.encoders.encoder import Encoder
from mezzotint.encoders.saving import encoder_of, require_hash
from mezzotint.quant.fake import Layout
from mezzotint.quant.grid import Grid
from mezzotint.quant.packing import unpack


class StoredGrid(nn.Module):
    """Puts activations on a grid that never changes.

    Args:
        layout: which values share a range.
        grid: as it was when it was stored.
    """

    def __init__(self, layout: Layout, grid: Grid) -> None:
        super().__init__()
        self.layout, self.divide = layout, grid.divide
        for name in ("scale", "zero_point", "low", "high"):
            self.register_buffer(name, getattr(grid, name), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """Of the shape and type of `x`."""
        grid = Grid(self.scale, self.zero_point, self.low, self.high, self.divide)  # type: ignore[arg-type]
        return self.layout.quantize(x.float(), grid).to(x.dtype)


def load_packed(path: str | Path) -> Encoder:
    """Read an encoder that was exported as `packed`, in eval mode.

    Args:
        path: directory with `packed.json`.

    Returns:
        An encoder with the outputs of the simulation. It can be evaluated and embedded with, not trained further.

    Raises:
        ValueError: when the directory holds none, or the file is not the one that was saved.
    """
    folder = Path(path)
    if not (folder / "packed.json").is_file():
        raise ValueError(
            f"got {path}, which has no packed.json; allowed is a packed encoder: "
            "point to what `mezzotint export RUN --format packed` wrote"
        )
    description = json.loads((folder / "packed.json").read_text(encoding="utf-8"))
    file = folder / "packed.safetensors"
    require_hash(file, description["sha256"], "export it again")
    try:
        tensors = load_file(file)
        encoder = encoder_of(description)
        for name, entry in description["weights"].items():
            tensors[name] = _weight(tensors, name, entry)
        grids = {place: _grid(tensors, place, entry) for place, entry in description["activations"].items()}
        encoder.load_state_dict(tensors)
    except (RuntimeError, SafetensorError, KeyError) as error:
        raise ValueError(f"{file} does not fit its description: {error}; export it again") from error
    for place, quantizer in grids.items():
        module, _, side = place.rpartition(":")
        _attach(encoder.get_submodule(module), side, quantizer)
    return encoder.eval()


def _weight(tensors: dict[str, Tensor], name: str, entry: Mapping[str, Any]) -> Tensor:
    """One weight in float: exactly the points of the grid that its codes stand for."""
    layout, shape = Layout(**entry["layout"]), torch.Size(entry["shape"])
    codes = unpack(tensors.pop(f"{name}.codes"), entry["bits"], shape.numel()).reshape(shape) + entry["lowest"]
    zero = tensors.pop(f"{name}.zero_point", None)
    grid = Grid(tensors.pop(f"{name}.scale"), zero, torch.tensor(0.0), torch.tensor(0.0))
    return layout.unrows(grid.values(layout.rows(codes)), shape).contiguous()


def _grid(tensors: dict[str, Tensor], place: str, entry: Mapping[str, Any]) -> StoredGrid:
    low, high = (torch.tensor(float(entry[name])) for name in ("lowest", "highest"))
    zero = tensors.pop(f"{place}.zero_point", None)
    return StoredGrid(Layout(**entry["layout"]), Grid(tensors.pop(f"{place}.scale"), zero, low, high, entry["divide"]))


def _attach(module: nn.Module, side: str, quantizer: StoredGrid) -> None:
    """Quantize what enters or leaves a module."""
    if side == "input":
        module.register_forward_pre_hook(lambda _, inputs: (quantizer(inputs[0]), *inputs[1:]))
    else:
        module.register_forward_hook(lambda _, inputs, output: quantizer(output))
    module.add_module(f"stored_{side}_grid", quantizer)
