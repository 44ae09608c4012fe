"""The gallery: samples, their augmented views before normalization, and the drawn parameters.

The views come from the code and the keys of training: a run's gallery shows views of its first
epoch.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from mezzotint.augment.image.rand_augment import describe
from mezzotint.augment.image.views import ImageViews
from mezzotint.augment.transform import Params
from mezzotint.augment.views import ViewContext, ViewGenerator
from mezzotint.data.source import Source
from mezzotint.data.view_batch import view_batch
from mezzotint.modality.modality import modality_of
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

_FEW = 4  # of parameters with more values, only the number of values is shown

Pairs = list[tuple[str, str]]


def in_words(drawn: Mapping[str, Params], row: int, area: float | None = None) -> tuple[Pairs, str]:
    """Describe the drawn parameters of one view of one sample, in full and briefly.

    Args:
        drawn: parameters of the view by step, as `ViewGenerator.draw` returns them.
        row: index of the sample in the batch.
        area: fraction of the image inside the crop; `None` if views are not crops.

    Returns:
        Pairs of name and value, where the name of a transform comes first and without a value; and
        a brief description.
    """
    pairs: Pairs = []
    words: list[str] = []
    if area is not None:
        percent = f"{100 * area:.0f} %"
        pairs, words = [("crop", percent)], [f"crop {percent}"]
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
    """Return the kind of the policy that a sample drew, if a step chooses among policies."""
    if "policy" not in params:
        return ""
    prefix = f"{int(params['policy'][row])}."
    return next(
        (key.split(".")[1].replace("_", " ") for key in params if key.startswith(prefix)), ""
    )


def _by_transform(step: str, params: Params, row: int) -> list[tuple[str, Params]]:
    """Group the parameters by transform; a policy's have keys `index.kind.name`.

    If a step chooses among policies, only the sample's policy is included.
    """
    dropped = []
    for key, drawn in params.items():
        prefix, _, name = key.rpartition(".")
        if name == "policy":
            inside = f"{prefix}." if prefix else ""
            indices = {
                other.removeprefix(inside).partition(".")[0]
                for other in params
                if other.startswith(inside)
            }
            dropped += [f"{inside}{index}." for index in indices if index != str(int(drawn[row]))]
    grouped: dict[str, Params] = {}
    for key, value in params.items():
        prefix, _, name = key.rpartition(".")
        if name != "policy" and not any(key.startswith(unused) for unused in dropped):
            grouped.setdefault(prefix, {})[name] = value
    if not params:
        return [(step, {})]
    return [(prefix.rpartition(".")[2] or step, own) for prefix, own in grouped.items()]


def _details(params: Params, row: int) -> Pairs:
    """Format the values of one sample; of long parameters only the number of values."""
    order = params.get("order")
    names = [name for name in params if name not in ("chosen", "applied", "order")]
    # An order of the parameters themselves (as in color jitter) is shown by their names.
    of_names = order is not None and order[row].numel() == len(names)
    pairs = []
    for name in names if of_names or order is None else [*names, "order"]:
        value, words = params[name][row], name.replace("_", " ")
        if value.numel() <= _FEW:
            pairs.append((words, " ".join(number(one) for one in value.flatten().tolist())))
        else:
            pairs.append(
                (f"{words} per channel" if value.ndim > 1 else words, str(value.shape[-1]))
            )
    if order is not None and of_names:
        pairs.append(("order", " ".join(names[i][:3] for i in order[row].tolist())))
    return pairs


@dataclass(frozen=True)
class Shown:
    """One view of one sample.

    Attributes:
        picture: view before normalization.
        name: whether its crop is local, and its augmentation policy if views differ in it; empty
            if all views are alike.
        brief: short description of the augmentation.
        parameters: drawn parameters as pairs of name and value, where the name of a transform
            comes first and without a value.
    """

    picture: Picture
    name: str
    brief: str
    parameters: list[tuple[str, str]]


@dataclass(frozen=True)
class Strip:
    """Sample and its views."""

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
    """Write a page of samples and their views.

    Args:
        source: source of the samples.
        views: generator of the views.
        input: input of the encoder.
        out: HTML file to write.
        samples: number of samples.
        seed: seed of the choice of samples and of all draws.

    Returns:
        The path of the page.

    Raises:
        ValueError: when samples of this modality have no pictures, or `samples` is below 1.
    """
    if samples < 1:
        raise ValueError(f"`samples` must be at least 1, got {samples}. Try 12.")
    if not drawable(source):
        modality_of(input).no_picture()
    strips = view_strips(source, views, input, samples=samples, seed=seed)
    shown = (
        f"{len(strips)} of {len(source):,} samples, each with {views.num_views} views of "
        f"{_size(views, input)}"
    )
    page = render(
        title="Views",
        gallery={"strips": strips, "full": True, "how": f"{shown}; seed {seed}, epoch 0."},
        credit=credit(source),
    )
    return write_page(Path(out), page)


def view_strips(
    source: Source, views: ViewGenerator, input: Input, *, samples: int, seed: int
) -> list[Strip]:
    """Make views of samples as in the first epoch of training.

    Args:
        source: source of the samples.
        views: generator of the views.
        input: input of the encoder.
        samples: largest number of samples; unreadable ones are left out.
        seed: seed of the run.
    """
    ids = sample_order(len(source), seed, 0, stop=samples)
    batch, boxes = view_batch(source, views, ids, input=input, seed=seed)
    if not len(batch.ids):
        return []
    rendered = views.render(batch, ViewContext(input, seed, 0), normalized=False)
    drawn = views.draw(batch.ids, ViewContext(input, seed, 0))
    kinds = _names(views)
    areas = None if boxes is None else (boxes[..., 2] * boxes[..., 3]).tolist()
    strips = []
    for row, index in enumerate(batch.ids.tolist()):
        name, original = stored(source, index)
        if original is None:
            continue
        shown = []
        for view, params in enumerate(drawn):
            parameters, brief = in_words(params, row, areas[row][view] if areas else None)
            alt = f"view {view + 1} of {name}: {', '.join(filter(None, (kinds[view], brief)))}"
            drawing = portrait(rendered[view][row], alt, source)
            shown.append(Shown(drawing, kinds[view], brief, parameters))
        strips.append(Strip(name, portrait(original, f"{name}, original", source), shown))
    return strips


def _names(views: ViewGenerator) -> list[str]:
    """Name each view: local or not, and its augmentation policy if there are several."""
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
