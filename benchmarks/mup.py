"""Coordinate-check slopes of every encoder, loss and optimizer, in muP and without.

python benchmarks/mup.py slopes          # the table of slopes; minutes on two cores
python benchmarks/mup.py rates OUT       # best rate across widths, SimCLR on digits, 3 seeds
python benchmarks/mup.py overhead        # time of a training step in muP over one without
"""

import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from mezzotint.optim.muon import Muon
from mezzotint.optim.mup.coord_check import slopes
from mezzotint.optim.mup.measure import train_and_measure
from mezzotint.optim.mup.method import apply_mup, build
from mezzotint.optim.optimizer import LARS, SGD, AdamW, Optimizer
from mezzotint.recipe.recipe import read_recipe
from mezzotint.report.widths import proposal, write_rate_transfer
from mezzotint.runs.widths import transfer_rates
from mezzotint.seeding import Draws
from mezzotint.types import Input, Views

IMAGE = Input((3, 16, 16), (0.5,) * 3, (0.25,) * 3)
AUDIO = Input((1, 16, 16), (0.0,), (1.0,), modality="audio")
TABLE = Input((24,), (0.0,) * 24, (1.0,) * 24, modality="table")
Section = Callable[[int], dict[str, Any]]
ENCODERS: dict[str, tuple[Input, Section, tuple[int, ...]]] = {
    "MLP": (TABLE, lambda w: {"kind": "table_mlp", "width": w}, (64, 128, 256, 512)),
    "ResNet-8": (
        IMAGE, lambda w: {"kind": "resnet8", "stem": "patch", "width": w}, (32, 64, 128, 256),
    ),
    "ViT": (
        IMAGE, lambda w: {"kind": "vit", "width": w, "heads": w // 16, "depth": 2, "patch": 8},
        (64, 128, 256, 512),
    ),
    "AudioNTT": (
        AUDIO, lambda w: {"kind": "audio_ntt", "width": w, "dim": 4 * w, "dropout": 0.0},
        (64, 128, 256),
    ),
}  # fmt: skip
METHODS: dict[str, Section] = {
    "cross-entropy": lambda w: {"kind": "supervised", "num_classes": 10},
    "InfoNCE": lambda w: {"kind": "simclr", "hidden_dim": 2 * w, "dim": w, "last_norm": False},
    "BYOL": lambda w: {"kind": "byol", "hidden_dim": 2 * w, "dim": w},
}
OPTIMIZERS: dict[str, Callable[[], Optimizer]] = {
    "Adam": lambda: AdamW(lr=3e-3), "SGD": lambda: SGD(lr=0.02),
    "LARS": lambda: LARS(lr=0.5, trust=0.1), "Muon": lambda: Muon(lr=0.02),
}  # fmt: skip


def views(input: Input, batch: int = 32, seed: int = 0) -> Views:
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(batch, *input.shape, generator=generator)
    pair = tuple(x + 0.3 * torch.randn(x.shape, generator=generator) for _ in range(2))
    labels = torch.randint(10, (batch,), generator=generator)
    return Views(pair, ("global", "global"), Draws(torch.arange(batch), 0), labels=labels)


def made(encoder: str, method: str, width: int, base: int | None, seed: int = 0) -> Any:
    input, section, _ = ENCODERS[encoder]
    torch.manual_seed(seed)
    built = build(section(width), METHODS[method](width), input)
    return built if base is None else apply_mup(built, base_width=base)


def worst(encoder: str, method: str, optimizer: str, mup: bool) -> tuple[float, float]:
    """Largest slope of outputs and of their changes, steps 2 to 4."""
    input, _, widths = ENCODERS[encoder]
    rows = []
    for width in widths:
        built = made(encoder, method, width, widths[0] if mup else None)
        if method == "cross-entropy" and optimizer != "LARS":
            torch.nn.init.zeros_(built.head.weight)
        found = train_and_measure(built, OPTIMIZERS[optimizer]().build(built, 32), views(input))
        rows += [row | {"width": width} for row in found if ":cosine" not in row["module"]]
    one, other = (slopes((r for r in rows if y in r), y).values() for y in ("l1", "change"))
    return max(one, key=abs), max(other, key=abs)


def print_slopes() -> None:
    print("| encoder | loss | optimizer | muP | muP, change | control | control, change |")
    print("|---|---|---|---|---|---|---|")
    for encoder in ENCODERS:
        for method in METHODS:
            for optimizer in OPTIMIZERS:
                pairs = (*worst(encoder, method, optimizer, True),
                         *worst(encoder, method, optimizer, False))  # fmt: skip
                cells = " | ".join(f"{slope:+.2f}" for slope in pairs)
                print(f"| {encoder} | {method} | {optimizer} | {cells} |", flush=True)


def print_rates(out: Path) -> None:
    overrides = [
        "data.kind=embedded_images", "data.name=digits", "encoder.kind=resnet8",
        "encoder.stem=small", "encoder.width=8", "method.hidden_dim=32", "method.dim=32",
        "optimizer.kind=adamw", "optimizer.lr=0.001", "run.batch_size=128", "run.epochs=2",
        "run.log.every_steps=1", "run.log.knn_epochs=0",
    ]  # fmt: skip
    rates = [0.004 * 2**i for i in range(5)]
    config = read_recipe("image/emoji_simclr", overrides)
    transfer = transfer_rates(config, [8, 16, 32], rates, out, seeds=3)
    for name in ("mup", "standard"):
        for width in transfer.widths:
            losses = " ".join(f"{loss:.3f}" for loss in transfer.losses(name, width))
            print(f"{name:9} width {width:3}: best {transfer.best(name, width):g}; {losses}")
    print(proposal(transfer))
    print(write_rate_transfer(transfer, out / "index.html"))


def print_overhead() -> None:
    """Steps in turn, so that other work on the machine meets both alike."""
    batch = views(IMAGE)
    parts: list[tuple[Any, torch.optim.Optimizer, list[float]]] = []
    for base in (None, 32):
        method = made("ResNet-8", "InfoNCE", 64, base).train()
        parts.append((method, AdamW(lr=1e-3).build(method, 32), []))
    for _ in range(200):
        for method, optimizer, times in parts:
            began = time.perf_counter()
            optimizer.zero_grad()
            torch.autograd.backward(method(batch).loss)
            optimizer.step()
            times.append(time.perf_counter() - began)
    plain, scaled = (statistics.median(times) for _, _, times in parts)
    print(f"{plain * 1e3:.2f} ms without, {scaled * 1e3:.2f} ms in muP: {scaled / plain - 1:+.1%}")


if __name__ == "__main__":
    verb = sys.argv[1] if len(sys.argv) > 1 else "slopes"
    if verb == "rates":
        print_rates(Path(sys.argv[2]))
    else:
        {"slopes": print_slopes, "overhead": print_overhead}[verb]()
