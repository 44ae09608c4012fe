"""An encoder on disk: `encoder.safetensors` and `encoder.json`, which says everything needed to use it.

The JSON holds the kind and arguments (names of this package only, never code), what the input must
look like, the hash of the weights, and how the encoder was made. Nothing is pickled.

An encoder with packed integer weights on disk: `packed.safetensors` and `packed.json`.

A weight of b bits takes b bits. It is made float when the encoder is loaded, so what is saved is
storage and not time: the arithmetic is float32. Ranges of activations are stored too when the
encoder is to be served with quantized activations, which are then simulated. The outputs are those
of the simulation (`mezzotint.quant.bits`), exactly.

For each quantized weight there are `NAME.codes` (uint8, see `mezzotint.quant.packing`) and
`NAME.scale` (float32, one a channel or group); the rest of the encoder stands under its own names.
Nothing is pickled.
"""

import dataclasses
import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from mezzotint._version import __version__
from mezzotint.encoders.encoder import Encoder
from mezzotint.files import replacing, write_json
from mezzotint.quant.convert import make_encoder_quantizable
from mezzotint.quant.fake import Layout
from mezzotint.quant.grid import Grid
from mezzotint.quant.packing import unpack
from mezzotint.recipe.schema import construct, resolve
from mezzotint.types import Input


def save_encoder(
    encoder: Encoder, path: str | Path, made_by: Mapping[str, Any] | None = None
) -> Path:
    """Write an encoder's weights and description.

    Args:
        encoder: one that a recipe can name (`encoder.config`).
        path: directory to write, made when missing.
        made_by: what to remember about its making (recipe, command, steps, license of the data).

    Returns:
        The directory.
    """
    folder = Path(path)
    folder.mkdir(parents=True, exist_ok=True)
    weights = folder / "encoder.safetensors"
    with replacing(weights) as temporary:
        save_file(
            {name: t.detach().cpu().contiguous() for name, t in encoder.state_dict().items()},
            temporary,
        )
    description = describe(encoder, made_by) | {
        "sha256": hashlib.sha256(weights.read_bytes()).hexdigest()
    }
    write_json(folder / "encoder.json", description)
    return folder


def describe(encoder: Encoder, made_by: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """What the JSON beside a file of weights says: how to build the encoder, and what it takes."""
    return {
        "format": 1,
        "mezzotint": __version__,
        "encoder": {
            k: v for k, v in encoder.config.items() if k != "pretrained_path"
        },  # its weights are replaced
        "quantization": getattr(encoder, "quantization", None),
        "dim": encoder.dim,
        "input": dataclasses.asdict(encoder.input)
        | {"values": "uint8 / 255, then (x - mean) / std"},
        "made_by": dict(made_by or {}),
    }


def encoder_of(description: Mapping[str, Any]) -> Encoder:
    """Build the encoder that `describe` described, with fresh weights and without quantizers."""
    stated = {k: v for k, v in description["input"].items() if k != "values"}
    stated = {k: tuple(v) if isinstance(v, list) else v for k, v in stated.items()}
    config = resolve(description["encoder"], "Encoder", "encoder")
    built: Encoder = construct(config, "Encoder", {"Encoder": (Input(**stated),)})
    return built


def require_hash(file: Path, saved: str, remedy: str) -> None:
    """Raise a ValueError when a file is not the one that was saved; the message ends with what to do about it."""
    found = hashlib.sha256(file.read_bytes()).hexdigest() if file.is_file() else "no file"
    if found != saved:
        raise ValueError(
            f"{file} is damaged: SHA-256 is {found[:12]}…, saved was {saved[:12]}…; restore the file, or {remedy}"
        )


def load_encoder(path: str | Path) -> Encoder:
    """Read an encoder, in eval mode.

    Args:
        path: an `encoder/` directory, a run directory that holds one, or a packed export.

    Returns:
        A module whose `forward` takes `[B, *input.shape]` normalized with `input.mean` and
        `input.std` and returns `[B, dim]`.

    Raises:
        ValueError: when the directory holds no encoder, or its weights are not the ones that were
            saved.
    """
    folder = Path(path)
    if (folder / "packed.json").is_file():
        return load_packed(folder)
    if not (folder / "encoder.json").is_file() and (folder / "encoder" / "encoder.json").is_file():
        folder = folder / "encoder"
    if not (folder / "encoder.json").is_file():
        raise ValueError(
            f"got {path}, which has no encoder.json; allowed is an encoder or run directory: "
            "point to what `mezzotint pretrain` wrote"
        )
    description = json.loads((folder / "encoder.json").read_text(encoding="utf-8"))
    weights = folder / "encoder.safetensors"
    require_hash(weights, description["sha256"], "write it again with `mezzotint evaluate RUN`")
    encoder = encoder_of(description)
    if description.get("quantization") is not None:
        make_encoder_quantizable(encoder, description["quantization"])
    try:
        encoder.load_state_dict(load_file(weights))
    except (RuntimeError, SafetensorError) as error:
        raise ValueError(f"{weights} does not fit its description: {error}") from error
    return encoder.eval()


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
        An encoder with the outputs of the simulation. It can be evaluated and embedded with, not
        trained further.

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
        grids = {
            place: _grid(tensors, place, entry)
            for place, entry in description["activations"].items()
        }
        encoder.load_state_dict(tensors)
    except (RuntimeError, SafetensorError, KeyError) as error:
        raise ValueError(
            f"{file} does not fit its description: {error}; export it again"
        ) from error
    for place, quantizer in grids.items():
        module, _, side = place.rpartition(":")
        _attach(encoder.get_submodule(module), side, quantizer)
    return encoder.eval()


def _weight(tensors: dict[str, Tensor], name: str, entry: Mapping[str, Any]) -> Tensor:
    """One weight in float: exactly the points of the grid that its codes stand for."""
    layout, shape = Layout(**entry["layout"]), torch.Size(entry["shape"])
    codes = (
        unpack(tensors.pop(f"{name}.codes"), entry["bits"], shape.numel()).reshape(shape)
        + entry["lowest"]
    )
    zero = tensors.pop(f"{name}.zero_point", None)
    grid = Grid(tensors.pop(f"{name}.scale"), zero, torch.tensor(0.0), torch.tensor(0.0))
    return layout.unrows(grid.values(layout.rows(codes)), shape).contiguous()


def _grid(tensors: dict[str, Tensor], place: str, entry: Mapping[str, Any]) -> StoredGrid:
    low, high = (torch.tensor(float(entry[name])) for name in ("lowest", "highest"))
    zero = tensors.pop(f"{place}.zero_point", None)
    return StoredGrid(
        Layout(**entry["layout"]),
        Grid(tensors.pop(f"{place}.scale"), zero, low, high, entry["divide"]),
    )


def _attach(module: nn.Module, side: str, quantizer: StoredGrid) -> None:
    """Quantize what enters or leaves a module."""
    if side == "input":
        module.register_forward_pre_hook(lambda _, inputs: (quantizer(inputs[0]), *inputs[1:]))
    else:
        module.register_forward_hook(lambda _, inputs, output: quantizer(output))
    module.add_module(f"stored_{side}_grid", quantizer)
