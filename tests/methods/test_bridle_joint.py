"""Joint BRIDLE: turns of the tokenizer, and its gradient."""

from typing import Any

import torch
from torch import Tensor

from mezzotint.codebooks import RQ, Codebook
from mezzotint.encoders.decoder import Decoder
from mezzotint.encoders.vit import ViT
from mezzotint.methods.bridle import BRIDLE
from mezzotint.methods.bridle_joint import BRIDLEJoint
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


def test_joint_trains_the_tokenizer_in_every_nth_step_alone() -> None:
    method = BRIDLEJoint(
        vit(), codebook=book(8, 2), decoder=DECODER, estimator_depth=1, every=3, weight=0.5
    ).train()
    moved = []
    for step in range(7):
        books = method.codebook.state_dict()["books.vectors"].clone()
        method.zero_grad()
        method(views(patterned(step=step), step)).loss.backward()
        gradient = sum(
            float(p.grad.abs().sum()) for p in method.tokenizer.parameters() if p.grad is not None
        )
        changed = not torch.equal(books, method.codebook.state_dict()["books.vectors"])
        assert changed == (gradient > 0)
        moved.append(changed)
        method.after_step(0.5)
    assert moved == [True, False, False, True, False, False, True]


def test_no_gradient_of_the_tokenizer_reaches_the_encoder() -> None:
    turn = BRIDLEJoint(vit(), codebook=book(8, 2), decoder=DECODER, estimator_depth=1, weight=9.0)
    plain = BRIDLEJoint(vit(), codebook=book(8, 2), decoder=DECODER, estimator_depth=1, weight=1e-9)
    plain.load_state_dict(turn.state_dict())
    for method in (turn, plain):
        method.train()(views(patterned())).loss.backward()
    for one, two in zip(turn.encoder.parameters(), plain.encoder.parameters(), strict=True):
        torch.testing.assert_close(one.grad, two.grad)
