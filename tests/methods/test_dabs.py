"""The methods of DABS: against naive references, and that padding has no say."""

from typing import Any

import pytest
import torch
from torch import Tensor

from mezzotint.augment.mixing import DACLMixup, beta_half
from mezzotint.augment.randomized_quantization.transform import RandomizedQuantization
from mezzotint.encoders.domain_agnostic import DomainAgnostic
from mezzotint.encoders.resnet1d import ResNet1D
from mezzotint.methods.embedding_quantization import EmbeddingQuantization
from mezzotint.methods.emix import EMix
from mezzotint.methods.method import Method
from mezzotint.methods.shed import ShED
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
