"""Weights of other projects: which tensor of theirs is which of ours, with nothing guessed and nothing left over.

A checkpoint names its tensors `module.encoder_q.model.layer1.0.conv1.weight`, say. The branch (here
`module.encoder_q.model`) is the prefix under which the most tensors have a name and shape of the
encoder; of equally good ones the trained branch is taken before a momentum copy. Every tensor of
the encoder must be found, finite and of its shape: nine tenths of a network are no network. Files
are read as tensors only: a pickle that needs code is refused. What projects call things stands in
`layouts.py`.
"""

import pickle
import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from mezzotint.encoders.encoder import Encoder
from mezzotint.interop.layouts import LAYOUTS, Branch, Layout, prefixes, recognize

_NESTED = (
    "classy_state_dict", "base_model", "state_dict", "model_state_dict", "model", "net", "student", "teacher",
)  # fmt: skip


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
        ValueError: when there is no such file, it holds no tensors, or reading it would need to run
            code.
    """
    file = Path(path)
    if not file.is_file():
        raise ValueError(
            f"got {path}, which is no file; give a .safetensors file or a torch checkpoint"
        )
    if file.suffix == ".safetensors":
        try:
            return load_file(file)
        except SafetensorError as error:
            raise ValueError(
                f"{path} is no readable safetensors file: {error}; get it again"
            ) from error
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
    content = _flat(content)
    tensors = (
        {str(k): v for k, v in content.items() if isinstance(v, Tensor)}
        if isinstance(content, Mapping)
        else {}
    )
    if not tensors:
        raise ValueError(
            f"{path} holds no tensors by name; allowed is a checkpoint with a state_dict"
        )
    return tensors


def _flat(content: Any) -> Any:
    """Mappings of mappings with their keys joined, `trunk` → `conv1.weight` as `trunk.conv1.weight` (VISSL)."""
    if not isinstance(content, Mapping) or any(isinstance(v, Tensor) for v in content.values()):
        return content
    inner = {str(k): v for k, v in content.items() if isinstance(v, Mapping)}
    return {
        f"{k}.{name}": t for k, v in inner.items() for name, t in v.items() if isinstance(t, Tensor)
    }


def load_checkpoint(
    encoder: Encoder,
    path: str | Path,
    layout: Layout = "auto",
    *,
    branch: Branch = "auto",
    prefix: str | None = None,
) -> Loaded:
    """Put the weights of another project's checkpoint into an encoder.

    Args:
        encoder: of the same architecture; changed only when everything fits.
        path: of the file.
        layout: whose file it is, see `layouts.py`; `"plain"` for names that end like the encoder's
            own; `"auto"` tells by the names.
        branch: the trained network, or its momentum copy; `"auto"` takes the trained one where
            there is one.
        prefix: what stands before the encoder's names, where the file should not be searched for
            it; without its dot.

    Raises:
        ValueError: when the file cannot be read, or not every tensor of the encoder is in it,
            finite and of its shape.
    """
    if layout not in ("auto", *LAYOUTS):
        raise ValueError(f"got layout={layout!r}; allowed: auto, {', '.join(LAYOUTS)}")
    tensors = read_tensors(path)
    chosen = recognize(tensors) if layout == "auto" else layout
    known = LAYOUTS[chosen]
    left: Counter[str] = Counter()
    renamed: dict[str, Tensor] = {}
    for name, tensor in tensors.items():
        reason = next(
            (why for pattern, why in known.dropped.items() if re.fullmatch(pattern, name)), None
        )
        if reason is None:
            renamed[known.rename(name)] = tensor
        else:
            left[reason] += 1
    own = _own_tensors(encoder)
    wanted = (
        prefixes(renamed, chosen, branch)
        if prefix is None
        else iter([f"{prefix.rstrip('.')}." if prefix else ""])
    )
    found_at, found = _best_branch(renamed, own, list(wanted))
    _require_all(path, encoder, own, found, found_at, renamed, f"{chosen} layout, branch {branch}")
    with torch.no_grad():
        for name, tensor in found.items():
            own[name].copy_(tensor)
    left["heads, other branches and optimizers"] += len(renamed) - len(found)
    return Loaded(
        chosen, found_at.rstrip("."), len(found), len(own), {k: v for k, v in left.items() if v}
    )


def _require_all(
    path: str | Path, encoder: Encoder, own: Mapping[str, Tensor], found: Mapping[str, Tensor], branch: str,
    tensors: Mapping[str, Tensor], how: str,
) -> None:  # fmt: skip
    optional = {name for name in own if name.endswith("num_batches_tracked")}
    missing = sorted(own.keys() - found.keys() - optional)
    if missing:
        raise ValueError(
            f"{path}: found {len(found)}/{len(own)} tensors of {encoder.config['kind']} under "
            f"{branch or 'no prefix'!r} ({how}), the first missing is {missing[0]!r} of shape "
            f"{list(own[missing[0]].shape)}; allowed is all of them: choose the encoder that the file was made with, "
            f"or another layout{_hint(tensors, branch)}"
        )
    for name, tensor in found.items():
        if own[name].is_floating_point() != tensor.is_floating_point():
            raise ValueError(
                f"{path}: {branch}{name} is of type {tensor.dtype}; allowed are floats: get the file again"
            )
        if tensor.is_floating_point() and not tensor.isfinite().all():
            raise ValueError(
                f"{path}: {branch}{name} holds values that are not finite; get the file again"
            )


def _own_tensors(encoder: Encoder) -> dict[str, Tensor]:
    """The encoder's tensors by the names that its architecture has elsewhere; ranges of quantizers are ours alone."""
    state = {name: t for name, t in encoder.state_dict().items() if "_quantizer." not in name}
    return {
        name.removeprefix("model.") if encoder.config["kind"] == "timm" else name: t
        for name, t in state.items()
    }


def _best_branch(
    tensors: Mapping[str, Tensor], own: Mapping[str, Tensor], candidates: list[str]
) -> tuple[str, dict[str, Tensor]]:
    """The candidate with the most tensors; the first of equal ones."""
    best: tuple[str, dict[str, Tensor]] = ("", {})
    for prefix in candidates:
        found = {
            name: tensors[prefix + name]
            for name, t in own.items()
            if prefix + name in tensors and tensors[prefix + name].shape == t.shape
        }
        if len(found) > len(best[1]):
            best = (prefix, found)
    return best


def _hint(tensors: Mapping[str, Tensor], branch: str) -> str:
    names = [
        f"{name} {list(t.shape)}"
        for name, t in tensors.items()
        if name.startswith(branch) and t.ndim > 1
    ]
    return f"; the file has, for instance, {', '.join(names[:2])}" if names else ""
