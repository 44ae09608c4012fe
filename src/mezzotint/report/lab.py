"""The augmentation lab: augmentation policies on the same images, operations by magnitude, costs.

Every policy gets the same whole images, so that the views in a column of the page differ only in
the policy. The drawn parameters are listed below each view. Costs are measured on the machine that
writes the page.
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
from mezzotint.augment.randomized_quantization.transform import RandomizedQuantization
from mezzotint.augment.transform import Transform
from mezzotint.data.source import Source
from mezzotint.memory import keep_freed_memory
from mezzotint.modality.modality import modality_of
from mezzotint.recipe.schema import RecipeError, construct, resolve
from mezzotint.recipe.signatures import index
from mezzotint.report.gallery import Shown, in_words, view_strips
from mezzotint.report.pictures import Picture, credit, picture, stored
from mezzotint.report.render import render, write_page
from mezzotint.seeding import Draws, sample_order
from mezzotint.types import Input

_BINS = (2, 3, 4, 6, 8, 16, 32)
_REPEATS = 5
_SECONDS = 0.01  # shortest duration of one repeat


@dataclass(frozen=True)
class OperationStrip:
    """One operation on one image.

    Attributes:
        name: name of the operation.
        meaning: meaning of its magnitude; empty if it has none.
        microseconds: time per image, median of several measurements.
        steps: image at each magnitude, and the magnitude.
    """

    name: str
    meaning: str
    microseconds: float
    steps: list[tuple[Picture, str]]


def operation_strips(x: Tensor, batch: Tensor, *, steps: int = 7) -> list[OperationStrip]:
    """Apply all operations and randomized quantization to an image, and measure their time.

    Args:
        x: image to show, float in [0, 1], `[C, H, W]`.
        batch: images `[B, C, H, W]` for the measurement, with magnitudes over the whole range.
        steps: number of magnitudes from the smallest to the largest; signed operations go from the
            negative to the positive largest.
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
        OperationStrip(
            "randomized quantization", "number of bins; time for 8 bins", cost, quantized
        ),
    ]


def magnitudes_of(name: str, steps: int, shape: tuple[int, ...]) -> Tensor:
    """Return the magnitudes of a strip, float32 `[steps]`; a single 0 for an operation without one.

    Args:
        name: name of the operation.
        steps: number of magnitudes.
        shape: shape of the images, `[…, H, W]`.
    """
    if not OPERATIONS[name].magnitude:
        return torch.zeros(1)
    reach = RAND_AUGMENT[name]
    last = max(1, steps - 1)
    level = torch.arange(steps, dtype=torch.float64) / last
    if reach.signed:
        # This form is exactly 0 in the middle.
        level = (2 * torch.arange(steps, dtype=torch.float64) - last) / last
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
    """Apply an operation; cutouts are centered. Returns levels of 0 to 255."""
    op = torch.full((len(x), 1), NAMES.index(name))
    center = torch.full((len(x), 1, 2), 0.5)
    return apply_operations(
        x, op, magnitude.unsqueeze(1), center, interpolation="nearest", fill=0.0
    )


def microseconds(run: Callable[[], object], images: int) -> float:
    """Measure the wall time per image: the median of several measurements after a warm-up."""
    times = []
    for _ in range(_REPEATS + 1):
        began, done, elapsed = time.perf_counter(), 0, 0.0
        while not done or elapsed < _SECONDS:
            run()
            done += images
            elapsed = time.perf_counter() - began
        times.append(1e6 * elapsed / done)
    return statistics.median(times[1:])


POLICIES = (
    "simclr", "byol", "mocov2", "three_augment", "rand_augment", "auto_augment",
    "fast_auto_augment", "trivial_augment", "aug_mix", "randomized_quantization",
)  # fmt: skip
_BATCH = {32: 256, 96: 64}
"""Batch size of the measurement by largest side; 16 for larger images."""


@dataclass(frozen=True)
class PolicyRow:
    """One augmentation policy on all samples.

    Attributes:
        name: name as given.
        summary: one-line description.
        microseconds: time per image to draw and apply it.
        views: one view per sample.
    """

    name: str
    summary: str
    microseconds: float
    views: list[Shown]


def write_lab(
    source: Source,
    out: str | Path,
    *,
    policies: Sequence[str] = POLICIES,
    samples: int = 8,
    seed: int = 0,
    input: Input | None = None,
) -> Path:
    """Write the page of the lab.

    Args:
        source: source of images.
        out: HTML file to write.
        policies: kinds of policies or transforms, or YAML mappings such as `{kind: rand_augment,
            magnitude: 15}`.
        samples: number of images.
        seed: seed of the choice of images and of all draws.
        input: input of the encoder, if it differs from the source's.

    Returns:
        The path of the page.

    Raises:
        ValueError: for an unknown policy, for samples that are not images, or if none is readable.
    """
    input = input or source.input
    if not modality_of(input).is_picture:
        raise ValueError(
            f"`--policy` needs images, got samples of modality {input.modality!r}. Leave it out, "
            "and name a recipe whose views to draw."
        )
    if samples < 1 or not policies:
        raise ValueError(
            "`samples` and the number of policies must be at least 1, got "
            f"{samples} and {len(policies)}."
        )
    made = [policy_of(text) for text in policies]
    whole = RandomResizedCrop(scale=(1.0, 1.0), ratio=(1.0, 1.0))
    views = MultiAugment(policies=[identity(), *made], num_global=1, crop=whole, flip=0.0)
    strips = view_strips(source, views, input, samples=samples, seed=seed)
    batch = _batch(source, input, seed)
    if not strips or batch is None:
        raise ValueError("None of the images is readable. Run `mezzotint doctor` to see why.")
    keep_freed_memory()
    rows = []
    for view, (text, policy) in enumerate(zip(policies, made, strict=True), 1):
        cost = microseconds(
            functools.partial(policy, batch, Draws(torch.arange(len(batch)), 0)), len(batch)
        )
        rows.append(
            PolicyRow(text, _summary(policy), cost, [strip.views[view] for strip in strips])
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
        policy: policy such as `rand_augment()`.
        image: float in [0, 1] or uint8, `[C, H, W]`.
        count: number of views.
        seed: seed of the draws.

    Returns:
        Views, float32 `[count, C, H, W]`, and a description of each.
    """
    x = (image / 255.0 if image.dtype == torch.uint8 else image.float()).expand(count, -1, -1, -1)
    params = policy.draw(x.shape, Draws(torch.arange(count), seed))
    return policy.apply(x, params), [in_words({"policy": params}, row)[1] for row in range(count)]


def policy_of(text: str) -> Policy:
    """Make a policy from the kind of a policy or transform, or from a YAML mapping.

    Raises:
        RecipeError: for an unknown kind or key.
    """
    from mezzotint.recipe.reading import parse_yaml

    config = parse_yaml(text, "--policy")
    kind = str(config.get("kind") if isinstance(config, dict) else config)
    policies, transforms = index().members("Policy"), index().members("Transform")
    if kind in RAND_AUGMENT and kind not in {**policies, **transforms}:
        raise RecipeError(
            f"`--policy` must be a policy or a transform, got the operation {kind!r}. Write "
            f"{{kind: rand_augment, num_ops: 1, names: [{kind}]}}."
        )
    if kind in transforms and kind not in policies:
        transform: Transform = construct(resolve(config, "Transform", "--policy"), "Transform", {})
        return Policy(transforms=[transform])
    policy: Policy = construct(resolve(config, "Policy", "--policy"), "Policy", {})
    return policy


def _summary(policy: Policy) -> str:
    """Return the first line of the kind's documentation."""
    config = policy.config
    if config["kind"] == "policy":
        config = policy.transforms[0].config
    members = {**index().members("Transform"), **index().members("Policy")}
    entry = members.get(str(config["kind"]))
    return entry.summary.replace("`", "") if entry else ""


def _batch(source: Source, input: Input, seed: int) -> Tensor | None:
    """Return images for the measurement, float in [0, 1]; a few images are repeated."""
    count = next((count for side, count in _BATCH.items() if max(input.shape[1:]) <= side), 16)
    order = sample_order(len(source), seed, 0, stop=count).tolist()
    images = [x for _, x in (stored(source, index) for index in order) if x is not None]
    if not images:
        return None
    return input.as_float(torch.stack([images[i % len(images)] for i in range(count)]))


def _costs(operations: Sequence[OperationStrip]) -> list[dict[str, object]]:
    """List the operations by falling cost, each with its fraction of the highest cost."""
    ordered = sorted(operations, key=lambda strip: -strip.microseconds)
    most = ordered[0].microseconds
    return [
        {"name": s.name, "fraction": s.microseconds / most, "text": f"{s.microseconds:.1f} µs"}
        for s in ordered
    ]


def _how(batch: Tensor, seed: int) -> str:
    count, channels, height, width = batch.shape
    threads = torch.get_num_threads()
    return (
        f"Seed {seed}, epoch 0. Times are microseconds per image: medians of 5 measurements on "
        f"this machine's CPU with {threads} thread{'s' if threads > 1 else ''}, on batches of "
        f"{count} images of {channels} × {height} × {width}; other processes may slow them down."
    )
