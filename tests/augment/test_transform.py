"""The base of transforms: layouts, composition, changes of some rows."""

from collections.abc import Sequence

import pytest
import torch
from torch import Tensor

from mezzotint.augment.image.geometry import HorizontalFlip, RandomResizedCrop
from mezzotint.augment.image.tone import Solarize
from mezzotint.augment.transform import (
    IMAGES,
    SPECTROGRAMS,
    VIDEOS,
    Compose,
    Params,
    Transform,
    where_rows,
)
from mezzotint.augment.video import RandomErasing
from mezzotint.seeding import Draws


class Shift(Transform):
    """Add one drawn number to each sample."""

    def __init__(self) -> None:
        pass

    def draw(self, shape: Sequence[int], draws: Draws) -> Params:
        return {"by": draws.uniform("by")}

    def apply(self, x: Tensor, params: Params) -> Tensor:
        return x + params["by"].view(-1, *(1 for _ in x.shape[1:]))


def draws(rows: int) -> Draws:
    return Draws(torch.arange(rows), 7)


def test_compose_applies_in_order_with_draws_by_index_and_kind() -> None:
    x = torch.rand(5, 3, 4, 4)
    chain = Compose(transforms=[Shift(), Solarize(p=1.0), Shift()])
    params = chain.draw(x.shape, draws(5))
    assert list(params) == ["0.shift.by", "1.solarize.chosen", "2.shift.by"]
    first, second = (draws(5).fold(name).uniform("by") for name in ("0.shift", "2.shift"))
    assert torch.equal(params["0.shift.by"], first)
    assert torch.equal(params["2.shift.by"], second) and not torch.equal(first, second)
    y = x + first.view(-1, 1, 1, 1)
    y = torch.where(y >= 0.5, 1.0 - y, y) + second.view(-1, 1, 1, 1)
    torch.testing.assert_close(chain.apply(x, params), y)
    assert torch.equal(chain(x, draws(5)), chain.apply(x, params))


def test_compose_of_nothing_is_the_identity() -> None:
    x = torch.rand(2, 3, 4, 4)
    assert torch.equal(Compose(transforms=[])(x, draws(2)), x)


@pytest.mark.parametrize("chosen", [[], [0], [1, 3], [0, 1, 2, 3]])
def test_only_chosen_rows_change(chosen: list[int]) -> None:
    x = torch.rand(4, 2, 3)
    mask = torch.zeros(4, dtype=torch.bool)
    mask[chosen] = True
    received: list[int] = []

    def negate(part: Tensor, rows: Tensor) -> Tensor:
        received.extend(rows.tolist())
        return -part

    y = where_rows(x, mask, negate)
    assert received == chosen
    assert torch.equal(y, torch.where(mask.view(-1, 1, 1), -x, x))


def test_layouts_fit_their_shapes() -> None:
    assert IMAGES.fits((2, 3, 8, 8)) and not IMAGES.fits((2, 3, 8))
    assert SPECTROGRAMS.fits((2, 1, 80, 100)) and not SPECTROGRAMS.fits((2, 3, 80, 100))
    assert str(VIDEOS) == "video [B, C, T, H, W]" and str(SPECTROGRAMS) == "audio [B, 1, F, T]"


def test_modalities_follow_from_layouts() -> None:
    assert Shift.modalities == frozenset()
    assert HorizontalFlip.modalities == {"image", "audio", "video"}
    assert RandomErasing.modalities == {"image", "audio", "video"}


def test_a_chain_refuses_another_modality_before_it_draws() -> None:
    chain = Compose(transforms=[Shift(), RandomResizedCrop(size=4)])
    with pytest.raises(ValueError, match=r"^random_resized_crop takes image \[B, C, H, W\] or .*"):
        chain.draw((2, 3, 8), draws(2))
