"""Native images: a class that only the low bits of 16 show, and the time of reading.

    python benchmarks/native.py native 0     (one cell: read natively, seed 0)
    python benchmarks/native.py 8bit 0       (the same files as 8-bit RGB)
    python benchmarks/native.py time 0       (time of reading)
    python benchmarks/native.py              (the tables of all cells in the results)

Everything is made here from fixed seeds. Of each 16-bit image the upper 8 bits are one of
three levels, and the class is a grating in the low 6 bits: 8-bit RGB shows the level and nothing of
the class. Each cell is one line of benchmarks/results/native_cells.jsonl.
"""

import json
import os
import statistics
import struct
import subprocess
import sys
import tempfile
import time
import zlib
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image

from mezzotint.data.image.folder import ImageFolder
from mezzotint.data.image.native import Native
from mezzotint.evaluation.results import read_evaluation
from mezzotint.recipe.recipe import Recipe
from mezzotint.runs.evaluate import evaluate
from mezzotint.train.loop import pretrain
from mezzotint.types import Crop

Values = npt.NDArray[np.uint16]

CELLS = Path(__file__).parent / "results" / "native_cells.jsonl"
CLASSES, EACH, SIDE = 4, 100, 32
SETTINGS = [
    "data.size=32", "encoder.width=16", "run.batch_size=64", "run.epochs=15",
    "run.loader.workers=0", "views.crop.scale=[0.5, 1.0]", "views.randomized_quantization=null",
    "schedule.warmup_epochs=1", "method.hidden_dim=128", "method.dim=64",
    "evaluate.probes=[knn]", "evaluate.baselines=false",
]  # fmt: skip
ROUNDS, FILES = 9, 6


def hidden(rng: np.random.Generator, label: int) -> Values:
    """Make an image whose class is in the low 6 bits: a grating of two directions and lengths."""
    down, right = np.mgrid[0:SIDE, 0:SIDE]
    along = (down, right)[label % 2] * (2 * np.pi / (4.0, 8.0)[label // 2])
    grating = np.sin(along + rng.uniform(0, 6.3)) + rng.normal(0, 0.3, (SIDE, SIDE))
    low = np.clip(np.rint(32 + 20 * grating), 0, 63)
    upper = rng.integers(127, 130)  # of the upper 8 bits, the same in the whole image
    values: Values = (256 * upper + low).astype(np.uint16)
    return values


def low_bits(reader: str, seed: int) -> dict[str, Any]:
    """Pretrain on the images with one reader, and score the held-out part."""
    rng = np.random.default_rng(seed)
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder) / "data"
        for label in range(CLASSES):
            (root / f"class{label}").mkdir(parents=True)
            for number in range(EACH):
                image = Image.fromarray(hidden(rng, label))
                image.save(root / f"class{label}" / f"{number:03d}.png")
        chosen = "{kind: native, range: percentiles}" if reader == "native" else "null"
        own = [f"data.root={root}", f"data.reader={chosen}", f"run.seed={seed}"]
        recipe = Recipe.load("image/native_simclr", [*SETTINGS, *own])
        run = pretrain(recipe, Path(folder) / "run", progress="quiet")
        evaluate(run)
        rows = read_evaluation(run)
        return {row.probe: row.value for row in rows if row.metric.endswith("/top1")}


def png16(values: Values) -> bytes:
    """Encode 16-bit RGB as PNG: each row as its difference from the row above, as writers do."""
    height, width, _ = values.shape
    rows = values.astype(">u2").view(np.uint8).reshape(height, -1)
    up = np.diff(rows, axis=0, prepend=np.zeros((1, rows.shape[1]), np.uint8))
    filtered = np.concatenate([np.full((height, 1), 2, np.uint8), up], axis=1)
    parts = {
        b"IHDR": struct.pack(">IIBBBBB", width, height, 16, 2, 0, 0, 0),
        b"IDAT": zlib.compress(filtered.tobytes(), 6),
        b"IEND": b"",
    }
    chunks = (
        struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))
        for name, data in parts.items()
    )
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunks)


def crops_of(height: int, width: int, rng: np.random.Generator) -> list[Crop]:
    """Draw two crops, as a step of training does."""
    sides = rng.integers(min(height, width) // 2, min(height, width), 2).tolist()
    return [Crop((0, 0, side, side), 96) for side in sides]


def reading_time(seed: int) -> dict[str, Any]:
    """Time both readers on the same pictures, in turns: nanoseconds of one thread a pixel byte."""
    torch.set_num_threads(1)
    rng = np.random.default_rng(seed)
    down, right = np.mgrid[0:288, 0:352]
    with tempfile.TemporaryDirectory() as folder:
        for kind in ("gray 8", "gray 16", "RGB 8", "RGB 16"):
            (Path(folder) / kind).mkdir()
        for number in range(FILES):
            waves = [
                np.sin(0.06 * down + 0.04 * right * k + rng.uniform(0, 6.3)) for k in (1, 2, 3)
            ]
            smooth = 32768 + 20000 * np.stack(waves, axis=2)
            deep = (smooth + rng.normal(0, 400, smooth.shape)).astype(np.uint16)
            eight = (deep >> 8).astype(np.uint8)
            for kind, values in (("gray 8", eight), ("gray 16", deep)):
                Image.fromarray(np.ascontiguousarray(values[..., 0])).save(
                    f"{folder}/{kind}/{number}.png"
                )
            Image.fromarray(eight).save(f"{folder}/RGB 8/{number}.png")
            Path(f"{folder}/RGB 16/{number}.png").write_bytes(png16(deep))
        sources = {
            kind: ImageFolder(
                root=f"{folder}/{kind}", size=96, reader=Native() if "16" in kind else None
            )
            for kind in ("gray 8", "gray 16", "RGB 8", "RGB 16")
        }
        spent: dict[str, list[float]] = {kind: [] for kind in sources}
        for turn in range(ROUNDS):
            for kind, source in sources.items():
                began = time.process_time()
                for index in range(FILES):
                    draw = np.random.default_rng((turn, index))
                    source.read_crops(index, partial(crops_of, rng=draw))
                spent[kind].append(time.process_time() - began)
    # Gray of 8 bits is read as RGB, but one byte of it is stored.
    sizes = {"gray 8": 1, "gray 16": 2, "RGB 8": 3, "RGB 16": 6}
    return {
        kind: 1e9 * statistics.median(spent[kind]) / (FILES * down.size * sizes[kind])
        for kind in sources
    }


def tables(cells: list[dict[str, Any]]) -> str:
    """Write the results as two tables."""
    lines = [
        f"The class is in the low 6 of 16 bits; {CLASSES} classes, {CLASSES * EACH} images of "
        f"{SIDE} x {SIDE}, chance {1 / CLASSES:.2f}. SimCLR, ResNet-8, 15 epochs; held-out.\n",
        "| reader | probe | seeds | mean | lowest | highest |",
        "|---|---|---|---|---|---|",
    ]
    for reader in ("native", "8bit"):
        rows = [cell for cell in cells if cell["reader"] == reader]
        for probe in ("knn",) if rows else ():
            found = [row["found"][probe] for row in rows]
            lines.append(
                f"| {reader} | {probe} | {len(found)} | {statistics.mean(found):.3f} | "
                f"{min(found):.3f} | {max(found):.3f} |"
            )
    timed = [cell["found"] for cell in cells if cell["reader"] == "time"]
    if timed:
        lines += [
            "\nTwo crops of 96 pixels from a PNG of 352 x 288, one thread; nanoseconds of process "
            f"time a stored pixel byte, medians of {ROUNDS} rounds in turns, then of "
            f"{len(timed)} repeats.\n",
            "| pictures | 8-bit reader | native, 16 bits | ratio |",
            "|---|---|---|---|",
        ]
        for name in ("gray", "RGB"):
            eight, deep = (statistics.median(f[f"{name} {b}"] for f in timed) for b in (8, 16))
            lines.append(f"| {name} | {eight:.1f} | {deep:.1f} | {deep / eight:.2f} |")
    return "\n".join(lines)


def main() -> None:
    """Measure a cell, or print the tables."""
    if len(sys.argv) == 3:
        reader, seed = sys.argv[1], int(sys.argv[2])
        began = time.process_time()
        found = reading_time(seed) if reader == "time" else low_bits(reader, seed)
        command = ["git", "describe", "--always", "--dirty"]
        commit = subprocess.run(command, capture_output=True, text=True, check=False).stdout.strip()
        cell = {"reader": reader, "seed": seed, "found": found, "commit": commit}
        cell |= {"cores": os.cpu_count(), "seconds": round(time.process_time() - began, 1)}
        with CELLS.open("a", encoding="utf-8") as file:
            file.write(json.dumps(cell) + "\n")
        print(json.dumps(cell))
        return
    cells = [json.loads(line) for line in CELLS.read_text(encoding="utf-8").splitlines()]
    print(tables(cells))


if __name__ == "__main__":
    main()
