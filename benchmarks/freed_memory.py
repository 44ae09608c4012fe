"""Steps and features with freed memory that stays in the process, against glibc's own rule.

Each side is a process of its own, in turn. `mezzotint.memory` changes nothing where the environment
sets a tunable of glibc's malloc; the one that is set here has no effect of its own. One thread.
Networks of timm have random weights.

    python benchmarks/freed_memory.py > benchmarks/results/freed_memory.md
"""

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import time

from views import version  # type: ignore[import-not-found]

SIDES: dict[str, dict[str, str]] = {
    "glibc": {"GLIBC_TUNABLES": "glibc.malloc.perturb=0"},
    "kept": {},
}
TRAINED: dict[str, tuple[str, int, tuple[str, ...]]] = {
    "SimCLR, ResNet-8, 32 px, batch 256 (the demo)": ("image/emoji_simclr", 32, ()),
    "SimCLR, speech (the demo)": ("audio/speech_simclr", 0, ()),
    "SimCLR, ResNet-18, 96 px, batch 64": (
        "image/emoji_simclr", 96, ("encoder={kind: resnet18}", "run.batch_size=64"),
    ),
    "SimCLR, EfficientNet-lite0, 96 px, batch 64": (
        "image/emoji_simclr", 96,
        ("encoder={kind: timm, name: efficientnet_lite0}", "run.batch_size=64"),
    ),
}  # fmt: skip
"""Recipe, size of random images unless 32, and overrides."""
EXTRACTED = {
    "features, ResNet-18, 128 px": ("resnet18", 128),
    "features, EfficientNet-lite0, 128 px": ("efficientnet_lite0", 128),
    "features, ViT-Ti, 224 px": ("vit_tiny_patch16_224", 224),
}
_WARM, _TIMED, _SAMPLES = 3, 5, 512


def measured(name: str) -> dict[str, float]:
    """Measure one row in this process."""
    import torch

    torch.set_num_threads(1)
    torch.manual_seed(0)
    work, unit = trained(name) if name in TRAINED else extracted(name)
    work(_WARM)
    before, began = resource.getrusage(resource.RUSAGE_SELF), time.perf_counter()
    work(_TIMED)
    seconds, after = time.perf_counter() - began, resource.getrusage(resource.RUSAGE_SELF)
    return {
        "ms": 1000 * seconds / (_TIMED * unit),
        "system": 1000 * (after.ru_stime - before.ru_stime) / (_TIMED * unit),
        "mb": after.ru_maxrss / 1024,
    }


def trained(name: str):  # type: ignore[no-untyped-def]
    """Return a function that trains some steps, and the units of work in one."""
    import torch

    from mezzotint.data.loader import batches
    from mezzotint.recipe.reading import apply_overrides, read_raw
    from mezzotint.recipe.recipe import Recipe, resolve_recipe
    from mezzotint.train.log import Meter
    from mezzotint.train.loop import Trainer

    recipe, size, changes = TRAINED[name]
    raw = json.loads(json.dumps(read_raw(recipe)))
    raw = resolve_recipe(apply_overrides(raw, [*changes, "run.epochs=1000"]))
    built = Recipe.build(raw, random_images(_SAMPLES, size) if size > 32 else None)
    trainer, meter = Trainer(built, torch.device("cpu")), Meter()
    stream = batches(built.data, built.views, trainer.plan, start=0, stop=_WARM + _TIMED)
    steps = iter(enumerate(stream))

    def work(count: int) -> None:
        for _ in range(count):
            step, batch = next(steps)
            trainer.step(step, batch, meter)

    return work, 1


def extracted(name: str):  # type: ignore[no-untyped-def]
    """Return a function that extracts features some times, and the samples of one time."""
    from mezzotint.encoders.timm import timm
    from mezzotint.evaluation.features import extract

    model, size = EXTRACTED[name]
    source = random_images(_SAMPLES, size)
    encoder = timm(source.input, name=model)

    def work(times: int) -> None:
        for _ in range(-(-times // _TIMED)):  # once to warm up, once to measure
            extract(encoder, source)

    return work, len(source) / _TIMED


def random_images(count: int, size: int):  # type: ignore[no-untyped-def]
    """Return a source of uint8 images `[count, 3, size, size]`."""
    import tempfile
    from pathlib import Path

    import numpy as np

    from mezzotint.data.image.arrays import Arrays

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "images.npz"
        rng = np.random.default_rng(0)
        images = rng.integers(0, 256, (count, size, size, 3), dtype=np.uint8)
        np.savez(path, x=images, y=np.arange(count) % 10)
        return Arrays(path=str(path))


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--measure", help="one row, in this process")
    own = parser.parse_args()
    if own.measure:
        print(json.dumps(measured(own.measure)))
        return
    print("# Freed memory that stays in the process\n")
    print(f"`python benchmarks/freed_memory.py`, commit {version('mezzotint')}, 2 shared cores,")
    print(f"one thread. Each number is the median of {own.repeats} processes of a side, in turn.")
    print("`glibc` is the C library's own rule, `kept` what `mezzotint` sets (`mezzotint.memory`).")
    print("A step of training, or a sample of features (batches of 256); `system` is time of the")
    print("kernel, MB the largest memory of the process.\n")
    print("| work | glibc, ms | system | MB | kept, ms | system | MB | glibc / kept |")
    print("|---|---|---|---|---|---|---|---|", flush=True)
    for name in (*TRAINED, *EXTRACTED):
        found: dict[str, list[dict[str, float]]] = {side: [] for side in SIDES}
        for _ in range(own.repeats):
            for side, changes in SIDES.items():
                command = [sys.executable, __file__, "--measure", name]
                out = subprocess.run(
                    command, env=os.environ | changes, check=True, capture_output=True, text=True
                )
                found[side].append(json.loads(out.stdout.splitlines()[-1]))
        row = []
        for side in SIDES:
            middle = {key: statistics.median(r[key] for r in found[side]) for key in found[side][0]}
            row += [f"{middle['ms']:.1f}", f"{middle['system']:.1f}", f"{middle['mb']:.0f}"]
        pairs = zip(*found.values(), strict=True)
        ratio = statistics.median(a["ms"] / b["ms"] for a, b in pairs)
        print(f"| {name} | {' | '.join(row)} | {ratio:.2f} |", flush=True)


if __name__ == "__main__":
    main()
