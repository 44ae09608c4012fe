"""`codes.html` and `codes.json`: the codebook of a run, measured on the run's own data.

The page shows the usage of the codes, the mutual information of levels with each other and with the
position (as in `codebooks.health`, over many samples), the patches of frequent codes, and samples
reconstructed from the first levels. Codes stand for vectors, not for pixels, so reconstructions are
linear: a least-squares map from decoded vectors to the values of their patches, fitted on half of
the samples and shown on the other half. Its explained variance measures how much of the values the
codes hold in a linear form.

Shapes: N samples, L patches, P values per patch, S levels of K codes.
"""

import math
import re
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from mezzotint.codebooks.codebook import Codebook
from mezzotint.codebooks.health import Health, measure_health
from mezzotint.data.source import Source
from mezzotint.encoders.vit import ViT
from mezzotint.files import write_json
from mezzotint.modality.modality import modality_of
from mezzotint.modality.patches import GridPatches
from mezzotint.recipe.recipe import Recipe, read_recipe
from mezzotint.recipe.schema import RecipeError
from mezzotint.report.pictures import Picture, credit, picture, stored
from mezzotint.report.render import render, write_page
from mezzotint.runs.reuse import trained_method
from mezzotint.seeding import sample_order
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


_MOST_PATCHES = 2**15
_MOST_CELLS = 1024
_RIDGE = 1e-3
_BATCH = 32


def write_codes(run: Path | str, *, samples: int = 256, frequent: int = 12) -> Path:
    """Write `RUN/codes.html` and `RUN/codes.json`.

    Args:
        run: run of a method with a codebook; of several phases, the last one with a codebook.
        samples: number of samples to encode; fewer if they have many patches.
        frequent: number of codes to show per level.

    Returns:
        The path of the page.

    Raises:
        ValueError: when the run has no codebook, or an uninitialized one.
    """
    folder = Path(run)
    if samples < 2:
        raise ValueError(f"`samples` must be at least 2, got {samples}. Try 256.")
    if frequent < 1:
        raise ValueError(f"`frequent` must be at least 1, got {frequent}. Try 12.")
    phase, recipe = _phase_with_codebook(folder)
    method = trained_method(recipe, phase).method.eval()
    codebook, tokenizer, encoder = (
        method.get_submodule(name) for name in ("codebook", "tokenizer", "encoder")
    )
    assert isinstance(codebook, Codebook) and isinstance(encoder, ViT)
    coded = encode_samples(recipe.data, encoder, tokenizer, codebook, samples)
    measured = measure_health(coded.codes, _positions(coded))
    levels, predictions = _explained(coded, codebook) if can_draw_patches(encoder) else ([], [])
    facts = _facts(phase, method.config["kind"], coded, measured, levels)
    write_json(folder / "codes.json", facts, sealed=True)
    section: dict[str, Any] = {
        "run": folder.resolve().name, "facts": _ledger(facts), "levels": [
            {**level, "map": _map(coded.codes.usage[index])}
            for index, level in enumerate(facts["levels"])
        ],
        "between": facts["between_levels"], "shown": [], "reconstructions": [],
    }  # fmt: skip
    if can_draw_patches(encoder):
        section["shown"] = code_rows(coded, encoder, recipe.data, frequent)
        section["reconstructions"] = reconstructions(coded, encoder, recipe.data, predictions)
    page = render(
        title=f"Codes of {folder.resolve().name}", codes=section, credit=credit(recipe.data)
    )
    return write_page(folder / "codes.html", page)


def _phase_with_codebook(folder: Path) -> tuple[Path, Recipe]:
    """Find the directory of the newest codebook of a run, and build its recipe."""
    numbered = [
        (int(match[1]), p) for p in folder.glob("*-*") if (match := re.match(r"(\d+)-", p.name))
    ]
    phases = [p for _, p in sorted(numbered, reverse=True) if (p / "recipe.yaml").is_file()] or [
        folder
    ]
    if not (phases[0] / "recipe.yaml").is_file():
        raise RecipeError(
            f"`{folder}` is not a run. It must be a directory written by `mezzotint pretrain`. "
            "Check the path."
        )
    kinds = []
    for phase in phases:
        config = read_recipe(phase)
        if "codebook" in config["method"] and (phase / "checkpoints").is_dir():
            return phase, Recipe.build(config)
        kinds.append(config["method"]["kind"])
    raise RecipeError(
        f"`{folder}` is a run of {', '.join(kinds)}, which has no codebook. It must be a run of "
        "bridle, bridle_tokenizer or bridle_joint. Try `mezzotint pretrain image/emoji_bridle`."
    )


@torch.no_grad()
def encode_samples(
    source: Source, encoder: ViT, tokenizer: torch.nn.Module, codebook: Codebook, samples: int
) -> Coded:
    """Turn the patches of some samples into codes.

    Args:
        source: source of the samples, chosen by a fixed key; unreadable ones are left out.
        encoder: defines the patches.
        tokenizer: maps patches to vectors.
        codebook: maps vectors to codes; it is not changed.
        samples: number of samples.

    Raises:
        ValueError: when the codebook is not initialized, or fewer than two samples are readable.
    """
    if not codebook.ready:
        raise ValueError(
            "The codebook is not initialized. It must come from a run that trained. Train a step."
        )
    number = max(2, min(samples, len(source), _MOST_PATCHES // encoder.patches.count))
    read = [
        x
        for i in sample_order(len(source), 0, 0, stop=number).tolist()
        if (x := stored(source, i)[1]) is not None
    ]
    if len(read) < 2:
        raise ValueError(
            f"At least 2 samples must be readable, got {len(read)}. Run `mezzotint doctor`."
        )
    x = encoder.input.as_float(torch.stack(read))
    parts: list[tuple[Tensor, ...]] = []
    residual, energy = torch.zeros(codebook.num_levels), 0.0
    for batch in torch.split(x, _BATCH):
        normalized = encoder.input.normalize(batch)
        values, positions = encoder.patches.split(normalized)
        z = tokenizer(normalized, encoder.patches.vectors(values), positions)
        with codebook.freezing():
            codes = codebook(z)
        own = float(z.float().square().sum())
        residual, energy = residual + codes.residual * own, energy + own
        stored_values = encoder.patches.vectors(encoder.patches.split(batch)[0]).float()
        parts.append((stored_values, positions, codes.indices, codebook.nearest(z, 1)[1][..., 0]))
    values, positions, indices, distances = (
        torch.cat(column) for column in zip(*parts, strict=True)
    )
    if torch.equal(positions, positions[:1].expand_as(positions)):
        positions = positions[:1]
    flat = indices.flatten(0, 1)
    usage = torch.stack(
        [torch.bincount(level, minlength=codebook.num_codes).float() for level in flat.unbind(1)]
    )
    codes = Codes(torch.zeros(0), indices, torch.zeros(()), usage, residual / max(energy, 1e-12))
    return Coded(x, values, positions, codes, distances)


def _positions(coded: Coded) -> Tensor | None:
    """Return the number of each patch in the grid, if all samples share one grid."""
    return torch.arange(coded.positions.shape[1]) if coded.positions.shape[0] == 1 else None


@torch.no_grad()
def _explained(coded: Coded, codebook: Codebook) -> tuple[list[float], list[Tensor]]:
    """Predict the patches of every other sample from the first 1 … S levels.

    Returns:
        Explained variances, and predictions.
    """
    truth = coded.values[1::2]
    variance = (truth - truth.flatten(0, 1).mean(0)).square().mean()
    explained, predictions = [], []
    for level in range(1, codebook.num_levels + 1):
        decoded = codebook.decode(coded.codes.indices[..., :level])
        inputs = torch.cat([decoded, torch.ones_like(decoded[..., :1])], dim=-1).double()
        a, b = inputs[::2].flatten(0, 1), coded.values[::2].flatten(0, 1).double()
        gram = a.T @ a + _RIDGE * len(a) * torch.eye(a.shape[1], dtype=a.dtype)
        predicted = (inputs[1::2] @ torch.linalg.solve(gram, a.T @ b)).float()
        error = (predicted - truth).square().mean()
        explained.append(float(1.0 - error / variance.clamp_min(1e-12)))
        predictions.append(predicted)
    return explained, predictions


def _facts(
    phase: Path, kind: str, coded: Coded, measured: Health, explained: list[float]
) -> dict[str, Any]:
    """Collect the content of `codes.json`."""
    about = measured.about_position
    levels = []
    for level, counts in enumerate(coded.codes.usage):
        levels.append({
            "usage": float(measured.usage[level]), "perplexity": float(measured.perplexity[level]),
            "entropy": float(measured.entropy[level]), "residual": float(measured.residual[level]),
            "about_position": None if about is None else float(about[level]),
            "explained": explained[level] if explained else None,
            "counts": [int(count) for count in counts],
        })  # fmt: skip
    samples, patches = coded.codes.indices.shape[:2]
    between = [[float(v) for v in row] for row in measured.between_levels]
    return {
        "phase": phase.name, "method": kind, "samples": samples, "patches": patches,
        "codes": coded.codes.usage.shape[1], "levels": levels, "between_levels": between,
    }  # fmt: skip


def _ledger(facts: dict[str, Any]) -> list[tuple[str, str]]:
    return [
        ("method", f"{facts['method']}, phase {facts['phase']}"),
        ("measured on", f"{facts['samples']:,} samples of {facts['patches']:,} patches"),
        ("codebook", f"{len(facts['levels'])} × {facts['codes']:,} codes"),
    ]


def _map(counts: Tensor) -> dict[str, Any]:
    """Lay out the cells of a usage map in the order of the codes; many codes share cells."""
    frequency = counts / counts.sum().clamp_min(1.0)
    together = -(-len(frequency) // _MOST_CELLS)
    padded = torch.nn.functional.pad(frequency, (0, -len(frequency) % together))
    cells = padded.view(-1, together).sum(1)
    across = math.ceil(math.sqrt(len(cells) * 4))
    dark = (cells / cells.max().clamp_min(1e-12)).sqrt()
    return {
        "width": across, "height": math.ceil(len(cells) / across), "together": together,
        "cells": [
            (i % across, i // across, round(float(d), 3), i * together, f"{100 * float(c):.2f}")
            for i, (d, c) in enumerate(zip(dark, cells, strict=True))
        ],
    }  # fmt: skip
