"""AugMix: draws of torchvision, and a naive mixture of chains."""

import torch
from torchvision.transforms import v2

from mezzotint.augment.image.aug_mix import AugMix
from mezzotint.augment.image.rand_augment import (
    RandAugment,
)
from mezzotint.seeding import Draws
from tests.augment.image.reference import assert_same, drawn, theirs


def test_aug_mix_draws_what_torchvision_draws() -> None:
    expected = theirs(v2.AugMix._AUGMENTATION_SPACE, 10, [0, 1, 2])
    assert_same({k: v for k, v in drawn(AugMix()).items() if k != "identity"}, expected)


def test_aug_mix_mixes_chains_with_the_image() -> None:
    mix, x = (
        AugMix(severity=10),
        torch.rand(16, 3, 24, 24, generator=torch.Generator().manual_seed(0)),
    )
    draws = Draws(torch.arange(16), 3)
    params = mix.draw(x.shape, draws)
    torch.testing.assert_close(params["weights"].sum(dim=1), torch.ones(16))
    y = mix.apply(x, params)
    one_chain = RandAugment(num_ops=3, interpolation="bilinear")
    expected = (x * 255.999).floor() * params["weights"][:, :1, None, None]
    for chain in range(3):
        part = {
            name: params[name][:, 3 * chain : 3 * chain + 3]
            for name in ("op", "magnitude", "center")
        }
        expected = (
            expected
            + (one_chain.apply(x, part) * 255).round()
            * params["weights"][:, chain + 1, None, None, None]
        )
    torch.testing.assert_close(y * 255, expected.floor(), atol=1.001, rtol=0)
