"""Methods of masked prediction on tiny images, as several tests train them."""

from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from mezzotint import dist
from mezzotint.augment.masking import RandomMask
from mezzotint.codebooks import EMA, RQ, VQ
from mezzotint.encoders.decoder import Decoder
from mezzotint.encoders.vit import ViT
from mezzotint.methods.bridle import BRIDLE, BRIDLEJoint, BRIDLETokenizer
from mezzotint.methods.mae import MAE
from mezzotint.methods.method import Method
from mezzotint.methods.tokenizer import LearnedTokenizer
from mezzotint.seeding import Draws, key_of
from mezzotint.types import Input, Views

INPUT = Input((3, 16, 16), (0.5,) * 3, (0.25,) * 3)


DECODER = Decoder(width=16, depth=1, heads=2)


MASK = RandomMask(ratio=0.5)


def encoder() -> ViT:
    return ViT(INPUT, width=16, depth=1, heads=2, patch=4)


def book(levels: int = 2) -> RQ:
    return RQ(
        dim=8, num_codes=12, num_levels=levels, ema=EMA(expire_every=3, expire_below=0.3, decay=0.7)
    )


def tokenizer_phase() -> Method:
    method = BRIDLETokenizer(encoder(), codebook=book(), estimator_depth=1)
    method.given = ("encoder",)
    return method


def learned() -> Method:
    method = BRIDLE(
        encoder(), codebook=book(), tokenizer=LearnedTokenizer(), mask=MASK, decoder=DECODER
    )
    method.given = ("tokenizer", "codebook")
    return method


MAKE: dict[str, Callable[[], Method]] = {
    "mae": lambda: MAE(encoder(), mask=MASK, decoder=DECODER),
    "bridle": lambda: BRIDLE(encoder(), codebook=book(), mask=MASK, decoder=DECODER),
    "bridle, 3 codes": lambda: BRIDLE(
        encoder(), codebook=book(), mask=MASK, decoder=DECODER, codes_per_level=3
    ),
    "bridle, soft": lambda: BRIDLE(
        encoder(),
        codebook=VQ(dim=8, num_codes=12),
        mask=MASK,
        decoder=DECODER,
        codes_per_level=3,
        temperature=0.5,
    ),
    "bridle, learned": learned,
    "bridle_tokenizer": tokenizer_phase,
    "bridle_joint": lambda: BRIDLEJoint(
        encoder(), codebook=book(), mask=MASK, decoder=DECODER, estimator_depth=1, every=2
    ),
}


def made(name: str, seed: int = 0) -> Method:
    torch.manual_seed(seed)
    return MAKE[name]().train()


def make_views(batch: int = 6, step: int = 0) -> Views:
    x = torch.randn(batch, 3, 16, 16, generator=torch.Generator().manual_seed(step))
    return Views((x,), ("global",), Draws(torch.arange(batch), key_of(7, step)))


def train(method: nn.Module, views: list[Views], lr: float = 1e-3) -> list[float]:
    raw: Any = getattr(method, "module", method)
    optimizer = torch.optim.AdamW([p for p in raw.parameters() if p.requires_grad], lr=lr)
    losses = []
    for place, batch in enumerate(views):
        optimizer.zero_grad()
        loss = method(batch).loss
        loss.backward()
        optimizer.step()
        raw.after_step((place + 1) / len(views))
        losses.append(float(dist.mean(loss.detach())))
    return losses
