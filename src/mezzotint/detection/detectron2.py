"""Encoders as detectron2 reads them: its pickle of arrays, and the settings that must go with it.

The names are those of torchvision turned into detectron2's (Huang et al. 2022, arXiv 2208.00275,
convert so): `layerN.` → `res(N+1).`, `bnK` → `convK.norm`, `downsample.0` and `.1` → `shortcut` and
`shortcut.norm`, and what stands before the first stage → `stem.`. Which branch of a run is taken is
an argument with a default, and naming the default is allowed. Normalization and color order are
not part of that format, and gaps to published detection figures were traced to them, so they are
written beside the file as a configuration.

The pickle holds nothing but strings, numbers and arrays. Arrays are stored as `numpy.ndarray(shape,
type, bytes)`, which every version of numpy can read; reading admits arrays alone, and refuses any
other name before it is looked up.
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

from mezzotint.detection.localizer import residual, stage_of
from mezzotint.encoders.encoder import Encoder
from mezzotint.encoders.resnet import Bottleneck, ResNet
from mezzotint.encoders.saving import load_encoder
from mezzotint.files import replacing, write_text
from mezzotint.methods.method import BranchName
from mezzotint.recipe.recipe import Recipe
from mezzotint.runs.reuse import load_branch

Array = npt.NDArray[Any]


def to_detectron2(name: str) -> str:
    """A tensor's name in detectron2.

    Raises:
        ValueError: for a name that no residual network has.
    """
    found = re.fullmatch(
        r"(?:layer(\d+)\.(\d+)\.)?(?:(conv|bn)(\d)|downsample\.([01]))\.(\w+)", name
    )
    if found is None:
        raise ValueError(
            f"got the tensor {name!r}; allowed are those of a residual network: export another encoder"
        )
    stage, block, kind, number, shortcut, rest = found.groups()
    where = "stem" if stage is None else f"res{int(stage) + 1}.{block}"
    if shortcut is not None:
        return f"{where}.shortcut.{'norm.' if shortcut == '1' else ''}{rest}"
    return f"{where}.conv{number}.{'norm.' if kind == 'bn' else ''}{rest}"


def from_detectron2(name: str) -> str:
    """The inverse of `to_detectron2`."""
    found = re.fullmatch(r"(?:stem|res(\d+)\.(\d+))\.(?:conv(\d)|(shortcut))\.(norm\.)?(\w+)", name)
    if found is None:
        raise ValueError(
            f"got the array {name!r}; allowed are those of detectron2's ResNet backbone: give a file of one"
        )
    stage, block, number, shortcut, norm, rest = found.groups()
    where = "" if stage is None else f"layer{int(stage) - 1}.{block}."
    if shortcut:
        return f"{where}downsample.{1 if norm else 0}.{rest}"
    return f"{where}{'bn' if norm else 'conv'}{number}.{rest}"


def write_detectron2(encoder: Encoder, path: str | Path) -> list[Path]:
    """Write an encoder for detectron2's `MODEL.WEIGHTS`, and beside it the configuration that it needs.

    Args:
        encoder: a residual network without quantizers.
        path: of the pickle; must end in `.pkl`, which is how detectron2 tells the format.

    Returns:
        The pickle, and the `.yaml` beside it.

    Raises:
        ValueError: for another architecture or another suffix.
    """
    file = Path(path)
    if file.suffix != ".pkl":
        raise ValueError(
            f"got {file.name!r}; allowed is a name that ends in .pkl, by which detectron2 goes"
        )
    network = residual(encoder, "detectron2")
    if getattr(encoder, "quantization", None) is not None:
        raise ValueError(
            "got an encoder with quantizers, which detectron2 has not; allowed is a float one: export it with "
            "`mezzotint export` instead"
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
    """The settings of detectron2 that fit the network, as its YAML: section 2.10's, with the encoder's own numbers."""
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
            f"# detectron2 has no network with {blocks} blocks and a stem of {encoder.conv1.kernel_size[0]} pixels:",
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
        f"  RESNETS: {{DEPTH: {depth}, STRIDE_IN_1X1: false, NORM: SyncBN, STEM_OUT_CHANNELS: {width}, "
        f"RES2_OUT_CHANNELS: {width * (4 if deep else 1)}}}",
        "TEST: {PRECISE_BN: {ENABLED: true}}",
        "",
    ])  # fmt: skip


def read_detectron2(path: str | Path) -> dict[str, Tensor]:
    """The tensors of a detectron2 pickle by the names that our residual networks have.

    Raises:
        ValueError: when it is not such a file, or holds anything that is not an array.
    """
    content = _load(Path(path))
    arrays = content.get("model", content) if isinstance(content, Mapping) else None
    if (
        not isinstance(arrays, Mapping)
        or not arrays
        or not all(isinstance(a, np.ndarray) for a in arrays.values())
    ):
        raise ValueError(
            f"{path} holds no arrays by name; allowed is a detectron2 backbone: give another file"
        )
    return {
        from_detectron2(str(name)): torch.from_numpy(np.array(array))
        for name, array in arrays.items()
    }


def chosen_branch(path: str | Path, branch: BranchName = "online") -> Encoder:
    """An encoder's directory, or a branch of a run; `online` is what `encoder/` holds.

    Raises:
        ValueError: when a momentum copy is asked of something that is no run, or of a run without
            one.
    """
    folder = Path(path)
    if branch == "online":
        return load_encoder(folder)
    if not (folder / "recipe.yaml").is_file():
        raise ValueError(
            f"got branch=target of {path}, which is no run; allowed is online: leave the branch out"
        )
    return load_branch(folder, Recipe.load(folder), branch, "backbone")


class _Writer(pickle.Pickler):
    """Stores arrays by numpy's public constructor; the private one has moved between versions."""

    def reducer_override(self, value: Any) -> Any:
        if isinstance(value, np.ndarray):
            return np.ndarray, (
                value.shape,
                value.dtype.str,
                bytearray(np.ascontiguousarray(value).tobytes()),
            )
        return NotImplemented


class _Arrays(pickle.Unpickler):
    """Admits what arrays are stored with, by this module and by numpy itself."""

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
    """An empty array, whose state follows in the pickle."""
    return np.ndarray.__new__(np.ndarray, shape, code)


def _load(path: Path) -> Any:
    if not path.is_file():
        raise ValueError(f"got {path}, which is no file; give a detectron2 pickle")
    try:
        return _Arrays(io.BytesIO(path.read_bytes())).load()
    except pickle.UnpicklingError as error:
        raise ValueError(
            f"{path} names {error}, and reading that could run code; allowed are arrays by name: save the arrays alone"
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
            f"{path} is no readable pickle ({' '.join(str(error).split())[:120]}); get it again"
        ) from error
