"""What codes look and sound like: the patches nearest to each, and samples told by some of their levels."""

import math
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from mezzotint.data.source import Source
from mezzotint.encoders.patches import GridPatches
from mezzotint.encoders.vit import ViT
from mezzotint.report.depict import depict
from mezzotint.report.pictures import Audible, Picture, picture, playable
from mezzotint.types import Codes

_PATCHES = 7
_REBUILT = 8
_PAUSE = 6  # frames of silence after each patch that is played


@dataclass(frozen=True)
class Coded:
    """Samples and their codes.

    Attributes:
        x: stored samples as floats, `[N, *sizes]`.
        values: of their patches, not normalized, `[N, L, P]`.
        where: patches stand, `[1 or N, L, A]`.
        codes: of all patches, indices `[N, L, S]`.
        distances: squared, of each patch to its code, `[N, L, S]`.
    """

    x: Tensor
    values: Tensor
    where: Tensor
    codes: Codes
    distances: Tensor


def pictured(encoder: ViT) -> bool:
    """Whether patches of this encoder can be drawn."""
    return isinstance(encoder.patches, GridPatches) and encoder.modality in (
        "image",
        "audio",
        "video",
        "series",
    )


def code_rows(
    found: Coded, encoder: ViT, source: Source, frequent: int
) -> list[list[dict[str, Any]]]:
    """For each level its most frequent codes, each with the nearest patches, of as many samples.

    Args:
        found: samples and codes.
        encoder: whose patches.
        source: says how a spectrogram was made.
        frequent: how many codes a level.
    """
    levels = []
    for level, counts in enumerate(found.codes.usage):
        rows = []
        for code in counts.argsort(descending=True)[:frequent].tolist():
            if counts[code] == 0:
                break
            places = nearest_patches(found, level, code)
            patches = [found.values[sample, patch] for sample, patch in places]
            pictures = [
                _drawn(patch, encoder, f"patch of code {code}, level {level + 1}")
                for patch in patches
            ]
            if isinstance(source, Audible) and encoder.modality == "audio":
                sound = _sound(patches, [patch for _, patch in places], encoder, source)
                pictures[0] = replace(pictures[0], sound=sound)
            share = float(counts[code] / counts.sum())
            rows.append({"code": code, "share": f"{100 * share:.1f} %", "patches": pictures})
        levels.append(rows)
    return levels


def nearest_patches(found: Coded, level: int, code: int) -> list[tuple[int, int]]:
    """Sample and patch of those that are nearest to a code among those that have it, one of each sample."""
    mine = found.codes.indices[..., level] == code
    distance, patch = found.distances[..., level].masked_fill(~mine, math.inf).min(dim=1)
    samples = distance.argsort(stable=True)[: min(_PATCHES, int(mine.any(dim=1).sum()))]
    return [(n, int(patch[n])) for n in samples.tolist()]


def rebuilt(
    found: Coded, encoder: ViT, source: Source, guesses: list[Tensor]
) -> list[list[tuple[Picture, str]]]:
    """Samples as stored, and as the first levels tell them.

    Args:
        found: samples and codes.
        encoder: whose patches.
        source: says how a spectrogram was made.
        guesses: patches of every other sample by the first 1 … S levels, each `[N / 2, L, P]`.
    """
    rows = []
    for place, x in enumerate(found.x[1::2][:_REBUILT]):
        kinds = [(x, "as stored")]
        kinds += [
            (join(guess[place], encoder), f"{level} of {len(guesses)}")
            for level, guess in enumerate(guesses, 1)
        ]
        row = []
        for shown, words in kinds:
            made = picture(depict(shown, encoder.input), f"sample {place + 1}, {words}")
            if isinstance(source, Audible) and encoder.modality == "audio":
                made = replace(made, sound=playable(shown, source.mel))
            row.append((made, words))
        rows.append(row)
    return rows


def join(values: Tensor, encoder: ViT) -> Tensor:
    """Patches `[L, P]` put together to a sample `[C, *sizes]`: the inverse of `GridPatches.split`."""
    patches = encoder.patches
    assert isinstance(patches, GridPatches)
    grid, side = patches.grid, patches.side
    axes = len(grid)
    cut = values.reshape(*grid, -1, *side)
    pairs = [number for axis in range(axes) for number in (axis, axis + axes + 1)]
    return cut.permute(axes, *pairs).reshape(-1, *(n * s for n, s in zip(grid, side, strict=True)))


def _drawn(values: Tensor, encoder: ViT, alt: str) -> Picture:
    assert isinstance(encoder.patches, GridPatches)
    return picture(depict(values.view(-1, *encoder.patches.side), encoder.input), alt)


def _sound(patches: list[Tensor], places: list[int], encoder: ViT, source: Audible) -> str:
    """Patches one after the other, each in its own band and silence around it."""
    assert isinstance(encoder.patches, GridPatches)
    (_, across), (mels, frames) = encoder.patches.grid, encoder.patches.side
    sheet = torch.full(
        (source.mel.mels, len(patches) * (frames + _PAUSE) + _PAUSE), source.mel.silence
    )
    for number, (patch, place) in enumerate(zip(patches, places, strict=True)):
        low, begin = place // across * mels, _PAUSE + number * (frames + _PAUSE)
        sheet[low : low + mels, begin : begin + frames] = patch.view(mels, frames)
    return playable(sheet, source.mel)
