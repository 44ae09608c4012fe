"""Time of an encoder phase with a frozen, learned tokenizer, with and without cached codes.

python benchmarks/token_cache.py
"""

import statistics
import subprocess
import time

import torch

from mezzotint.codebooks import RQ
from mezzotint.encoders.decoder import Decoder
from mezzotint.encoders.vit import ViT
from mezzotint.methods.bridle import BRIDLE
from mezzotint.methods.tokenizer import LearnedTokenizer
from mezzotint.seeding import Draws
from mezzotint.types import Input, Views

BATCH, ROUNDS, WIDTH, DEPTH = 32, 7, 96, 4


def made(cache: bool) -> BRIDLE:
    torch.manual_seed(0)
    encoder = ViT(
        Input((1, 64, 64), (0.0,), (1.0,), "audio"),
        width=WIDTH,
        depth=DEPTH,
        heads=4,
        patch=[16, 8],
    )
    method = BRIDLE(
        encoder,
        codebook=RQ(dim=64, num_codes=64),
        tokenizer=LearnedTokenizer(),
        decoder=Decoder(width=WIDTH, depth=2, heads=4),
        cache=cache,
    )
    method.given = ("tokenizer", "codebook")
    return method.train()


def step(method: BRIDLE, views: Views) -> float:
    began = time.process_time()
    method.zero_grad()
    method(views).loss.backward()
    return time.process_time() - began


def main() -> None:
    torch.set_num_threads(1)
    views = Views((torch.randn(BATCH, 1, 64, 64),), ("global",), Draws(torch.arange(BATCH), 1))
    methods = {"without": made(False), "cached": made(True)}
    times: dict[str, list[float]] = {name: [] for name in methods}
    for _ in range(ROUNDS + 2):
        for name, method in methods.items():
            times[name].append(step(method, views))
    medians = {name: statistics.median(values[2:]) for name, values in times.items()}
    commit = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=False
    )
    print(
        f"commit {commit.stdout.strip()}, one thread, processor time of a step, median of "
        f"{ROUNDS}, alternating"
    )
    for name, seconds in medians.items():
        print(f"{name:8} {1000 * seconds:7.1f} ms")
    print(f"ratio    {medians['without'] / medians['cached']:7.2f}")


if __name__ == "__main__":
    main()
