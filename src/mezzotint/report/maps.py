"""The report's maps of the features over the epochs: small, side by side, each laid out from the one before."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from mezzotint.evaluate.projection import LAYOUTS, Layout, Points, lay_out_all, unit_square
from mezzotint.report.render import PALETTE
from mezzotint.train.watch import read_maps

_MOST = 8
_EDGE, _INSIDE = 30, 940  # points stand in a square of 1000 units, this far from its border


def maps_section(run: Path, layout: Layout, seed: int) -> dict[str, Any] | None:
    """What the template needs to show the maps of a run.

    Args:
        run: its directory.
        layout: of all maps.
        seed: of the layout.

    Returns:
        `None` for a run with fewer than two.
    """
    found = read_maps(run)
    if len(found) < 2 or len(found[0].samples) < 2:
        return None
    places = np.unique(np.linspace(0, len(found) - 1, min(_MOST, len(found))).round().astype(int))
    chosen = [found[place] for place in places]
    planes = lay_out_all([one.components.astype(np.float64) for one in chosen], layout, seed)
    maps = [
        {
            "title": "before training" if one.epoch == 0 else f"epoch {one.epoch}",
            "paths": [
                {"label": label, "colour": colour(label), "d": dots(points, one.labels.tolist(), label)}
                for points in (on_stage(plane),)
                for label in np.unique(one.labels).tolist()
            ],
        }
        for one, plane in zip(chosen, planes, strict=True)
    ]
    more = "" if len(chosen) == len(found) else f", {len(chosen)} of the {len(found)} that were taken"
    how = (
        f"The same {len(found[0].samples):,} training samples by {LAYOUTS[layout]} at each time{more}. Each map starts "
        "from the one before and is turned onto it, so that a sample stays near its place while its neighbours do."
    )
    return {"how": how, "maps": maps}


def on_stage(plane: Points) -> list[tuple[int, int]]:
    """Places `[N, 2]` as whole numbers in a square of 1000 units."""
    return [(round(_EDGE + _INSIDE * x), round(_EDGE + _INSIDE * y)) for x, y in unit_square(plane).tolist()]


def dots(points: Sequence[tuple[int, int]], labels: Sequence[int], label: int) -> str:
    """An SVG path that is a dot at each point with the label, for round line caps."""
    return "".join(f"M{x} {y}h0" for (x, y), own in zip(points, labels, strict=True) if own == label)


def colour(label: int) -> int:
    """The place of a class in the palette; the last, a grey, without label."""
    return label % len(PALETTE) if label >= 0 else len(PALETTE) - 1
