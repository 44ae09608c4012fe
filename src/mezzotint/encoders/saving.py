"""An encoder on disk: `encoder.safetensors` and `encoder.json`, which says everything needed to use it.

The JSON holds the kind and arguments (names of this package only, never code), what the input must look like, the
hash of the weights, and how the encoder was made. Nothing is pickled.
"""

import dataclasses
import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from mezzotint._version import __version__
from mezzotint.encoders.encoder import Encoder
from mezzotint.files import replacing, write_json
from mezzotint.quant.layers import make_encoder_quantizable
from mezzotint.schema import construct, resolve
from mezzotint.types import Input


def save_encoder(encoder: Encoder, path: str | Path, made_by: Mapping[str, Any] | None = None) -> Path:
    """Write an encoder's weights and description.

    Args:
        encoder: one that a recipe can name (`encoder.config`).
        path: directory to write, made when missing.
        made_by: what to remember about its making (recipe, command, steps, licence of the data).

    Returns:
        The directory.
    """
    folder = Path(path)
    folder.mkdir(parents=True, exist_ok=True)
    weights = folder / "encoder.safetensors"
    with replacing(weights) as temporary:
        save_file({name: t.detach().cpu().contiguous() for name, t in encoder.state_dict().items()}, temporary)
    description = describe(encoder, made_by) | {"sha256": hashlib.sha256(weights.read_bytes()).hexdigest()}
    write_json(folder / "encoder.json", description)
    return folder


def describe(encoder: Encoder, made_by: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """What the JSON beside a file of weights says: how to build the encoder, and what it takes."""
    return {
        "format": 1,
        "mezzotint": __version__,
        "encoder": {k: v for k, v in encoder.config.items() if k != "pretrained_path"},  # its weights are replaced
        "quantization": getattr(encoder, "quantization", None),
        "dim": encoder.dim,
        "input": dataclasses.asdict(encoder.input) | {"values": "uint8 / 255, then (x - mean) / std"},
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
        A module whose `forward` takes `[B, *input.shape]` normalised with `input.mean` and `input.std` and returns
        `[B, dim]`.

    Raises:
        ValueError: when the directory holds no encoder, or its weights are not the ones that were saved.
    """
    folder = Path(path)
    if (folder / "packed.json").is_file():
        from mezzotint.encoders.packed import load_packed  # which needs this module

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
