"""The views as the encoder sees them, with what was drawn for each: beside the original, before normalization.

They are made by the very code that makes them in training, from the same keys: a run's gallery
shows views of its first epoch.

What was drawn for a view, in words: from the parameters of its transforms to pairs of name and
value.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from mezzotint.augment.image.rand_augment import describe
from mezzotint.augment.image.views import ImageViews
from mezzotint.augment.transform import Params
from mezzotint.augment.views import ViewGenerator
from mezzotint.data.source import Source
from mezzotint.data.view_batch import view_batch
from mezzotint.report.depict import DRAWABLE
from mezzotint.report.pictures import Picture, credit, drawable, portrait, stored
from mezzotint.report.plots import number
from mezzotint.report.render import render, write_page
from mezzotint.seeding import sample_order
from mezzotint.types import Input

_WORDS = {
    "randomized_quantization": "quantized",
    "color_jitter": "jitter",
    "grayscale": "gray",
    "gaussian_blur": "blur",
}

_FEW = 4
"""Up to so many values of a parameter are told, such as the box of a crop; of more than that, their number."""

Pairs = list[tuple[str, str]]


def in_words(
    drawn: Mapping[str, Params], row: int, share: float | None = None
) -> tuple[Pairs, str]:
    """What was drawn for one view of one sample: everything, and in a few words.

    Args:
        drawn: parameters of the view by step, as `ViewGenerator.draw` gives them.
        row: the sample's place in the batch.
        share: of the image that the crop shows; `None` where views are not crops.

    Returns:
        Pairs of name and value, in which a transform's name stands alone before its own; and the
        few words.
    """
    pairs: Pairs = []
    words: list[str] = []
    if share is not None:
        area = f"{100 * share:.0f} %"
        pairs, words = [("crop", area)], [f"crop {area}"]
    for step in drawn:
        if step == "crop":
            continue
        chosen_policy = _choice(drawn[step], row)
        if chosen_policy:
            words.append(chosen_policy)
            pairs.append((chosen_policy, ""))
        for name, params in _by_transform(step.rpartition(".")[2], drawn[step], row):
            if "op" in params:
                operations = [(op, size.replace("-", "−")) for op, size in describe(params, row)]
                words += [f"{op} {size}".strip() for op, size in operations]
                pairs += [("operations", ""), *operations] if operations else []
                continue
            chosen = params.get("chosen", params.get("applied"))
            if chosen is None or bool(chosen[row]):
                words.append(_WORDS.get(name, name.replace("_", " ")))
                pairs += [(words[-1], ""), *_details(params, row)]
    return pairs, ", ".join(words)


def _choice(params: Params, row: int) -> str:
    """The kind of the policy that a sample drew, where a step is a choice of policies that have parameters."""
    if "policy" not in params:
        return ""
    place = f"{int(params['policy'][row])}."
    return next(
        (key.split(".")[1].replace("_", " ") for key in params if key.startswith(place)), ""
    )


def _by_transform(step: str, params: Params, row: int) -> list[tuple[str, Params]]:
    """Each transform with its parameters: a policy's stand under `place.kind.name`, any other's under their name.

    Of a choice of policies only those of the policy that the sample drew.
    """
    dropped = []
    for key, drawn in params.items():
        prefix, _, name = key.rpartition(".")
        if name == "policy":
            inside = f"{prefix}." if prefix else ""
            places = {
                other.removeprefix(inside).partition(".")[0]
                for other in params
                if other.startswith(inside)
            }
            dropped += [f"{inside}{place}." for place in places if place != str(int(drawn[row]))]
    grouped: dict[str, Params] = {}
    for key, value in params.items():
        prefix, _, name = key.rpartition(".")
        if name != "policy" and not any(key.startswith(place) for place in dropped):
            grouped.setdefault(prefix, {})[name] = value
    if not params:
        return [(step, {})]
    return [(prefix.rpartition(".")[2] or step, own) for prefix, own in grouped.items()]


def _details(params: Params, row: int) -> Pairs:
    """The numbers of one sample; of long ones only how many there are."""
    order = params.get("order")
    names = [name for name in params if name not in ("chosen", "applied", "order")]
    of_names = order is not None and order[row].numel() == len(
        names
    )  # of the other parameters, by their place
    pairs = []
    for name in names if of_names or order is None else [*names, "order"]:
        value, words = params[name][row], name.replace("_", " ")
        if value.numel() <= _FEW:
            pairs.append((words, " ".join(number(one) for one in value.flatten().tolist())))
        else:
            pairs.append((f"{words} a channel" if value.ndim > 1 else words, str(value.shape[-1])))
    if order is not None and of_names:
        pairs.append(("order", " ".join(names[i][:3] for i in order[row].tolist())))
    return pairs


@dataclass(frozen=True)
class Shown:
    """One view of one sample.

    Attributes:
        picture: before normalization.
        name: what tells it from the sample's other views: whether its crop is local, and the
            strategy; or empty.
        brief: what was done to it, in a few words.
        parameters: what was drawn, as pairs of name and value; a transform's name stands alone
            before its own.
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
    source: Source,
    views: ViewGenerator,
    input: Input,
    out: str | Path,
    *,
    samples: int = 12,
    seed: int = 0,
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
        raise ValueError(
            f"got samples of modality {input.modality!r}; allowed: {', '.join(DRAWABLE)}"
        )
    strips = view_strips(source, views, input, samples=samples, seed=seed)
    shown = f"{len(strips)} of {len(source):,} samples, each with {views.num_views} views of {_size(views, input)}"
    page = render(
        title="Views",
        gallery={"strips": strips, "full": True, "how": f"{shown}; seed {seed}, epoch 0."},
        credit=credit(source),
    )
    return write_page(Path(out), page)


def view_strips(
    source: Source, views: ViewGenerator, input: Input, *, samples: int, seed: int
) -> list[Strip]:
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
            shown.append(
                Shown(
                    portrait(rendered[place][row], alt, source), made_by[place], brief, parameters
                )
            )
        strips.append(Strip(name, portrait(original, f"{name}, as stored", source), shown))
    return strips


def _names(views: ViewGenerator) -> list[str]:
    """For each view whether its crop is local, and its strategy where several make the views."""
    kinds = (
        [str(view.policy.config["kind"]) for view in views.views]
        if isinstance(views, ImageViews)
        else []
    )
    names = ["" if tag == "global" else tag for tag in views.tags]
    if len(set(kinds)) > 1:
        names = [
            f"local, {kind}" if name == "local" else name
            for name, kind in zip(names, kinds, strict=True)
        ]
    return [name.replace("_", " ") for name in names]


def _size(views: ViewGenerator, input: Input) -> str:
    if not isinstance(views, ImageViews):
        return " × ".join(map(str, input.shape)) + " values"
    sizes = dict.fromkeys(
        f"{w} × {h} pixels" for h, w in (view.size(input) for view in views.views)
    )
    return " and ".join(sizes)
