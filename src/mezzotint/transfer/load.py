"""Weights of other projects: which tensor of theirs is which of ours, with nothing guessed and nothing left over.

A checkpoint names its tensors `module.encoder_q.model.layer1.0.conv1.weight`, say. The branch (here
`module.encoder_q.model`) is the prefix under which the most tensors have a name and shape of the encoder; of equally
good ones the trained branch is taken before a momentum copy. Every tensor of the encoder must be found. Files are read
as tensors only: a pickle that needs code is refused.
"""

import pickle
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from mezzotint.encoders.encoder import Encoder

Layout = Literal["auto", "plain", "ssql"]
_NESTED = ("state_dict", "model_state_dict", "model", "net", "student", "teacher")
_COPIES = ("encoder_k", "momentum", "target", "teacher", "ema", "key_encoder")


@dataclass(frozen=True)
class Loaded:
    """What came of a checkpoint.

    Attributes:
        layout: how its names were read.
        branch: the prefix of the tensors that were taken.
        loaded: tensors of the encoder that were found.
        total: tensors of the encoder.
        left: tensors of the file that were not taken, by reason.
    """

    layout: str
    branch: str
    loaded: int
    total: int
    left: dict[str, int]

    def __str__(self) -> str:
        rest = "; ".join(f"{count} left: {reason}" for reason, count in self.left.items())
        branch = f" from {self.branch}" if self.branch else ""
        return f"loaded {self.loaded}/{self.total} tensors{branch} ({self.layout} layout)" + (
            f"; {rest}" if rest else ""
        )


def read_tensors(path: str | Path) -> dict[str, Tensor]:
    """The tensors of a `.safetensors` file or a torch checkpoint, from whichever mapping in it holds them.

    Raises:
        ValueError: when there is no such file, it holds no tensors, or reading it would need to run code.
    """
    file = Path(path)
    if not file.is_file():
        raise ValueError(f"got {path}, which is no file; give a .safetensors file or a torch checkpoint")
    if file.suffix == ".safetensors":
        try:
            return load_file(file)
        except SafetensorError as error:
            raise ValueError(f"{path} is no readable safetensors file: {error}; get it again") from error
    try:
        content: Any = torch.load(file, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        named = str(error).partition("GLOBAL ")[2].split(" ")[0] or "an object"
        raise ValueError(
            f"{path} holds more than tensors ({named}), and reading that could run code; allowed are tensors: where "
            "you trust the file, save its state_dict alone with the project it came from"
        ) from error
    except (RuntimeError, EOFError, OSError, KeyError) as error:
        raise ValueError(
            f"{path} cannot be read as a torch checkpoint: {' '.join(str(error).split())[:160]}"
        ) from error
    for name in _NESTED:
        if isinstance(content, Mapping) and isinstance(content.get(name), Mapping):
            content = content[name]
    tensors = {str(k): v for k, v in content.items() if isinstance(v, Tensor)} if isinstance(content, Mapping) else {}
    if not tensors:
        raise ValueError(f"{path} holds no tensors by name; allowed is a checkpoint with a state_dict")
    return tensors


def load_checkpoint(encoder: Encoder, path: str | Path, layout: Layout = "auto") -> Loaded:
    """Put the weights of another project's checkpoint into an encoder.

    Args:
        encoder: of the same architecture; changed only when everything fits.
        path: of the file.
        layout: `"ssql"` for the original SSQL code, whose networks keep a second copy of every quantized weight and
            hang each BatchNorm below its convolution; `"plain"` for names that end like the encoder's own; `"auto"`.

    Raises:
        ValueError: when the file cannot be read, or not every tensor of the encoder is in it, finite and of its shape.
    """
    tensors = read_tensors(path)
    ssql = any("bn_function" in name or "weight_quantizer" in name for name in tensors)
    chosen = layout if layout != "auto" else "ssql" if ssql else "plain"
    left: Counter[str] = Counter()
    renamed: dict[str, Tensor] = {}
    for name, tensor in tensors.items():
        if chosen == "ssql" and "quantizer" in name:
            left["second copies of weights" if name.endswith("quantizer.weight") else "states of quantizers"] += 1
        else:
            renamed[_from_ssql(name) if chosen == "ssql" else name] = tensor
    own = _own_tensors(encoder)
    branch, found = _best_branch(renamed, own)
    optional = {name for name in own if name.endswith("num_batches_tracked")}
    missing = sorted(own.keys() - found.keys() - optional)
    if missing:
        raise ValueError(
            f"{path}: found {len(found)}/{len(own)} tensors of {encoder.config['kind']} under "
            f"{branch or 'no prefix'!r}, the first missing is {missing[0]!r} of shape {list(own[missing[0]].shape)}; "
            f"allowed is all of them: choose the encoder that the file was made with{_hint(renamed, branch)}"
        )
    bad = next((name for name, t in found.items() if t.is_floating_point() and not t.isfinite().all()), None)
    if bad is not None:
        raise ValueError(f"{path}: {branch}{bad} holds values that are not finite; get the file again")
    with torch.no_grad():
        for name, tensor in found.items():
            own[name].copy_(tensor)
    left["heads, other branches and optimisers"] += len(renamed) - len(found)
    return Loaded(chosen, branch.rstrip("."), len(found), len(own), {k: v for k, v in left.items() if v})


def _own_tensors(encoder: Encoder) -> dict[str, Tensor]:
    """The encoder's tensors by the names that its architecture has elsewhere; ranges of quantizers are ours alone."""
    state = {name: t for name, t in encoder.state_dict().items() if "_quantizer." not in name}
    return {name.removeprefix("model.") if encoder.config["kind"] == "timm" else name: t for name, t in state.items()}


def _from_ssql(name: str) -> str:
    """`layer1.0.conv1.bn_function.weight` → `layer1.0.bn1.weight`; a shortcut is a convolution and a norm in order."""
    parts = name.split(".")
    for place, part in enumerate(parts):
        below = parts[place + 1] if place + 1 < len(parts) else ""
        if part.startswith("conv") and below == "bn_function":
            return ".".join([*parts[:place], f"bn{part.removeprefix('conv')}", *parts[place + 2 :]])
        if part == "downsample" and not below.isdigit():
            rest = ["1", *parts[place + 2 :]] if below == "bn_function" else ["0", *parts[place + 1 :]]
            return ".".join([*parts[: place + 1], *rest])
    return name


def _prefixes(names: Mapping[str, Tensor]) -> Iterator[str]:
    yield ""
    seen: set[str] = set()
    for name in names:
        parts = name.split(".")
        seen.update(".".join(parts[:count]) + "." for count in range(1, len(parts)))
    yield from sorted(seen, key=lambda prefix: (any(word in prefix for word in _COPIES), len(prefix), prefix))


def _best_branch(tensors: Mapping[str, Tensor], own: Mapping[str, Tensor]) -> tuple[str, dict[str, Tensor]]:
    best: tuple[str, dict[str, Tensor]] = ("", {})
    for prefix in _prefixes(tensors):
        found = {
            name: tensors[prefix + name]
            for name, t in own.items()
            if prefix + name in tensors and tensors[prefix + name].shape == t.shape
        }
        if len(found) > len(best[1]):
            best = (prefix, found)
    return best


def _hint(tensors: Mapping[str, Tensor], branch: str) -> str:
    names = [f"{name} {list(t.shape)}" for name, t in tensors.items() if name.startswith(branch) and t.ndim > 1]
    return f"; the file has, for instance, {', '.join(names[:2])}" if names else ""
