"""Draw pictures of the demo from its run: neighbors at low bits, the bits curve, the moving map.

    make demo
    mezzotint pretrain image/emoji_demo run.epochs=24 run.log.map_epochs=3 --out runs/maps
    python scripts/draw_demo.py runs/demo runs/maps [--out docs/images]

`demo_neighbors.webp` has the nearest neighbors of test emoji at 32, 8, 4 and 2 bits: those that
fp32 does not find have a frame. `demo_bits.svg` has accuracy over bit configs, from the
evaluation of the run. `demo_map.webp` moves the same emoji from map to map over the epochs of a
shorter run.
"""

import argparse
import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import docs_results
import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.offsetbox import AnnotationBbox, OffsetImage
from PIL import Image

import mezzotint
from mezzotint.data.source import Source
from mezzotint.encoders.encoder import Encoder
from mezzotint.evaluation.calibration import calibration_order, read_calibration
from mezzotint.evaluation.probe import Row
from mezzotint.evaluation.projection import Points, lay_out_all, unit_square
from mezzotint.evaluation.ptq import calibrated_copy
from mezzotint.evaluation.results import interval, read_evaluation
from mezzotint.quant import Bits
from mezzotint.report.neighbors import NearestNeighbors, find_neighbors, queries_to_show
from mezzotint.train.callbacks import read_maps

TARGET = Path(__file__).parent.parent / "docs" / "images"
BITS = {"fp32": Bits(32, 32), "W8A8": Bits(8, 8), "W4A4": Bits(4, 4), "W2A4": Bits(2, 4)}
QUERIES, NEIGHBORS, SEED = 4, 6, 3
PROBES = {"knn": "kNN", "linear": "linear probe"}
STEPS, PAUSE = 4, 5
"""Frames from one map to the next, and frames at the last one."""


def picture(source: Source, index: int) -> Any:
    """The pixels of a sample, `[H, W, 3]`."""
    return source.read(int(index))["x"].permute(1, 2, 0).numpy()


def at_bits(encoder: Encoder, source: Source) -> dict[str, NearestNeighbors]:
    """Neighbors of the test samples at each bit config; ranges come from training samples."""
    everything, tasks = source.evaluation()
    order = calibration_order(tasks, len(everything))
    copy = calibrated_copy(encoder, read_calibration(everything, encoder.input, order))
    found = {}
    for name, bits in BITS.items():
        if bits.is_float:
            nearest = find_neighbors(encoder, source)
        else:
            with copy.at(bits) as network:
                nearest = find_neighbors(network, source)
        assert nearest is not None
        found[name] = nearest
    return found


def show(axes: Axes, pixels: Any, *, framed: bool = False) -> None:
    """An image without ticks, in a frame or without."""
    axes.imshow(pixels, interpolation="nearest")
    axes.set(xticks=[], yticks=[])
    for spine in axes.spines.values():
        spine.set(visible=framed, edgecolor="#bf3f2a", linewidth=2.0)


def draw_neighbors(encoder: Encoder, source: Source, path: Path) -> dict[str, float]:
    """Write the picture.

    Returns:
        For each bit config, the fraction of the ten neighbors that fp32 has too, over test samples.
    """
    found = at_bits(encoder, source)
    full = found["fp32"]
    rows = queries_to_show(full, QUERIES, SEED)
    figure = plt.figure(figsize=(10.4, 4.9), dpi=100, layout="constrained")
    blocks: Any = figure.subfigures(2, QUERIES // 2, wspace=0.04)
    for block, row in zip(blocks.flat, rows, strict=True):
        grid = block.subplots(len(BITS), NEIGHBORS + 1)
        for line, (name, nearest) in zip(grid, found.items(), strict=True):
            line[0].set_ylabel(name, rotation=0, ha="right", va="center", fontsize=9)
            show(line[0], picture(full.source, full.test[row]))
            for axes, index in zip(line[1:], nearest.neighbors[row], strict=False):
                new = index not in full.neighbors[row][:NEIGHBORS]
                show(axes, picture(full.source, index), framed=bool(new))
        grid[0][0].set_title("query", fontsize=9)
        grid[0][1].set_title("nearest first", fontsize=9, loc="left")
    figure.savefig(content := io.BytesIO(), format="png")
    plt.close(figure)
    Image.open(content).convert("RGB").save(path, quality=85, method=6)
    return {
        name: float(
            np.mean(
                [
                    len(np.intersect1d(a, b))
                    for a, b in zip(full.neighbors, n.neighbors, strict=True)
                ]
            )
            / full.neighbors.shape[1]
        )
        for name, n in found.items()
    }


def draw_bits(run: Path, path: Path) -> None:
    """Write accuracy across styles over the bit configs of the run's evaluation."""
    series: dict[str, list[docs_results.Value]] = {}
    labels: dict[str, None] = {}
    for probe, title in PROBES.items():
        by_bits: dict[str, list[Row]] = {}
        for row in read_evaluation(run):
            if row.metric == "category/across-styles/top1" and row.probe == probe:
                by_bits.setdefault(str(row.bits), []).append(row)
        labels |= dict.fromkeys(by_bits)
        found = [interval(rows) for rows in by_bits.values()]
        series[title] = [docs_results.Value(one.mean, one.low, one.high) for one in found]
    path.write_text(docs_results.lines(series, list(labels)), encoding="utf-8")


def positions(run: Path) -> tuple[list[int], list[Points], Any]:
    """Epochs of the maps, their positions `[N, 2]` in a unit square, and the samples.

    Raises:
        SystemExit: for a run without maps.
    """
    maps = read_maps(run)
    if len(maps) < 2:
        raise SystemExit(
            f"`{run}` has no maps over its epochs. Train it with `run.log.map_epochs=5`."
        )
    planes = lay_out_all([one.components.astype(np.float64) for one in maps], "tsne", 0)
    return [one.epoch for one in maps], [unit_square(p) for p in planes], maps[0].samples


def between(planes: Sequence[Points]) -> list[tuple[int, Points]]:
    """Positions of each frame, and the map that it left: smoothly from map to map."""
    frames = []
    for number, (start, end) in enumerate(zip(planes[:-1], planes[1:], strict=True)):
        for step in range(STEPS):
            part = (1 - np.cos(np.pi * step / STEPS)) / 2
            frames.append((number, start + part * (end - start)))
    return [*frames, *[(len(planes) - 1, planes[-1])] * PAUSE]


def transparent(pixels: Any) -> Any:
    """The pixels with an alpha channel, `[H, W, 4]`, in which white is nothing."""
    alpha = np.where(pixels.min(axis=2, keepdims=True) > 250, 0, 255)
    return np.concatenate([pixels, alpha.astype(pixels.dtype)], axis=2)


def draw_map(run: Path, source: Source, path: Path, most: int = 200) -> None:
    """Write the animation: each sample as its picture, at its position."""
    epochs, planes, samples = positions(run)
    everything, _ = source.evaluation()
    pictures = [transparent(picture(everything, index)) for index in samples[:most]]
    frames = []
    for number, plane in between([plane[:most] for plane in planes]):
        figure = plt.figure(figsize=(6.0, 6.0), dpi=80)
        axes = figure.add_axes((0.0, 0.0, 1.0, 0.96))
        axes.set(xlim=(-0.03, 1.03), ylim=(-0.03, 1.03))
        axes.axis("off")
        words = "before training" if epochs[number] == 0 else f"epoch {epochs[number]}"
        figure.text(0.02, 0.97, words, fontsize=11, va="center")
        for pixels, position in zip(pictures, plane, strict=True):
            axes.add_artist(AnnotationBbox(OffsetImage(pixels, zoom=0.5), position, frameon=False))
        figure.savefig(content := io.BytesIO(), format="png")
        plt.close(figure)
        frames.append(Image.open(content).convert("RGB"))
    first, *rest = frames
    first.save(path, save_all=True, append_images=rest, duration=180, loop=0, quality=40, method=6)


def main() -> None:
    """Read the command line and draw."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("run", type=Path, help="directory of the demo's run")
    parser.add_argument("maps", type=Path, help="directory of a run with maps over its epochs")
    parser.add_argument("--out", type=Path, default=TARGET, help="directory of the pictures")
    options = parser.parse_args()
    encoder = mezzotint.load_encoder(options.run)
    source = mezzotint.Recipe.load(options.run).data
    kept = draw_neighbors(encoder, source, options.out / "demo_neighbors.webp")
    print("neighbors that fp32 has too:", {name: round(value, 3) for name, value in kept.items()})
    draw_bits(options.run, options.out / "demo_bits.svg")
    draw_map(options.maps, source, options.out / "demo_map.webp")


if __name__ == "__main__":
    main()
