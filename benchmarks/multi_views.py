"""Eight views of each image, four policies on two shared crops, against torchvision v2.

On one core; torchvision works image by image.

    python benchmarks/multi_views.py [--size 32] [--repeats 5]

Both sides cut two crops (area 0.08 to 1), mirror half of them, put each through SimCLR's policy,
RandAugment, AutoAugment and TrivialAugment (which stands for Fast AutoAugment, whose archive
torchvision does not have), and normalize all views. Ours gets a uint8 batch in memory, torchvision
Pillow images or uint8 tensors. They take turns, and time is processor time.
"""

import argparse
import statistics
import sys
import time
from collections.abc import Callable
from typing import Any

import torch
from policies import timed  # type: ignore[import-not-found]
from torch import Tensor
from torchvision.transforms import v2
from views import BATCH, as_pillow, blur_kernel, pictures, processor, version  # type: ignore[import-not-found]

from mezzotint.augment.image.auto_augment import AutoAugment
from mezzotint.augment.image.geometry import RandomResizedCrop
from mezzotint.augment.image.multi_augment import MultiAugment
from mezzotint.augment.image.policies import simclr
from mezzotint.augment.image.rand_augment import RandAugment, TrivialAugment
from mezzotint.augment.views import ViewContext
from mezzotint.types import IMAGENET_MEAN, IMAGENET_STD, Batch, Input


def ours(x: Tensor) -> Callable[[], object]:
    policies = [simclr(), RandAugment(), AutoAugment(), TrivialAugment()]
    views = MultiAugment(policies=policies, crop=RandomResizedCrop(scale=(0.08, 1.0)))
    batch, input = (
        Batch((x,), torch.arange(len(x))),
        Input(tuple(x.shape[1:]), IMAGENET_MEAN, IMAGENET_STD),
    )
    epoch = iter(range(1_000_000))
    return lambda: views(batch, ViewContext(input, 0, next(epoch)), step=0)


def theirs(size: int) -> Callable[[Any], list[Tensor]]:
    crop = v2.Compose(
        [
            v2.RandomResizedCrop(size, scale=(0.08, 1.0), antialias=True),
            v2.RandomHorizontalFlip(0.5),
        ]
    )
    policy = [
        v2.RandomApply([v2.ColorJitter(0.8, 0.8, 0.8, 0.2)], p=0.8),
        v2.RandomGrayscale(0.2),
        v2.RandomApply([v2.GaussianBlur(blur_kernel(size), (0.1, 2.0))], p=0.5),
    ]
    policies = [v2.Compose(policy), v2.RandAugment(), v2.AutoAugment(), v2.TrivialAugmentWide()]
    finish = v2.Compose(
        [
            v2.ToImage(),
            v2.ToDtype(torch.float32, scale=True),
            v2.Normalize(IMAGENET_MEAN, IMAGENET_STD),
        ]
    )

    def views(image: Any) -> list[Tensor]:
        crops = (crop(image), crop(image))
        return [finish(policy(cut)) for cut in crops for policy in policies]

    return views


def main() -> None:
    parser = argparse.ArgumentParser(
        description="Eight views an image on one core, images a second."
    )
    parser.add_argument("--size", type=int, default=32, choices=sorted(BATCH))
    parser.add_argument("--repeats", type=int, default=5)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    x = pictures(BATCH[arguments.size], arguments.size)
    part = x[:16]
    each, pillow = theirs(arguments.size), as_pillow(part)
    sides: dict[str, tuple[Callable[[], object], int]] = {
        "mezzotint": (ours(x), len(x)),
        "torchvision, Pillow": (lambda: [each(image) for image in pillow], len(part)),
        "torchvision, tensors": (lambda: [each(image) for image in part], len(part)),
    }
    rates: dict[str, list[float]] = {name: [] for name in sides}
    for repeat in range(-1, arguments.repeats):
        for name, (run, count) in sides.items():
            rate = timed(run, count, 0.5)
            rates[name] += [rate] if repeat >= 0 else []
    print("# Eight views of an image: four policies on two shared crops, one core\n")
    print(
        f"`python {' '.join(sys.argv)}`, commit {version('mezzotint')}, "
        f"{time.strftime('%Y-%m-%d')},"
    )
    print(f"{processor()}, torch {torch.__version__}, torchvision {version('torchvision')}.")
    print("Images of eight views a second of processor time: median (slowest to fastest repeat).\n")
    print(f"| {arguments.size} px | images a second | mezzotint is faster by |\n|---|---|---|")
    fast = statistics.median(rates["mezzotint"])
    for name, found in rates.items():
        median = statistics.median(found)
        print(
            f"| {name} | {median:,.0f} ({min(found):,.0f} to {max(found):,.0f}) | "
            f"{fast / median:.1f}× |"
        )


if __name__ == "__main__":
    main()
