"""From a path to the page: seconds of the dry run, of training, and of evaluation with its page.

The data of every modality are made here, from fixed seeds: photographs of 300 pixels with shapes on
textured grounds, chords, moving shapes, solids, sensor windows, sentences, and a table, each in a
few classes. Nothing is chosen for them: each command is the one of a new user.

    python benchmarks/folder.py --data /tmp/folders > benchmarks/results/folder.md
    python benchmarks/folder.py --data /tmp/folders --modalities images --minutes 10
"""

import argparse
import csv
import json
import math
import os
import platform
import resource
import shutil
import subprocess
import sys
import time
import wave
from collections.abc import Callable
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw

Array = npt.NDArray[np.float64]
Rng = np.random.Generator


def photograph(rng: Rng, label: int, side: int = 300) -> Image.Image:
    """Draw shapes of one kind on a ground of waves and noise."""
    down, right = np.mgrid[0:side, 0:side] / side
    ground = np.zeros((side, side, 3))
    for _ in range(4):
        angle, waves = rng.uniform(0, math.pi), rng.uniform(1, 12)
        phase = 2 * math.pi * waves * (down * math.sin(angle) + right * math.cos(angle))
        ground += np.sin(phase + rng.uniform(0, 6.3))[..., None] * rng.uniform(-30, 30, 3)
    ground += rng.uniform(60, 190, 3) + rng.normal(0, 8, (side, side, 3))
    picture = Image.fromarray(ground.clip(0, 255).astype(np.uint8))
    draw = ImageDraw.Draw(picture)
    for _ in range(int(rng.integers(2, 6))):
        x, y, r = rng.uniform(40, 260), rng.uniform(40, 260), rng.uniform(15, 60)
        color = tuple(int(v) for v in rng.integers(0, 256, 3))
        if label == 0:
            draw.ellipse((x - r, y - r, x + r, y + r), fill=color)
        elif label == 1:
            draw.ellipse((x - r, y - r, x + r, y + r), outline=color, width=8)
        elif label == 5:
            draw.line((x - r, y - r, x + r, y + r), fill=color, width=9)
            draw.line((x - r, y + r, x + r, y - r), fill=color, width=9)
        else:
            turn = float(rng.uniform(0, 360))
            draw.regular_polygon((x, y, r), label + 1, rotation=turn, fill=color)
    return picture


def images(root: Path) -> Path:
    rng = np.random.default_rng(0)
    for i in range(2000):
        path = root / f"kind-{i % 8}" / f"{i:04d}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        photograph(rng, i % 8).save(path, quality=88)
    return root


def audio(root: Path) -> Path:
    """Write 1,000 sounds of 2 seconds: chords of four kinds, with an envelope and noise."""
    rng, at = np.random.default_rng(1), np.arange(32_000) / 16_000
    for i in range(1000):
        base, label = rng.uniform(110, 440), i % 4
        ratios = ((1.0,), (1.0, 1.5), (1.0, 1.25, 1.5), (1.0, 1.41))[label]
        sound = sum(np.sin(2 * math.pi * base * r * k * at) / k for r in ratios for k in (1, 2, 3))
        sound = sound * np.exp(-at * rng.uniform(0.3, 3)) + rng.normal(0, 0.05, len(at))
        path = root / f"chord-{label}" / f"{i:04d}.wav"
        path.parent.mkdir(parents=True, exist_ok=True)
        with wave.open(str(path), "wb") as file:
            file.setnchannels(1)
            file.setsampwidth(2)
            file.setframerate(16_000)
            file.writeframes((sound / np.abs(sound).max() * 20_000).astype(np.int16).tobytes())
    return root


def video(root: Path) -> Path:
    """Write 160 clips of 4 seconds at 15 frames a second: four ways in which shapes move."""
    import av

    rng = np.random.default_rng(2)
    for i in range(160):
        label, ground = i % 4, photograph(rng, int(rng.integers(8)), 160)
        path = root / f"motion-{label}" / f"{i:04d}.mp4"
        path.parent.mkdir(parents=True, exist_ok=True)
        start, color = rng.uniform(30, 130, 2), tuple(int(v) for v in rng.integers(0, 256, 3))
        with av.open(str(path), "w") as out:
            stream = out.add_stream("mpeg4", rate=15)
            stream.width = stream.height = 160
            stream.pix_fmt = "yuv420p"
            for frame in range(60):
                t = frame / 60 * 2 * math.pi
                moved = ((40 * t / 6, 0), (0, 40 * t / 6), (30 * math.cos(t), 30 * math.sin(t)),
                         (0, 0))[label]  # fmt: skip
                r = 12 + (6 * math.sin(3 * t) if label == 3 else 0)
                x, y = start + moved
                picture = ground.copy()
                ImageDraw.Draw(picture).ellipse((x - r, y - r, x + r, y + r), fill=color)
                for packet in stream.encode(av.VideoFrame.from_image(picture)):  # type: ignore[no-untyped-call]
                    out.mux(packet)
            for packet in stream.encode():
                out.mux(packet)
    return root


def points(root: Path) -> Path:
    """Write 1,000 point clouds: spheres, boxes, cylinders, cones, stretched."""
    rng = np.random.default_rng(3)
    for i in range(1000):
        label, v = i % 4, rng.normal(size=(2048, 3))
        if label == 0:
            v /= np.linalg.norm(v, axis=1, keepdims=True)
        elif label == 1:
            v = rng.uniform(-1, 1, (2048, 3))
            face = rng.integers(3, size=2048)
            v[np.arange(2048), face] = np.sign(v[np.arange(2048), face])
        else:
            angle, height = rng.uniform(0, 6.28, 2048), rng.uniform(-1, 1, 2048)
            r = np.ones(2048) if label == 2 else (1 - height) / 2
            v = np.stack([r * np.cos(angle), height, r * np.sin(angle)], axis=1)
        v = v * rng.uniform(0.5, 1.5, 3) + rng.normal(0, 0.02, v.shape)
        path = root / f"solid-{label}" / f"{i:04d}.npy"
        path.parent.mkdir(parents=True, exist_ok=True)
        np.save(path, v.astype(np.float32))
    return root


def series(root: Path) -> Path:
    """Write a table of 20 people, 60 windows of 128 steps each, with three sensors."""
    rng = np.random.default_rng(4)
    root.mkdir(parents=True, exist_ok=True)
    with (root / "sensors.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["subject", "label", "x", "y", "z"])
        for person in range(20):
            own = rng.normal(size=3)
            for part in range(60):
                label, at = part // 12, np.arange(128)
                speed = 0.05 * (1 + label) * rng.uniform(0.9, 1.1)
                wave_ = np.sin(at[:, None] * speed * np.array([1, 2, 3]) + rng.uniform(0, 6, 3))
                rows = own + wave_ + rng.normal(0, 0.3, (128, 3))
                for row in rows:
                    writer.writerow([person, f"move-{label}", *(f"{x:.3f}" for x in row)])
    return root / "sensors.csv"


def tokens(root: Path) -> Path:
    """Write 1,500 texts of some 60 words, with words of five subjects more frequent."""
    rng = np.random.default_rng(5)
    letters = np.array(list("abcdefghijklmnopqrstuvwxyz"))
    words = ["".join(rng.choice(letters, int(rng.integers(3, 9)))) for _ in range(400)]
    for i in range(1500):
        label = i % 5
        own = rng.choice(np.arange(label * 40, label * 40 + 40), 15)
        chosen = rng.permutation(np.concatenate([own, rng.integers(0, 400, 45)]))
        path = root / f"subject-{label}" / f"{i:04d}.txt"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(" ".join(words[k] for k in chosen), encoding="utf-8")
    return root


def table(root: Path) -> Path:
    """Write 3,000 rows of 12 columns and a class that depends on products of some of them."""
    rng = np.random.default_rng(6)
    root.mkdir(parents=True, exist_ok=True)
    x = rng.normal(size=(3000, 12))
    y = (x[:, 0] * x[:, 1] > 0).astype(int) + (x[:, 2] + x[:, 3] > 0)
    with (root / "table.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow([*(f"c{k}" for k in range(12)), "y"])
        for row, label in zip(x, y, strict=True):
            writer.writerow([*(f"{value:.4f}" for value in row), f"group {label}"])
    return root / "table.csv"


DATA: dict[str, tuple[Callable[[Path], Path], str]] = {
    "images": (images, "2,000 photographs of 300 pixels"),
    "audio": (audio, "1,000 sounds of 2 s"),
    "video": (video, "160 clips of 4 s, 160 pixels"),
    "points": (points, "1,000 point clouds of 2,048 points"),
    "series": (series, "1,200 windows of 128 steps, 3 sensors"),
    "tokens": (tokens, "1,500 texts of 60 words"),
    "table": (table, "3,000 rows of 12 columns"),
}


def made(root: Path, name: str) -> Path:
    """Make the data of a modality once, and return its path."""
    folder, note = root / name, root / f"{name}.path"
    if not note.is_file():
        shutil.rmtree(folder, ignore_errors=True)
        note.write_text(str(DATA[name][0](folder)), encoding="utf-8")
    return Path(note.read_text(encoding="utf-8"))


def processor_seconds() -> float:
    """Return the processor time of all processes that were started here and have ended."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def timed(*arguments: str) -> tuple[float, float, str]:
    """Run the command line, and return its wall and processor seconds, and what it printed."""
    began, before = time.perf_counter(), processor_seconds()
    done = subprocess.run(
        [sys.executable, "-m", "mezzotint", *arguments],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    if done.returncode:
        raise SystemExit(f"{' '.join(arguments)}: {done.stderr}")
    return time.perf_counter() - began, processor_seconds() - before, done.stdout


def run(path: Path, out: Path, *options: str) -> dict[str, float]:
    """Pretrain on a path, and return the seconds to the first logged step, of parts, of all."""
    shutil.rmtree(out, ignore_errors=True)
    seconds: dict[str, float] = {}
    began, before = time.perf_counter(), processor_seconds()
    command = [sys.executable, "-m", "mezzotint", "pretrain", str(path), "--out", str(out)]
    with (
        (out.parent / f"{out.name}.log").open("w") as errors,
        subprocess.Popen([*command, *options], stdout=subprocess.PIPE, stderr=errors) as process,
    ):
        while process.poll() is None:
            for name, file in (("first", "metrics.jsonl"), ("trained", "encoder/encoder.json")):
                found = out / file
                if name not in seconds and found.is_file() and found.stat().st_size:
                    seconds[name] = time.perf_counter() - began
            time.sleep(0.2)
        if process.returncode:
            raise SystemExit(f"{path}: see {errors.name}")
    seconds["all"] = time.perf_counter() - began
    seconds["processor"] = processor_seconds() - before
    return seconds


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--data", type=Path, required=True, help="where the data are made")
    parser.add_argument("--out", type=Path, help="where runs go; default: DATA/runs")
    parser.add_argument("--modalities", default=",".join(DATA))
    parser.add_argument("--minutes", help="of each run; the default of a path without it")
    parser.add_argument("--dry", action="store_true", help="dry runs only")
    arguments = parser.parse_args()
    out = arguments.out or arguments.data / "runs"
    out.mkdir(parents=True, exist_ok=True)
    options = ["--minutes", arguments.minutes] if arguments.minutes else []
    commit = subprocess.run(
        ["git", "describe", "--always", "--dirty"], capture_output=True, text=True, check=False
    ).stdout.strip()
    print(f"`python benchmarks/folder.py {' '.join(sys.argv[1:])}`, commit {commit}, "
          f"{platform.machine()}, {os.cpu_count()} cores, OMP_NUM_THREADS "
          f"{os.environ.get('OMP_NUM_THREADS', 'unset')}\n")  # fmt: skip
    print("| data | encoder, steps | dry run, s (processor) | 10 steps, s | trained, s | page, s | "
          "processor, s | evaluation | load |")  # fmt: skip
    print("|---|---|---|---|---|---|---|---|---|", flush=True)
    for name in arguments.modalities.split(","):
        path = made(arguments.data, name)
        dry, used, facts = timed("pretrain", str(path), "--dry-run", *options)
        first = f"| {DATA[name][1]} |"
        if arguments.dry:
            load = os.getloadavg()[0]
            print(
                f"{first} | {dry:.1f} ({used:.1f}) | | | | | | {load:.0f} |\n\n{facts}", flush=True
            )
            continue
        found = run(path, out / name, *options)
        described = json.loads((out / name / "environment.json").read_text(encoding="utf-8"))
        words = f"{described['parameters'] / 1e6:.2f} M, {described['steps']:,}"
        share = (found["all"] - found["trained"]) / found["all"]
        print(f"{first} {words} | {dry:.1f} ({used:.1f}) | {found['first']:.0f} | "
              f"{found['trained']:.0f} | {found['all']:.0f} | {found['processor']:.0f} | "
              f"{100 * share:.0f} % | {os.getloadavg()[0]:.0f} |", flush=True)  # fmt: skip


if __name__ == "__main__":
    main()
