"""The methods of DABS: against naive references, and that padding has no say."""

import math
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn.functional import cross_entropy, normalize

from mezzotint.augment.mixing import DACLMixup, beta_half
from mezzotint.augment.randomized_quantization.transform import RandomizedQuantization
from mezzotint.encoders.domain_agnostic import DomainAgnostic
from mezzotint.encoders.resnet1d import ResNet1D
from mezzotint.methods.embedding_quantization import EmbeddingQuantization
from mezzotint.methods.emix import EMix, _mixed, mixture_loss
from mezzotint.methods.method import Method
from mezzotint.methods.shed import ShED, shuffled
from mezzotint.modality.tokens import PADDING
from mezzotint.seeding import Draws, key_of
from mezzotint.types import Input, Views

SERIES = Input((3, 20), (0.0,) * 3, (1.0,) * 3, "series")
TEXT = Input((12,), (), (), "tokens", 30)
METHODS: dict[type[Method], dict[str, Any]] = {
    EMix: {"dim": 8},
    ShED: {},
    EmbeddingQuantization: {"dim": 8},
}


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


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("input", [SERIES, TEXT], ids=["series", "tokens"])
def test_loss_is_finite_keyed_and_its_gradient_reaches_everything(
    method: type[Method], input: Input
) -> None:
    model = method(encoder(input), **METHODS[method])
    x = texts() if input is TEXT else torch.randn(6, 3, 20)
    step = model(views(x))
    assert torch.isfinite(step.loss) and torch.equal(step.loss, model(views(x)).loss)
    assert not torch.equal(step.loss, model(views(x, step=1)).loss)
    step.loss.backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None and parameter.grad.abs().sum() > 0, name


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
    _mixed(z, partner, share)[0].sum().backward()  # type: ignore[no-untyped-call]
    assert (
        z.grad is not None and torch.allclose(z.grad[0], share[0]) and bool((z.grad[1:] == 0).all())
    )


def test_shuffled_goes_round_among_the_chosen() -> None:
    order = torch.tensor([[4, 1, 3, 0, 2], [2, 0, 1, 3, 4], [0, 1, 2, 3, 4]])
    index, moved = shuffled(order, torch.tensor([[3], [1], [2]]))
    assert index.tolist() == [[0, 3, 2, 4, 1], [0, 1, 2, 3, 4], [1, 0, 2, 3, 4]]
    assert moved.tolist() == [
        [False, True, False, True, True],
        [False] * 5,
        [True, True, False, False, False],
    ]


def test_shed_learns_to_find_what_moved() -> None:
    """Rising series: what is out of order can be seen."""
    model = ShED(encoder(Input((1, 40), (0.0,), (1.0,), "series"), patch=4, width=32), ratio=0.3)
    optimizer = torch.optim.AdamW(model.parameters(), 3e-3)
    for step in range(80):
        start = torch.randn(16, 1, 1, generator=torch.Generator().manual_seed(step))
        x = start * 0.1 + torch.linspace(-2.0, 2.0, 40)
        out = model(views(x, step=step))
        optimizer.zero_grad()
        out.loss.backward()
        optimizer.step()
    assert out.logs["found"] > 0.9 and out.logs["false_alarms"] < 0.05


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


def test_dacl_mixtures() -> None:
    x = torch.rand(300, 4, 5)
    draws = Draws(torch.arange(300), 5)
    for mixture in ("linear", "geometric", "binary"):
        transform = DACLMixup(low=0.6, mixture=mixture)
        params = transform.draw(x.shape, draws)
        y = transform.apply(x, params)
        other = x[(torch.arange(300) + params["partner"]) % 300]
        share = params["weight"].view(-1, 1, 1)
        expected = {
            "linear": share * x + (1 - share) * other,
            "geometric": x**share * other ** (1 - share),
            "binary": torch.where(y == x, x, other),
        }[mixture]
        torch.testing.assert_close(y, expected, atol=1e-5, rtol=1e-4)
        assert (
            params["weight"].min() >= 0.6
            and (params["partner"] >= 1).all()
            and (params["partner"] < 300).all()
        )
        if mixture == "binary":
            assert abs((y == x).float().mean().item() - 0.8) < 0.02
    assert torch.equal(DACLMixup()(x[:1], Draws(torch.zeros(1, dtype=torch.int64), 0)), x[:1])
    with pytest.raises(ValueError, match="negative values"):
        DACLMixup(mixture="geometric")(x - 0.5, draws)
    shares = beta_half(draws)
    assert shares.min() >= 0.5 and abs(shares.mean().item() - 0.75) < 0.03


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: EMix(encoder(TEXT), level="input"), "cannot be mixed as inputs"),
        (lambda: EMix(ResNet1D(SERIES, width=4)), "resnet_?1d has no patches"),
        (lambda: ShED(ResNet1D(SERIES, width=4)), "no patches"),
        (lambda: ShED(encoder(), ratio=0.0), "must be in .0, 1., got 0.0"),
        (
            lambda: EmbeddingQuantization(encoder(), quantization=RandomizedQuantization(bins=4)),
            "must be 2, the dimensions of an embedding",
        ),
        (lambda: EMix(encoder())(views(torch.randn(4, 3, 20), 3)), "takes 1 to 2 views, got 3"),
    ],
)
def test_what_makes_no_sense_is_refused(make: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()


def test_imix_mixes_inputs_of_any_encoder() -> None:
    model = EMix(ResNet1D(SERIES, width=4, depths=(1, 1)), level="input", dim=8)
    x = torch.randn(6, 3, 20)
    two = Views((x, x + 0.1), ("global",) * 2, Draws(torch.arange(6), 4))
    assert (
        math.isfinite(model(two).loss.item())
        and model(two).loss.item() != model(views(x)).loss.item()
    )
