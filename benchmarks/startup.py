"""How soon the command line answers: `--help`, and a bad recipe refused. Targets: 0.5 s and 3 s.

python benchmarks/startup.py > benchmarks/results/startup.md
"""

import platform
import statistics
import subprocess
import sys
import time

CASES = {
    "`mezzotint --help`": (["--help"], 0.5),
    "`mezzotint pretrain run.epoch=3` (refused)": (["pretrain", "run.epoch=3"], 3.0),
    "`mezzotint recipes`": (["recipes"], 0.5),
}


def seconds(arguments: list[str]) -> float:
    began = time.perf_counter()
    subprocess.run(
        [sys.executable, "-m", "mezzotint", *arguments], capture_output=True, check=False
    )
    return time.perf_counter() - began


def main() -> None:
    commit = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=False
    ).stdout
    times: dict[str, list[float]] = {name: [] for name in CASES}
    for _ in range(7):
        for name, (arguments, _) in CASES.items():
            times[name].append(seconds(arguments))
    print(
        f"`python benchmarks/startup.py`, commit {commit.strip()}, {platform.machine()}, 7 "
        "rounds in turn\n"
    )
    print("| command | median s | lowest | highest | target |\n|---|---|---|---|---|")
    for name, found in times.items():
        print(
            f"| {name} | {statistics.median(found):.2f} | {min(found):.2f} | {max(found):.2f} | "
            f"{CASES[name][1]} |"
        )


if __name__ == "__main__":
    main()
