"""BRIDLE on spectrograms with a pattern, as several tests train it."""

from typing import Any

import torch
from torch import Tensor

from mezzotint.codebooks import EMA, RQ, Codebook
from mezzotint.encoders.decoder import Decoder
from mezzotint.encoders.vit import ViT
from mezzotint.methods.bridle import BRIDLE, BRIDLETokenizer
from mezzotint.methods.method import Method
from mezzotint.seeding import Draws, key_of
from mezzotint.types import Input, Views

INPUT = Input((1, 16, 32), (0.0,), (1.0,), "audio")


DECODER = Decoder(width=16, depth=1, heads=2)


def vit(width: int = 16) -> ViT:
    torch.manual_seed(0)
    return ViT(INPUT, width=width, depth=2, heads=2, patch=4)  # 4 × 8 patches


def book(num_codes: int = 16, levels: int = 3, **keywords: Any) -> RQ:
    return RQ(dim=8, num_codes=num_codes, num_levels=levels, **keywords)


def bridle(codebook: Codebook | None = None, **keywords: Any) -> BRIDLE:
    return BRIDLE(vit(), codebook=codebook or book(), decoder=DECODER, **keywords)


def patterned(batch: int = 8, step: int = 0) -> Tensor:
    """Patches of a few kinds with noise, which come in runs along the second axis."""
    generator = torch.Generator().manual_seed(step)
    kinds = torch.randn(6, 4, 4, generator=torch.Generator().manual_seed(99)) * 2.0
    chosen = torch.randint(6, (batch, 4, 2), generator=generator).repeat_interleave(4, dim=2)
    x = kinds[chosen].permute(0, 1, 3, 2, 4).reshape(batch, 1, 16, 32)
    return x + 0.1 * torch.randn(x.shape, generator=generator)


def views(x: Tensor, step: int = 0) -> Views:
    return Views((x,), ("global",), Draws(torch.arange(len(x)), key_of("bridle", step)))


def train(method: Method, steps: int, lr: float = 3e-3) -> dict[str, float]:
    optimizer = torch.optim.AdamW([p for p in method.parameters() if p.requires_grad], lr=lr)
    logs: dict[str, Tensor] = {}
    for step in range(steps):
        optimizer.zero_grad()
        outcome = method(views(patterned(step=step), step))
        outcome.loss.backward()
        optimizer.step()
        method.after_step((step + 1) / steps)
        logs = outcome.logs
    return {key: float(value) for key, value in logs.items()}


def tokenizer_phase(**keywords: Any) -> BRIDLETokenizer:
    ema = EMA(decay=0.8, expire_every=4, expire_below=0.2)
    method = BRIDLETokenizer(vit(), codebook=book(8, 2, ema=ema), estimator_depth=1, **keywords)
    method.given = ("encoder",)
    return method.train()
