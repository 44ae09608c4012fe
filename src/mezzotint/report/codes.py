"""`codes.html`: the codebook of a run, measured on its own data, with `codes.json` beside it.

How often each code is used, how evenly, what levels tell of one another and of the position (all as
in `codebooks.health`, but over many samples), what the patches of frequent codes look and sound
like, and what is left of a sample when its patches are told by the first s levels alone. Codes
stand for vectors and not for pixels; so the last is drawn by least squares: from the decoded
vectors of half of the samples to the values of their patches, and looked at on the other half. Its
explained variance says how much of the values a linear finds in the codes.

Shapes: N samples, L patches, P values of a patch, S levels of K codes.
"""

import math
import re
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from mezzotint.codebooks.codebook import Codebook
from mezzotint.codebooks.health import Health, health
from mezzotint.data.source import Source
from mezzotint.encoders.vit import ViT
from mezzotint.files import write_json
from mezzotint.recipe.recipe import Recipe, read_recipe
from mezzotint.recipe.schema import RecipeError
from mezzotint.report.code_pictures import Coded, code_rows, pictured, rebuilt
from mezzotint.report.pictures import credit, stored
from mezzotint.report.render import render, write_page
from mezzotint.runs.reuse import trained_method
from mezzotint.seeding import sample_order
from mezzotint.types import Codes

_MOST_PATCHES = 2**15
_MOST_CELLS = 1024
_RIDGE = 1e-3
_BATCH = 32


def write_codes(run: Path | str, *, samples: int = 256, frequent: int = 12) -> Path:
    """Write `RUN/codes.html` and `RUN/codes.json`.

    Args:
        run: of a method with a codebook; of a plan, the last phase that has one counts.
        samples: how many are looked at, fewer where they have many patches.
        frequent: how many codes of each level are shown.

    Returns:
        The page.

    Raises:
        ValueError: when the run has no codebook, or none that was started.
    """
    folder = Path(run)
    if samples < 2 or frequent < 1:
        raise ValueError(
            f"got samples={samples}, frequent={frequent}; allowed are 2 or more, and 1: take 256 and 12"
        )
    place, recipe = _with_codebook(folder)
    method = trained_method(recipe, place).method.eval()
    codebook, tokenizer, encoder = (
        method.get_submodule(name) for name in ("codebook", "tokenizer", "encoder")
    )
    assert isinstance(codebook, Codebook) and isinstance(encoder, ViT)
    found = look(recipe.data, encoder, tokenizer, codebook, samples)
    measured = health(found.codes, _numbers(found))
    levels, guesses = _explained(found, codebook) if pictured(encoder) else ([], [])
    facts = _facts(place, method.config["kind"], found, measured, levels)
    write_json(folder / "codes.json", facts)
    section: dict[str, Any] = {
        "run": folder.resolve().name, "facts": _ledger(facts), "levels": [
            {**level, "map": _map(found.codes.usage[place])} for place, level in enumerate(facts["levels"])
        ],
        "between": facts["between_levels"], "shown": [], "rebuilt": [],
    }  # fmt: skip
    if pictured(encoder):
        section["shown"] = code_rows(found, encoder, recipe.data, frequent)
        section["rebuilt"] = rebuilt(found, encoder, recipe.data, guesses)
    page = render(
        title=f"Codes of {folder.resolve().name}", codes=section, credit=credit(recipe.data)
    )
    return write_page(folder / "codes.html", page)


def _with_codebook(folder: Path) -> tuple[Path, Recipe]:
    """The directory that holds the newest codebook of a run, and its recipe."""
    numbered = [
        (int(found[1]), p) for p in folder.glob("*-*") if (found := re.match(r"(\d+)-", p.name))
    ]
    places = [p for _, p in sorted(numbered, reverse=True) if (p / "recipe.yaml").is_file()] or [
        folder
    ]
    if not (places[0] / "recipe.yaml").is_file():
        raise RecipeError(
            f"got {folder}, which holds no run; allowed is a directory that `mezzotint pretrain` wrote: check the path"
        )
    kinds = []
    for place in places:
        config = read_recipe(place)
        if "codebook" in config["method"] and (place / "checkpoints").is_dir():
            return place, Recipe.build(config)
        kinds.append(config["method"]["kind"])
    raise RecipeError(
        f"got {folder}, a run of {', '.join(kinds)}, which has no codebook; allowed are runs of bridle, "
        "bridle_tokenizer and bridle_joint: mezzotint pretrain image/emoji_bridle makes one"
    )


@torch.no_grad()
def look(
    source: Source, encoder: ViT, tokenizer: torch.nn.Module, codebook: Codebook, samples: int
) -> Coded:
    """Take samples of a source and turn their patches into codes.

    Args:
        source: of the samples, chosen by a fixed key; those that cannot be read are left out.
        encoder: whose patches.
        tokenizer: makes vectors of patches.
        codebook: makes codes of vectors; nothing is written into it.
        samples: how many.

    Raises:
        ValueError: when the codebook was never started, or fewer than two samples can be read.
    """
    if not codebook.ready:
        raise ValueError(
            "got a codebook that was never started; allowed is one of a run that trained: run a step"
        )
    wanted = max(2, min(samples, len(source), _MOST_PATCHES // encoder.patches.count))
    read = [
        x
        for i in sample_order(len(source), 0, 0)[:wanted].tolist()
        if (x := stored(source, i)[1]) is not None
    ]
    if len(read) < 2:
        raise ValueError(
            f"got {len(read)} samples that can be read; allowed are 2 or more: see `mezzotint doctor`"
        )
    x = encoder.input.as_float(torch.stack(read))
    parts: list[tuple[Tensor, ...]] = []
    residual, energy = torch.zeros(codebook.num_levels), 0.0
    for batch in torch.split(x, _BATCH):
        given = encoder.input.normalize(batch)
        values, where = encoder.patches.split(given)
        z = tokenizer(given, encoder.patches.vectors(values), where)
        with codebook.freezing():
            codes = codebook(z)
        own = float(z.float().square().sum())
        residual, energy = residual + codes.residual * own, energy + own
        plain = encoder.patches.vectors(encoder.patches.split(batch)[0]).float()
        parts.append((plain, where, codes.indices, codebook.nearest(z, 1)[1][..., 0]))
    values, where, indices, distances = (torch.cat(column) for column in zip(*parts, strict=True))
    if torch.equal(where, where[:1].expand_as(where)):
        where = where[:1]
    flat = indices.flatten(0, 1)
    usage = torch.stack(
        [torch.bincount(level, minlength=codebook.num_codes).float() for level in flat.unbind(1)]
    )
    codes = Codes(torch.zeros(0), indices, torch.zeros(()), usage, residual / max(energy, 1e-12))
    return Coded(x, values, where, codes, distances)


def _numbers(found: Coded) -> Tensor | None:
    """The place of each patch in the grid, where all samples have the same."""
    return torch.arange(found.where.shape[1]) if found.where.shape[0] == 1 else None


@torch.no_grad()
def _explained(found: Coded, codebook: Codebook) -> tuple[list[float], list[Tensor]]:
    """For the first 1 … S levels: explained variance of patches of every other sample, and what is guessed of them."""
    truth = found.values[1::2]
    spread = (truth - truth.flatten(0, 1).mean(0)).square().mean()
    shares, guesses = [], []
    for level in range(1, codebook.num_levels + 1):
        decoded = codebook.decode(found.codes.indices[..., :level])
        inputs = torch.cat([decoded, torch.ones_like(decoded[..., :1])], dim=-1).double()
        a, b = inputs[::2].flatten(0, 1), found.values[::2].flatten(0, 1).double()
        gram = a.T @ a + _RIDGE * len(a) * torch.eye(a.shape[1], dtype=a.dtype)
        guess = (inputs[1::2] @ torch.linalg.solve(gram, a.T @ b)).float()
        shares.append(float(1.0 - (guess - truth).square().mean() / spread.clamp_min(1e-12)))
        guesses.append(guess)
    return shares, guesses


def _facts(
    place: Path, kind: str, found: Coded, measured: Health, explained: list[float]
) -> dict[str, Any]:
    """What the JSON says."""
    about = measured.about_position
    levels = []
    for level, counts in enumerate(found.codes.usage):
        levels.append({
            "usage": float(measured.usage[level]), "perplexity": float(measured.perplexity[level]),
            "entropy": float(measured.entropy[level]), "residual": float(measured.residual[level]),
            "about_position": None if about is None else float(about[level]),
            "explained": explained[level] if explained else None,
            "counts": [int(count) for count in counts],
        })  # fmt: skip
    samples, patches = found.codes.indices.shape[:2]
    between = [[float(v) for v in row] for row in measured.between_levels]
    return {
        "phase": place.name, "method": kind, "samples": samples, "patches": patches,
        "codes": found.codes.usage.shape[1], "levels": levels, "between_levels": between,
    }  # fmt: skip


def _ledger(facts: dict[str, Any]) -> list[tuple[str, str]]:
    return [
        ("method", f"{facts['method']}, in {facts['phase']}"),
        ("looked at", f"{facts['samples']:,} samples of {facts['patches']:,} patches"),
        ("codebook", f"{len(facts['levels'])} × {facts['codes']:,} codes"),
    ]


def _map(counts: Tensor) -> dict[str, Any]:
    """Cells of a usage map in the order of the codes: place, and how dark; many codes share cells."""
    share = counts / counts.sum().clamp_min(1.0)
    together = -(-len(share) // _MOST_CELLS)
    padded = torch.nn.functional.pad(share, (0, -len(share) % together))
    cells = padded.view(-1, together).sum(1)
    across = math.ceil(math.sqrt(len(cells) * 4))
    dark = (cells / cells.max().clamp_min(1e-12)).sqrt()
    return {
        "width": across, "height": math.ceil(len(cells) / across), "together": together,
        "cells": [(i % across, i // across, round(float(d), 3), i * together, f"{100 * float(c):.2f}")
                  for i, (d, c) in enumerate(zip(dark, cells, strict=True))],
    }  # fmt: skip
