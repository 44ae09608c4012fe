"""Pictures of codes: the patches nearest to each code, and samples reconstructed from levels."""

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
_SAMPLES = 8
_PAUSE = 6  # frames of silence between patches


@dataclass(frozen=True)
class Coded:
    """Samples and their codes.

    Attributes:
        x: stored samples as floats, `[N, *sizes]`.
        values: values of their patches, not normalized, `[N, L, P]`.
        positions: positions of the patches, `[1 or N, L, A]`.
        codes: codes of all patches, indices `[N, L, S]`.
        distances: squared distance of each patch to its code, `[N, L, S]`.
    """

    x: Tensor
    values: Tensor
    positions: Tensor
    codes: Codes
    distances: Tensor


def can_draw_patches(encoder: ViT) -> bool:
    """Return whether patches of this encoder can be drawn."""
    return isinstance(encoder.patches, GridPatches) and encoder.modality in (
        "image",
        "audio",
        "video",
        "series",
    )


def code_rows(
    coded: Coded, encoder: ViT, source: Source, frequent: int
) -> list[list[dict[str, Any]]]:
    """Show the most frequent codes of each level by their nearest patches of different samples.

    Args:
        coded: samples and codes.
        encoder: defines the patches.
        source: source of the samples, which knows the settings of spectrograms.
        frequent: number of codes per level.
    """
    levels = []
    for level, counts in enumerate(coded.codes.usage):
        rows = []
        for code in counts.argsort(descending=True)[:frequent].tolist():
            if counts[code] == 0:
                break
            nearest = nearest_patches(coded, level, code)
            patches = [coded.values[sample, patch] for sample, patch in nearest]
            pictures = [
                _drawn(patch, encoder, f"patch of code {code}, level {level + 1}")
                for patch in patches
            ]
            if isinstance(source, Audible) and encoder.modality == "audio":
                sound = _sound(patches, [patch for _, patch in nearest], encoder, source)
                pictures[0] = replace(pictures[0], sound=sound)
            frequency = f"{100 * float(counts[code] / counts.sum()):.1f} %"
            rows.append({"code": code, "frequency": frequency, "patches": pictures})
        levels.append(rows)
    return levels


def nearest_patches(coded: Coded, level: int, code: int) -> list[tuple[int, int]]:
    """Return (sample, patch) of the patches nearest to their code, at most one per sample."""
    own = coded.codes.indices[..., level] == code
    distance, patch = coded.distances[..., level].masked_fill(~own, math.inf).min(dim=1)
    samples = distance.argsort(stable=True)[: min(_PATCHES, int(own.any(dim=1).sum()))]
    return [(n, int(patch[n])) for n in samples.tolist()]


def reconstructions(
    coded: Coded, encoder: ViT, source: Source, predictions: list[Tensor]
) -> list[list[tuple[Picture, str]]]:
    """Show samples next to their reconstructions from the first levels.

    Args:
        coded: samples and codes.
        encoder: defines the patches.
        source: source of the samples, which knows the settings of spectrograms.
        predictions: predicted patches of every other sample from the first 1 … S levels, each
            `[N / 2, L, P]`.
    """
    rows = []
    for index, x in enumerate(coded.x[1::2][:_SAMPLES]):
        kinds = [(x, "original")]
        kinds += [
            (join(predicted[index], encoder), _levels(level, len(predictions)))
            for level, predicted in enumerate(predictions, 1)
        ]
        row = []
        for shown, words in kinds:
            made = picture(depict(shown, encoder.input), f"sample {index + 1}, {words}")
            if isinstance(source, Audible) and encoder.modality == "audio":
                made = replace(made, sound=playable(shown, source.mel))
            row.append((made, words))
        rows.append(row)
    return rows


def _levels(number: int, total: int) -> str:
    return f"{number} of {total} level{'s' if total > 1 else ''}"


def join(values: Tensor, encoder: ViT) -> Tensor:
    """Join patches `[L, P]` to a sample `[C, *sizes]`: the inverse of `GridPatches.split`."""
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


def _sound(patches: list[Tensor], positions: list[int], encoder: ViT, source: Audible) -> str:
    """Make patches audible one after the other, each in its own band, with pauses between them."""
    assert isinstance(encoder.patches, GridPatches)
    (_, across), (mels, frames) = encoder.patches.grid, encoder.patches.side
    sheet = torch.full(
        (source.mel.mels, len(patches) * (frames + _PAUSE) + _PAUSE), source.mel.silence
    )
    for number, (patch, position) in enumerate(zip(patches, positions, strict=True)):
        low, begin = position // across * mels, _PAUSE + number * (frames + _PAUSE)
        sheet[low : low + mels, begin : begin + frames] = patch.view(mels, frames)
    return playable(sheet, source.mel)
