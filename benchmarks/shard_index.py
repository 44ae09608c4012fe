"""Memory and time to the first step on an index of many samples.

The index has as many rows as asked for; the shard behind it has 1,000 small images, which the rows
name again and again. A process of its own trains until its first step is done, with two workers.
Memory is the peak resident memory of that process as the kernel counts it, imports and all, in
megabytes of 1,000,000 bytes. The same run on an index of 20,000 samples says what of it is the
index.

    python benchmarks/shard_index.py --samples 10000000 20000
"""

import argparse
import io
import json
import os
import subprocess
import sys
import tarfile
import tempfile
import time
from pathlib import Path

import numpy as np
from PIL import Image

from mezzotint.data.formats import shards
from mezzotint.data.formats.shards import Ids, digest_of
from mezzotint.data.prepare.shard import _add

FILES = 1000

CHILD = """
import json, os, sys, time
began = time.monotonic()
import torch
from mezzotint.recipe.recipe import Recipe, read_recipe
from mezzotint.train.loop import Trainer, pretrain

def together():
    total = 0
    own = os.getpid()
    workers = open(f"/proc/{own}/task/{own}/children").read().split()
    for pid in [own, *workers]:
        for line in open(f"/proc/{pid}/smaps_rollup"):
            if line.startswith("Pss:"):
                total += int(line.split()[1])
    return total * 1024 / 1e6

def resident(word):
    lines = open("/proc/self/status").read().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(word)) * 1024 / 1e6

step_of = Trainer.step
def step(self, number, batch, meter, wait):
    step_of(self, number, batch, meter, wait=wait)
    facts = {"seconds": time.monotonic() - began, "cpu": time.process_time()}
    facts |= {"peak_mb": resident("VmHWM"), "base_mb": BASE, "together_mb": together()}
    print(json.dumps(facts), flush=True)
    os._exit(0)

Trainer.step = step
BASE = resident("VmRSS")
config = read_recipe("image/folder_simclr", sys.argv[2:])
pretrain(Recipe.build(config), sys.argv[1], progress="quiet")
"""


def write(root: Path, count: int, *, unsplit: bool = False) -> None:
    """Write one shard of 1,000 images, and an index whose rows repeat them.

    It has a split `val`, or else the samples to score are chosen when it is opened.
    """
    rng = np.random.default_rng(0)
    offsets, sizes, digests = [], [], []
    with tarfile.open(root / "00000.tar", "w", format=tarfile.USTAR_FORMAT) as tar:
        for number in range(FILES):
            out = io.BytesIO()
            pixels = rng.integers(0, 255, (64, 64, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(out, "JPEG")
            offsets.append(_add(tar, f"{number:08d}.jpg", out.getvalue()))
            sizes.append(len(out.getvalue()))
            digests.append(digest_of(out.getvalue()))
    row = np.arange(count) % FILES
    digits = np.char.zfill(np.arange(count).astype("S8"), 8)
    block = np.char.add(b"images/train/class/", digits).view(np.uint8)
    packed = Ids(block, np.arange(1, count + 1) * 27, count)
    shards.Ids.of = classmethod(lambda cls, ids: packed)  # type: ignore[method-assign,assignment]
    scored = 0 if unsplit else count // 100
    facts = {
        "modality": "image", "classes": [f"class {i}" for i in range(1000)],
        "splits": [["train", count - scored], ["val", scored]][: 1 if unsplit else 2],
        "shards": [["00000.tar", count]],
    }  # fmt: skip
    columns = {
        "offset": np.array(offsets)[row], "size": np.array(sizes)[row], "label": row,
        "group": np.arange(count), "digest": np.array(digests, np.uint64)[row],
        "scored": np.zeros(count),
    }  # fmt: skip
    shards.write_index(root, facts, columns, [])


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--samples", type=int, nargs="+", default=[10_000_000, 20_000])
    parser.add_argument("--window", type=int, default=None)
    parser.add_argument("--unsplit", action="store_true", help="without a split to score")
    arguments = parser.parse_args()
    for count in arguments.samples:
        window = "null" if arguments.window is None else arguments.window
        measure(count, window, unsplit=arguments.unsplit)


def measure(count: int, window: int | str, *, unsplit: bool) -> None:
    """Write an index, train on it until the first step is done, and print what that took."""
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder) / "shards"
        root.mkdir()
        begin = time.monotonic()
        write(root, count, unsplit=unsplit)
        size = sum(p.stat().st_size for p in (root / "index").iterdir()) / 1e6
        print(
            f"index of {count:,} samples: {size:.0f} MB, written in "
            f"{time.monotonic() - begin:.1f} s",
            flush=True,
        )
        overrides = [
            f"data={{kind: image_shards, root: {root}, size: 32, window: {window}}}",
            "views.crop.size=32", "encoder={kind: resnet8, stem: small, width: 4}",
            "run.batch_size=256", "run.loader.workers=2",
        ]  # fmt: skip
        done = subprocess.run(
            [sys.executable, "-c", CHILD, f"{folder}/run", *overrides],
            capture_output=True, text=True, check=False, env={**os.environ},
        )  # fmt: skip
        if done.returncode:
            raise SystemExit(done.stderr)
        found = json.loads(done.stdout.splitlines()[-1])
        print(
            f"first step after {found['seconds']:.1f} s, {found['cpu']:.1f} s of the main "
            f"process's processor, imports included; main process at most {found['peak_mb']:.0f} "
            f"MB resident, {found['base_mb']:.0f} MB after the imports; with both workers "
            f"{found['together_mb']:.0f} MB (proportional)"
        )


if __name__ == "__main__":
    main()
