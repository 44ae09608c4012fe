"""e-Mix and i-Mix: the loss of mixtures, their gradients, and inputs."""

import math
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn.functional import cross_entropy, normalize

from mezzotint.encoders.domain_agnostic import DomainAgnostic
from mezzotint.encoders.resnet1d import ResNet1D
from mezzotint.methods.emix import EMix, _mixed, mixture_loss
from mezzotint.seeding import Draws, key_of
from mezzotint.types import Input, Views

SERIES = Input((3, 20), (0.0,) * 3, (1.0,) * 3, "series")


def encoder(input: Input = SERIES, **keywords: Any) -> DomainAgnostic:
    torch.manual_seed(0)
    keywords = {"width": 16, "depth": 2, "heads": 2, "patch": 4, "dropout": 0.0} | keywords
    return DomainAgnostic(input, **keywords)


def views(x: Tensor, count: int = 1, step: int = 0) -> Views:
    return Views((x,) * count, ("global",) * count, Draws(torch.arange(len(x)), key_of(3, step)))


def test_each_share_weighs_the_loss_of_its_own_mixture() -> None:
    g = torch.Generator().manual_seed(0)
    mixed, z, share = (
        torch.randn(5, 7, generator=g),
        torch.randn(5, 7, generator=g),
        torch.rand(5, generator=g),
    )
    partner = torch.tensor([1, 2, 3, 4, 0])
    total = 0.0
    for i in range(5):
        logits = (
            torch.stack(
                [(normalize(mixed[i], dim=0) * normalize(z[j], dim=0)).sum() for j in range(5)]
            )
            / 0.2
        )
        log_probs = logits - logits.exp().sum().log()
        total -= float(share[i] * log_probs[i] + (1 - share[i]) * log_probs[partner[i]])
    found, _ = mixture_loss(mixed, z, partner, share, 0.2)
    assert found.item() == pytest.approx(total / 5, rel=1e-5)
    # What the published code computes, for contrast: every share weighs every loss.
    logits = normalize(mixed, dim=1) @ normalize(z, dim=1).T / 0.2
    by_row = cross_entropy(logits, torch.arange(5), reduction="none")
    broadcast = (
        share.view(5, 1, 1) * by_row + (1 - share.view(5, 1, 1)) * cross_entropy(logits, partner)
    ).mean()
    assert abs(broadcast.item() - found.item()) > 1e-3


def test_emix_mixes_embeddings_without_a_gradient_to_the_partner() -> None:
    model = EMix(encoder(), dim=8)
    x = torch.randn(4, 3, 20)
    partner, share = model._draw(views(x))
    assert (partner != torch.arange(4)).all() and (share >= 0.5).all()
    mixed, features = model._features(views(x), partner, share)
    embedded, where = model.encoder.embed(x)  # type: ignore[operator]
    for i in range(4):
        own = share[i] * embedded[i] + (1 - share[i]) * embedded[partner[i]]
        expected = model.encoder.pool(model.encoder.encode(own[None], where))[0]  # type: ignore[operator]
        torch.testing.assert_close(mixed[i], expected, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(features, model.encoder(x), atol=1e-6, rtol=1e-5)
    z = x.clone().requires_grad_()
    _mixed(z, partner, share)[0].sum().backward()
    assert (
        z.grad is not None and torch.allclose(z.grad[0], share[0]) and bool((z.grad[1:] == 0).all())
    )


def test_imix_mixes_inputs_of_any_encoder() -> None:
    model = EMix(ResNet1D(SERIES, width=4, depths=(1, 1)), level="input", dim=8)
    x = torch.randn(6, 3, 20)
    two = Views((x, x + 0.1), ("global",) * 2, Draws(torch.arange(6), 4))
    assert (
        math.isfinite(model(two).loss.item())
        and model(two).loss.item() != model(views(x)).loss.item()
    )
