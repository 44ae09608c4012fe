"""Randomized quantization in the native range against gain and offset, and against no change.

python benchmarks/native_views.py OUT [--seconds 6] [--seeds 3]   # done cells are not run again

SimCLR on ResNet-8 with crops, on three sets made here, 8 classes each, 1,200 images to learn from
and 600 scored. Every run has the same process CPU time on one thread, and half a cosine over it.
`microscope`: 16 bits, 4 channels of 16 x 16; the class is the direction of a grating of 60 to 160
of 65,536 levels, below one level of 8 bits, over a background of ± 400. `thermal`: 12 bits,
1 channel; the grating has 25 to 60 of 4,096 levels. `spectrogram`: floats, 1 channel; the class is
the spacing and the slope of harmonics, of any loudness and start. Top-1 of a linear probe
(logistic regression) on frozen features, and the mean over seeds with its 95 % interval.
"""

import argparse
import json
import math
import statistics
import time
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from sklearn.linear_model import LogisticRegression
from torch import Tensor

from mezzotint.augment.image.geometry import RandomResizedCrop
from mezzotint.augment.image.policies import Policy, identity, native
from mezzotint.augment.image.tone import GainOffset
from mezzotint.augment.image.views import TwoViews
from mezzotint.augment.randomized_quantization.transform import RandomizedQuantization
from mezzotint.augment.views import ViewContext
from mezzotint.data.loader import BatchPlan, batches
from mezzotint.data.memory import InMemory, float_moments
from mezzotint.encoders.resnet import resnet8
from mezzotint.files import write_json
from mezzotint.methods.simclr import SimCLR
from mezzotint.optim.optimizer import AdamW
from mezzotint.types import Input

SIDE, CLASSES, TRAIN, TEST = 16, 8, 1200, 600
BITS = {"microscope": 16, "thermal": 12, "spectrogram": 0}
CHANNELS = {"microscope": 4, "thermal": 1, "spectrogram": 1}
QUANTIZATION = RandomizedQuantization(8, p=0.8)
ARMS: dict[str, tuple[Policy, RandomizedQuantization | None]] = {
    "none": (identity(), None),
    "gain and offset": (Policy(transforms=[GainOffset()]), None),
    "quantization": (identity(), QUANTIZATION),
    "quantization of 8 bits": (identity(), QUANTIZATION),
    "native policy and quantization": (native(), QUANTIZATION),
}
PAIRS = (
    ("gain and offset", "none"), ("quantization", "none"), ("quantization", "gain and offset"),
    ("quantization", "quantization of 8 bits"),
    ("native policy and quantization", "gain and offset"),
    ("native policy and quantization", "quantization"),
)  # fmt: skip
T_2 = 4.303  # Student's t of 95 % with two degrees of freedom


class Made(InMemory):
    """Images in [0, 1] of their range, float32 `[N, C, 16, 16]`.

    Args:
        name: of the set.
        reduced: whether 8 bits are kept, as by a reader of 8-bit images.
    """

    def __init__(self, *, name: str, reduced: bool = False) -> None:
        x, labels = made(name)
        self.everything_x = torch.from_numpy(np.floor(x * 255.0) / 255.0 if reduced else x).float()
        self.everything_y = labels
        self.images, self.labels, self.ids = self.everything_x[:TRAIN], labels[:TRAIN], name
        self.input = Input((x.shape[1], SIDE, SIDE), *float_moments(self.images))


def made(name: str) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.int64]]:
    """Draw the images and labels of a set, the same ones each time."""
    rng = np.random.default_rng(1)
    count, channels, bits = TRAIN + TEST, CHANNELS[name], BITS[name]
    labels = rng.permutation(count) % CLASSES
    rows, columns = np.mgrid[0:SIDE, 0:SIDE] / SIDE

    def each(low: float, high: float, size: int = 1) -> npt.NDArray[np.float64]:
        return rng.uniform(low, high, (count, size, 1, 1))

    if not bits:
        spacing, slope = 0.11 + 0.04 * (labels % 4), np.where(labels < 4, 0.35, -0.35)
        start = each(-0.3, 0.3)
        position = rows[None, None] + slope[:, None, None, None] * (columns - 0.5) + start
        lines = np.exp(4.0 * np.cos(2.0 * np.pi * position / spacing[:, None, None, None]) - 4.0)
        power = lines * each(0.05, 1.0) + 0.1 * rng.exponential(1.0, (count, 1, SIDE, SIDE))
        x = np.log(power) + each(-2.0, 2.0)
        low, high = np.percentile(x[:TRAIN], (0.1, 99.9))
        return np.clip((x - low) / (high - low), 0.0, 1.0), labels
    angle = np.pi * labels[:, None, None, None] / CLASSES
    phase = each(0.0, 2.0 * np.pi, channels)
    wave = np.sin(2.0 * np.pi * 4.0 * (rows * np.cos(angle) + columns * np.sin(angle)) + phase)
    top, drift = 2.0**bits, 200.0 if bits == 16 else 60.0  # levels over the image
    slope = each(-drift, drift, channels) * rows + each(-drift, drift, channels) * columns
    background = 0.4 * top + each(-drift, drift, channels) + slope
    strength = each(60, 160, channels) if bits == 16 else each(25, 60, channels)
    noise = rng.normal(0.0, 40.0 if bits == 16 else 15.0, (count, channels, SIDE, SIDE))
    stored = np.clip(np.round(background + strength * wave + noise), 0, top - 1)
    return stored / (top - 1), labels


def encoder_of(source: Made, seed: int) -> Any:
    """A small encoder with fresh weights."""
    torch.manual_seed(seed)
    return resnet8(source.input, stem="small", width=8)


def train(source: Made, arm: str, seed: int, seconds: float) -> dict[str, Any]:
    """Train for a time of the process, and probe."""
    encoder = encoder_of(source, seed)
    method = SimCLR(encoder, hidden_dim=128, dim=64, temperature=0.1).train()
    policy, quantization = ARMS[arm]
    views = TwoViews(
        crop=RandomResizedCrop(scale=(0.4, 1.0)), policy=policy, flip=0.0,
        randomized_quantization=quantization,
    )  # fmt: skip
    optimizer = AdamW(lr=2e-3, weight_decay=0.05)
    built = optimizer.build(method, 64)
    plan = BatchPlan.of(source, 64, seed, 0, 1)
    steps, began = 0, time.process_time()
    for step, batch in enumerate(batches(source, views, plan, start=0, stop=10**6, workers=0)):
        progress = (time.process_time() - began) / seconds
        if progress >= 1.0:
            break
        rise, fall = min(1.0, progress / 0.05), (1.0 + math.cos(math.pi * progress)) / 2.0
        optimizer.set_rates(built, rise * fall, progress)
        context = ViewContext(source.input, seed, plan.epoch_of(step))
        device = torch.device("cpu")
        loss = method(views(batch, context, step=step, progress=progress, device=device)).loss
        built.zero_grad()
        torch.autograd.backward(loss)
        built.step()
        steps += 1
    return {"top1": probe(source, encoder), "steps": steps, "loss": float(loss.detach())}


@torch.no_grad()
def probe(source: Made, encoder: Any) -> float:
    """Top-1 of logistic regression on standardized features; `None` for the pixels."""
    x = source.input.prepare(source.everything_x)
    parts = [part.flatten(1) if encoder is None else encoder.eval()(part) for part in x.split(256)]
    features: Tensor = torch.cat(parts)
    seen = features[:TRAIN]
    features = (features - seen.mean(dim=0)) / seen.std(dim=0).clamp(min=1e-6)
    y = source.everything_y
    fitted = LogisticRegression(C=0.1, max_iter=500).fit(features[:TRAIN], y[:TRAIN])
    return float(fitted.score(features[TRAIN:], y[TRAIN:]))


def cell(out: Path, name: str, arm: str, seed: int, seconds: float) -> dict[str, Any]:
    """Run one cell, unless it is done."""
    file = out / f"{name}-{arm.replace(' ', '_')}-{seed}-{seconds:g}.json"
    if not file.is_file():
        source = Made(name=name, reduced=arm.endswith("8 bits"))
        if arm in ARMS:
            found = train(source, arm, seed, seconds)
        else:
            encoder = None if arm.startswith("pixels") else encoder_of(source, seed)
            found = {"top1": probe(source, encoder), "steps": 0}
        write_json(file, found)
    done: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
    print(f"<!-- {name}, {arm}, seed {seed}: {done['top1']:.3f}, {done['steps']} steps -->")
    return done


def shown(values: list[float]) -> str:
    """Mean and half of its interval, of three values."""
    if len(values) < 3:
        return f"{statistics.mean(values):.3f}"
    half = T_2 * statistics.stdev(values) / math.sqrt(len(values))
    return f"{statistics.mean(values):.3f} ± {half:.3f}"


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("out", type=Path)
    parser.add_argument("--seconds", type=float, default=6.0)
    parser.add_argument("--seeds", type=int, default=3)
    options = parser.parse_args()
    torch.set_num_threads(1)
    options.out.mkdir(parents=True, exist_ok=True)
    began, rows, seeds = time.process_time(), dict[str, list[str]](), range(options.seeds)
    found: dict[tuple[str, str], list[float]] = {}
    for arm in ("pixels", "pixels of 8 bits", "untrained", *ARMS):
        for name in BITS:
            own = range(1) if arm.startswith("pixels") else seeds
            values = [cell(options.out, name, arm, s, options.seconds)["top1"] for s in own]
            found[arm, name] = values
            rows.setdefault(arm, []).append(shown(values))
    for first, second in PAIRS:
        for name in BITS:
            pairs = zip(found[first, name], found[second, name], strict=True)
            values = [a - b for a, b in pairs]
            rows.setdefault(f"{first} − {second}", []).append(shown(values))
    print(f"\n| views | {' | '.join(BITS)} |\n|{'---|' * (len(BITS) + 1)}")
    for arm, values in rows.items():
        print(f"| {arm} | {' | '.join(values)} |")
    print(f"\n{time.process_time() - began:.0f} s of processor time in this call")


if __name__ == "__main__":
    main()
