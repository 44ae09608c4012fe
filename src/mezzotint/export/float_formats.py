"""Write fp32 encoders as ONNX, torch.export, and state dicts of timm and torchvision."""

import json
import warnings
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import nn

from mezzotint._version import __version__
from mezzotint.encoders.encoder import Encoder
from mezzotint.encoders.resnet import ResNet
from mezzotint.encoders.timm import TimmEncoder
from mezzotint.export.verify import Function
from mezzotint.files import read_json, require_seal, write_json
from mezzotint.modality.modality import modality_of
from mezzotint.quant.onnx.session import require

_SHARED = ("resnet18", "resnet34", "resnet50")
"""Residual networks that timm and torchvision also have, with the same tensor names."""
_RESNET_DEFAULTS = {
    "kind": "",
    "stem": "imagenet",
    "width": 64,
    "grid": 1,
    "feature_stages": 1,
}
OPSET = 20


def write_onnx(encoder: Encoder, path: Path) -> None:
    """Write `encoder.onnx`: input `input`, output `features`, any batch size, BatchNorm folded.

    Where samples may have any length, as audio, the file takes any length too, if the network can
    be traced so; otherwise it takes the length of the encoder's input. The file's metadata describe
    the shape and normalization of the input under `input`, and how samples are made of files under
    `preprocessing`.

    Raises:
        ValueError: if a package is missing.
    """
    onnx = require("onnx", "--format onnx", "onnx")
    require("onnxscript", "--format onnx", "onnx")
    model = _traced(encoder)
    for part in (
        *model.graph.node,
        *model.graph.input,
        *model.graph.output,
        *model.graph.value_info,
    ):
        del part.metadata_props[:]  # stack traces with paths of the exporting machine
    description = json.dumps(encoder.input.described())
    stated = {"mezzotint": __version__, "input": description}
    if encoder.preprocessing:
        stated["preprocessing"] = json.dumps(encoder.preprocessing)
    onnx.helper.set_model_props(model, stated)
    model.producer_name = "mezzotint"
    onnx.save(model, path)


def _traced(encoder: Encoder) -> Any:
    """Trace a network to ONNX, with a free length if it takes any."""
    shape: dict[int, Any] = {0: torch.export.Dim("batch")}
    example = encoder.input.blank(2)
    if takes_any_length(encoder):
        shape[len(encoder.input.shape)] = torch.export.Dim("length", min=2)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the exporter warns about its own internals
        program = torch.onnx.export(
            encoder,
            (example,),
            dynamo=True,
            opset_version=OPSET,
            input_names=["input"],
            output_names=["features"],
            dynamic_shapes=(shape,),
            verbose=False,
        )
    assert program is not None
    return program.model_proto


def takes_any_length(encoder: Encoder) -> bool:
    """Return whether samples may have any length, and the network takes one that is odd to it."""
    *sizes, length = encoder.input.shape
    if not modality_of(encoder.input).free_axes:
        return False
    try:
        with torch.no_grad():
            encoder(torch.zeros(2, *sizes, length + 1))
    except (RuntimeError, ValueError):
        return False  # such as a transformer, whose patches must divide it
    return True


def write_torch_export(encoder: Encoder, path: Path) -> None:
    """Write a `.pt2` that `torch.export.load` opens, for any batch size."""
    example = encoder.input.blank(2)
    with torch.no_grad():
        program = torch.export.export(
            encoder, (example,), dynamic_shapes=({0: torch.export.Dim("batch")},)
        )
    torch.export.save(program, path)


def open_torch_export(path: Path) -> Function:
    """Open a `.pt2` file as a function of one batch.

    Raises:
        ValueError: when the file changed after it was exported.
    """
    require_seal(path)
    module = torch.export.load(path).module()

    def run(x: torch.Tensor) -> torch.Tensor:
        out: torch.Tensor = module(x)
        return out

    return run


def timm_arguments(encoder: Encoder) -> dict[str, Any]:
    """Return the arguments of `timm.create_model` that build the same network.

    Raises:
        ValueError: if timm does not have the network.
    """
    channels, height, width = encoder.input.shape
    if isinstance(encoder, TimmEncoder):
        size: dict[str, Any] = (
            {"dynamic_img_size": True} if encoder.config.get("dynamic_size") else {}
        )
        if getattr(encoder.model, "patch_embed", None) is not None:
            size["img_size"] = [height, width]
        return {
            "model_name": encoder.config["name"].split(".")[0],
            "num_classes": 0,
            "in_chans": channels,
            **size,
        }
    return {"model_name": _shared_name(encoder, "timm"), "num_classes": 0, "in_chans": channels}


def write_timm(encoder: Encoder, folder: Path) -> tuple[Path, ...]:
    """Write `model.safetensors` and `config.json`, which `timm.create_model` opens.

    Open them with `timm.create_model("local-dir:FOLDER")`, or with the arguments in `config.json`
    and `checkpoint_path`.

    Raises:
        ValueError: if timm is missing or does not have the network.
    """
    require("timm", "--format timm", "timm")
    arguments = timm_arguments(encoder)
    network: nn.Module = encoder.model if isinstance(encoder, TimmEncoder) else encoder
    weights, config = folder / "model.safetensors", folder / "config.json"
    _save_state(network, weights)
    model_args = {
        key: value for key, value in arguments.items() if key not in ("model_name", "num_classes")
    }
    shape, mean, std = encoder.input.shape, encoder.input.mean, encoder.input.std
    samples = encoder.preprocessing
    description = {
        "architecture": arguments["model_name"],
        "num_classes": 0,
        "num_features": encoder.dim,
        "model_args": model_args,
        "pretrained_cfg": {
            "input_size": list(shape),
            "mean": list(mean),
            "std": list(std),
            "num_classes": 0,
            "crop_pct": samples.get("crop_fraction", 1.0),
            "crop_mode": "center",
            "interpolation": str(samples.get("resize", "bilinear")).partition(",")[0],
            "fixed_input_size": False,
        },
        "input": encoder.input.described(),
        "mezzotint": __version__,
    }
    write_json(config, description)
    return weights, config


def open_timm(folder: Path) -> Function:
    """Open a folder of `write_timm` with `timm.create_model(..., checkpoint_path=...)`."""
    timm = require("timm", "--format timm", "timm")
    require_seal(folder / "model.safetensors")
    config = read_json(folder / "config.json")
    model: nn.Module = timm.create_model(
        config["architecture"],
        num_classes=0,
        checkpoint_path=str(folder / "model.safetensors"),
        **config["model_args"],
    )
    return model.eval()


def write_torchvision(encoder: Encoder, folder: Path) -> tuple[Path, ...]:
    """Write the state dict of torchvision's network without its classifier, and `config.json`.

    Raises:
        ValueError: if torchvision does not have the network, or the input does not have three
            channels.
    """
    name = _shared_name(encoder, "torchvision")
    if encoder.input.shape[0] != 3:
        raise ValueError(
            f"torchvision's networks take 3 channels, but the encoder has "
            f"{encoder.input.shape[0]}. Use `--format timm`."
        )
    weights, config = folder / "model.safetensors", folder / "config.json"
    _save_state(encoder, weights)
    write_json(
        config,
        {
            "architecture": name,
            "classifier": "fc = Identity()",
            "input": encoder.input.described(),
            "mezzotint": __version__,
        },
    )
    return weights, config


def open_torchvision(folder: Path) -> Function:
    """Open a folder of `write_torchvision`; the state dict must match the network exactly."""
    import torchvision

    require_seal(folder / "model.safetensors")
    config = read_json(folder / "config.json")
    model: Any = torchvision.models.get_model(config["architecture"], weights=None)
    model.fc = nn.Identity()
    model.load_state_dict(load_file(folder / "model.safetensors"))
    network: nn.Module = model.eval()
    return network


def _save_state(network: nn.Module, path: Path) -> None:
    state = network.state_dict()
    save_file({name: value.detach().cpu().contiguous() for name, value in state.items()}, path)


def _shared_name(encoder: Encoder, library: str) -> str:
    """Return the name that a residual network has in timm and torchvision.

    Raises:
        ValueError: if the library does not have the network.
    """
    kind, stem, width, grid, stages = (
        encoder.config.get(key, default) for key, default in _RESNET_DEFAULTS.items()
    )
    if (
        not isinstance(encoder, ResNet)
        or kind not in _SHARED
        or (stem, width, grid, stages) != ("imagenet", 64, 1, 1)
    ):
        raise ValueError(
            f"{library} does not have the encoder {kind} with stem {stem}, width {width}, "
            f"grid {grid} and feature_stages {stages}. Supported: {', '.join(_SHARED)} with stem "
            "imagenet, width 64, grid 1 and feature_stages 1"
            f"{', and kind timm' if library == 'timm' else ''}. "
            "Use `--format onnx` or `--format torch_export`."
        )
    return str(kind)
