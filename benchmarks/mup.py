"""Coordinate-check slopes of every encoder, loss and optimizer, in muP and without.

python benchmarks/mup.py slopes OUT      # the table of slopes; cells in OUT are not run again;
                                         # names of encoders and losses after OUT choose rows
python benchmarks/mup.py tokens OUT      # Muon on convolutions with fewer tokens than channels
python benchmarks/mup.py wide BYOL       # the same for ResNet-8 up to width 512, in muP, seed 0
python benchmarks/mup.py rates simclr OUT        # best rate across widths on emoji, 3 seeds
python benchmarks/mup.py rates ssql OUT          # the same under random bit-widths
python benchmarks/mup.py bits OUT        # best rate by bits, at width 16
python benchmarks/mup.py overhead [MAE]  # time of a training step in muP over one without
"""

import itertools
import json
import math
import statistics
import sys
import time
from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from mezzotint.data.image.embedded import EmbeddedImages
from mezzotint.files import write_json
from mezzotint.optim.muon import Muon
from mezzotint.optim.mup.coord_check import Row, slopes
from mezzotint.optim.mup.measure import train_and_measure
from mezzotint.optim.mup.method import apply_mup, build
from mezzotint.optim.optimizer import LARS, SGD, AdamW, Optimizer
from mezzotint.recipe.recipe import Recipe, read_recipe
from mezzotint.report.widths import proposal, wider, write_rate_transfer
from mezzotint.runs.widths import PARAMETRIZATIONS, final_loss, transfer_rates
from mezzotint.seeding import Draws
from mezzotint.train.log import read_metrics
from mezzotint.train.loop import pretrain
from mezzotint.types import Input, Views

IMAGE = Input((3, 16, 16), (0.5,) * 3, (0.25,) * 3)
AUDIO = Input((1, 16, 16), (0.0,), (1.0,), modality="audio")
TABLE = Input((24,), (0.0,) * 24, (1.0,) * 24, modality="table")
Section = Callable[[int], dict[str, Any]]
ENCODERS: dict[str, tuple[Input, Section, tuple[int, ...]]] = {
    "MLP": (TABLE, lambda w: {"kind": "table_mlp", "width": w}, (64, 128, 256, 512)),
    "ResNet-8": (
        IMAGE, lambda w: {"kind": "resnet8", "stem": "patch", "width": w}, (64, 128, 256, 512),
    ),
    "ViT": (
        IMAGE, lambda w: {"kind": "vit", "width": w, "heads": w // 16, "depth": 2, "patch": 8},
        (64, 128, 256, 512),
    ),
    "AudioNTT": (
        AUDIO, lambda w: {"kind": "audio_ntt", "width": w, "dim": 4 * w, "dropout": 0.0},
        (64, 128, 256, 512),
    ),
}  # fmt: skip
METHODS: dict[str, Section] = {
    "cross-entropy": lambda w: {"kind": "supervised", "num_classes": 10},
    "InfoNCE": lambda w: {"kind": "simclr", "hidden_dim": 2 * w, "dim": w, "last_norm": False},
    "BYOL": lambda w: {"kind": "byol", "hidden_dim": 2 * w, "dim": w},
}
OPTIMIZERS: dict[str, Callable[[], Optimizer]] = {
    "Adam": lambda: AdamW(lr=3e-3), "SGD": lambda: SGD(lr=0.02),
    "LARS": lambda: LARS(lr=0.05, trust=0.1), "Muon": lambda: Muon(lr=0.02, arithmetic="fp32"),
}  # fmt: skip
T_2, T_7 = 4.303, 2.365  # Student's t of 95 % with two and seven degrees of freedom
SMALL = {"MLP": (32, 2), "ViT": (32, 2), "ResNet-8": (16, 1), "AudioNTT": (16, 1)}
"""Samples of a batch, and seeds."""


FEW = {"AudioNTT": (8, 4, (64, 128, 256, 512), 1), "ResNet-8": (4, 8, (64, 128, 256), 3)}
"""Side of an input, samples, widths and seeds; fewer tokens than channels meet a kernel."""


def views(input: Input, batch: int = 32, seed: int = 0, number: int = 2) -> Views:
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(batch, *input.shape, generator=generator)
    alike = tuple(x + 0.3 * torch.randn(x.shape, generator=generator) for _ in range(number))
    labels = torch.randint(10, (batch,), generator=generator)
    return Views(alike, ("global",) * number, Draws(torch.arange(batch), 0), labels=labels)


def input_of(encoder: str, few: bool) -> Input:
    input = ENCODERS[encoder][0]
    return replace(input, shape=(input.shape[0], *[FEW[encoder][0]] * 2)) if few else input


def made(
    encoder: str, method: str, width: int, base: int | None, seed: int = 0, few: bool = False
) -> Any:
    torch.manual_seed(seed)
    section = ENCODERS[encoder][1](width)
    built = build(section, METHODS[method](width), input_of(encoder, few))
    return built if base is None else apply_mup(built, base_width=base)


def measured(
    encoder: str, method: str, optimizer: str, base: int | None, seed: int, few: bool = False
) -> list[Row]:
    """Rows of every width: sizes of outputs, their changes, and spectral norms."""
    widths = FEW[encoder][2] if few else ENCODERS[encoder][2]
    if (encoder, optimizer, few) == ("ResNet-8", "Muon", False):
        widths = widths[:-1]  # Newton-Schulz on 2,048 x 18,432 takes minutes a step
    batch, rows = FEW[encoder][1] if few else SMALL[encoder][0], []
    for width in widths:
        built = made(encoder, method, width, base, seed, few)
        if method == "cross-entropy" and optimizer != "LARS":
            torch.nn.init.zeros_(built.head.weight)  # as recommended; LARS needs another start
        trained = OPTIMIZERS[optimizer]().build(built, batch)
        batch_views = views(input_of(encoder, few), batch, seed)
        found = train_and_measure(built, trained, batch_views, steps=4)
        rows += [row | {"width": width} for row in found if ":cosine" not in row["module"]]
    return rows


def worst(rows: list[Row], y: str) -> tuple[str, float]:
    """The largest slope and where it is; the random start of a readout may shrink."""
    readouts = {row["module"] for row in rows if row.get("readout")}
    found = {
        key: slope
        for key, slope in slopes((r for r in rows if y in r), y).items()
        if slope > 0.0 or key[0] not in readouts
    }
    module, step = max(found, key=lambda key: abs(found[key]))
    return f"`{module}` step {step}", found[module, step]


def print_slopes(out: Path, *chosen: str) -> None:
    """A row for each case; cells that are done are read. `chosen` names encoders and losses."""
    print_cases(
        out,
        itertools.product(
            [name for name in ENCODERS if name in chosen] or ENCODERS,
            [name for name in METHODS if name in chosen] or METHODS,
            OPTIMIZERS,
        ),
    )


def print_tokens(out: Path) -> None:
    """Muon on convolutions with fewer tokens than channels."""
    print_cases(out, itertools.product(("AudioNTT", "ResNet-8"), METHODS, ["Muon"]), few=True)


def print_wide(method: str) -> None:
    """Slopes of ResNet-8 with Muon up to width 512, which take minutes, with few tokens."""
    side, batch, _, _ = FEW["ResNet-8"]
    FEW["ResNet-8"] = (side, batch, (64, 128, 256, 512), 1)
    rows = measured("ResNet-8", method, "Muon", 64, 0, few=True)
    found = [worst(rows, y) for y in ("l1", "change")]
    print(method, *(f"{slope:+.3f} {where}" for where, slope in found))


def print_cases(out: Path, cases: Iterable[tuple[str, str, str]], few: bool = False) -> None:
    out.mkdir(parents=True, exist_ok=True)
    print("| encoder | loss | optimizer | muP: outputs | changes | control: outputs | changes "
          "| updates | where the control is worst |\n|" + "---|" * 9)  # fmt: skip
    for encoder, method, optimizer in cases:
        rows: dict[int | None, list[Row]] = {}
        for base in (ENCODERS[encoder][2][0], None):
            rows[base] = []
            for seed in range(FEW[encoder][3] if few else SMALL[encoder][1]):
                name = f"{encoder}-{method}-{optimizer}-{base}-{seed}{'-few' * few}"
                file = out / f"{name}.json"
                if not file.is_file():
                    write_json(file, measured(encoder, method, optimizer, base, seed, few))
                rows[base] += json.loads(file.read_text(encoding="utf-8"))
        scaled, plain = rows.values()
        kinds = [worst(scaled, "l1"), worst(scaled, "change")]
        control = [worst(plain, y) for y in ("l1", "change", "update")]
        cells = " | ".join(f"{slope:+.2f}" for _, slope in (*kinds, *control))
        where = max(control, key=lambda pair: abs(pair[1]))[0]
        print(f"| {encoder} | {method} | {optimizer} | {cells} | {where} |", flush=True)


RATES = [2.0**power for power in range(-10, -4)]


def small(out: Path, method: str) -> dict[str, Any]:
    """Emoji at 16 pixels, which makes cells four times cheaper, at width 16 for two epochs.

    The projector ends without a BatchNorm, so that all of its dimensions grow.
    """
    out.mkdir(parents=True, exist_ok=True)
    file, emoji = out / "emoji.npz", EmbeddedImages(name="emoji")
    if not file.is_file():
        np.savez(file, x=np.stack([np.asarray(emoji.read(i)["x"]) for i in range(len(emoji))]))
    overrides = [
        f"data={{kind: arrays, path: {file}, size: 16}}",
        "encoder={kind: resnet8, stem: patch, width: 16, grid: 1}",
        f"method={method}",
        "optimizer={kind: adamw, lr: 0.004}",
        "schedule={kind: cosine, warmup_epochs: 0.2}",
        "run.batch_size=32", "run.epochs=2", "run.log.every_steps=1", "run.log.knn_epochs=0",
    ]  # fmt: skip
    return read_recipe("image/emoji_simclr", overrides)


SIMCLR = "{kind: simclr, hidden_dim: 64, dim: 32, temperature: 0.07, last_norm: false}"


def ssql(weights: tuple[int, int], activations: tuple[int, int]) -> str:
    """Bits are drawn again in each step."""
    bits = f"weight_bits: {list(weights)}, activation_bits: {list(activations)}"
    return f"{{kind: ssql, base: {SIMCLR}, {bits}}}"


def print_rates(method: str, out: Path, seeds: int = 3) -> None:
    """The grid of widths and rates."""
    config = small(out, SIMCLR if method == "simclr" else ssql((2, 8), (4, 8)))
    transfer = transfer_rates(config, [16, 32, 64], RATES, out, seeds=seeds)
    print(f"| parametrization | width | {rate_columns()}")
    for name, width in itertools.product(PARAMETRIZATIONS, transfer.widths):
        own = [
            cell for cell in transfer.cells
            if (cell["parametrization"], cell["width"]) == (name, width)
        ]  # fmt: skip
        print(f"| {name} | {width} | {rate_row(own)}")
    print(f"\n{proposal(transfer)} {wider(transfer)}")
    print(write_rate_transfer(transfer, out / "index.html"))


def print_bits(out: Path, seeds: int = 3) -> None:
    """The grid of rates at width 16, for three ranges of bits and for none."""
    ranges = {
        "W32A32": SIMCLR, "W8A8": ssql((8, 8), (8, 8)), "W2-8 A4-8": ssql((2, 8), (4, 8)),
        "W2A4": ssql((2, 2), (4, 4)),
    }  # fmt: skip
    print(f"| bits | {rate_columns()}")
    for bits, method in ranges.items():
        cells: list[dict[str, Any]] = []
        for seed, rate in itertools.product(range(seeds), RATES):
            file = out / f"{bits}-{rate:g}-{seed}.json"
            if not file.is_file():
                config = small(out, method)
                config["optimizer"]["lr"], config["run"]["seed"] = rate, seed
                pretrain(Recipe.build(config), out / "run", overwrite=True, progress="quiet")
                lines = read_metrics(out / "run/metrics.jsonl")
                losses = [line["loss"] for line in lines if line.get("loss") is not None]
                write_json(file, {"rate": rate, "seed": seed, "loss": final_loss(losses)})
            cells.append(json.loads(file.read_text(encoding="utf-8")))
        print(f"| {bits} | {rate_row(cells)}", flush=True)


def rate_columns() -> str:
    columns = ["best rate", "minimum", *(f"2^{round(math.log2(rate))}" for rate in RATES)]
    return " | ".join(columns) + " |\n|" + "---|" * (len(columns) + 1)


def rate_row(cells: list[dict[str, Any]]) -> str:
    """Best rate, the minimum of parabolas (a seed each; mean and interval), and mean losses."""
    of = {(cell["seed"], cell["rate"]): cell["loss"] for cell in cells}
    seeds = sorted({seed for seed, _ in of})
    means = [statistics.mean(of[seed, rate] for seed in seeds) for rate in RATES]
    best = means.index(min(means))
    near = RATES[max(0, best - 2) : best + 3]
    powers = [math.log2(rate) for rate in near]
    fits = [np.polyfit(powers, [of[seed, rate] for rate in near], 2) for seed in seeds]
    ends = [float(-linear / square / 2.0) for square, linear, _ in fits]
    half = T_2 * statistics.stdev(ends) / math.sqrt(len(ends))
    minimum = f"{statistics.mean(ends):.2f} ± {half:.2f}"
    losses = " | ".join(f"{loss:.3f}" for loss in means)
    return f"2^{round(math.log2(RATES[best]))} | {minimum} | {losses} |"


OVERHEADS: dict[str, tuple[Section, Section, int, int, int]] = {
    "SimCLR, ResNet-8, width 4, batch 2: the fixed cost": (
        lambda w: {"kind": "resnet8", "stem": "patch", "width": w}, METHODS["InfoNCE"], 4, 2, 120,
    ),
    "SimCLR, ResNet-8, patch stem, width 64, batch 32": (
        lambda w: {"kind": "resnet8", "stem": "patch", "width": w}, METHODS["InfoNCE"], 64, 32, 24,
    ),
    "MAE, ViT of 4 blocks, patches of 4, width 128, batch 64": (
        lambda w: {"kind": "vit", "width": w, "heads": w // 32, "depth": 4, "patch": 4},
        lambda w: {"kind": "mae", "decoder": {"width": w, "heads": w // 32, "depth": 2}},
        128, 64, 10,
    ),
    "BYOL, ResNet-18, small stem, width 64, batch 32, readouts": (
        lambda w: {"kind": "resnet18", "stem": "small", "width": w},
        lambda w: {"kind": "byol", "hidden_dim": 4 * w, "dim": 128, "last_norm": True}, 64, 32, 2,
    ),
}  # fmt: skip
"""Encoder, method, width, samples of a batch, and steps of a round; the base is half as wide."""
ROUNDS = 8


def print_overhead(*chosen: str) -> None:
    """CPU time of steps with and without muP, in turn, on images of 16 pixels.

    Where memory lies changes the time of a step by more than muP does. So one network takes both
    kinds of steps: with the multipliers of muP and its groups of parameters, and without
    multipliers and with one group. The control takes the latter twice.
    """
    torch.set_num_threads(1)
    print("| step | time | muP: passes | optimizer | whole | control, whole |\n|" + "---|" * 6)
    for name, case in OVERHEADS.items():
        if chosen and not name.startswith(chosen):
            continue
        columns, time_ms = [], 0.0
        for control in (False, True):
            rounds = [timed(case, control) for _ in range(ROUNDS)]
            passes, updates = ([r[1][k] - r[0][k] for r in rounds] for k in (0, 1))
            whole = [sum(r[1]) / sum(r[0]) - 1.0 for r in rounds]
            half = statistics.stdev(whole) / math.sqrt(ROUNDS) * T_7
            time_ms = statistics.median(sum(r[0]) for r in rounds)
            columns.append(
                f"{statistics.median(passes):+.2f} ms | {statistics.median(updates):+.2f} ms | "
                f"{statistics.mean(whole):+.1%} ± {half:.1%}"
            )
        whole_control = columns[1].split("|")[2].strip()
        print(f"| {name} | {time_ms:.1f} ms | {columns[0]} | {whole_control} |", flush=True)


def timed(case: tuple[Section, Section, int, int, int], control: bool) -> list[list[float]]:
    """Milliseconds of passes and of the optimizer: without muP, then with it."""
    section, method, width, samples, steps = case
    batch = views(IMAGE, samples, number=1 if method(width)["kind"] == "mae" else 2)
    torch.manual_seed(0)
    built: Any = build(section(width), method(width), IMAGE)
    plain = AdamW(lr=1e-3).build(built, samples)
    model = built if control else apply_mup(built, base_width=width // 2)
    other = AdamW(lr=1e-3).build(model.train(), samples)
    readouts = [part for part in model.modules() if "input_multiplier" in part.__dict__]
    hooks = [part._forward_pre_hooks for part in readouts]
    assert control or len(other.param_groups) > 1
    times: list[list[tuple[float, float]]] = [[], []]
    for step in range(steps + 1):
        for side in (0, 1) if step % 2 else (1, 0):
            optimizer = (plain, other)[side]
            for part, own in zip(readouts, hooks, strict=True):
                part._forward_pre_hooks = own if side else type(own)()
            began = time.process_time()
            optimizer.zero_grad()
            torch.autograd.backward(model(batch).loss)
            between = time.process_time()
            optimizer.step()
            times[side].append((between - began, time.process_time() - between))
    return [
        [statistics.median(part) * 1e3 for part in zip(*side[1:], strict=True)] for side in times
    ]


if __name__ == "__main__":
    verb = sys.argv[1]
    if verb == "slopes":
        print_slopes(Path(sys.argv[2]), *sys.argv[3:])
    elif verb == "tokens":
        print_tokens(Path(sys.argv[2]))
    elif verb == "wide":
        print_wide(sys.argv[2])
    elif verb == "bits":
        print_bits(Path(sys.argv[2]))
    elif verb == "rates":
        print_rates(sys.argv[2], Path(sys.argv[3]))
    else:
        print_overhead(*sys.argv[2:])
