"""Sections of the report on the features: kNN errors, map, neighbors, maps over epochs."""

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np

from mezzotint.data.source import Source
from mezzotint.encoders.encoder import Encoder
from mezzotint.evaluation.features import Extraction
from mezzotint.evaluation.projection import (
    LAYOUTS,
    Layout,
    Points,
    components,
    lay_out,
    lay_out_all,
    unit_square,
)
from mezzotint.evaluation.results import OWN, RAW, UNTRAINED, wilson
from mezzotint.modality.modality import modality_of
from mezzotint.report import neighbors
from mezzotint.report.neighbors import NearestNeighbors
from mezzotint.report.pictures import SPRITE_SIZE, drawable, drawn, portrait, sprite, stored
from mezzotint.report.plots import number
from mezzotint.report.render import PALETTE
from mezzotint.report.results import task_words
from mezzotint.train.callbacks import read_maps

_MOST = 8
_EDGE, _INSIDE = 30, 940  # margin of a square of 1000 units, and the side that points cover


def maps_section(run: Path, layout: Layout, seed: int) -> dict[str, Any] | None:
    """Prepare the maps over the epochs of a run.

    Args:
        run: directory of the run.
        layout: layout of all maps.
        seed: seed of the layout.

    Returns:
        Content of the section, or `None` for a run with fewer than two maps.
    """
    snapshots = read_maps(run)
    if len(snapshots) < 2 or len(snapshots[0].samples) < 2:
        return None
    indices = np.unique(
        np.linspace(0, len(snapshots) - 1, min(_MOST, len(snapshots))).round().astype(int)
    )
    chosen = [snapshots[index] for index in indices]
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
    part = "" if len(chosen) == len(snapshots) else f", {len(chosen)} of {len(snapshots)} maps"
    how = (
        f"The same {len(snapshots[0].samples):,} training samples during training, laid out by "
        f"{LAYOUTS[layout]}{part}. Each map is initialized with the previous one and aligned to "
        "it, so that a sample keeps its position while its neighbors stay the same."
    )
    return {"how": how, "maps": maps}


def on_stage(plane: Points) -> list[tuple[int, int]]:
    """Scale positions `[N, 2]` to integers in a square of 1000 units."""
    return [
        (round(_EDGE + _INSIDE * x), round(_EDGE + _INSIDE * y))
        for x, y in unit_square(plane).tolist()
    ]


def dots(points: Sequence[tuple[int, int]], labels: Sequence[int], label: int) -> str:
    """Make an SVG path with a dot at each point of this label; it needs round line caps."""
    return "".join(
        f"M{x} {y}h0" for (x, y), own in zip(points, labels, strict=True) if own == label
    )


def color(label: int) -> int:
    """Return the index of a class in the palette; samples without a label get the last, a gray."""
    return label % len(PALETTE) if label >= 0 else len(PALETTE) - 1


_CLASSES, _EXAMPLES, _QUERIES = 10, 4, 5


def feature_sections(
    source: Source,
    encoder: Encoder,
    seed: int,
    workers: int = 0,
    layout: Layout = "tsne",
    *,
    untrained: Encoder | None = None,
    known: Mapping[str, Extraction] = MappingProxyType({}),
) -> tuple[dict[str, Any], dict[str, Any] | None]:
    """Prepare the sections on the features of the test samples.

    Args:
        source: data of the run.
        encoder: encoder in eval mode.
        seed: seed of the choice of shown samples.
        workers: processes that read samples, if the source is not in memory.
        layout: layout of the map.
        untrained: the same encoder before training, whose neighbors are shown too.
        known: features that were extracted before, of `OWN`, `RAW` and `UNTRAINED`; samples that
            are not in them are not shown.

    Returns:
        The sections `errors`, `map` and `neighbors`, as far as the data allows, and the data of
        the map's script.
    """
    nearest = neighbors.find_neighbors(encoder, source, workers, known=known.get(OWN))
    if nearest is None:
        return {}, None
    section, points = _map(nearest, seed, layout)
    sections: dict[str, Any] = {"map": section}
    if drawable(nearest.source):
        rows = neighbors.queries_to_show(nearest, _QUERIES, seed)
        asked = nearest.test[rows]
        pixels = "pixels" if modality_of(source.input).is_picture else RAW
        others = {
            pixels: neighbors.find_neighbors(None, source, workers, asked, known=known.get(RAW))
        }
        if untrained is not None:
            others[UNTRAINED] = neighbors.find_neighbors(
                untrained, source, workers, asked, known=known.get(UNTRAINED)
            )
        sections["neighbors"] = _neighbors(nearest, rows, others)
    if nearest.task is not None:
        sections["errors"] = _errors(nearest, task_words(nearest.task.name))
    return sections, points


def _errors(nearest: NearestNeighbors, task: str) -> dict[str, Any]:
    scores = neighbors.class_scores(nearest)
    correct, total = sum(s.correct for s in scores), sum(s.count for s in scores)
    low, high = wilson(correct / max(total, 1), max(total, 1))
    how = (
        f"kNN with {nearest.neighbors.shape[1]} neighbors on {task}: "
        f"{correct:,} of {total:,} test samples are correct, {number(correct / max(total, 1))} "
        f"({number(low)} – {number(high)})."
    )
    pairs = [
        {
            "truth": nearest.class_name(pair.truth),
            "predicted": nearest.class_name(pair.predicted),
            "count": pair.count,
            "of": pair.of,
            "examples": [
                portrait(
                    x, f"{name}, predicted as {nearest.class_name(pair.predicted)}", nearest.source
                )
                for index in (
                    nearest.test[pair.rows[:_EXAMPLES]] if drawable(nearest.source) else ()
                )
                for name, x in (stored(nearest.source, index),)
                if x is not None
            ],
        }
        for pair in neighbors.confusions(nearest)
    ]
    classes = [
        {
            "name": nearest.class_name(s.label),
            "accuracy": round(s.accuracy, 4),
            "text": number(s.accuracy, 2),
            "count": s.count,
        }
        for s in scores[:_CLASSES]
    ]
    title = (
        "Accuracy by class, lowest first"
        if len(scores) <= _CLASSES
        else f"The {_CLASSES} lowest of {len(scores)} classes"
    )
    return {"how": how, "title": title, "classes": classes, "pairs": pairs}


def _map(
    nearest: NearestNeighbors, seed: int, layout: Layout
) -> tuple[dict[str, Any], dict[str, Any]]:
    rows = neighbors.mapped_rows(nearest, seed)
    labels, predictions = nearest.labels[rows], nearest.predictions[rows]
    points = on_stage(lay_out(components(nearest.features[rows], seed), layout, seed))
    shown = drawable(nearest.source)
    samples = [(drawn if shown else stored)(nearest.source, index) for index in nearest.test[rows]]
    sheet, columns = sprite([x for _, x in samples], "") if shown else (None, 1)
    counted = Counter(labels.tolist())
    known = sorted(label for label in counted if label >= 0)
    script = {
        "points": [
            [*xy, int(y), int(p)] for xy, y, p in zip(points, labels, predictions, strict=True)
        ],
        "classes": {
            label: nearest.class_name(label)
            for label in {*known, *predictions.tolist()}
            if label >= 0
        },
        "names": [name for name, _ in samples],
        "columns": columns,
        "size": SPRITE_SIZE,
    }
    paths = [
        {
            "label": label,
            "name": nearest.class_name(label) or "no label",
            "count": counted[label],
            "color": color(label),
            "d": dots(points, labels.tolist(), label),
        }
        for label in sorted(counted, key=lambda label: (-counted[label], label))
    ]
    part = (
        f"{len(rows):,}"
        if len(rows) == len(nearest.test)
        else f"{len(rows):,} of {len(nearest.test):,}"
    )
    kind = "test samples" if nearest.task is not None else "samples"
    section = {
        "how": f"{part} {kind}, laid out by {LAYOUTS[layout]}. Samples that are close on the map "
        "have similar features; large distances and the axes have no meaning. Point at a sample "
        "or tap it to see it.",
        "count": len(rows),
        "paths": paths,
        "colored": bool(known),
        "sprite": sheet,
        "pictures": modality_of(nearest.source.input).thumbnails,
    }
    return section, script


def _neighbors(
    nearest: NearestNeighbors,
    rows: Sequence[int],
    others: Mapping[str, NearestNeighbors | None],
) -> dict[str, Any]:
    """Show the neighbors of some queries by each baseline, and by the encoder in the last line."""
    content = []
    for position, row in enumerate(rows):
        name, x = stored(nearest.source, nearest.test[row])
        if x is None:
            continue
        label = int(nearest.labels[row])
        known = [(side, found, position) for side, found in others.items() if found is not None]
        content.append(
            {
                "query": portrait(x, name, nearest.source),
                "label": nearest.class_name(label) or name,
                "lines": [
                    _line(side, found, at, label)
                    for side, found, at in [*known, ("this encoder", nearest, row)]
                ],
            }
        )
    how = "Random samples and their nearest neighbors. Numbers are cosine similarities."
    if nearest.task:
        how = (
            f"Random test samples and their nearest training samples "
            f"({task_words(nearest.task.name)}). Numbers are cosine similarities. "
            "✓: same class, ✗: another class."
        )
    return {"how": how, "rows": content}


def _line(side: str, found: NearestNeighbors, row: int, label: int) -> dict[str, Any]:
    """Draw the nearest neighbors of one query by one side."""
    pictures = []
    nearest = found.neighbors[row][: neighbors.SHOWN]
    for index, cosine in zip(nearest, found.similarity[row].tolist(), strict=False):
        title, x = stored(found.source, index)
        if x is not None:
            own = int(found.labels_of(index.reshape(1))[0])
            pictures.append(
                {
                    "picture": portrait(x, title, found.source),
                    "label": found.class_name(own),
                    "correct": own == label if found.task is not None else None,
                    "similarity": f"{cosine:.2f}",
                }
            )
    return {"name": side, "others": pictures}
