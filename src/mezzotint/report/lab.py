"""The augmentation lab: strategies side by side on one's own images, a strip of each operation, and what each costs.

Every strategy gets the same images, whole, so that a column of the page differs in nothing but the
strategy; what was drawn stands under each view. The costs are measured while the page is made, on
the machine that makes it.

Each operation of the augmentation lab: what it does to an image over its magnitudes, and what it
costs.
"""

import functools
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from mezzotint.augment.image.geometry import RandomResizedCrop
from mezzotint.augment.image.multi_augment import MultiAugment
from mezzotint.augment.image.operations import NAMES, OPERATIONS, apply_operations
from mezzotint.augment.image.policies import Policy, identity
from mezzotint.augment.image.rand_augment import RAND_AUGMENT
from mezzotint.augment.image.render import keep_freed_memory
from mezzotint.augment.randomized_quantization.transform import RandomizedQuantization
from mezzotint.augment.transform import Transform
from mezzotint.data.source import Source
from mezzotint.recipe.schema import RecipeError, construct, resolve
from mezzotint.recipe.signatures import index
from mezzotint.report.gallery import Shown, in_words, view_strips
from mezzotint.report.pictures import Picture, credit, picture, stored
from mezzotint.report.render import render, write_page
from mezzotint.seeding import Draws, sample_order
from mezzotint.types import Input

_BINS = (2, 3, 4, 6, 8, 16, 32)
_REPEATS = 5
_SECONDS = 0.01
"""A measurement is repeated so often, and each repeat lasts at least so long."""


@dataclass(frozen=True)
class OperationStrip:
    """One operation on one image.

    Attributes:
        name: of the operation.
        meaning: of its magnitude; empty where it has none.
        microseconds: an image, the median of several measurements.
        steps: the image at each magnitude, and the magnitude.
    """

    name: str
    meaning: str
    microseconds: float
    steps: list[tuple[Picture, str]]


def operation_strips(x: Tensor, batch: Tensor, *, steps: int = 7) -> list[OperationStrip]:
    """All operations, and randomized quantization.

    Args:
        x: the image that is shown, float in [0, 1], `[C, H, W]`.
        batch: `[B, C, H, W]`, on which the time is measured, with magnitudes over the whole range.
        steps: magnitudes from the weakest to the strongest; of operations with a sign from
            −strongest to strongest.
    """
    strips = [_operation(name, x, batch, steps) for name in NAMES if name != "identity"]
    quantized = []
    for bins in _BINS:
        view = RandomizedQuantization(bins=bins)(
            x.unsqueeze(0), Draws(torch.zeros(1, dtype=torch.int64), bins)
        )[0]
        quantized.append((picture(view, f"randomized quantization to {bins} bins"), str(bins)))
    eight, ids = RandomizedQuantization(bins=8), torch.arange(len(batch))
    cost = microseconds(lambda: eight(batch, Draws(ids, 0)), len(batch))
    return [
        *strips,
        OperationStrip("randomized quantization", "bins; the time is that of 8", cost, quantized),
    ]


def magnitudes_of(name: str, steps: int, shape: tuple[int, ...]) -> Tensor:
    """The magnitudes of a strip, float32 `[steps]`; a single 0 for an operation without.

    Args:
        name: of the operation.
        steps: how many.
        shape: of the images, `[…, H, W]`.
    """
    if not OPERATIONS[name].magnitude:
        return torch.zeros(1)
    reach = RAND_AUGMENT[name]
    last = max(1, steps - 1)
    level = torch.arange(steps, dtype=torch.float64) / last
    if reach.signed:
        level = (
            2 * torch.arange(steps, dtype=torch.float64) - last
        ) / last  # exactly 0 in the middle
    return (reach.at(level.abs(), shape) * (level.sign() if reach.signed else 1.0)).float()


def _operation(name: str, x: Tensor, batch: Tensor, steps: int) -> OperationStrip:
    magnitude = magnitudes_of(name, steps, tuple(x.shape))
    shown = _applied(name, x.expand(len(magnitude), -1, -1, -1), magnitude) / 255.0
    words, known = name.replace("_", " "), bool(OPERATIONS[name].magnitude)
    labels = [f"{float(m):.3g}".replace("-", "−") if known else "" for m in magnitude]
    pictures = [
        picture(view, f"{words} {label}".strip()) for view, label in zip(shown, labels, strict=True)
    ]
    spread = magnitudes_of(name, len(batch), tuple(x.shape)).expand(len(batch))
    cost = microseconds(lambda: _applied(name, batch, spread), len(batch))
    return OperationStrip(
        words, OPERATIONS[name].magnitude, cost, list(zip(pictures, labels, strict=True))
    )


def _applied(name: str, x: Tensor, magnitude: Tensor) -> Tensor:
    """Levels of 0 to 255; cutouts lie in the middle."""
    op = torch.full((len(x), 1), NAMES.index(name))
    place = torch.full((len(x), 1, 2), 0.5)
    return apply_operations(x, op, magnitude.unsqueeze(1), place, interpolation="nearest", fill=0.0)


def microseconds(run: Callable[[], object], images: int) -> float:
    """Time an image takes by the clock, the median of several measurements after one that does not count."""
    found = []
    for _ in range(_REPEATS + 1):
        began, done, elapsed = time.perf_counter(), 0, 0.0
        while not done or elapsed < _SECONDS:
            run()
            done += images
            elapsed = time.perf_counter() - began
        found.append(1e6 * elapsed / done)
    return statistics.median(found[1:])


STRATEGIES = (
    "simclr", "byol", "mocov2", "three_augment", "rand_augment", "auto_augment", "fast_auto_augment",
    "trivial_augment", "aug_mix", "randomized_quantization",
)  # fmt: skip
_BATCH = {32: 256, 96: 64}
"""Images that are timed together, up to a side; 16 of larger ones."""


@dataclass(frozen=True)
class StrategyRow:
    """One strategy on all samples.

    Attributes:
        name: as it was asked for.
        summary: what it is.
        microseconds: to draw and apply it, an image.
        views: one a sample.
    """

    name: str
    summary: str
    microseconds: float
    views: list[Shown]


def write_lab(
    source: Source,
    out: str | Path,
    *,
    policies: Sequence[str] = STRATEGIES,
    samples: int = 8,
    seed: int = 0,
    input: Input | None = None,
) -> Path:
    """Write the page of the lab.

    Args:
        source: of images.
        out: the HTML file.
        policies: kinds of policies or transforms, or YAML mappings such as `{kind: rand_augment,
            magnitude: 15}`.
        samples: how many images, chosen by `seed`.
        seed: of the choice and of all draws.
        input: of the encoder, where it is not the source's.

    Returns:
        The file.

    Raises:
        ValueError: for a policy that is unknown, samples that are no images, or none that can be
            read.
    """
    input = input or source.input
    if input.modality != "image":
        raise ValueError(
            f"got samples of modality {input.modality!r}; allowed with policies are images: leave --policy out, and "
            "give the recipe whose views are to be drawn"
        )
    if samples < 1 or not policies:
        raise ValueError(
            f"got {samples} samples and {len(policies)} policies; allowed is 1 or more of both"
        )
    made = [policy_of(text) for text in policies]
    whole = RandomResizedCrop(scale=(1.0, 1.0), ratio=(1.0, 1.0))
    views = MultiAugment(strategies=[identity(), *made], num_global=1, crop=whole, flip=0.0)
    strips = view_strips(source, views, input, samples=samples, seed=seed)
    batch = _batch(source, input, seed)
    if not strips or batch is None:
        raise ValueError(
            "got no image that can be read; allowed is one or more: ask `mezzotint doctor` what is wrong"
        )
    keep_freed_memory()
    rows = []
    for place, (text, policy) in enumerate(zip(policies, made, strict=True)):
        cost = microseconds(
            functools.partial(policy, batch, Draws(torch.arange(len(batch)), 0)), len(batch)
        )
        rows.append(
            StrategyRow(text, _summary(policy), cost, [strip.views[place + 1] for strip in strips])
        )
    operations = operation_strips(batch[0], batch)
    lab = {
        "rows": rows, "originals": [(strip.name, strip.views[0].picture) for strip in strips],
        "operations": operations, "costs": _costs(operations), "how": _how(batch, seed),
    }  # fmt: skip
    return write_page(Path(out), render(title="Augmentation lab", lab=lab, credit=credit(source)))


def visualize(
    policy: Policy, image: Tensor, *, count: int = 8, seed: int = 0
) -> tuple[Tensor, list[str]]:
    """Apply a policy to one image several times.

    Args:
        policy: such as `rand_augment()`.
        image: float in [0, 1] or uint8, `[C, H, W]`.
        count: of views.
        seed: of the draws.

    Returns:
        The views, float32 `[count, C, H, W]`, and for each what was drawn, in words.
    """
    x = (image / 255.0 if image.dtype == torch.uint8 else image.float()).expand(count, -1, -1, -1)
    params = policy.draw(x.shape, Draws(torch.arange(count), seed))
    return policy.apply(x, params), [in_words({"policy": params}, row)[1] for row in range(count)]


def policy_of(text: str) -> Policy:
    """A policy, or a single transform as one, from its kind or a YAML mapping.

    Raises:
        RecipeError: with what was got, what is allowed and the nearest name.
    """
    from mezzotint.recipe.plain_yaml import parse_yaml

    config = parse_yaml(text, "--policy")
    kind = str(config.get("kind") if isinstance(config, dict) else config)
    policies, transforms = index().members("Policy"), index().members("Transform")
    if kind in RAND_AUGMENT and kind not in {**policies, **transforms}:
        raise RecipeError(
            f"--policy: got the operation {kind!r}; allowed are policies and transforms: write "
            f"{{kind: rand_augment, num_ops: 1, names: [{kind}]}}"
        )
    if kind in transforms and kind not in policies:
        transform: Transform = construct(resolve(config, "Transform", "--policy"), "Transform", {})
        return Policy(transforms=[transform])
    policy: Policy = construct(resolve(config, "Policy", "--policy"), "Policy", {})
    return policy


def _summary(policy: Policy) -> str:
    """The first line of what documents the kind."""
    config = policy.config
    if config["kind"] == "policy":
        config = policy.transforms[0].config
    members = {**index().members("Transform"), **index().members("Policy")}
    entry = members.get(str(config["kind"]))
    return entry.summary.replace("`", "") if entry else ""


def _batch(source: Source, input: Input, seed: int) -> Tensor | None:
    """Images to measure with, float in [0, 1]; those that can be read, again and again when they are few."""
    count = next((count for side, count in _BATCH.items() if max(input.shape[1:]) <= side), 16)
    order = sample_order(len(source), seed, 0)[:count].tolist()
    found = [x for _, x in (stored(source, place) for place in order) if x is not None]
    if not found:
        return None
    return input.as_float(torch.stack([found[place % len(found)] for place in range(count)]))


def _costs(operations: Sequence[OperationStrip]) -> list[dict[str, object]]:
    """Operations from the dearest to the cheapest, with their shares of the dearest."""
    ordered = sorted(operations, key=lambda strip: -strip.microseconds)
    most = ordered[0].microseconds
    return [
        {"name": s.name, "share": s.microseconds / most, "text": f"{s.microseconds:.1f} µs"}
        for s in ordered
    ]


def _how(batch: Tensor, seed: int) -> str:
    count, channels, height, width = batch.shape
    threads = torch.get_num_threads()
    return (
        f"Seed {seed}, epoch 0. Times are microseconds an image: medians of 5 measurements on this machine's CPU with "
        f"{threads} thread{'s' if threads > 1 else ''}, on batches of {count} images of {channels} × {height} × "
        f"{width}, with whatever else the machine was doing."
    )
