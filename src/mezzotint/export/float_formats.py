"""An encoder in float, in formats that others open: ONNX, torch.export, and the state dicts of timm and torchvision."""

import dataclasses
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
from mezzotint.files import write_json
from mezzotint.quant.onnx.session import require

_SHARED = ("resnet18", "resnet34", "resnet50")
"""Our residual networks that timm and torchvision have too, under the same names of tensors."""
OPSET = 20


def write_onnx(encoder: Encoder, path: Path) -> None:
    """Write `encoder.onnx`: input `input`, output `features`, any batch size, BatchNorm folded.

    How the input must look stands in the file's metadata, under `input`.

    Raises:
        ValueError: when a package is missing.
    """
    onnx = require("onnx", "--format onnx", "onnx")
    require("onnxscript", "--format onnx", "onnx")
    example = torch.zeros(2, *encoder.input.shape)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the exporter, about itself
        program = torch.onnx.export(
            encoder, (example,), dynamo=True, opset_version=OPSET, input_names=["input"], output_names=["features"],
            dynamic_shapes=({0: torch.export.Dim("batch")},), verbose=False,
        )  # fmt: skip
    assert program is not None
    model = program.model_proto
    for part in (
        *model.graph.node,
        *model.graph.input,
        *model.graph.output,
        *model.graph.value_info,
    ):
        del part.metadata_props[:]  # stack traces, with the paths of the machine that exported
    normalization = dataclasses.asdict(encoder.input) | {
        "values": "uint8 / 255, then (x - mean) / std"
    }
    onnx.helper.set_model_props(
        model, {"mezzotint": __version__, "input": json.dumps(normalization)}
    )
    model.producer_name = "mezzotint"
    onnx.save(model, path)


def write_torch_export(encoder: Encoder, path: Path) -> None:
    """Write a `.pt2` that `torch.export.load` opens, for any batch size."""
    example = torch.zeros(2, *encoder.input.shape)
    with torch.no_grad():
        program = torch.export.export(
            encoder, (example,), dynamic_shapes=({0: torch.export.Dim("batch")},)
        )
    torch.export.save(program, path)


def open_torch_export(path: Path) -> Function:
    """Open it, as a function."""
    module = torch.export.load(path).module()

    def run(x: torch.Tensor) -> torch.Tensor:
        out: torch.Tensor = module(x)
        return out

    return run


def timm_arguments(encoder: Encoder) -> dict[str, Any]:
    """What `timm.create_model` must be given to build the same network.

    Raises:
        ValueError: when timm does not have it.
    """
    channels, height, width = encoder.input.shape
    if isinstance(encoder, TimmEncoder):
        kept: dict[str, Any] = (
            {"dynamic_img_size": True} if encoder.config.get("dynamic_size") else {}
        )
        if getattr(encoder.model, "patch_embed", None) is not None:
            kept["img_size"] = [height, width]
        return {
            "model_name": encoder.config["name"].split(".")[0],
            "num_classes": 0,
            "in_chans": channels,
            **kept,
        }
    return {"model_name": _shared(encoder, "timm"), "num_classes": 0, "in_chans": channels}


def write_timm(encoder: Encoder, folder: Path) -> tuple[Path, ...]:
    """Write `model.safetensors` and `config.json`, which `timm.create_model` opens.

    Either as `timm.create_model("local-dir:FOLDER")`, or with the arguments in `config.json` and
    `checkpoint_path`.

    Raises:
        ValueError: when timm is missing, or has no such network.
    """
    require("timm", "--format timm", "timm")
    arguments = timm_arguments(encoder)
    network: nn.Module = encoder.model if isinstance(encoder, TimmEncoder) else encoder
    weights, config = folder / "model.safetensors", folder / "config.json"
    save_file(
        {name: value.detach().cpu().contiguous() for name, value in network.state_dict().items()},
        weights,
    )
    rest = {
        key: value for key, value in arguments.items() if key not in ("model_name", "num_classes")
    }
    shape, mean, std = encoder.input.shape, encoder.input.mean, encoder.input.std
    description = {
        "architecture": arguments["model_name"], "num_classes": 0, "num_features": encoder.dim, "model_args": rest,
        "pretrained_cfg": {
            "input_size": list(shape), "mean": list(mean), "std": list(std), "num_classes": 0, "crop_pct": 1.0,
            "crop_mode": "center", "interpolation": "bilinear", "fixed_input_size": False,
        },
        "mezzotint": __version__,
    }  # fmt: skip
    write_json(config, description)
    return weights, config


def open_timm(folder: Path) -> Function:
    """Open it with `timm.create_model(..., checkpoint_path=...)`."""
    timm = require("timm", "--format timm", "timm")
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    model: nn.Module = timm.create_model(
        config["architecture"],
        num_classes=0,
        checkpoint_path=str(folder / "model.safetensors"),
        **config["model_args"],
    )
    return model.eval()


def write_torchvision(encoder: Encoder, folder: Path) -> tuple[Path, ...]:
    """Write `model.safetensors` and `config.json` with a state dict of torchvision's network without classifier.

    Raises:
        ValueError: when torchvision has no such network, or the input has not three channels.
    """
    name = _shared(encoder, "torchvision")
    if encoder.input.shape[0] != 3:
        raise ValueError(
            f"got an encoder of {encoder.input.shape[0]} channels; torchvision's networks take 3: use --format timm"
        )
    weights, config = folder / "model.safetensors", folder / "config.json"
    save_file(
        {key: value.detach().cpu().contiguous() for key, value in encoder.state_dict().items()},
        weights,
    )
    stated = dataclasses.asdict(encoder.input) | {"values": "uint8 / 255, then (x - mean) / std"}
    write_json(
        config,
        {
            "architecture": name,
            "classifier": "fc = Identity()",
            "input": stated,
            "mezzotint": __version__,
        },
    )
    return weights, config


def open_torchvision(folder: Path) -> Function:
    """Open it: every tensor but the classifier's must be there, and no other."""
    import torchvision

    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    model: Any = torchvision.models.get_model(config["architecture"], weights=None)
    model.fc = nn.Identity()
    model.load_state_dict(load_file(folder / "model.safetensors"))
    opened: nn.Module = model.eval()
    return opened


def _shared(encoder: Encoder, library: str) -> str:
    """The name of one of our networks in another library.

    Raises:
        ValueError: when it is not there.
    """
    kind, stem, width, grid = (encoder.config.get(key, other) for key, other in _RESNET_DEFAULTS)
    if (
        not isinstance(encoder, ResNet)
        or kind not in _SHARED
        or (stem, width, grid) != ("imagenet", 64, 1)
    ):
        raise ValueError(
            f"got the encoder {kind} (stem {stem}, width {width}, grid {grid}), which {library} does not have; allowed "
            f"are {', '.join(_SHARED)} with stem imagenet, width 64 and grid 1"
            f"{', and kind timm' if library == 'timm' else ''}: use --format onnx or torch_export"
        )
    return str(kind)


_RESNET_DEFAULTS = (("kind", ""), ("stem", "imagenet"), ("width", 64), ("grid", 1))
