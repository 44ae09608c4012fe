"""RandAugment, AutoAugment and others on a batch, against torchvision v2 image by image.

On one core, images in memory.

    python benchmarks/policies.py [--sizes 32 96] [--repeats 7]

Both sides start from the same images and draw parameters of their own from the same space. Ours
gets the batch as float in [0, 1], as a view generator has it after the crop, and does what that
does: it draws for the batch, and applies it to some rows at a time. Torchvision gets
Pillow images or uint8 tensors, each as published. The sides take turns, and time is processor
time.
"""

import argparse
import statistics
import time
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torchvision.transforms import v2
from views import as_pillow, pictures, processor, version  # type: ignore[import-not-found]

from mezzotint.augment.image.aug_mix import AugMix
from mezzotint.augment.image.auto_augment import AutoAugment
from mezzotint.augment.image.policies import Policy
from mezzotint.augment.image.rand_augment import RandAugment, TrivialAugment
from mezzotint.augment.image.render import rows_of
from mezzotint.memory import keep_freed_memory
from mezzotint.seeding import Draws

BATCH = {32: 1024, 96: 300}
AT_A_TIME = {32: 512, 96: 75}  # rows of a view generator
POLICIES: dict[str, tuple[Policy, Callable[[Any], Any]]] = {
    "RandAugment": (RandAugment(), v2.RandAugment()),
    "AutoAugment, ImageNet": (AutoAugment(), v2.AutoAugment()),
    "AutoAugment, CIFAR-10": (
        AutoAugment(policy="cifar10"),
        v2.AutoAugment(v2.AutoAugmentPolicy.CIFAR10),
    ),
    "TrivialAugment": (TrivialAugment(), v2.TrivialAugmentWide()),
    "AugMix": (AugMix(), v2.AugMix()),
}


def timed(run: Callable[[], object], count: int, seconds: float = 0.25) -> float:
    """Images a second."""
    start, done = time.process_time(), 0
    while (elapsed := time.process_time() - start) < seconds:
        run()
        done += count
    return done / elapsed


def measure(policy: Policy, other: Callable[[Any], Any], x: Tensor, repeats: int) -> list[float]:
    """Medians of the rates of ours, of torchvision on Pillow images, and on tensors."""
    floats, pillow, tensors = x / 255.0, as_pillow(x), list(x)
    part = len(x) // 12  # one image at a time costs the same whatever their number
    epoch = iter(range(1_000_000))
    length = AT_A_TIME[x.shape[-1]]
    parts = [slice(start, start + length) for start in range(0, len(x), length)]

    def batched() -> None:
        drawn = policy.draw(floats.shape, Draws(torch.arange(len(x)), next(epoch)))
        for rows in parts:
            policy.apply(floats[rows], rows_of(drawn, rows))

    rates: list[list[float]] = [[], [], []]
    for repeat in range(-1, repeats):
        found = [
            timed(batched, len(x)),
            timed(lambda: [other(image) for image in pillow[:part]], part),
            timed(lambda: [other(image) for image in tensors[:part]], part),
        ]
        for side, rate in zip(rates, found, strict=True):
            side += [rate] if repeat >= 0 else []
    return [statistics.median(side) for side in rates]


def main() -> None:
    parser = argparse.ArgumentParser(
        description="Policies on a batch in memory, one core, images a second."
    )
    parser.add_argument("--sizes", type=int, nargs="+", default=[32, 96], choices=sorted(BATCH))
    parser.add_argument("--repeats", type=int, default=7)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    keep_freed_memory()  # as a view generator does
    print("# Policies on a batch in memory, one core\n")
    print(
        f"`python benchmarks/policies.py --repeats {arguments.repeats}`, commit "
        f"{version('mezzotint')},"
    )
    print(
        f"{time.strftime('%Y-%m-%d')}, {processor()}, torch {torch.__version__}, torchvision "
        f"{version('torchvision')}."
    )
    print(
        "Images a second, medians; and how many times as fast as the faster side of torchvision.\n"
    )
    print(
        "| policy | px | mezzotint | torchvision, Pillow | torchvision, tensors | times "
        "|\n|---|---|---|---|---|---|"
    )
    for size in arguments.sizes:
        x = pictures(BATCH[size], size)
        for name, (policy, other) in POLICIES.items():
            ours, pillow, tensors = measure(policy, other, x, arguments.repeats)
            times = ours / max(pillow, tensors)
            print(
                f"| {name} | {size} | {ours:,.0f} | {pillow:,.0f} | {tensors:,.0f} | {times:.1f} |",
                flush=True,
            )


if __name__ == "__main__":
    main()
