"""Start from trained weights: what is loaded, what learns first, and what learns at all.

    init: {path: runs/first}
    init: {path: dinov2_vits14.pth, warmup_steps: 500, lora: {rank: 8}}
    init: {path: runs/first, freeze_blocks: 6}

The path is a run, an encoder directory, a file of weights of any project that `mezzotint import`
reads, or a local folder of timm's hub layout. All tensors of the encoder are loaded or none.
Samples may have another size or other channels than before (`interop.adapt`). Of a run with the
same method, the heads and the momentum copy are loaded too; otherwise heads start fresh and a
momentum copy starts as the encoder does.

A run keeps the encoder that it started from in `start/`, so that it can be measured like the
trained one and handed over if training made it worse (`train.continued`).
"""

import dataclasses
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from mezzotint.data.open import other_front_end, range_words, require_same_meaning
from mezzotint.data.source import Source
from mezzotint.encoders.encoder import Encoder
from mezzotint.encoders.lora import LoRA
from mezzotint.encoders.saving import load_encoder, take_structure
from mezzotint.encoders.vit import ViT
from mezzotint.files import read_json
from mezzotint.interop.adapt import cuts_positions, for_channels, for_grid, timm_positions
from mezzotint.interop.load import load_checkpoint
from mezzotint.methods.method import Method
from mezzotint.modality.modality import modality_of
from mezzotint.optim.groups import depths_of
from mezzotint.recipe.component import Component
from mezzotint.recipe.phases import LEARNING_ONLY
from mezzotint.recipe.schema import RecipeError
from mezzotint.train.checkpoint import CheckpointStore
from mezzotint.types import Input

_HUB = ("model.safetensors", "pytorch_model.bin", "open_clip_pytorch_model.bin")


class Init(Component, kind="init"):
    """Start a run from a trained encoder.

    Args:
        path: a run, an encoder directory, a file of weights, or a local folder of timm's hub
            layout.
        heads: `auto` loads projector, predictor and momentum copy from a run of the same method;
            `fresh` leaves them at their random start.
        warmup_steps: first steps in which the encoder stays as it is, and the heads learn.
        freeze_blocks: the stem and this many blocks are never trained; 0 for none.
        lora: train low-rank updates of the encoder instead of its weights; `None` for the weights.
        keep: `better` hands the start encoder over as `encoder/` if training made it worse on
            held-out training samples, with all labels or with ten per class; `last` always the
            trained one.
    """

    def __init__(
        self,
        *,
        path: str,
        heads: Literal["auto", "fresh"] = "auto",
        warmup_steps: int = 0,
        freeze_blocks: int = 0,
        lora: LoRA | None = None,
        keep: Literal["better", "last"] = "better",
    ) -> None:
        for name, value in (("warmup_steps", warmup_steps), ("freeze_blocks", freeze_blocks)):
            if value < 0:
                raise RecipeError(f"`init.{name}` must be at least 0, got {value}. 0 is none.")
        self.path, self.heads, self.keep = path, heads, keep
        self.warmup_steps, self.freeze_blocks, self.lora = warmup_steps, freeze_blocks, lora

    def load(self, method: Method, source: Source | None = None) -> list[str]:
        """Load the start into a freshly built method, and say what was loaded.

        Args:
            method: the method.
            source: its training samples, whose columns and tokens must mean what the start's do.

        Raises:
            RecipeError: for a path without an encoder, one of another architecture or modality, or
                samples of other columns or another tokenizer.
        """
        path = Path(self.path)
        described = source.preprocessing() if source is not None else {}
        notes = [_load_encoder(method.encoder, path, described)]
        loaded = _load_heads(method, path) if self.heads == "auto" else []
        branches = method.branches()
        if (target := branches.get("target")) is not None:
            online = branches["online"]
            pairs: list[tuple[nn.Module | None, nn.Module | None]] = [
                (method.encoder, target.encoder), (online.projector, target.projector),
            ]  # fmt: skip
            for trained, copied in pairs:
                known = any(_within(method, copied, part) for part in loaded)
                if trained is not None and copied is not None and not known:
                    state = trained.state_dict()  # with ranges at low bits, which a copy lacks
                    copied.load_state_dict({name: state[name] for name in copied.state_dict()})
        notes.append(f"heads: {', '.join(loaded)} loaded" if loaded else "heads: fresh")
        return notes

    def prepare(self, method: Method) -> None:
        """Freeze blocks and add low-rank updates, in the encoder and in its momentum copy.

        The names of parameters change with `lora`, so this comes after `load` and before a
        checkpoint is read.

        Raises:
            ValueError: for updates or blocks that the encoder does not have.
        """
        encoders = [method.encoder]
        if (target := method.branches().get("target")) is not None:
            encoders.append(target.encoder)
        for encoder in encoders:
            if self.lora is not None:
                self.lora.add(encoder)
            if encoder is not method.encoder:
                encoder.requires_grad_(False)
        for _, parameter in frozen(method.encoder, self.freeze_blocks):
            parameter.requires_grad_(False)


def _within(method: Method, module: nn.Module | None, part: str) -> bool:
    """Whether a module is a part of a method, or inside it."""
    return any(module is inner for inner in method.get_submodule(part).modules())


def frozen(encoder: Encoder, blocks: int) -> list[tuple[str, nn.Parameter]]:
    """List the parameters of the stem and the first blocks."""
    if not blocks:
        return []
    named = list(encoder.named_parameters())
    depths, top = depths_of([name for name, _ in named])
    if blocks >= top:
        raise RecipeError(
            f"`init.freeze_blocks` must be below {top} for this encoder, which has {top - 1} "
            f"blocks, got {blocks}. Freeze fewer, or take `init.lora`."
        )
    return [
        pair for pair, depth in zip(named, depths, strict=True) if depth is not None
        and depth <= blocks
    ]  # fmt: skip


def frozen_modules(encoder: Encoder, blocks: int) -> list[nn.Module]:
    """List the modules whose own parameters are all frozen blocks'."""
    held = {id(parameter) for _, parameter in frozen(encoder, blocks)}
    own = ((m, [id(p) for p in m.parameters(recurse=False)]) for m in encoder.modules())
    return [module for module, ids in own if ids and held.issuperset(ids)]


def _load_encoder(encoder: Encoder, path: Path, described: Mapping[str, Any]) -> str:
    """Load weights, normalization and quantizers, and say from where.

    Args:
        encoder: the recipe's.
        path: of the start.
        described: preprocessing of the training samples.
    """
    if path.is_dir():
        for name in _HUB:
            if (path / name).is_file() and not (path / "encoder.json").is_file():
                loaded = load_checkpoint(encoder, path / name, adapt=True)
                _normalize_as(encoder, *_stated_moments(path))
                return f"init: {loaded}"
    elif path.is_file():
        return f"init: {load_checkpoint(encoder, path, adapt=True)}"
    if not (path / "encoder.json").is_file() and not (path / "encoder").is_dir():
        raise RecipeError(
            f"`init.path` must be a run, an encoder directory, a file of weights, or a folder with "
            f"{_HUB[0]}, got {str(path)!r}. Check the path."
        )
    saved = load_encoder(path)
    _require_same(encoder, saved, path)
    require_same_meaning(saved.preprocessing, described, "init.path", path)
    take_structure(encoder, saved)
    tensors, adapted = _adapted(encoder, saved)
    encoder.load_state_dict(encoder.state_dict() | tensors)  # ranges at low bits may be new
    if saved.input.range in ((), encoder.input.range):
        _normalize_as(encoder, saved.input.mean, saved.input.std)
    others = _other_values(saved, encoder.input, described)
    return "; ".join([f"init: loaded {len(tensors)} tensors from {path}", *adapted, *others])


def _stated_moments(folder: Path) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Return mean and standard deviation that a hub folder states; nothing if it does not.

    Raises:
        RecipeError: when they are no lists of finite numbers, or a standard deviation is 0 or less.
    """
    file = folder / "config.json"
    described = read_json(file) if file.is_file() else {}
    described = described if isinstance(described, dict) else {}
    stated = described.get("pretrained_cfg") or described
    mean, std = (stated.get(key) or [] for key in ("mean", "std"))
    if not (_are_numbers(mean) and _are_numbers(std) and min(std, default=1.0) > 0.0):
        raise RecipeError(
            f"`mean` and `std` of `{file}` must be lists of finite numbers, `std` above 0, got "
            f"{mean} and {std}. Correct them, or remove both to use the data's."
        )
    return tuple(mean), tuple(std)


def _are_numbers(values: Any) -> bool:
    return isinstance(values, list) and all(
        type(value) in (int, float) and math.isfinite(value) for value in values
    )


def _normalize_as(encoder: Encoder, mean: tuple[float, ...], std: tuple[float, ...]) -> None:
    """Normalize samples as the start was trained, unless they have other channels."""
    if len(mean) == len(std) == len(encoder.input.mean):
        encoder.input = dataclasses.replace(encoder.input, mean=mean, std=std)


def _require_same(encoder: Encoder, saved: Encoder, path: Path) -> None:
    if saved.input.modality != encoder.input.modality:
        raise RecipeError(
            f"`init.path` {str(path)!r} is an encoder of {modality_of(saved.input).plural}, and "
            f"`data` has {modality_of(encoder.input).plural}. Choose a start for this data."
        )
    require_same_network(
        encoder,
        saved,
        f"`init.path`: the encoder of `{path}`",
        "`mezzotint pretrain RECIPE --init PATH` takes the encoder section from the start.",
    )


def _other_values(saved: Encoder, input: Input, described: Mapping[str, Any]) -> list[str]:
    """Say where samples mean something else than the start's, which training adapts to."""
    said = []
    if shown := other_front_end(saved.preprocessing, described):
        said.append(f"another front-end ({shown})")
    if saved.input.range not in ((), input.range):
        ranges = (f"{range_words(found)}" for found in (input, saved.input))
        said.append(" instead of ".join(ranges))
    pairs = (saved.input.channels, input.channels), (
        saved.preprocessing.get("channels"), described.get("channels")
    )  # fmt: skip
    for before, after in pairs:
        if before and after and list(before) != list(after):
            said.append(f"channels {', '.join(after)} instead of {', '.join(before)}")
    if "columns" in described and described["columns"] != saved.preprocessing.get("columns"):
        said.append("columns are standardized by this data, by the start's with data.fitted")
    return said


def require_same_network(encoder: Encoder, saved: Encoder, which: str, remedy: str) -> None:
    """Refuse a saved encoder whose keys differ from the recipe's, but in how it is trained.

    Args:
        encoder: the recipe's.
        saved: the one that was loaded.
        which: what it is, at the start of the message.
        remedy: what to do, at its end.
    """
    keys = (saved.config.keys() | encoder.config.keys()) - set(LEARNING_ONLY["encoder"])
    for name in sorted(keys, key=lambda key: (key != "kind", key)):
        if saved.config.get(name) != encoder.config.get(name):
            raise RecipeError(
                f"{which} has {name} {saved.config.get(name)!r}, and the recipe's has "
                f"{encoder.config.get(name)!r}. {remedy}"
            )


def _adapted(encoder: Encoder, saved: Encoder) -> tuple[dict[str, Tensor], list[str]]:
    """Bring the tensors of a saved encoder to the samples of another one of its kind."""
    own, tensors, said = encoder.state_dict(), {}, []
    before, now = saved.input.shape, encoder.input.shape
    for name, tensor in saved.state_dict().items():
        wanted = own[name].shape
        if tensor.shape == wanted:
            tensors[name] = tensor
        elif name == "places.table.weight" and _grids(encoder, saved) is not None:
            grids = _grids(encoder, saved)
            assert grids is not None
            tensors[name] = for_grid(tensor, *grids, cut=cuts_positions(encoder.input))
            said.append(f"positions resized from {grids[0]} to {grids[1]}")
        elif name == "model.pos_embed" and (found := timm_positions(encoder, tensor)) is not None:
            tensors[name] = found[0]
            said.append(found[1])
        elif tensor.ndim >= 2 and _is_stem(tensor, wanted, before[0], now[0]):
            kernel = tensor.view(len(tensor), before[0], -1)
            tensors[name] = for_channels(kernel, now[0]).reshape(wanted)
            said.append(f"{name} adapted from {before[0]} to {now[0]} channels")
        else:
            raise RecipeError(
                f"`init.path`: {name} has the shape {list(tensor.shape)} there and {list(wanted)} "
                f"for samples of shape {list(now)}, instead of {list(before)}. Read the data at "
                "the size of the start."
            )
    return tensors, said


def _grids(encoder: Encoder, saved: Encoder) -> tuple[tuple[int, ...], tuple[int, ...]] | None:
    if not (isinstance(encoder, ViT) and isinstance(saved, ViT)):
        return None
    grids = saved.patches.grid, encoder.patches.grid
    return grids if len(grids[0]) == len(grids[1]) else None


def _is_stem(tensor: Tensor, wanted: torch.Size, before: int, now: int) -> bool:
    """Whether a weight differs in the channels of the samples alone."""
    return (
        before != now
        and tensor.shape[0] == wanted[0]
        and tensor[0].numel() % before == 0
        and tensor[0].numel() // before * now == math.prod(wanted[1:])
    )


def _load_heads(method: Method, path: Path) -> list[str]:
    """Load what is not the encoder from the newest checkpoint of a run with the same names."""
    if not (path / "checkpoints").is_dir():
        return []
    saved, _ = CheckpointStore(path / "checkpoints").latest()
    tensors: Mapping[str, Tensor] = {} if saved is None else saved.model
    loaded = []
    for name, module in method.named_children():
        own = module.state_dict()
        theirs = {key: tensors.get(f"{name}.{key}") for key in own}
        alike = all(t is not None and t.shape == own[key].shape for key, t in theirs.items())
        if module is not method.encoder and own and alike:
            module.load_state_dict(theirs)
            loaded.append(name)
    return loaded
