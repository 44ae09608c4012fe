"""Encoders for detectron2: a pickle of arrays, and the configuration that belongs to it.

Names change from torchvision's to detectron2's as Huang et al. 2022 (arXiv 2208.00275) convert
them: `layerN.` → `res(N+1).`, `bnK` → `convK.norm`, `downsample.0` and `.1` → `shortcut` and
`shortcut.norm`, and the stem → `stem.`. The format has no input normalization and no color order,
which explained gaps to published detection results, so both are written to a configuration next to
the pickle.

The pickle contains strings, numbers and arrays only. Arrays are stored as `numpy.ndarray(shape,
type, bytes)`, which every version of numpy reads. The reader accepts arrays alone, and refuses any
other name before looking it up.
"""

import io
import pickle
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from mezzotint.detection.model import require_resnet, stage_of
from mezzotint.encoders.encoder import Encoder
from mezzotint.encoders.resnet import Bottleneck, ResNet
from mezzotint.encoders.saving import load_encoder
from mezzotint.files import replacing, write_text
from mezzotint.methods.method import BranchName
from mezzotint.recipe.recipe import Recipe
from mezzotint.runs.reuse import load_branch

Array = npt.NDArray[Any]


def to_detectron2(name: str) -> str:
    """Convert a tensor's name to detectron2's.

    Raises:
        ValueError: for a name that no ResNet has.
    """
    match = re.fullmatch(
        r"(?:layer(\d+)\.(\d+)\.)?(?:(conv|bn)(\d)|downsample\.([01]))\.(\w+)", name
    )
    if match is None:
        raise ValueError(
            f"The tensor {name!r} does not belong to a ResNet. Export a ResNet encoder."
        )
    stage, block, kind, number, shortcut, rest = match.groups()
    block_name = "stem" if stage is None else f"res{int(stage) + 1}.{block}"
    if shortcut is not None:
        return f"{block_name}.shortcut.{'norm.' if shortcut == '1' else ''}{rest}"
    return f"{block_name}.conv{number}.{'norm.' if kind == 'bn' else ''}{rest}"


def from_detectron2(name: str) -> str:
    """Convert a name of detectron2 to ours."""
    match = re.fullmatch(r"(?:stem|res(\d+)\.(\d+))\.(?:conv(\d)|(shortcut))\.(norm\.)?(\w+)", name)
    if match is None:
        raise ValueError(
            f"The array {name!r} does not belong to a ResNet of detectron2. Give the file of one."
        )
    stage, block, number, shortcut, norm, rest = match.groups()
    block_name = "" if stage is None else f"layer{int(stage) - 1}.{block}."
    if shortcut:
        return f"{block_name}downsample.{1 if norm else 0}.{rest}"
    return f"{block_name}{'bn' if norm else 'conv'}{number}.{rest}"


def write_detectron2(encoder: Encoder, path: str | Path) -> list[Path]:
    """Write an encoder for detectron2's `MODEL.WEIGHTS`, and the configuration that it needs.

    Args:
        encoder: ResNet without quantizers.
        path: path of the pickle; ends in `.pkl`, by which detectron2 recognizes the format.

    Returns:
        The pickle, and the `.yaml` next to it.

    Raises:
        ValueError: for another architecture or another suffix.
    """
    file = Path(path)
    if file.suffix != ".pkl":
        raise ValueError(
            "The name must end in .pkl, by which detectron2 recognizes the format, got "
            f"{file.name!r}. "
            "Change --out."
        )
    if encoder.input.range:
        raise ValueError(
            f"The encoder takes {encoder.input.dtype} images that are mapped by a range, and "
            "detectron2 reads 8 bits. Give an encoder of 8-bit RGB."
        )
    network = require_resnet(encoder, "detectron2")
    if getattr(encoder, "quantization", None) is not None:
        raise ValueError(
            "The encoder has quantizers, which detectron2 does not support. Give an fp32 encoder, "
            "or "
            "use `mezzotint export` instead."
        )
    arrays = {
        to_detectron2(name): t.detach().cpu().numpy() for name, t in network.state_dict().items()
    }
    file.parent.mkdir(parents=True, exist_ok=True)
    content = {"model": arrays, "__author__": "torchvision", "matching_heuristics": True}
    with replacing(file) as temporary, temporary.open("wb") as stream:
        _Writer(stream, protocol=4).dump(content)
    settings = file.with_suffix(".yaml")
    write_text(settings, configuration(network, file.name))
    return [file, settings]


def configuration(encoder: ResNet, weights: str) -> str:
    """Write the settings of section 2.10 for the network, as YAML of detectron2."""
    mean, std = (
        [round(255.0 * v, 4) for v in values] for values in (encoder.input.mean, encoder.input.std)
    )
    stages = [stage_of(encoder, i + 1) for i in range(encoder.num_stages)]
    deep = isinstance(stages[0][0], Bottleneck)
    blocks = [len(stage) for stage in stages]
    depth = sum(blocks) * (3 if deep else 2) + 2
    width = encoder.conv1.out_channels
    notes = []
    if depth not in (18, 34, 50, 101, 152) or encoder.conv1.kernel_size != (7, 7):
        notes = [
            f"# detectron2 has no network with {blocks} blocks and a stem of "
            f"{encoder.conv1.kernel_size[0]} pixels:",
            "# register a backbone with these names to use the weights.",
        ]
    return "\n".join([
        *notes,
        "INPUT: {FORMAT: RGB}",
        "MODEL:",
        f"  WEIGHTS: {weights}",
        f"  PIXEL_MEAN: {mean}",
        f"  PIXEL_STD: {std}",
        "  BACKBONE: {FREEZE_AT: 0}",
        f"  RESNETS: {{DEPTH: {depth}, STRIDE_IN_1X1: false, NORM: SyncBN, "
        f"STEM_OUT_CHANNELS: {width}, "
        f"RES2_OUT_CHANNELS: {width * (4 if deep else 1)}}}",
        "TEST: {PRECISE_BN: {ENABLED: true}}",
        "",
    ])  # fmt: skip


def read_detectron2(path: str | Path) -> dict[str, Tensor]:
    """Read the tensors of a detectron2 pickle under the names of our ResNets.

    Raises:
        ValueError: for another kind of file, or one with anything that is not an array.
    """
    content = _load(Path(path))
    arrays = content.get("model", content) if isinstance(content, Mapping) else None
    if (
        not isinstance(arrays, Mapping)
        or not arrays
        or not all(isinstance(a, np.ndarray) for a in arrays.values())
    ):
        raise ValueError(f"`{path}` has no named arrays. Give the pickle of a detectron2 backbone.")
    return {
        from_detectron2(str(name)): torch.from_numpy(np.array(array))
        for name, array in arrays.items()
    }


def chosen_branch(path: str | Path, branch: BranchName = "online") -> Encoder:
    """Load the encoder of a directory, or a branch of a run.

    Args:
        path: run, or directory of an encoder.
        branch: `online` for the saved encoder, `target` for the momentum copy of a run.

    Raises:
        ValueError: for the `target` of something that is not a run or has no momentum copy.
    """
    folder = Path(path)
    if branch == "online":
        return load_encoder(folder)
    if not (folder / "recipe.yaml").is_file():
        raise ValueError(
            f"`branch` must be online for `{path}`, which is not a run, got {branch}. Leave it out."
        )
    return load_branch(folder, Recipe.load(folder), branch, "backbone")


class _Writer(pickle.Pickler):
    """Stores arrays with numpy's public constructor; the private one has moved between versions."""

    def reducer_override(self, value: Any) -> Any:
        if isinstance(value, np.ndarray):
            return np.ndarray, (
                value.shape,
                value.dtype.str,
                bytearray(np.ascontiguousarray(value).tobytes()),
            )
        return NotImplemented


class _Arrays(pickle.Unpickler):
    """Accepts only the names with which this module and numpy store arrays."""

    allowed: ClassVar[dict[tuple[str, str], Any]] = {
        ("numpy", "ndarray"): np.ndarray,
        ("numpy", "dtype"): np.dtype,
        ("builtins", "bytearray"): bytearray,
        ("_codecs", "encode"): lambda text, how: text.encode(
            "latin1"
        ),  # protocol 2 stores bytes so
    }

    def find_class(self, module: str, name: str) -> Any:
        if name == "_reconstruct" and module in ("numpy.core.multiarray", "numpy._core.multiarray"):
            return _reconstruct
        if (module, name) not in self.allowed:
            raise pickle.UnpicklingError(f"{module}.{name}")
        return self.allowed[module, name]


def _reconstruct(kind: Any, shape: Any, code: Any) -> Array:
    """Make an empty array, whose state follows in the pickle."""
    return np.ndarray.__new__(np.ndarray, shape, code)


def _load(path: Path) -> Any:
    if not path.is_file():
        raise ValueError(f"`{path}` is not a file. Give a detectron2 pickle.")
    try:
        return _Arrays(io.BytesIO(path.read_bytes())).load()
    except pickle.UnpicklingError as error:
        raise ValueError(
            f"`{path}` names {error}, and reading it could run code. Only named arrays are "
            "accepted. "
            "Save the arrays alone."
        ) from error
    except (
        EOFError,
        IndexError,
        KeyError,
        TypeError,
        AttributeError,
        UnicodeDecodeError,
        ValueError,
    ) as error:
        raise ValueError(
            f"`{path}` is not a readable pickle: {' '.join(str(error).split())[:120]}. Download "
            "it again."
        ) from error
