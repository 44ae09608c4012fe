"""The linear probe to its optimum against 100 epochs of SGD, on the same cached features.

    python benchmarks/linear_probe.py [--repeats 5] [--only emoji mnist5k synthetic]

SGD is run as the papers run it: momentum 0.9, no weight decay, batch 256, 100 epochs, the learning
rate divided by ten after 60 and 80. Both sides get the same features, centered and scaled as a
whole, which is in SGD's favor: its learning rate need not fit the encoder's scale.

Three comparisons:

- *one fit*: our solver at one penalty against SGD at one learning rate, both already known (chosen
  beforehand on a held-out fifth of the training samples): the time that a setting costs.
- *protocol*: the whole probe, selection and final fit, of one seed: ours along its path of
  penalties, SGD over six learning rates on the same fifth, then both on all training samples.
- *as published*: SGD at one known learning rate where every epoch crops and flips the images again
  and takes them through the frozen encoder; against extracting the features once and our whole
  probe. Run in full, once.

Data: features of an untrained ResNet-18 (512) of the emoji, of MNIST-5k, and 50,000 synthetic ones
of 100 classes: class means and noise in 64 dimensions, taken through two random rectified layers.
The process's time is compared, on one thread; the sides take turns; medians. Where a run takes
minutes, it is made once.
"""

import argparse
import platform
import statistics
import subprocess
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from mezzotint.augment.image.geometry import HorizontalFlip, RandomResizedCrop
from mezzotint.data.image.embedded import EmbeddedImages
from mezzotint.data.listing.sampling import held_out
from mezzotint.encoders.encoder import Encoder
from mezzotint.encoders.resnet import resnet18
from mezzotint.evaluation.features import extract
from mezzotint.evaluation.linear import Linear, Scaling
from mezzotint.evaluation.logistic import fit
from mezzotint.seeding import Draws, key_of
from mezzotint.types import Features

EPOCHS, BATCH = 100, 256
RATES = (0.003, 0.01, 0.03, 0.1, 0.3, 1.0)


@dataclass
class Case:
    """Features of a data set, and where they come from."""

    name: str
    train: Features
    test: Features
    encoder: Encoder | None = None
    images: Tensor | None = None


def from_encoder(name: str, source: EmbeddedImages, task: int) -> Case:
    torch.manual_seed(0)
    encoder = resnet18(source.input).eval()
    chosen = source.evaluation()[1][task]
    x, y = extract(encoder, source), torch.from_numpy(chosen.labels)
    train, test = torch.from_numpy(chosen.train), torch.from_numpy(chosen.test)
    return Case(
        name,
        Features(x[train], y[train]),
        Features(x[test], y[test]),
        encoder,
        source.images[train],
    )


def synthetic(rows: int = 50_000, test: int = 10_000, dim: int = 512, classes: int = 100) -> Case:
    g = torch.Generator().manual_seed(0)
    means = torch.randn(classes, 64, generator=g)
    first, second = torch.randn(64, 256, generator=g) / 8, torch.randn(256, dim, generator=g) / 16
    y = torch.randint(classes, (rows + test,), generator=g)
    hidden = torch.relu((means[y] + 2.0 * torch.randn(len(y), 64, generator=g)) @ first)
    x = torch.relu(hidden @ second + 0.3 * torch.randn(len(y), dim, generator=g))
    return Case("synthetic", Features(x[:rows], y[:rows]), Features(x[rows:], y[rows:]))


def sgd(
    x: Tensor,
    y: Tensor,
    classes: int,
    rate: float,
    features_of: Callable[[Tensor, int], Tensor] | None = None,
) -> torch.nn.Linear:
    """Train a linear layer; `features_of` extracts the features of some samples in this epoch."""
    torch.manual_seed(0)
    with torch.no_grad():
        dim = (x if features_of is None else features_of(torch.arange(1), 0)).shape[1]
    layer = torch.nn.Linear(dim, classes)
    torch.nn.init.normal_(layer.weight, std=0.01)
    torch.nn.init.zeros_(layer.bias)
    optimizer = torch.optim.SGD(layer.parameters(), lr=rate, momentum=0.9)
    schedule = torch.optim.lr_scheduler.MultiStepLR(optimizer, [60, 80])
    for epoch in range(EPOCHS):
        for rows in torch.split(torch.randperm(len(x)), BATCH):
            features = x[rows] if features_of is None else features_of(rows, epoch)
            optimizer.zero_grad()
            cross_entropy(layer(features), y[rows]).backward()
            optimizer.step()
        schedule.step()
    return layer


def sgd_protocol(x: Tensor, y: Tensor, classes: int) -> tuple[torch.nn.Linear, float]:
    """Choose the learning rate on the held-out fifth, then train on everything."""
    out = torch.from_numpy(held_out(y.numpy(), 0.2, "linear/0"))
    found: dict[float, tuple[int, float]] = {}
    for rate in RATES:
        layer = sgd(x[~out], y[~out], classes, rate)
        logits = layer(x[out])
        found[rate] = (
            int((logits.argmax(dim=1) != y[out]).sum()),
            cross_entropy(logits, y[out]).item(),
        )
    best = min(found, key=found.__getitem__)
    return sgd(x, y, classes, best), best


def accuracy(logits: Tensor, y: Tensor) -> float:
    return (logits.argmax(dim=1) == y).double().mean().item()


def timed(run: Callable[[], float]) -> tuple[float, float]:
    start = time.process_time()
    value = run()
    return time.process_time() - start, value


def turns(sides: dict[str, Callable[[], float]], repeats: int) -> dict[str, tuple[float, float]]:
    """Median seconds and accuracy of each side, by turns."""
    found: dict[str, list[tuple[float, float]]] = {name: [] for name in sides}
    for _ in range(repeats):
        for name, side in sides.items():
            found[name].append(timed(side))
    return {
        name: (statistics.median(s for s, _ in runs), statistics.median(a for _, a in runs))
        for name, runs in found.items()
    }


def compare(case: Case, repeats: int) -> None:
    train, test = case.train, case.test
    assert train.y is not None and test.y is not None
    y, answers = train.y, test.y
    classes = int(y.max()) + 1
    scaling = Scaling.of(train.x)
    x, queries = scaling(train.x), scaling(test.x)
    rows = {row.metric: row.value for row in Linear().run(train, test)}
    penalty = rows["penalty"]
    _, rate = sgd_protocol(x, y, classes)

    def ours() -> float:
        scaled = Scaling.of(train.x)
        return accuracy(fit(scaled(train.x), y, classes, penalty).logits(scaled(test.x)), answers)

    def theirs() -> float:
        return accuracy(sgd(x, y, classes, rate)(queries), answers)

    def our_protocol() -> float:
        return next(row.value for row in Linear().run(train, test) if row.metric == "top1")

    def their_protocol() -> float:
        return accuracy(sgd_protocol(x, y, classes)[0](queries), answers)

    shape = f"{case.name} {len(x)} x {x.shape[1]}, {classes} classes"
    few = 1 if len(x) > 20_000 else repeats
    report(
        shape,
        f"one fit (penalty {penalty:.2g}, rate {rate})",
        turns({"ours": ours, "sgd": theirs}, repeats),
    )
    report(shape, "protocol, one seed", turns({"ours": our_protocol, "sgd": their_protocol}, few))
    if case.encoder is not None and case.images is not None:
        report(shape, f"as published (rate {rate})", published(case, scaling, rate, our_protocol))


def published(
    case: Case, scaling: Scaling, rate: float, our_protocol: Callable[[], float]
) -> dict[str, tuple[float, float]]:
    """Every epoch through the encoder, on new crops."""
    encoder, images, y = case.encoder, case.images, case.train.y
    assert encoder is not None and images is not None and y is not None and case.test.y is not None
    mean, std = (torch.tensor(v).view(-1, 1, 1) for v in (encoder.input.mean, encoder.input.std))
    crop, flip = RandomResizedCrop(scale=(0.08, 1.0)), HorizontalFlip()

    @torch.no_grad()
    def features_of(rows: Tensor, epoch: int) -> Tensor:
        draws = Draws(rows, key_of(0, epoch))
        made = flip(crop(images[rows].float() / 255, draws.fold("crop")), draws.fold("flip"))
        return scaling(encoder((made - mean) / std))

    def extracted() -> float:
        with torch.no_grad():
            for part in torch.split(images, BATCH):
                encoder((part.float() / 255 - mean) / std)
        return our_protocol()

    def theirs() -> float:
        layer = sgd(images, y, int(y.max()) + 1, rate, features_of)
        assert case.test.y is not None
        return accuracy(layer(scaling(case.test.x)), case.test.y)

    return turns({"ours": extracted, "sgd": theirs}, 1)


def report(case: str, comparison: str, found: dict[str, tuple[float, float]]) -> None:
    (ours, our_accuracy), (theirs, their_accuracy) = found["ours"], found["sgd"]
    print(
        f"| {case} | {comparison} | {ours:.3f} s | {theirs:.2f} s | {theirs / ours:.1f}x "
        f"| {our_accuracy:.4f} | {their_accuracy:.4f} |",
        flush=True,
    )


def processor() -> str:
    lines = (
        Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        if Path("/proc/cpuinfo").exists()
        else []
    )
    return next(
        (line.split(":")[1].strip() for line in lines if line.startswith("model name")),
        platform.processor(),
    )


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--only", nargs="*", default=["emoji", "mnist5k", "synthetic"])
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    commit = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=False
    )
    print(f"commit {commit.stdout.strip()}, torch {torch.__version__}, {processor()}, one thread")
    print(
        f"command: python benchmarks/linear_probe.py --repeats {options.repeats} --only "
        f"{' '.join(options.only)}\n"
    )
    print("| features | comparison | ours | SGD, 100 epochs | ratio | top-1, ours | top-1, SGD |")
    print("|---|---|---|---|---|---|---|")
    cases: dict[str, Callable[[], Case]] = {
        "emoji": lambda: from_encoder("emoji", EmbeddedImages(), 1),
        "mnist5k": lambda: from_encoder("mnist5k", EmbeddedImages(name="mnist5k"), 0),
        "synthetic": synthetic,
    }
    for name in options.only:
        compare(cases[name](), options.repeats)


if __name__ == "__main__":
    main()
