"""Pictures of codes: the patches nearest to each code, and samples reconstructed from levels."""

import math
from dataclasses import dataclass, replace
from typing import Any

from torch import Tensor

from mezzotint.data.source import Source
from mezzotint.encoders.vit import ViT
from mezzotint.modality.modality import modality_of
from mezzotint.modality.patches import GridPatches
from mezzotint.report.pictures import Picture, picture
from mezzotint.types import Codes

_PATCHES = 7
_SAMPLES = 8


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
    return isinstance(encoder.patches, GridPatches)


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
    modality = modality_of(encoder.input)
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
            positions = [patch for _, patch in nearest]
            sound = modality.sound_of_patches(patches, positions, encoder.patches, source)
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
    modality = modality_of(encoder.input)
    rows = []
    for index, x in enumerate(coded.x[1::2][:_SAMPLES]):
        kinds = [(x, "original")]
        kinds += [
            (join(predicted[index], encoder), _levels(level, len(predictions)))
            for level, predicted in enumerate(predictions, 1)
        ]
        row = []
        for shown, words in kinds:
            alt = f"sample {index + 1}, {words}"
            made = picture(modality.picture(shown, encoder.input), alt)
            row.append((replace(made, sound=modality.sound(shown, source)), words))
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
    x = values.view(-1, *encoder.patches.side)
    return picture(modality_of(encoder.input).picture(x, encoder.input), alt)
