import pytest
import torch
from torch import Tensor

from mezzotint.augment.image_text import ImageAndText
from mezzotint.augment.randomized_quantization.transform import RandomizedQuantization
from mezzotint.augment.tokens import TokenCrop, TokenMask
from mezzotint.augment.transform import Transform
from mezzotint.modality.image_text import pack, unpack
from mezzotint.modality.tokens import MASK, PADDING
from mezzotint.seeding import Draws


@pytest.fixture
def x() -> Tensor:
    generator = torch.Generator().manual_seed(0)
    tokens = torch.randint(2, 258, (20, 12), generator=generator)
    tokens[::2, 7:] = PADDING
    return pack(
        torch.randint(0, 256, (20, 3, 8, 8), generator=generator, dtype=torch.uint8), tokens
    )


def test_each_part_sees_its_own_transforms(x: Tensor) -> None:
    draws = Draws(torch.arange(20), 7)
    both = ImageAndText(image=[RandomizedQuantization(bins=4)], text=[TokenMask(p=0.5)])(x, draws)
    (colors, tokens), (seen, said) = unpack(x, 12), unpack(both, 12)
    assert seen.shape == colors.shape and not torch.equal(seen, colors)
    assert all(len(channel.unique()) <= 4 for sample in seen for channel in sample)
    hidden = said == MASK
    assert (
        0.3 < hidden[tokens != PADDING].float().mean() < 0.7 and not hidden[tokens == PADDING].any()
    )
    assert (
        torch.equal(said[~hidden], tokens[~hidden])
        and both[:, 3].flatten(1)[:, 12:].eq(PADDING).all()
    )


@pytest.mark.parametrize(
    ("image", "text", "kept"),
    [
        ([RandomizedQuantization(bins=4)], [], slice(3, 4)),
        ([], [TokenMask(p=0.5)], slice(0, 3)),
        ([], [], slice(0, 4)),
    ],
)
def test_a_part_without_transforms_stays(
    x: Tensor, image: list[Transform], text: list[Transform], kept: slice
) -> None:
    before = x.clone()
    y = ImageAndText(image=image, text=text)(x, Draws(torch.arange(20), 7))
    assert torch.equal(y[:, kept], x[:, kept]) and torch.equal(x, before)


def test_a_sample_is_changed_alike_in_any_batch(x: Tensor) -> None:
    chain = ImageAndText(
        image=[RandomizedQuantization(bins=4)], text=[TokenCrop(low=0.3, high=0.6, length=9)]
    )
    whole, part = chain(x, Draws(torch.arange(20), 7)), chain(x[5:9], Draws(torch.arange(5, 9), 7))
    assert whole.shape == x.shape and torch.equal(part, whole[5:9])
    assert (
        (unpack(whole, 12)[1] != PADDING).sum(dim=1) < (unpack(x, 12)[1] != PADDING).sum(dim=1)
    ).all()
