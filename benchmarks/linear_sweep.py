"""Ten learning rates of a linear probe in one pass, against one rate.

    python benchmarks/linear_sweep.py [--repeats 5]

Both train with the rule of `airl_sgd` on cached features, on one thread; the sides take turns;
medians of wall time. A batch is read once for all rates, and the products with the classifiers are
ten times as wide: the cost depends on the fraction of arithmetic in a step, and so on
the number of classes and on the machine.
"""

import argparse
import platform
import statistics
import subprocess
import time

import torch

from mezzotint.evaluation.sgd_linear import SGDLinear

RATES = tuple(0.1 * 2.0**power for power in range(10))
SIZES = ((5000, 512, 10), (5000, 512, 100), (20000, 2048, 10), (20000, 2048, 100))


def measured(count: int, dim: int, classes: int, repeats: int) -> tuple[float, float, float]:
    """Median seconds of one rate, of ten at once, and of ten one after the other."""
    generator = torch.Generator().manual_seed(0)
    x, y = (
        torch.randn(count, dim, generator=generator),
        torch.randint(classes, (count,), generator=generator),
    )
    probe = SGDLinear(epochs=max(1, 40000 // count))
    sides: dict[str, list[float]] = {"one": [], "ten": []}
    for _ in range(repeats + 1):
        for name, rates in (("one", RATES[:1]), ("ten", RATES)):
            began = time.perf_counter()
            probe.train(x, y, classes, rates, 0)
            sides[name].append(time.perf_counter() - began)
    one, ten = (statistics.median(times[1:]) for times in sides.values())
    return one, ten, ten / one


def main() -> None:
    """Print a Markdown table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=5)
    repeats = parser.parse_args().repeats
    torch.set_num_threads(1)
    commit = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=False
    ).stdout
    print(
        f"commit {commit.strip()}, torch {torch.__version__}, {platform.machine()}, one thread, "
        f"{repeats} repeats\n"
    )
    print(
        "| samples | features | classes | one rate, s | ten rates, s | ten / one "
        "|\n|---|---|---|---|---|---|"
    )
    for count, dim, classes in SIZES:
        one, ten, ratio = measured(count, dim, classes, repeats)
        print(f"| {count} | {dim} | {classes} | {one:.3f} | {ten:.3f} | {ratio:.2f} |")


if __name__ == "__main__":
    main()
