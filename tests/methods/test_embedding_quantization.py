"""Randomized quantization of embeddings: padding and gradient."""

from typing import Any

import torch
from torch import Tensor

from mezzotint.augment.randomized_quantization.transform import RandomizedQuantization
from mezzotint.encoders.domain_agnostic import DomainAgnostic
from mezzotint.methods.embedding_quantization import EmbeddingQuantization
from mezzotint.methods.shed import ShED, shuffled
from mezzotint.modality.tokens import PADDING
from mezzotint.seeding import Draws, key_of
from mezzotint.types import Input, Views

SERIES = Input((3, 20), (0.0,) * 3, (1.0,) * 3, "series")

TEXT = Input((12,), (), (), "tokens", 30)


def encoder(input: Input = SERIES, **keywords: Any) -> DomainAgnostic:
    torch.manual_seed(0)
    keywords = {"width": 16, "depth": 2, "heads": 2, "patch": 4, "dropout": 0.0} | keywords
    return DomainAgnostic(input, **keywords)


def views(x: Tensor, count: int = 1, step: int = 0) -> Views:
    return Views((x,) * count, ("global",) * count, Draws(torch.arange(len(x)), key_of(3, step)))


def texts(count: int = 6) -> Tensor:
    x = torch.randint(2, 30, (count, 12), generator=torch.Generator().manual_seed(1))
    for row in range(1, count):
        x[row, 12 - row :] = PADDING
    return x


def test_padding_neither_moves_nor_counts_for_the_range() -> None:
    x = texts()
    model = ShED(encoder(TEXT), ratio=0.5)
    embedded, _ = model.encoder.embed(x)  # type: ignore[operator]
    there = x != PADDING
    order = model._draw(views(x), 12).masked_fill(~there, 2.0).argsort(dim=1)
    index, moved = shuffled(order, (there.sum(dim=1, keepdim=True) * 0.5).round().long())
    assert not (moved & ~there).any() and moved[0].sum() == 6
    assert torch.equal(index[~moved], torch.arange(12).expand(6, -1)[~moved])
    quantizing = EmbeddingQuantization(encoder(TEXT), dim=8)
    with torch.no_grad():
        quantizing.encoder.patches.table.weight[PADDING] = 1000.0  # type: ignore[union-attr, operator]
    embedded, _ = quantizing.encoder.embed(x)  # type: ignore[operator]
    y, embedded = (
        quantizing._quantized(embedded, x, quantizing._draw(views(x), 0)).detach(),
        embedded.detach(),
    )
    assert torch.equal(y[~there], embedded[~there]) and float(y[there].abs().max()) < 10.0
    for row in range(6):
        for dimension in range(16):
            assert len(set(y[row, there[row], dimension].tolist())) <= 8


def test_the_gradient_passes_straight_through_the_quantization() -> None:
    x = torch.randn(4, 3, 20)
    straight, none = (
        EmbeddingQuantization(
            encoder(),
            dim=8,
            quantization=RandomizedQuantization(bins=8, channel_dim=2, gradient=gradient),
        )
        for gradient in ("ste", "none")
    )
    for model, learns in ((straight, True), (none, False)):
        model(views(x)).loss.backward()
        gradient = dict(model.named_parameters())["encoder.patches.project.weight"].grad
        assert (gradient is not None and float(gradient.norm()) > 0) == learns
