"""Encoders on disk, in float or with packed integer weights. Nothing is pickled.

A float encoder is `encoder.safetensors` and `encoder.json`. The JSON holds the kind and arguments
(names of this package only, never code), shape and normalization of the input, the hash of the
weights, and how the encoder was made.

A packed encoder is `packed.safetensors` and `packed.json`. A weight of b bits takes b bits on disk.
It becomes float32 when the encoder is loaded: packing saves storage, not compute. Ranges of
activations are stored if the encoder is to run with quantized activations, which are then
simulated. The outputs are exactly the outputs of the simulation (`mezzotint.quant.bits`). Each
quantized weight has `NAME.codes` (uint8, see `mezzotint.quant.packing`) and `NAME.scale` (float32,
one per channel or group); all other tensors have their own names.
"""

import hashlib
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from mezzotint._version import __version__
from mezzotint.data.source import Source
from mezzotint.encoders.encoder import Encoder
from mezzotint.encoders.lora import merge_lora
from mezzotint.files import read_json, replacing, write_json
from mezzotint.optim.mup.method import restore_roles, roles_of
from mezzotint.quant.convert import make_encoder_quantizable
from mezzotint.quant.fake import Layout
from mezzotint.quant.grid import Grid
from mezzotint.quant.packing import unpack
from mezzotint.recipe.schema import RecipeError, construct, resolve
from mezzotint.types import Input

_KEPT = ("tokenizer",)
"""Keys of a source that name a file without which samples cannot be made; it is copied."""


def save_encoder(
    encoder: Encoder,
    path: str | Path,
    made_by: Mapping[str, Any] | None = None,
    *,
    source: Source | None = None,
) -> Path:
    """Write an encoder's weights and description.

    Args:
        encoder: one that a recipe can name (`encoder.config`), or of a class of your own; updates
            of LoRA are added to its weights.
        path: directory to write, made when missing.
        made_by: how it was made (recipe, command, steps, license of the data).
        source: the training samples, whose preprocessing is kept; by default what the encoder was
            loaded with.

    Returns:
        The directory.
    """
    folder = Path(path)
    folder.mkdir(parents=True, exist_ok=True)
    encoder = merge_lora(encoder)
    if source is not None:
        encoder.preprocessing = source.preprocessing()
    keep_files(encoder, folder)
    weights = folder / "encoder.safetensors"
    with replacing(weights) as temporary:
        # safetensors writes contiguous tensors only.
        save_file(
            {name: t.detach().cpu().contiguous() for name, t in encoder.state_dict().items()},
            temporary,
        )
    description = describe(encoder, made_by) | {
        "sha256": hashlib.sha256(weights.read_bytes()).hexdigest()
    }
    write_json(folder / "encoder.json", description, sealed=True)
    return folder


def describe(encoder: Encoder, made_by: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """Describe how to build an encoder and what input it takes, as plain data."""
    roles = roles_of(encoder)
    return {
        "format": 1,
        "mezzotint": __version__,
        # The saved weights replace the file of `pretrained_path`.
        "encoder": {k: v for k, v in encoder.config.items() if k != "pretrained_path"},
        "quantization": getattr(encoder, "quantization", None),
        "dim": encoder.dim,
        "input": encoder.input.described(),
        "preprocessing": _moved(encoder.preprocessing, lambda key, path: f"{key}{path.suffix}"),
        "made_by": dict(made_by or {}),
        **({} if roles is None else {"mup": roles}),
    }


def keep_files(encoder: Encoder, folder: Path) -> None:
    """Copy the files that the preprocessing needs, such as a tokenizer, next to the encoder."""
    source = encoder.preprocessing.get("source") or {}
    for key in filter(source.get, _KEPT):
        if source[key] == "bytes":  # a tokenizer without a file
            continue
        path = Path(source[key])
        target = folder / f"{key}{path.suffix}"
        if not path.is_file():
            raise ValueError(
                f"`{path}`, the {key} of the training samples, is missing. Restore it."
            )
        if path.resolve() != target.resolve():
            with replacing(target) as temporary:
                shutil.copyfile(path, temporary)


def _moved(preprocessing: Mapping[str, Any], to: Callable[[str, Path], str]) -> dict[str, Any]:
    """Return a preprocessing with other paths of the files that lie next to the encoder.

    Args:
        preprocessing: of the training samples.
        to: gives the new path for a key and its path.
    """
    source = {**(preprocessing.get("source") or {})}
    for key in filter(source.get, _KEPT):
        if source[key] != "bytes":  # a tokenizer without a file
            source[key] = to(key, Path(source[key]))
    return {**preprocessing, **({"source": source} if source else {})}


def encoder_of(description: Mapping[str, Any]) -> Encoder:
    """Build an encoder from its description, with initial weights and without quantizers."""
    input = Input.of(description["input"])
    try:
        config = resolve(description["encoder"], "Encoder", "encoder")
    except RecipeError as error:
        raise ValueError(
            f"{error} A class of your own is made again in Python: load_encoder(path, model=…)."
        ) from error
    built: Encoder = construct(config, "Encoder", {"Encoder": (input,)})
    if "mup" in description:
        restore_roles(built, description["mup"])
    elif ((description.get("made_by") or {}).get("recipe") or {}).get("mup"):
        raise ValueError(
            "The encoder was trained in muP, and its description has no `mup`, the roles of its "
            "parameters. Copy `mup` from the encoder.json of the run."
        )
    return built


@contextmanager
def _described(file: Path) -> Iterator[None]:
    """Say of a description that has other keys or types that it is none of an encoder.

    Raises:
        ValueError: then.
    """
    try:
        yield
    except (KeyError, TypeError, AttributeError, IndexError, OverflowError) as error:
        raise ValueError(
            f"`{file}` does not describe an encoder ({type(error).__name__}: {error}). Save or "
            "export the encoder again."
        ) from error


def require_hash(file: Path, saved: str, remedy: str) -> None:
    """Check that a file is the one that was saved.

    Args:
        file: to check.
        saved: SHA-256 of the saved file.
        remedy: end of the message, such as `export it again`.

    Raises:
        ValueError: when the file is missing or has another hash.
    """
    actual = hashlib.sha256(file.read_bytes()).hexdigest() if file.is_file() else "no file"
    if actual != saved:
        raise ValueError(
            f"`{file}` is damaged: its SHA-256 is {actual[:12]}…, but {saved[:12]}… was saved. "
            f"Restore the file, or {remedy}."
        )


def load_encoder(path: str | Path, *, model: Encoder | None = None) -> Encoder:
    """Read an encoder, in eval mode.

    Args:
        path: an `encoder/` directory, a run directory with one, or a packed export.
        model: an encoder of a class of your own, made as for training; its weights are replaced.

    Returns:
        A module whose `forward` takes `[B, *input.shape]` normalized with `input.mean` and
        `input.std` and returns `[B, dim]`.

    Raises:
        ValueError: when the directory has no encoder, or its weights are not the saved ones.
    """
    folder = Path(path)
    if (folder / "packed.json").is_file():
        return load_packed(folder)
    if not (folder / "encoder.json").is_file() and (folder / "encoder" / "encoder.json").is_file():
        folder = folder / "encoder"
    if not (folder / "encoder.json").is_file():
        raise ValueError(
            f"`{path}` has no encoder.json. It must be an encoder or a run directory, as "
            "`mezzotint pretrain` writes it. Check the path."
        )
    with _described(folder / "encoder.json"):
        description = read_json(folder / "encoder.json")
        weights = folder / "encoder.safetensors"
        # The JSON is written after the weights, so a killed run leaves a hash that does not match.
        require_hash(weights, description["sha256"], "write it again with `mezzotint evaluate RUN`")
        encoder = encoder_of(description) if model is None else model
        if description.get("quantization") is not None:
            make_encoder_quantizable(encoder, description["quantization"])
        try:
            encoder.load_state_dict(load_file(weights))
        except (RuntimeError, SafetensorError) as error:
            raise ValueError(
                f"`{weights}` does not fit its encoder.json: {error}. Save the encoder again."
            ) from error
        encoder.preprocessing = _moved(
            description.get("preprocessing") or {}, lambda _, path: str(folder / path)
        )
        return encoder.eval()


def take_structure(encoder: Encoder, saved: Encoder) -> None:
    """Give an encoder the quantizers and the roles in muP of a saved one, before its weights."""
    if (policy := getattr(saved, "quantization", None)) is not None:
        make_encoder_quantizable(encoder, policy)
    if (roles := roles_of(saved)) is not None:
        restore_roles(encoder, roles)


class StoredGrid(nn.Module):
    """Quantizes activations to a stored grid.

    Args:
        layout: values that share a range.
        grid: stored grid.
    """

    def __init__(self, layout: Layout, grid: Grid) -> None:
        super().__init__()
        self.layout, self.divide = layout, grid.divide
        for name in ("scale", "zero_point", "low", "high"):
            self.register_buffer(name, getattr(grid, name), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """`[…]` → the same shape and type."""
        grid = Grid(self.scale, self.zero_point, self.low, self.high, self.divide)  # type: ignore[arg-type]
        return self.layout.quantize(x.float(), grid).to(x.dtype)


def load_packed(path: str | Path) -> Encoder:
    """Read a packed encoder, in eval mode.

    Args:
        path: directory with `packed.json`.

    Returns:
        An encoder with the outputs of the simulation, to be evaluated or to embed with; it cannot
        be trained further.

    Raises:
        ValueError: when the directory has none, or the file is not the saved one.
    """
    folder = Path(path)
    if not (folder / "packed.json").is_file():
        raise ValueError(
            f"`{path}` has no packed.json. It must be a packed encoder, as `mezzotint export RUN "
            "--format packed` writes it. Check the path."
        )
    with _described(folder / "packed.json"):
        description = read_json(folder / "packed.json")
        file = folder / "packed.safetensors"
        require_hash(file, description["sha256"], "export it again")
        try:
            tensors = load_file(file)
            encoder = encoder_of(description)
            for name, entry in description["weights"].items():
                tensors[name] = _weight(tensors, name, entry)
            grids = {
                name: _grid(tensors, name, entry)
                for name, entry in description["activations"].items()
            }
            encoder.load_state_dict(tensors)
            encoder.preprocessing = _moved(
                description.get("preprocessing") or {}, lambda _, path: str(folder / path)
            )
        except (RuntimeError, SafetensorError, KeyError) as error:
            raise ValueError(
                f"`{file}` does not fit its packed.json: {error}. Export it again."
            ) from error
        for name, quantizer in grids.items():
            module, _, side = name.rpartition(":")
            _attach(encoder.get_submodule(module), side, quantizer)
        return encoder.eval()


def _weight(tensors: dict[str, Tensor], name: str, entry: Mapping[str, Any]) -> Tensor:
    """Decode one weight to floats, which are exactly points of its grid."""
    layout, shape = Layout(**entry["layout"]), torch.Size(entry["shape"])
    codes = unpack(tensors.pop(f"{name}.codes"), entry["bits"], shape.numel())
    codes = codes.reshape(shape) + entry["lowest"]
    zero = tensors.pop(f"{name}.zero_point", None)
    grid = Grid(tensors.pop(f"{name}.scale"), zero, torch.tensor(0.0), torch.tensor(0.0))
    return layout.unrows(grid.values(layout.rows(codes)), shape).contiguous()


def _grid(tensors: dict[str, Tensor], name: str, entry: Mapping[str, Any]) -> StoredGrid:
    low, high = (torch.tensor(float(entry[end])) for end in ("lowest", "highest"))
    zero = tensors.pop(f"{name}.zero_point", None)
    return StoredGrid(
        Layout(**entry["layout"]),
        Grid(tensors.pop(f"{name}.scale"), zero, low, high, entry["divide"]),
    )


def _attach(module: nn.Module, side: str, quantizer: StoredGrid) -> None:
    """Quantize the input or the output of a module."""
    if side == "input":
        module.register_forward_pre_hook(lambda _, inputs: (quantizer(inputs[0]), *inputs[1:]))
    else:
        module.register_forward_hook(lambda _, inputs, output: quantizer(output))
    module.add_module(f"stored_{side}_grid", quantizer)
