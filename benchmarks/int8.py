"""Our int8 ONNX against the float ONNX of the same encoder, in the same runtime.

    python benchmarks/int8.py [--repeats 15] [--only resnet18 vit_small_patch16_224] >
    benchmarks/results/int8.md

Both sides run in ONNX Runtime on one thread and take turns; wall time and the process's time,
medians. The networks are untrained, with BatchNorm statistics measured on a batch, so the cosine
says how faithful the arithmetic is and nothing about accuracy. Calibrated on 64 random smooth
images, compared on 32 others. Also with weights of 7 bits, which processors without VNNI need: on
such a processor, `int8, 8-bit weights` saturates.
"""

import argparse
import os
import platform
import statistics
import subprocess
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import onnxruntime
import torch
from torch import Tensor, nn
from torch.nn.functional import cosine_similarity, interpolate

from mezzotint.encoders.encoder import Encoder
from mezzotint.encoders.resnet import resnet18
from mezzotint.encoders.timm import timm
from mezzotint.export.float_formats import write_onnx
from mezzotint.quant.onnx import qdq as cpu
from mezzotint.quant.onnx.qdq import quantize_onnx
from mezzotint.quant.onnx.session import OnnxFunction
from mezzotint.types import IMAGENET_MEAN, IMAGENET_STD, Input

INPUT = Input((3, 224, 224), IMAGENET_MEAN, IMAGENET_STD)
NETWORKS: dict[str, Callable[[], Encoder]] = {
    "resnet18": lambda: resnet18(INPUT),
    "vit_small_patch16_224": lambda: timm(INPUT, name="vit_small_patch16_224"),
}
AIMS = {"resnet18": (1.6, 0.999, 0.27), "vit_small_patch16_224": (1.4, 0.995, None)}


def images(count: int, seed: int) -> Tensor:
    """Random images with structure at several scales, normalized to mean 0 and std 1."""
    generator = torch.Generator().manual_seed(seed)
    x = sum(
        interpolate(
            torch.randn(count, 3, size, size, generator=generator), (224, 224), mode="bilinear"
        )
        for size in (2, 7, 28, 224)
    )
    assert isinstance(x, Tensor)
    return (x - x.mean()) / x.std()


def warmed(encoder: Encoder) -> Encoder:
    """With BatchNorm statistics of data, as after training."""
    norms = [module for module in encoder.modules() if isinstance(module, nn.BatchNorm2d)]
    if norms:
        for norm in norms:
            norm.momentum = None
        with torch.no_grad():
            encoder.train()(images(32, seed=3))
    return encoder.eval()


def times(
    sides: dict[str, OnnxFunction], x: Tensor, repeats: int
) -> dict[str, tuple[float, float]]:
    """Median milliseconds of each side, by the clock and of the process."""
    found: dict[str, list[tuple[float, float]]] = {name: [] for name in sides}
    for function in sides.values():
        function(x)
    for _ in range(repeats):
        for name, function in sides.items():
            wall, used = time.perf_counter(), time.process_time()
            function(x)
            found[name].append(
                (1000 * (time.perf_counter() - wall), 1000 * (time.process_time() - used))
            )
    return {
        n: (statistics.median(a for a, _ in v), statistics.median(b for _, b in v))
        for n, v in found.items()
    }


def measure(name: str, folder: Path, repeats: int) -> None:
    torch.manual_seed(0)
    paths = {side: folder / f"{name}-{side}.onnx" for side in ("float", "8", "7")}
    write_onnx(warmed(NETWORKS[name]()), paths["float"])
    batches = list(torch.split(images(64, seed=1), 8))
    done = {}
    for side, reduce_range in (("8", False), ("7", True)):
        done[side] = quantize_onnx(paths["float"], paths[side], batches, reduce_range=reduce_range)
    sides = {side: OnnxFunction(path) for side, path in paths.items()}
    tests = torch.split(images(32, seed=2), 8)
    features = {side: torch.cat([function(x) for x in tests]) for side, function in sides.items()}
    closeness = {}
    for side in ("8", "7"):
        simulation = OnnxFunction(paths[side], optimize=False)
        alike = cosine_similarity(features[side], torch.cat([simulation(x) for x in tests])).mean()
        near = cosine_similarity(features[side], features["float"])
        closeness[side] = f"{near.mean():.5f} | {near.min():.5f} | {alike:.5f}"
    speed, least, size = AIMS[name]
    aim = f"{speed}×, {least}" + (f", {size}×" if size else "")
    for batch in (1, 8):
        took = times(sides, tests[0][:batch], repeats)
        for side in ("8", "7"):
            ratio = paths[side].stat().st_size / paths["float"].stat().st_size
            kernels = ", ".join(
                f"{count} {kind}" for kind, count in done[side].integer_kernels.items()
            )
            wall, used = (took["float"][index] / took[side][index] for index in (0, 1))
            print(
                f"| {name} | {batch} | {side} | {took['float'][0]:.1f} | {took[side][0]:.1f} | "
                f"**{wall:.2f}×** | "
                f"{used:.2f}× | {closeness[side]} | {ratio:.3f}× | {kernels} | {aim} |"
            )


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--repeats", type=int, default=15)
    parser.add_argument("--only", nargs="*", default=list(NETWORKS), choices=list(NETWORKS))
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    commit = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=False
    ).stdout
    print(
        f"`python benchmarks/int8.py --repeats {arguments.repeats} --only "
        f"{' '.join(arguments.only)}`, ",
        end="",
    )
    print(f"commit {commit.strip()}, {platform.machine()}, {os.cpu_count()} cores, one used,")
    print(
        f"integer instructions: {', '.join(cpu.flags()) or 'none'}; onnxruntime "
        f"{onnxruntime.__version__}, ",
        end="",
    )
    print(f"torch {torch.__version__}\n")
    print("| network | batch | weight bits | float ms | int8 ms | speed-up | process time ", end="")
    print(
        "| cosine to float, mean | least | to simulation | file | integer kernels | aim: "
        "speed-up, cosine, file |"
    )
    print("|---|---|---|---|---|---|---|---|---|---|---|---|---|")
    with tempfile.TemporaryDirectory() as folder:
        for name in arguments.only:
            measure(name, Path(folder), arguments.repeats)


if __name__ == "__main__":
    main()
