"""Draw the picture of `docs/randomized-quantization.md`.

    python scripts/draw_randomized_quantization.py [PATH]

Above, some of the embedded emoji and what is left of them with fewer and fewer bins, a new draw for
every cell. Below, the map from input to output of one channel: three draws of eight bins.
"""

import argparse
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt
import torch
from matplotlib.axes import Axes
from torch import Tensor

from mezzotint import randomized_quantize
from mezzotint.data.image.embedded import EmbeddedImages

NAMES = ("tiger2", "owl", "strawberry", "volcano", "beach_with_umbrella", "city_sunset", "peach")
BINS = (16, 8, 4, 2)
TARGET = Path(__file__).parent.parent / "docs" / "images" / "randomized_quantization.png"


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


def main() -> None:
    """Read the command line and draw."""
    parser = argparse.ArgumentParser(
        description="Draw the picture of docs/randomized-quantization.md."
    )
    parser.add_argument("path", type=Path, nargs="?", default=TARGET)
    draw(parser.parse_args().path)


if __name__ == "__main__":
    main()
