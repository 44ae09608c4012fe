"""Draw the pictures of `docs/randomized-quantization.md`.

    python scripts/draw_randomized_quantization.py [FOLDER]

The picture: above, some of the embedded emoji and what is left of them with fewer and fewer bins, a
new draw for every cell. Below, the map from input to output of one channel: three draws of eight
bins. The animation: edges and values of eight bins move over an emoji and a spectrogram, from one
draw to the next.
"""

import argparse
import io
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt
import torch
from matplotlib.axes import Axes
from PIL import Image
from torch import Tensor

from mezzotint import randomized_quantize
from mezzotint.data.audio.embedded import Speech
from mezzotint.data.image.embedded import EmbeddedImages

NAMES = ("tiger2", "owl", "strawberry", "volcano", "beach_with_umbrella", "city_sunset", "peach")
BINS = (16, 8, 4, 2)
TARGET = Path(__file__).parent.parent / "docs" / "images"
DRAWS, BETWEEN = 4, 7
"""Draws of the animation, and frames from one to the next."""


def emoji() -> Tensor:
    """The chosen emoji as Google draws them, float `[B, 3, 32, 32]` in [0, 1]."""
    source = EmbeddedImages(name="emoji")
    items = [source.ids.index(f"{source.styles[0]}/{name}") for name in NAMES]
    return source.images[items] / 255


def show(axes: Axes, image: Tensor) -> None:
    """An image without ticks."""
    axes.imshow(image.permute(1, 2, 0).numpy(), interpolation="nearest")
    axes.set_xticks([])
    axes.set_yticks([])


def draw(path: Path) -> None:
    """Write the picture to `path`."""
    generator = torch.Generator().manual_seed(1)
    images = emoji()
    figure = plt.figure(figsize=(7.2, 7.4), dpi=100, layout="constrained")
    parts: Any = figure.subfigures(2, 1, height_ratios=(5, 1.9))
    above, below = parts
    grid = above.subplots(1 + len(BINS), len(images))
    rows = [("original", images)]
    for bins in BINS:
        quantized = randomized_quantize(images, bins, generator=generator)
        assert isinstance(quantized, Tensor)
        rows.append((f"{bins} bins", quantized))
    for line, (title, views) in zip(grid, rows, strict=True):
        line[0].set_ylabel(title)
        for axes, view in zip(line, views, strict=True):
            show(axes, view)
    ramp = torch.linspace(0, 1, 2000)
    for axes in below.subplots(1, 3, sharey=True):
        stairs = randomized_quantize(ramp[None, None], 8, generator=generator)
        assert isinstance(stairs, Tensor)
        axes.plot(ramp, ramp, color="0.8")
        axes.plot(ramp, stairs[0, 0], color="#7b2d8b")
        axes.set_xlabel("input")
    below.axes[0].set_ylabel("output, 8 bins")
    figure.savefig(path)
    plt.close(figure)


def staircases(bins: int, seed: int) -> list[tuple[Tensor, Tensor]]:
    """Edges and values of bins of [0, 1] that move from draw to draw, and back to the first."""
    generator = torch.Generator().manual_seed(seed)
    draws = []
    for _ in range(DRAWS):
        edges = torch.rand(bins - 1, generator=generator).sort().values
        draws.append((edges, torch.rand(bins, generator=generator)))
    frames = []
    for (edges, inside), (next_edges, next_inside) in zip(
        draws, [*draws[1:], draws[0]], strict=True
    ):
        for step in range(BETWEEN):
            part = step / BETWEEN
            now = torch.lerp(edges, next_edges, part)
            ends = torch.cat([torch.zeros(1), now, torch.ones(1)])
            values = torch.lerp(ends[:-1], ends[1:], torch.lerp(inside, next_inside, part))
            frames.append((now, values))
    return frames


def frame(edges: Tensor, values: Tensor, image: Tensor, spectrogram: Tensor) -> Image.Image:
    """One picture of the animation: the map, an emoji and a spectrogram through it."""
    figure = plt.figure(figsize=(7.2, 2.5), dpi=80, layout="constrained")
    panels = figure.subplots(1, 3, width_ratios=(1.1, 1, 1.5))
    ramp = torch.linspace(0, 1, 800)
    panels[0].plot(ramp, ramp, color="0.8")
    panels[0].plot(ramp, values[torch.bucketize(ramp, edges, right=True)], color="#7b2d8b")
    panels[0].set(xlabel="input", ylabel="output, 8 bins", xticks=[], yticks=[])
    show(panels[1], values[torch.bucketize(image, edges, right=True)])
    view = values[torch.bucketize(spectrogram, edges, right=True)]
    panels[2].imshow(view, origin="lower", aspect="auto", cmap="magma", vmin=0, vmax=1)
    panels[2].set(xlabel="time", ylabel="mel band", xticks=[], yticks=[])
    content = io.BytesIO()
    figure.savefig(content, format="png")
    plt.close(figure)
    return Image.open(content).convert("RGB")


def animate(path: Path) -> None:
    """Write the animation to `path`."""
    mel = Speech().read(0)["x"][0].float()
    mel = (mel - mel.min()) / (mel.max() - mel.min())
    image = emoji()[NAMES.index("volcano")]
    frames = [frame(edges, values, image, mel) for edges, values in staircases(8, seed=3)]
    first, *rest = frames
    first.save(path, save_all=True, append_images=rest, duration=160, loop=0, quality=60, method=6)


def main() -> None:
    """Read the command line and draw."""
    parser = argparse.ArgumentParser(
        description="Draw the pictures of docs/randomized-quantization.md."
    )
    parser.add_argument("folder", type=Path, nargs="?", default=TARGET)
    folder = parser.parse_args().folder
    draw(folder / "randomized_quantization.png")
    animate(folder / "randomized_quantization.webp")


if __name__ == "__main__":
    main()
