"""Each operation of the augmentation lab: what it does to an image over its magnitudes, and what it costs."""

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from mezzotint.augment.operations import NAMES, OPERATIONS, apply_operations
from mezzotint.augment.randomized_quantization import RandomizedQuantization
from mezzotint.augment.strategies import RAND_AUGMENT
from mezzotint.report.pictures import Picture, picture
from mezzotint.seeding import Draws

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
        steps: magnitudes from the weakest to the strongest; of operations with a sign from −strongest to strongest.
    """
    strips = [_operation(name, x, batch, steps) for name in NAMES if name != "identity"]
    quantized = []
    for bins in _BINS:
        view = RandomizedQuantization(bins=bins)(x.unsqueeze(0), Draws(torch.zeros(1, dtype=torch.int64), bins))[0]
        quantized.append((picture(view, f"randomized quantization to {bins} bins"), str(bins)))
    eight, ids = RandomizedQuantization(bins=8), torch.arange(len(batch))
    cost = microseconds(lambda: eight(batch, Draws(ids, 0)), len(batch))
    return [*strips, OperationStrip("randomized quantization", "bins; the time is that of 8", cost, quantized)]


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
        level = (2 * torch.arange(steps, dtype=torch.float64) - last) / last  # exactly 0 in the middle
    return (reach.at(level.abs(), shape) * (level.sign() if reach.signed else 1.0)).float()


def _operation(name: str, x: Tensor, batch: Tensor, steps: int) -> OperationStrip:
    magnitude = magnitudes_of(name, steps, tuple(x.shape))
    shown = _applied(name, x.expand(len(magnitude), -1, -1, -1), magnitude) / 255.0
    words, known = name.replace("_", " "), bool(OPERATIONS[name].magnitude)
    labels = [f"{float(m):.3g}".replace("-", "−") if known else "" for m in magnitude]
    pictures = [picture(view, f"{words} {label}".strip()) for view, label in zip(shown, labels, strict=True)]
    spread = magnitudes_of(name, len(batch), tuple(x.shape)).expand(len(batch))
    cost = microseconds(lambda: _applied(name, batch, spread), len(batch))
    return OperationStrip(words, OPERATIONS[name].magnitude, cost, list(zip(pictures, labels, strict=True)))


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
