"""The sections of the report that look at features: what the encoder is bad at, a map, and nearest neighbours."""

from collections import Counter
from typing import Any

from mezzotint.data.source import Source
from mezzotint.encoders.encoder import Encoder
from mezzotint.evaluate.intervals import wilson
from mezzotint.evaluate.projection import LAYOUTS, Layout, components, lay_out
from mezzotint.report import neighbours
from mezzotint.report.maps import colour, dots, on_stage
from mezzotint.report.neighbours import Look
from mezzotint.report.pictures import SPRITE_SIZE, drawable, drawn, portrait, sprite, stored
from mezzotint.report.plots import number
from mezzotint.report.results import task_words

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
        The sections `weak`, `atlas` and `kin`, as far as the data allows; and what the map's script needs.
    """
    look = neighbours.look(encoder, source, workers)
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
    scores = neighbours.class_scores(look)
    right, total = sum(s.right for s in scores), sum(s.count for s in scores)
    low, high = wilson(right / max(total, 1), max(total, 1))
    how = (
        f"By the vote of the {look.neighbours.shape[1]} nearest training samples, on {task}: "
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
        for pair in neighbours.confusions(look)
    ]
    classes = [
        {"name": look.class_name(s.label), "share": round(s.share, 4), "text": number(s.share, 2), "count": s.count}
        for s in scores[:_CLASSES]
    ]
    title = (
        "Accuracy by class, the worst first"
        if len(scores) <= _CLASSES
        else f"The {_CLASSES} worst of {len(scores)} classes"
    )
    return {"how": how, "title": title, "classes": classes, "pairs": pairs}


def _atlas(look: Look, seed: int, layout: Layout) -> tuple[dict[str, Any], dict[str, Any]]:
    rows = neighbours.mapped_rows(look, seed)
    places, labels, guesses = look.test[rows], look.labels[rows], look.guesses[rows]
    points = on_stage(lay_out(components(look.features[rows], seed), layout, seed))
    shown = drawable(look.source)
    found = [(drawn if shown else stored)(look.source, place) for place in places]
    sheet, columns = sprite([x for _, x in found], "") if shown else (None, 1)
    counted = Counter(labels.tolist())
    known = sorted(label for label in counted if label >= 0)
    script = {
        "points": [[*xy, int(y), int(g)] for xy, y, g in zip(points, labels, guesses, strict=True)],
        "classes": {label: look.class_name(label) for label in {*known, *guesses.tolist()} if label >= 0},
        "names": [name for name, _ in found],
        "columns": columns,
        "size": SPRITE_SIZE,
    }
    paths = [
        {
            "label": label,
            "name": look.class_name(label) or "no label",
            "count": counted[label],
            "colour": colour(label),
            "d": dots(points, labels.tolist(), label),
        }
        for label in sorted(counted, key=lambda label: (-counted[label], label))
    ]
    part = f"{len(rows):,}" if len(rows) == len(look.test) else f"{len(rows):,} of {len(look.test):,}"
    kind = "test samples" if look.task is not None else "samples"
    section = {
        "how": f"{part} {kind}, laid out by {LAYOUTS[layout]}: what stands near is near for the encoder; large "
        "distances and the axes mean nothing. Point at a sample, or tap it.",
        "count": len(rows),
        "paths": paths,
        "coloured": bool(known),
        "sprite": sheet,
    }
    return section, script


def _kin(look: Look, seed: int) -> dict[str, Any]:
    rows = []
    for row in neighbours.queries_to_show(look, _QUERIES, seed):
        name, x = stored(look.source, look.test[row])
        if x is None:
            continue
        label, others = int(look.labels[row]), []
        for place, cosine in zip(look.neighbours[row][: neighbours.SHOWN], look.similarity[row].tolist(), strict=False):
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
            {"query": portrait(x, name, look.source), "label": look.class_name(label) or name, "others": others}
        )
    where = f" Test samples and their nearest training samples, {task_words(look.task.name)}." if look.task else ""
    how = f"Chosen by the seed, not by success.{where} The number is the cosine of the features."
    return {"how": how + (" ✓ has the class of the first, ✗ has not." if look.task else ""), "rows": rows}
