"""SIGReg, forward and backward: summation by recurrence against the formula as written.

On one core.

    python benchmarks/sigreg.py [--repeats 9]

The formula as written takes the cosine and the sine of every projection at every frequency, and
autograd keeps them; lightly's `SIGReg` does the same, and is measured too where it is installed.
The sides take turns on the same tensors; what is compared is the median time of the process. "Kept
for backward" are the bytes that autograd saves.
"""

import argparse
import importlib.metadata
import importlib.util
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor
from torch.nn.functional import normalize

from mezzotint.methods.lejepa import sigreg

SHAPES = [(2, 128, 64, 256), (2, 256, 64, 1024), (8, 128, 64, 1024)]
"""Views, batch, width, directions."""
Side = Callable[[Tensor, Tensor], Tensor]


def as_written(z_VBD: Tensor, directions_SD: Tensor) -> Tensor:
    t = torch.linspace(0.0, 3.0, 17)
    gaussian = torch.exp(-t.square() / 2)
    weights = gaussian * (2 * 3.0 / 16)
    weights[-1] /= 2
    x = (z_VBD @ directions_SD.T).unsqueeze(3) * t
    distance = (x.cos().mean(1) - gaussian).square() + x.sin().mean(1).square()
    return (distance @ weights).mean() * z_VBD.shape[1]


def lightly(z_VBD: Tensor, directions_SD: Tensor) -> Tensor:
    from lightly.loss.lejepa_loss import SIGReg

    module = SIGReg(num_vectors=len(directions_SD))
    module._generate_unit_vectors = lambda *_, **__: (
        directions_SD.T
    )  # the same directions for all sides
    loss: Tensor = module(z_VBD)
    return loss


def sides() -> dict[str, Side]:
    found: dict[str, Side] = {"mezzotint": sigreg, "as written": as_written}
    if importlib.util.find_spec("lightly"):
        found[f"lightly {importlib.metadata.version('lightly')}"] = lightly
    return found


def kept(side: Side, z: Tensor, directions: Tensor) -> int:
    """Bytes that autograd saves for the backward pass, each storage once."""
    storages: dict[int, int] = {}

    def pack(x: Tensor) -> Tensor:
        storages[x.untyped_storage().data_ptr()] = x.untyped_storage().nbytes()
        return x

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda x: x):
        loss = side(z, directions)
    torch.autograd.backward(loss)
    return sum(storages.values())


def measure(shape: tuple[int, int, int, int], repeats: int) -> dict[str, tuple[list[float], int]]:
    views, batch, dim, num = shape
    generator = torch.Generator().manual_seed(0)
    z = torch.randn(views, batch, dim, generator=generator).requires_grad_()
    directions = normalize(torch.randn(num, dim, generator=generator), dim=1)
    times: dict[str, list[float]] = {name: [] for name in sides()}
    for repeat in range(-1, repeats):  # the first round is for warming up
        for name, side in sides().items():
            start = time.process_time()
            torch.autograd.grad(side(z, directions), z)
            if repeat >= 0:
                times[name].append(time.process_time() - start)
    return {name: (times[name], kept(side, z, directions)) for name, side in sides().items()}


def processor() -> str:
    info = Path("/proc/cpuinfo")
    names = [
        line.split(":")[1].strip()
        for line in info.read_text().splitlines()
        if line.startswith("model name")
    ]
    return names[0] if names else platform.processor()


def main() -> None:
    parser = argparse.ArgumentParser(description="SIGReg, forward and backward, on one core.")
    parser.add_argument("--repeats", type=int, default=9)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    command = ["git", "rev-parse", "--short", "HEAD"]
    commit = subprocess.run(
        command, capture_output=True, text=True, cwd=Path(__file__).parent
    ).stdout.strip()
    print("# SIGReg, forward and backward, one core\n")
    print(
        f"`python {' '.join(sys.argv)}`, commit {commit or 'none yet'}, "
        f"{time.strftime('%Y-%m-%d')},"
    )
    print(
        f"{processor()}, torch {torch.__version__}. Medians of {arguments.repeats} (fastest to "
        "slowest).\n"
    )
    print("| views × batch × width, directions | side | ms | kept for backward | times mezzotint |")
    print("|---|---|---|---|---|")
    for shape in SHAPES:
        results = measure(shape, arguments.repeats)
        ours = statistics.median(results["mezzotint"][0])
        for name, (seconds, size) in results.items():
            median = statistics.median(seconds)
            spread = f"{median * 1e3:.1f} ({min(seconds) * 1e3:.1f} to {max(seconds) * 1e3:.1f})"
            label = f"{shape[0]} × {shape[1]} × {shape[2]}, {shape[3]}"
            print(f"| {label} | {name} | {spread} | {size / 2**20:.1f} MiB | {median / ours:.1f} |")


if __name__ == "__main__":
    main()
