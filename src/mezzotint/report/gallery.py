"""The views as the encoder sees them, with what was drawn for each: beside the original, before normalisation.

They are made by the very code that makes them in training, from the same keys: a run's gallery shows views of its
first epoch.
"""

from dataclasses import dataclass
from pathlib import Path

from mezzotint.augment.generator import ViewGenerator
from mezzotint.augment.views import ImageViews
from mezzotint.data.source import Source
from mezzotint.data.viewed import view_batch
from mezzotint.report.depict import DRAWABLE
from mezzotint.report.drawn import in_words
from mezzotint.report.pictures import Picture, credit, drawable, portrait, stored
from mezzotint.report.render import render, write_page
from mezzotint.seeding import sample_order
from mezzotint.types import Input


@dataclass(frozen=True)
class Shown:
    """One view of one sample.

    Attributes:
        picture: before normalisation.
        name: what tells it from the sample's other views: whether its crop is local, and the strategy; or empty.
        brief: what was done to it, in a few words.
        parameters: what was drawn, as pairs of name and value; a transform's name stands alone before its own.
    """

    picture: Picture
    name: str
    brief: str
    parameters: list[tuple[str, str]]


@dataclass(frozen=True)
class Strip:
    """A sample and its views."""

    name: str
    original: Picture
    views: list[Shown]


def write_gallery(
    source: Source, views: ViewGenerator, input: Input, out: str | Path, *, samples: int = 12, seed: int = 0
) -> Path:
    """Write a page that shows samples and their views.

    Args:
        source: of the samples, which are chosen by `seed`.
        views: makes them.
        input: of the encoder.
        out: the HTML file.
        samples: how many.
        seed: of the choice and of all draws.

    Returns:
        The file.

    Raises:
        ValueError: when samples of this modality have no pictures, or fewer than one is asked for.
    """
    if samples < 1:
        raise ValueError(f"got samples={samples}; allowed is 1 or more: 12 fill a page")
    if not drawable(source):
        raise ValueError(f"got samples of modality {input.modality!r}; allowed: {', '.join(DRAWABLE)}")
    strips = view_strips(source, views, input, samples=samples, seed=seed)
    shown = f"{len(strips)} of {len(source):,} samples, each with {views.num_views} views of {_size(views, input)}"
    page = render(
        title="Views",
        gallery={"strips": strips, "full": True, "how": f"{shown}; seed {seed}, epoch 0."},
        credit=credit(source),
    )
    return write_page(Path(out), page)


def view_strips(source: Source, views: ViewGenerator, input: Input, *, samples: int, seed: int) -> list[Strip]:
    """Samples and their views, as training makes them in its first epoch.

    Args:
        source: of the samples.
        views: makes the views.
        input: of the encoder.
        samples: how many, at most; those that cannot be read are left out.
        seed: of the run.
    """
    ids = sample_order(len(source), seed, 0)[:samples]
    batch, boxes = view_batch(source, views, ids, input=input, seed=seed)
    if not len(batch.ids):
        return []
    rendered = views.render(batch, input=input, seed=seed, epoch=0, normalized=False)
    drawn = views.draw(batch.ids, input=input, seed=seed, epoch=0)
    made_by = _names(views)
    shares = None if boxes is None else (boxes[..., 2] * boxes[..., 3]).tolist()
    strips = []
    for row, index in enumerate(batch.ids.tolist()):
        name, original = stored(source, index)
        if original is None:
            continue
        shown = []
        for place, params in enumerate(drawn):
            parameters, brief = in_words(params, row, shares[row][place] if shares else None)
            alt = f"view {place + 1} of {name}: {', '.join(filter(None, (made_by[place], brief)))}"
            shown.append(Shown(portrait(rendered[place][row], alt, source), made_by[place], brief, parameters))
        strips.append(Strip(name, portrait(original, f"{name}, as stored", source), shown))
    return strips


def _names(views: ViewGenerator) -> list[str]:
    """For each view whether its crop is local, and its strategy where several make the views."""
    kinds = [str(view.policy.config["kind"]) for view in views.views] if isinstance(views, ImageViews) else []
    names = ["" if tag == "global" else tag for tag in views.tags]
    if len(set(kinds)) > 1:
        names = [f"local, {kind}" if name == "local" else name for name, kind in zip(names, kinds, strict=True)]
    return [name.replace("_", " ") for name in names]


def _size(views: ViewGenerator, input: Input) -> str:
    if not isinstance(views, ImageViews):
        return " × ".join(map(str, input.shape)) + " values"
    sizes = dict.fromkeys(f"{w} × {h} pixels" for h, w in (view.size(input) for view in views.views))
    return " and ".join(sizes)
