"""The sections of the report that look at features: what the encoder is bad at, a map, and nearest neighbors.

The report's maps of the features over the epochs: small, side by side, each laid out from the one
before.
"""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from mezzotint.data.source import Source
from mezzotint.encoders.encoder import Encoder
from mezzotint.evaluation.projection import (
    LAYOUTS,
    Layout,
    Points,
    components,
    lay_out,
    lay_out_all,
    unit_square,
)
from mezzotint.evaluation.results import wilson
from mezzotint.report import neighbors
from mezzotint.report.neighbors import Look
from mezzotint.report.pictures import SPRITE_SIZE, drawable, drawn, portrait, sprite, stored
from mezzotint.report.plots import number
from mezzotint.report.render import PALETTE
from mezzotint.report.results import task_words
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
                {
                    "label": label,
                    "color": color(label),
                    "d": dots(points, one.labels.tolist(), label),
                }
                for points in (on_stage(plane),)
                for label in np.unique(one.labels).tolist()
            ],
        }
        for one, plane in zip(chosen, planes, strict=True)
    ]
    more = (
        "" if len(chosen) == len(found) else f", {len(chosen)} of the {len(found)} that were taken"
    )
    how = (
        f"The same {len(found[0].samples):,} training samples by {LAYOUTS[layout]} at each time{more}. Each map starts "
        "from the one before and is turned onto it, so that a sample stays near its place while its neighbors do."
    )
    return {"how": how, "maps": maps}


def on_stage(plane: Points) -> list[tuple[int, int]]:
    """Places `[N, 2]` as whole numbers in a square of 1000 units."""
    return [
        (round(_EDGE + _INSIDE * x), round(_EDGE + _INSIDE * y))
        for x, y in unit_square(plane).tolist()
    ]


def dots(points: Sequence[tuple[int, int]], labels: Sequence[int], label: int) -> str:
    """An SVG path that is a dot at each point with the label, for round line caps."""
    return "".join(
        f"M{x} {y}h0" for (x, y), own in zip(points, labels, strict=True) if own == label
    )


def color(label: int) -> int:
    """The place of a class in the palette; the last, a gray, without label."""
    return label % len(PALETTE) if label >= 0 else len(PALETTE) - 1


_CLASSES, _EXAMPLES, _QUERIES = 10, 4, 7


def feature_sections(
    source: Source, encoder: Encoder, seed: int, workers: int = 0, layout: Layout = "tsne"
) -> tuple[dict[str, Any], dict[str, Any] | None]:
    """What the template needs to show the features of a data set's test samples.

    Args:
        source: of the run.
        encoder: in eval mode.
        seed: of what is chosen to be shown.
        workers: processes that read samples, where the source is not in memory.
        layout: of the map.

    Returns:
        The sections `weak`, `atlas` and `kin`, as far as the data allows; and what the map's script
        needs.
    """
    look = neighbors.look(encoder, source, workers)
    if look is None:
        return {}, None
    atlas, points = _atlas(look, seed, layout)
    sections: dict[str, Any] = {"atlas": atlas}
    if drawable(look.source):
        sections["kin"] = _kin(look, seed)
    if look.task is not None:
        sections["weak"] = _weak(look, task_words(look.task.name))
    return sections, points


def _weak(look: Look, task: str) -> dict[str, Any]:
    scores = neighbors.class_scores(look)
    right, total = sum(s.right for s in scores), sum(s.count for s in scores)
    low, high = wilson(right / max(total, 1), max(total, 1))
    how = (
        f"By the vote of the {look.neighbors.shape[1]} nearest training samples, on {task}: "
        f"{right:,} of {total:,} test samples right, {number(right / max(total, 1))} ({number(low)} – {number(high)})."
    )
    pairs = [
        {
            "truth": look.class_name(pair.truth),
            "guess": look.class_name(pair.guess),
            "count": pair.count,
            "of": pair.of,
            "examples": [
                portrait(x, f"{name}, taken for {look.class_name(pair.guess)}", look.source)
                for place in (look.test[pair.rows[:_EXAMPLES]] if drawable(look.source) else ())
                for name, x in (stored(look.source, place),)
                if x is not None
            ],
        }
        for pair in neighbors.confusions(look)
    ]
    classes = [
        {
            "name": look.class_name(s.label),
            "share": round(s.share, 4),
            "text": number(s.share, 2),
            "count": s.count,
        }
        for s in scores[:_CLASSES]
    ]
    title = (
        "Accuracy by class, the worst first"
        if len(scores) <= _CLASSES
        else f"The {_CLASSES} worst of {len(scores)} classes"
    )
    return {"how": how, "title": title, "classes": classes, "pairs": pairs}


def _atlas(look: Look, seed: int, layout: Layout) -> tuple[dict[str, Any], dict[str, Any]]:
    rows = neighbors.mapped_rows(look, seed)
    places, labels, guesses = look.test[rows], look.labels[rows], look.guesses[rows]
    points = on_stage(lay_out(components(look.features[rows], seed), layout, seed))
    shown = drawable(look.source)
    found = [(drawn if shown else stored)(look.source, place) for place in places]
    sheet, columns = sprite([x for _, x in found], "") if shown else (None, 1)
    counted = Counter(labels.tolist())
    known = sorted(label for label in counted if label >= 0)
    script = {
        "points": [[*xy, int(y), int(g)] for xy, y, g in zip(points, labels, guesses, strict=True)],
        "classes": {
            label: look.class_name(label) for label in {*known, *guesses.tolist()} if label >= 0
        },
        "names": [name for name, _ in found],
        "columns": columns,
        "size": SPRITE_SIZE,
    }
    paths = [
        {
            "label": label,
            "name": look.class_name(label) or "no label",
            "count": counted[label],
            "color": color(label),
            "d": dots(points, labels.tolist(), label),
        }
        for label in sorted(counted, key=lambda label: (-counted[label], label))
    ]
    part = (
        f"{len(rows):,}" if len(rows) == len(look.test) else f"{len(rows):,} of {len(look.test):,}"
    )
    kind = "test samples" if look.task is not None else "samples"
    section = {
        "how": f"{part} {kind}, laid out by {LAYOUTS[layout]}: what stands near is near for the encoder; large "
        "distances and the axes mean nothing. Point at a sample, or tap it.",
        "count": len(rows),
        "paths": paths,
        "colored": bool(known),
        "sprite": sheet,
    }
    return section, script


def _kin(look: Look, seed: int) -> dict[str, Any]:
    rows = []
    for row in neighbors.queries_to_show(look, _QUERIES, seed):
        name, x = stored(look.source, look.test[row])
        if x is None:
            continue
        label, others = int(look.labels[row]), []
        for place, cosine in zip(
            look.neighbors[row][: neighbors.SHOWN], look.similarity[row].tolist(), strict=False
        ):
            title, other = stored(look.source, place)
            if other is not None:
                own = int(look.labels_of(place.reshape(1))[0])
                others.append(
                    {
                        "picture": portrait(other, title, look.source),
                        "label": look.class_name(own),
                        "right": own == label if look.task is not None else None,
                        "similarity": f"{cosine:.2f}",
                    }
                )
        rows.append(
            {
                "query": portrait(x, name, look.source),
                "label": look.class_name(label) or name,
                "others": others,
            }
        )
    where = (
        f" Test samples and their nearest training samples, {task_words(look.task.name)}."
        if look.task
        else ""
    )
    how = f"Chosen by the seed, not by success.{where} The number is the cosine of the features."
    return {
        "how": how + (" ✓ has the class of the first, ✗ has not." if look.task else ""),
        "rows": rows,
    }
