"""ViTs of other projects as our `vit`: names, patches, positions and the class token.

Most projects follow timm's names: `patch_embed.proj`, `cls_token`, `pos_embed`, `blocks.0.mlp.fc1`.
A convolution whose stride is its kernel becomes our linear layer. Stored positions become learned
ones; the row of the class token is added to the token, which changes nothing. Spectrograms of
AudioMAE and BRIDLE have time as the first axis (`frames_first`), so kernels and positions are
transposed. VideoMAE has biases of queries and values, and none of keys, which is a bias of 0.

`adapt` starts a network for other samples, see `interop.adapt`. Differs from `--imagenet_pretrain`
of BRIDLE's source: rows of an image become mels and columns frames, where the source mixes them up.
"""

import math
import re
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from mezzotint.encoders.vit import ViT
from mezzotint.interop.adapt import cuts_positions, for_channels, for_grid
from mezzotint.modality.modality import modality_of
from mezzotint.modality.patches import LearnedPositions, grid_positions

_PATCHES = "patch_embed.proj.weight"
_INNER = {"mlp.fc1": "mlp.0", "mlp.fc2": "mlp.2"}
_BLOCK = {
    f"{part}.{end}"
    for part in ("norm1", "attn.qkv", "attn.proj", "norm2", *_INNER)
    for end in ("weight", "bias")
}
_SEPARATE = {"attn.q_bias", "attn.v_bias"}


def recognize_vit(tensors: Mapping[str, Tensor], layout: str) -> dict[str, Any] | None:
    """Recognize a ViT as the `encoder` section of a recipe; `None` for others.

    The number of heads is not in a file: it is 12 in MoCo v3, and the width over 64 elsewhere.

    Args:
        tensors: tensors of the file.
        layout: layout of its names.
    """
    for prefix in sorted(prefixes_of(tensors), key=len):
        kernel = tensors[prefix + _PATCHES]
        blocks = re.compile(rf"{re.escape(prefix)}blocks\.(\d+)\.(.+)")
        found = [m for m in map(blocks.fullmatch, tensors) if m is not None]
        names = {m[2] for m in found} - _SEPARATE
        if not names or not names <= _BLOCK or f"{prefix}norm.weight" not in tensors:
            continue
        width, side = kernel.shape[0], list(kernel.shape[2:])
        cls = f"{prefix}cls_token" in tensors
        return {
            "kind": "vit",
            "width": width,
            "depth": 1 + max(int(m[1]) for m in found),
            "heads": 12 if layout == "mocov3" else max(1, width // 64),
            "patch": side[0] if len(set(side)) == 1 and len(side) == 2 else side,
            "pool": ("patches" if layout in ("bridle", "mae") else "cls") if cls else "mean",
            "positions": "learned",
        }
    return None


def prefixes_of(tensors: Mapping[str, Tensor]) -> list[str]:
    """List the prefixes under which a file has the patches of a ViT in timm's names."""
    return [
        name.removesuffix(_PATCHES)
        for name, tensor in tensors.items()
        if name.endswith(_PATCHES) and tensor.ndim in (4, 5)
    ]


def shape_of(tensors: Mapping[str, Tensor], mels: int, size: int | None) -> tuple[int, ...]:
    """Read the shape of the samples of a ViT from its patches and positions.

    Args:
        tensors: tensors of the file.
        mels: mels of a spectrogram, where the file has kernels of one channel.
        size: side of images, if it was given.
    """
    prefix = min(prefixes_of(tensors), key=len)
    kernel, positions = tensors[prefix + _PATCHES], tensors.get(f"{prefix}pos_embed")
    count = 0 if positions is None else positions.shape[1]
    count -= f"{prefix}cls_token" in tensors
    channels, side = kernel.shape[1], kernel.shape[-1]
    if channels == 1:
        return (1, mels, side * max(1, count // (mels // side)))
    return (channels, *(size or side * math.isqrt(max(1, count)),) * 2)


def adaptations(tensors: Mapping[str, Tensor], encoder: ViT) -> list[str]:
    """Say what `as_our_vit` with `adapt` will change of a file's ViT."""
    said = []
    for prefix in sorted(prefixes_of(tensors), key=len)[:1]:
        known, wanted = tensors[prefix + _PATCHES].shape[1], encoder.input.shape[0]
        if known != wanted and modality_of(encoder.input).axes[0] == "channels":
            said.append(f"patches adapted from {known} to {wanted} channels")
        stored = tensors.get(f"{prefix}pos_embed")
        count = encoder.patches.count
        if stored is not None and stored.ndim == 3 and stored.shape[1] not in (count, count + 1):
            said.append(f"positions resized from {stored.shape[1]} to {count}")
    return said


def as_our_vit(
    tensors: Mapping[str, Tensor], encoder: ViT, *, frames_first: bool, adapt: bool
) -> dict[str, Tensor]:
    """Rename and reshape the tensors of every ViT of a file for our `vit`; others stay.

    Args:
        tensors: tensors of the file.
        encoder: encoder that they are for.
        frames_first: whether the file's samples have time as their first axis.
        adapt: bring kernels and positions to the channels and the grid of the encoder.
    """
    made = dict(tensors)
    for prefix in prefixes_of(tensors):
        own = {n.removeprefix(prefix): made.pop(n) for n in tensors if n.startswith(prefix)}
        converted = _converted(own, encoder, frames_first=frames_first, adapt=adapt)
        made |= {prefix + name: tensor for name, tensor in converted.items()}
    return made


def _converted(
    own: dict[str, Tensor], encoder: ViT, *, frames_first: bool, adapt: bool
) -> dict[str, Tensor]:
    kernel = own.pop(_PATCHES)
    of_images = kernel.shape[1] > 1
    if adapt and modality_of(encoder.input).axes[0] == "channels":
        kernel = for_channels(kernel, encoder.input.shape[0])
    kernel = kernel.transpose(-1, -2) if frames_first else kernel
    made = {"patches.project.weight": kernel.flatten(1)}
    if "patch_embed.proj.bias" in own:
        made["patches.project.bias"] = own.pop("patch_embed.proj.bias")
    cls, positions = own.pop("cls_token", None), own.pop("pos_embed", None)
    if positions is not None and positions.ndim == 3:
        rows = positions[0]
        if cls is not None and len(rows) != encoder.patches.count:
            cls, rows = cls + rows[:1], rows[1:]
        side = math.isqrt(len(rows))
        grid = (side, side) if of_images and side**2 == len(rows) else encoder.patches.grid
        rows = _transposed(rows, grid) if frames_first else rows
        made["places.table.weight"] = _positions(rows, grid, encoder, adapt)
    if cls is not None:
        made["cls"] = cls
    for name, tensor in own.items():
        made[_inner(name)] = tensor
    return made | _joined_biases(own)


def _inner(name: str) -> str:
    match = re.fullmatch(r"(blocks\.\d+\.)(mlp\.fc[12])(\..+)", name)
    return name if match is None else f"{match[1]}{_INNER[match[2]]}{match[3]}"


def _joined_biases(own: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Biases of queries, keys and values, from those of queries and values alone."""
    made = {}
    for name, query in own.items():
        if name.endswith("attn.q_bias") and f"{name[:-6]}v_bias" in own:
            value = own[f"{name[:-6]}v_bias"]
            made[f"{name[:-6]}qkv.bias"] = torch.cat([query, torch.zeros_like(query), value])
    return made


def _transposed(rows: Tensor, grid: tuple[int, ...]) -> Tensor:
    """Reorder the rows of a grid that is stored column by column; of another grid, leave them."""
    if len(grid) != 2 or len(rows) != math.prod(grid):
        return rows
    return rows.view(*grid[::-1], -1).transpose(0, 1).flatten(0, 1)


def _positions(rows: Tensor, grid: tuple[int, ...], encoder: ViT, adapt: bool) -> Tensor:
    """Bring positions `[L, D]` of a grid to the encoder's, if that may be done.

    Positions that do not fit come back without rows, so that they are refused as missing.
    """
    wanted = encoder.patches.grid
    if len(rows) != math.prod(grid) or (grid != wanted and not (adapt and len(wanted) == 2)):
        return rows[:0]
    return for_grid(rows, grid, wanted, cut=cuts_positions(encoder.input))


def refuse_lost_parts(path: str, encoder: ViT, tensors: Mapping[str, Tensor], prefix: str) -> None:
    """Refuse a ViT whose class token or positions the encoder would drop.

    Args:
        path: path of the file.
        encoder: encoder that gets the tensors.
        tensors: tensors of the file in our names.
        prefix: prefix of the tensors that are loaded.

    Raises:
        ValueError: when the encoder would compute something else than the file's network.
    """
    if f"{prefix}cls" in tensors and encoder.cls is None:
        raise ValueError(
            f"`{path}` has a class token, and the encoder has none. Set `encoder.pool: patches` "
            "for the mean over patches, or `cls` for the token."
        )
    if isinstance(encoder.places, LearnedPositions):
        return
    stored = tensors.get(f"{prefix}places.table.weight")
    fixed = encoder.places(grid_positions(encoder.patches.grid, torch.device("cpu")))[0]
    if stored is None or stored.shape != fixed.shape or (stored - fixed).abs().max() > 1e-3:
        state = "no positions" if stored is None else "positions that differ from the fixed ones"
        raise ValueError(
            f"`{path}` has {state}, so the encoder would not be the same. Set "
            "`encoder.positions: learned`."
        )
