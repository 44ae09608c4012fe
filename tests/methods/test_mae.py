"""MAE: its loss as a loop over masked patches, learning, and refusals."""

import pytest
import torch

from mezzotint.encoders.vit import ViT
from mezzotint.methods.mae import MAE
from mezzotint.seeding import Draws, key_of
from mezzotint.types import Input, Views
from tests.methods.tiny_masked import made, make_views, train


def test_mae_is_the_mean_square_over_hidden_patches() -> None:
    method, views = made("mae"), make_views()
    assert isinstance(method, MAE)
    keep, all_hidden = method.draw(views)
    guess = method.predict(
        views.x[0], keep, all_hidden, method.encoder.patches.split(views.x[0])[1]
    )
    total, count = 0.0, 0
    for row, hidden in enumerate(all_hidden.tolist()):
        for place, number in enumerate(hidden):
            i, j = divmod(number, 4)
            patch = views.x[0][row, :, 4 * i : 4 * i + 4, 4 * j : 4 * j + 4].flatten()
            wanted = (patch - patch.mean()) / (patch.var() + 1e-6).sqrt()
            total += float((guess[row, place].detach() - wanted).square().sum())
            count += wanted.numel()
    assert float(method(views).loss.detach()) == pytest.approx(total / count, rel=1e-5)


def test_mae_learns_a_pattern_that_neighbors_tell() -> None:
    method = made("mae")
    waves = torch.linspace(0, 6.28, 16).sin()

    def views(step: int) -> Views:
        shift = torch.randn(16, 1, 1, 1, generator=torch.Generator().manual_seed(step))
        x = (waves.view(1, 1, 1, 16) * shift).expand(16, 3, 16, 16).contiguous()
        return Views((x,), ("global",), Draws(torch.arange(16), key_of(step)))

    first = float(method(views(0)).loss.detach())
    train(method, [views(step) for step in range(60)], lr=1e-2)
    assert float(method(views(99)).loss.detach()) < 0.5 * first


def test_mae_refuses_tokens() -> None:
    words = ViT(Input((12,), (), (), "tokens", 9), width=16, depth=1, heads=2)
    with pytest.raises(
        ValueError,
        match="cannot predict tokens, since tokens have no values. Choose method.kind=bridle",
    ):
        MAE(words)
