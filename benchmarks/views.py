"""Two SimCLR views of images in memory: Mezzotint against the usual pipelines, on one core.

    python benchmarks/views.py [--sizes 32 96 224] [--repeats 7]

Every side makes two views with the same operations, probabilities and sizes: random resized crop
(area 0.08 to 1), flip (1/2), jitter of (0.8, 0.8, 0.8, 0.2) (8/10), grayscale (2/10), blur with
sigma 0.1 to 2 (1/2), normalize. Each side gets its images in memory in the form it takes fastest;
the images have the size of the views. Each side has a process of its own, so that none profits from
what another did to the memory allocator. The sides take turns, and time is processor
time, so that other work on the machine costs a side only some of the caches.
Sides whose package is missing are left out.

Differences that remain: Pillow's blur (lightly) is three box filters, whatever the sigma, where the
others convolve with a kernel of a tenth of the image; batched torchvision draws one set of
parameters for all images of a batch, and kornia one order of the jitter; so neither makes the same
views, and they are printed for the record.
"""

import argparse
import importlib.metadata
import importlib.util
import multiprocessing
import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from mezzotint.augment.image.geometry import RandomResizedCrop
from mezzotint.augment.image.policies import simclr
from mezzotint.augment.image.views import TwoViews
from mezzotint.augment.views import ViewContext
from mezzotint.types import IMAGENET_MEAN, IMAGENET_STD, Batch, Input

BATCH = {32: 256, 96: 128, 224: 32}
Side = Callable[[], object]


def pictures(count: int, size: int) -> Tensor:
    """Smooth random images, uint8 `[count, 3, size, size]`."""
    noise = torch.rand(count, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    return (
        (torch.nn.functional.interpolate(noise, size=(size, size), mode="bicubic") * 255)
        .clamp(0, 255)
        .byte()
    )


def blur_kernel(size: int) -> int:
    return size // 10 // 2 * 2 + 1


def mezzotint(x: Tensor) -> Side:
    size = x.shape[-1]
    views = TwoViews(crop=RandomResizedCrop(scale=(0.08, 1.0)), policy=simclr())
    batch, input = (
        Batch((x,), torch.arange(len(x))),
        Input((3, size, size), IMAGENET_MEAN, IMAGENET_STD),
    )
    epoch = iter(range(1_000_000))
    return lambda: views(batch, ViewContext(input, 0, next(epoch)), step=0)


def as_pillow(x: Tensor) -> list[Any]:
    from PIL import Image

    return [Image.fromarray(image.permute(1, 2, 0).numpy()) for image in x]


def lightly(x: Tensor) -> Side:
    from lightly.transforms import SimCLRTransform

    images, transform = as_pillow(x), SimCLRTransform(input_size=x.shape[-1])
    return lambda: [transform(image) for image in images]


def torchvision_transform(size: int) -> Callable[[Any], Tensor]:
    from torchvision.transforms import v2

    transform: Callable[[Any], Tensor] = v2.Compose(
        [
            v2.RandomResizedCrop(size, scale=(0.08, 1.0), antialias=True),
            v2.RandomHorizontalFlip(0.5),
            v2.RandomApply([v2.ColorJitter(0.8, 0.8, 0.8, 0.2)], p=0.8),
            v2.RandomGrayscale(0.2),
            v2.RandomApply([v2.GaussianBlur(blur_kernel(size), (0.1, 2.0))], p=0.5),
            v2.ToImage(),
            v2.ToDtype(torch.float32, scale=True),
            v2.Normalize(IMAGENET_MEAN, IMAGENET_STD),
        ]
    )
    return transform


def torchvision_pillow(x: Tensor) -> Side:
    images, transform = as_pillow(x), torchvision_transform(x.shape[-1])
    return lambda: [(transform(image), transform(image)) for image in images]


def torchvision_tensor(x: Tensor) -> Side:
    transform = torchvision_transform(x.shape[-1])
    return lambda: [(transform(image), transform(image)) for image in x]


def torchvision_batch(x: Tensor) -> Side:
    transform = torchvision_transform(x.shape[-1])
    return lambda: (transform(x), transform(x))


def kornia(x: Tensor) -> Side:
    import kornia.augmentation as K

    size, kernel = x.shape[-1], blur_kernel(x.shape[-1])
    transform = torch.nn.Sequential(
        K.RandomResizedCrop((size, size), scale=(0.08, 1.0)),
        K.RandomHorizontalFlip(p=0.5),
        K.ColorJitter(0.8, 0.8, 0.8, 0.2, p=0.8),
        K.RandomGrayscale(p=0.2),
        K.RandomGaussianBlur((kernel, kernel), (0.1, 2.0), p=0.5),
        K.Normalize(torch.tensor(IMAGENET_MEAN), torch.tensor(IMAGENET_STD)),
    )

    def run() -> object:
        image = x.float() / 255
        return transform(image), transform(image)

    return run


def albumentations(x: Tensor) -> Side:
    import albumentations as A

    size = x.shape[-1]
    transform = A.Compose(
        [
            A.RandomResizedCrop((size, size), scale=(0.08, 1.0)),
            A.HorizontalFlip(p=0.5),
            A.ColorJitter((0.2, 1.8), (0.2, 1.8), (0.2, 1.8), (-0.2, 0.2), p=0.8),
            A.ToGray(p=0.2),
            A.GaussianBlur(blur_limit=(blur_kernel(size),) * 2, sigma_limit=(0.1, 2.0), p=0.5),
            A.Normalize(IMAGENET_MEAN, IMAGENET_STD),
            A.ToTensorV2(),
        ]
    )
    images = [np.ascontiguousarray(image.permute(1, 2, 0).numpy()) for image in x]
    return lambda: [(transform(image=image), transform(image=image)) for image in images]


SIDES: dict[str, tuple[str, str, Callable[[Tensor], Side]]] = {
    "mezzotint": ("mezzotint", "uint8 batch", mezzotint),
    "lightly `SimCLRTransform`": ("lightly", "PIL, one by one", lightly),
    "torchvision v2": ("torchvision", "PIL, one by one", torchvision_pillow),
    "torchvision v2 ": ("torchvision", "uint8 tensors, one by one", torchvision_tensor),
    "torchvision v2, parameters shared": ("torchvision", "uint8 batch", torchvision_batch),
    "kornia": ("kornia", "uint8 batch", kornia),
    "albumentations": ("albumentations", "uint8 arrays, one by one", albumentations),
}


def serve(name: str, size: int, connection: Connection) -> None:
    """Answer each message with a rate: what the process of one side does."""
    torch.set_num_threads(1)
    x = pictures(BATCH[size], size)
    run = SIDES[name][2](x)
    while connection.recv():
        start, count = time.process_time(), 0
        while (elapsed := time.process_time() - start) < 0.5:
            run()
            count += len(x)
        connection.send(count / elapsed)


def measure(size: int, repeats: int) -> dict[str, list[float]]:
    """Pairs a second of each side, `repeats` times in turn."""
    context = multiprocessing.get_context("spawn")
    sides: dict[str, Connection] = {}
    for name, (package, _, _) in SIDES.items():
        if importlib.util.find_spec(package):
            sides[name], theirs = context.Pipe()
            context.Process(target=serve, args=(name, size, theirs), daemon=True).start()
    rates: dict[str, list[float]] = {name: [] for name in sides}
    for repeat in range(-1, repeats):  # the first round is for warming up
        for name, connection in sides.items():
            connection.send(True)
            rate = connection.recv()
            if repeat >= 0:
                rates[name].append(rate)
    for connection in sides.values():
        connection.send(False)
    return rates


def version(package: str) -> str:
    if package == "mezzotint":
        return subprocess.run(
            ["git", "describe", "--always", "--dirty"],
            capture_output=True,
            text=True,
            cwd=Path(__file__).parent,
        ).stdout.strip()
    return importlib.metadata.version(package)


def processor() -> str:
    info = Path("/proc/cpuinfo")
    names = [
        line.split(":")[1].strip()
        for line in info.read_text().splitlines()
        if line.startswith("model name")
    ]
    return names[0] if names else platform.processor()


def main() -> None:
    parser = argparse.ArgumentParser(
        description="Two SimCLR views on one core, pairs of views a second."
    )
    parser.add_argument(
        "--sizes", type=int, nargs="+", default=[32, 96, 224], choices=sorted(BATCH)
    )
    parser.add_argument("--repeats", type=int, default=7)
    arguments = parser.parse_args()
    os.environ |= {
        "NO_ALBUMENTATIONS_UPDATE": "1",
        "OPENCV_FOR_THREADS_NUM": "1",
        "OMP_NUM_THREADS": "1",
    }
    results = {size: measure(size, arguments.repeats) for size in arguments.sizes}
    print("# Two SimCLR views, images in memory, one core\n")
    print(
        f"`python {' '.join(sys.argv)}`, {time.strftime('%Y-%m-%d')}, {processor()}, torch "
        f"{torch.__version__}."
    )
    print(
        f"Batches of {', '.join(f'{BATCH[size]} at {size} px' for size in results)}; "
        f"{arguments.repeats} repeats."
    )
    print(
        "Pairs of views a second: median (slowest to fastest repeat), and how many times as fast "
        "Mezzotint is.\n"
    )
    print("| | version | images | " + " | ".join(f"{size} px" for size in results) + " |")
    print("|---|---|---|" + "---|" * len(results))
    for name, (package, form, _) in SIDES.items():
        cells = []
        for rates in results.values():
            if name not in rates:
                cells.append("not installed")
                continue
            rate, ours = statistics.median(rates[name]), statistics.median(rates["mezzotint"])
            spread = f"({min(rates[name]):,.0f} to {max(rates[name]):,.0f})"
            cells.append(
                f"{rate:,.0f} {spread}" + ("" if name == "mezzotint" else f", {ours / rate:.1f}×")
            )
        installed = version(package) if importlib.util.find_spec(package) else ""
        print(f"| {name.strip()} | {installed} | {form} | " + " | ".join(cells) + " |")


if __name__ == "__main__":
    main()
