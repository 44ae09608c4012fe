"""Weights of other projects: match the tensors of a checkpoint to an encoder, all of them or none.

A checkpoint may name a tensor `module.encoder_q.model.layer1.0.conv1.weight`. The branch (here
`module.encoder_q.model`) is the prefix under which the most tensors have a name and shape of the
encoder; among equal ones the trained branch comes before a momentum copy. Every tensor of the
encoder must exist, be finite and have its shape. Files are read as tensors and plain data; the
options of a run (`argparse.Namespace`), which many projects save, are plain data too, and a pickle
that needs any other code is refused. `layouts.py` describes the names of other projects.
"""

import argparse
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
from mezzotint.encoders.vit import ViT
from mezzotint.interop.adapt import for_channels, timm_positions
from mezzotint.interop.layouts import LAYOUTS, MOMENTUM_WORDS, Branch, Layout, prefixes, recognize
from mezzotint.interop.vit import adaptations, as_our_vit, prefixes_of, refuse_lost_parts
from mezzotint.modality.modality import modality_of

_NESTED = (
    "classy_state_dict", "base_model", "state_dict", "model_state_dict", "model", "net", "student",
    "teacher",
)  # fmt: skip

_LOW_RANK = re.compile(r"(^|\.)lora_(A|B|up|down|magnitude)|\.base_layer\.")


@dataclass(frozen=True)
class Loaded:
    """Summary of a loaded checkpoint.

    Attributes:
        layout: layout of its names.
        branch: prefix of the loaded tensors.
        loaded: number of tensors that were loaded.
        total: number of tensors of the encoder.
        left: numbers of ignored tensors of the file, by reason.
        adapted: what was changed for samples of another size, in words.
    """

    layout: str
    branch: str
    loaded: int
    total: int
    left: dict[str, int]
    adapted: tuple[str, ...] = ()

    def __str__(self) -> str:
        rest = "; ".join(f"{count} ignored: {reason}" for reason, count in self.left.items())
        branch = f" from {self.branch}" if self.branch else ""
        return "; ".join(
            filter(
                None,
                (
                    f"loaded {self.loaded}/{self.total} tensors{branch} ({self.layout} layout)",
                    *self.adapted,
                    rest,
                ),
            )
        )


def read_tensors(path: str | Path) -> dict[str, Tensor]:
    """Read the tensors of a `.safetensors` file or a torch checkpoint.

    Raises:
        ValueError: for a missing file, one without tensors, or one that would run code.
    """
    file = Path(path)
    if not file.is_file():
        raise ValueError(f"`{path}` is not a file. Give a .safetensors file or a torch checkpoint.")
    if file.suffix == ".safetensors":
        try:
            return load_file(file)
        except SafetensorError as error:
            raise ValueError(
                f"`{path}` is not a readable safetensors file: {error}. Download it again."
            ) from error
    try:
        # Unpickling a namespace runs nothing: its attributes are set, and they are checked as well.
        with torch.serialization.safe_globals([argparse.Namespace]):
            content: Any = torch.load(file, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        with file.open("rb") as opened:
            if not opened.read(2).startswith((b"PK", b"\x80")):
                raise ValueError(
                    f"`{path}` is not a torch checkpoint. Give a .safetensors file or a torch "
                    "checkpoint."
                ) from error
        named = str(error).partition("GLOBAL ")[2].split(" ")[0] or "an object"
        raise ValueError(
            f"`{path}` contains more than tensors ({named}), and reading it could run code. If you "
            "trust the file, save its state_dict alone with the project that it came from."
        ) from error
    except Exception as error:  # noqa: B902 - a file of another kind stops torch anywhere
        raise ValueError(
            f"`{path}` is not a readable torch checkpoint "
            f"({' '.join(str(error).split())[:160] or type(error).__name__}). "
            "Download it again."
        ) from error
    content = _both_networks(content)
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
        raise ValueError(f"`{path}` has no named tensors. Give a checkpoint with a state_dict.")
    return tensors


def _both_networks(content: Any) -> Any:
    """Keep a network and its momentum copy, which would hide each other, under their names.

    Such as student and teacher (DINO), or state_dict and state_dict_ema (timm).
    """
    networks = {
        str(name): part
        for name, part in (content.items() if isinstance(content, Mapping) else ())
        if isinstance(part, Mapping) and any(isinstance(t, Tensor) for t in part.values())
    }
    copies = [name for name in networks if any(word in name for word in MOMENTUM_WORDS)]
    trained = [name for name in networks if name not in copies]
    if not copies or not trained:
        return content
    named = next((name for name in ("student", *_NESTED) if name in trained), trained[0])
    return {f"{name}.{key}": t for name in (named, *copies) for key, t in networks[name].items()}


def channels_of(encoder: Encoder, tensors: Mapping[str, Tensor], layout: str) -> int:
    """Return the channels of the images that a file's network takes, 3 if the file does not show.

    Args:
        encoder: encoder of the same architecture for images of three channels.
        tensors: tensors of the file.
        layout: layout of its names.
    """
    rename = LAYOUTS[recognize(tensors) if layout == "auto" else layout].rename
    theirs = {rename(name): tensor for name, tensor in tensors.items()}
    own = _own_tensors(encoder)
    prefixes = Counter(
        name.removesuffix(last)
        for last in own
        for name in theirs
        if name == last or name.endswith(f".{last}")
    )
    prefix = prefixes.most_common(1)[0][0] if prefixes else ""
    for name, mine in own.items():
        found = theirs.get(prefix + name)
        if found is not None and mine.ndim == found.ndim == 4 and mine.shape[1] == 3:
            return int(found.shape[1])
    return 3


def _flat(content: Any) -> Any:
    """Flatten mappings of mappings: `trunk` → `conv1.weight` to `trunk.conv1.weight` (VISSL)."""
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
    adapt: bool = False,
) -> Loaded:
    """Load the weights of another project's checkpoint into an encoder.

    Args:
        encoder: encoder of the same architecture; changed only if every tensor fits.
        path: path of the checkpoint.
        layout: project of the file, see `layouts.py`; `"plain"` for names that end like the
            encoder's own; `"auto"` recognizes the layout by the names.
        branch: the trained network, or its momentum copy; `"auto"` prefers the trained one.
        prefix: prefix of the encoder's names, without its dot; `None` to search for it.
        adapt: let the encoder start for other samples than the file's: the first kernel is brought
            to its channels, and the positions of a ViT to its grid; see `interop.adapt`.

    Raises:
        ValueError: for a file that cannot be read, or in which a tensor of the encoder is missing,
            not finite, or of another shape.
    """
    if layout not in ("auto", *LAYOUTS):
        raise ValueError(
            f"`layout` must be auto or one of {', '.join(LAYOUTS)}, got {layout!r}. Leave it out."
        )
    tensors = read_tensors(path)
    _refuse_unmerged(path, tensors)
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
    vit = encoder if isinstance(encoder, ViT) and encoder.config["kind"] == "vit" else None
    theirs = prefixes_of(renamed)
    adapted: list[str] = []
    if adapt and vit is None:
        renamed, adapted = _with_stem(renamed, encoder)
        renamed, resized = _with_positions(renamed, encoder)
        adapted += resized
    if vit is not None:
        adapted = adaptations(renamed, vit) if adapt else []
        # Of images, which have no frames, no layout turns the axes.
        first = known.frames_first and modality_of(vit.input).axes[-1] == "frames"
        renamed = as_our_vit(renamed, vit, frames_first=first, adapt=adapt)
    own = _own_tensors(encoder)
    candidates = (
        prefixes(renamed, chosen, branch)
        if prefix is None
        else iter([f"{prefix.rstrip('.')}." if prefix else ""])
    )
    found_at, found = _best_branch(renamed, own, list(candidates))
    if vit is not None and found_at in theirs:
        refuse_lost_parts(str(path), vit, renamed, found_at)
    _require_all(path, encoder, own, found, found_at, renamed, f"{chosen} layout, branch {branch}")
    with torch.no_grad():
        for name, tensor in found.items():
            own[name].copy_(tensor)
    _count_others(left, renamed, found_at, len(found))
    return Loaded(
        chosen,
        found_at.rstrip("."),
        len(found),
        len(own),
        {k: v for k, v in left.items() if v},
        tuple(adapted),
    )


def _refuse_unmerged(path: str | Path, tensors: Mapping[str, Tensor]) -> None:
    """Refuse low-rank updates next to the weights, which are the start's without them."""
    unmerged = next((name for name in tensors if _LOW_RANK.search(name)), None)
    if unmerged is not None:
        raise ValueError(
            f"`{path}` has low-rank updates (LoRA) that are not merged into the weights, such as "
            f"{unmerged!r}. Merge them where the file was made, such as with peft's "
            "merge_and_unload, and save it again."
        )


def _with_stem(
    tensors: Mapping[str, Tensor], encoder: Encoder
) -> tuple[dict[str, Tensor], list[str]]:
    """Bring the first kernel of an encoder to its channels, wherever the file has it."""
    channels, own = encoder.input.shape[0], _own_tensors(encoder)
    stem = next(((n, t) for n, t in own.items() if t.ndim >= 3 and n.endswith("weight")), None)
    if stem is None or stem[1].shape[1] != channels:
        return dict(tensors), []
    made, adapted = dict(tensors), []
    for name, tensor in tensors.items():
        same = tensor.ndim == stem[1].ndim and tensor[:, :1].shape == stem[1][:, :1].shape
        if name != stem[0] and not name.endswith(f".{stem[0]}"):
            continue
        branch = name.removesuffix(stem[0])  # a block may have a layer of the stem's name
        if 2 * sum(branch + other in tensors for other in own) <= len(own):
            continue
        if same and tensor.shape[1] != channels:
            made[name] = for_channels(tensor, channels)
            adapted.append(f"{name} adapted from {tensor.shape[1]} to {channels} channels")
    return made, adapted[:1]


def _with_positions(
    tensors: Mapping[str, Tensor], encoder: Encoder
) -> tuple[dict[str, Tensor], list[str]]:
    """Bring the positions of a network of timm to its grid, wherever the file has them."""
    made, said = dict(tensors), list[str]()
    own = _own_tensors(encoder).get("pos_embed") if encoder.config["kind"] == "timm" else None
    if own is None:
        return made, said
    for name, tensor in tensors.items():
        if name.rpartition(".")[2] == "pos_embed" and tensor.shape != own.shape:
            found = timm_positions(encoder, tensor)
            if found is not None:
                made[name] = found[0]
                said.append(found[1])
    return made, said[:1]


def _count_others(
    left: Counter[str], tensors: Mapping[str, Tensor], branch: str, found: int
) -> None:
    """Count the tensors that are not loaded: those of the other network apart from the rest."""
    target = any(word in branch for word in MOMENTUM_WORDS)
    others = sum(
        any(word in name.rpartition(".")[0] for word in MOMENTUM_WORDS) != target
        for name in tensors
    )
    other = "trained network, --branch online" if target else "momentum copy, --branch target"
    left[other] += others
    left["heads, other branches and optimizers"] += len(tensors) - found - others


def _require_all(
    path: str | Path, encoder: Encoder, own: Mapping[str, Tensor], found: Mapping[str, Tensor],
    branch: str, tensors: Mapping[str, Tensor], how: str,
) -> None:  # fmt: skip
    optional = {name for name in own if name.endswith("num_batches_tracked")}
    missing = sorted(own.keys() - found.keys() - optional)
    if missing:
        raise ValueError(
            f"`{path}` has {len(found)}/{len(own)} tensors of {encoder.config['kind']} under "
            f"{branch or 'no prefix'!r} ({how}). The first missing one is {missing[0]!r} of shape "
            f"{list(own[missing[0]].shape)}. Choose the encoder that the file was made with, or "
            f"another layout.{_hint(tensors, branch)}"
        )
    for name, tensor in found.items():
        if own[name].is_floating_point() != tensor.is_floating_point():
            raise ValueError(
                f"`{branch}{name}` of `{path}` must be floating point, got {tensor.dtype}. "
                "Download "
                "the file again."
            )
        if tensor.layout != torch.strided or tensor.is_meta:
            raise ValueError(
                f"`{branch}{name}` of `{path}` has no dense values. Save the file again with dense "
                "tensors."
            )
        if tensor.is_floating_point() and not _wide(tensor).isfinite().all():
            raise ValueError(
                f"`{branch}{name}` of `{path}` contains NaN or inf. Download the file again."
            )


def _wide(tensor: Tensor) -> Tensor:
    """Return floats of 8 bits as floats of 32, which have more functions."""
    return tensor.float() if tensor.element_size() == 1 else tensor


def _own_tensors(encoder: Encoder) -> dict[str, Tensor]:
    """Name the encoder's tensors as its architecture does elsewhere, without quantizer ranges."""
    state = {name: t for name, t in encoder.state_dict().items() if "_quantizer." not in name}
    return {
        name.removeprefix("model.") if encoder.config["kind"] == "timm" else name: t
        for name, t in state.items()
    }


def _best_branch(
    tensors: Mapping[str, Tensor], own: Mapping[str, Tensor], candidates: list[str]
) -> tuple[str, dict[str, Tensor]]:
    """Choose the prefix with the most tensors; the first among equal ones."""
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
    return f" The file has, for example, {', '.join(names[:2])}." if names else ""
