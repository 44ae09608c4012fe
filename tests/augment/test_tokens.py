import pytest
import torch
from torch import Tensor

from mezzotint.augment.tokens import TokenCrop, TokenDrop, TokenMask, TokenSwap
from mezzotint.augment.transform import Transform
from mezzotint.modality.tokens import MASK, PADDING
from mezzotint.seeding import Draws

LENGTHS = (40, 25, 1, 0, 7)


@pytest.fixture
def x() -> Tensor:
    """Rows of rising tokens with padding behind them, many times over."""
    rows = torch.arange(2, 42).repeat(len(LENGTHS), 1)
    for row, length in enumerate(LENGTHS):
        rows[row, length:] = PADDING
    return rows.repeat(200, 1)


def draws(count: int, key: int = 7) -> Draws:
    return Draws(torch.arange(count), key)


@pytest.mark.parametrize(
    "transform", [TokenMask(p=0.3), TokenDrop(p=0.3), TokenSwap(p=0.3), TokenCrop(low=0.4)]
)
def test_views_are_tokens_with_padding_at_the_end_and_keyed_by_sample(
    transform: Transform, x: Tensor
) -> None:
    view = transform(x, draws(len(x)))
    assert view.dtype == torch.int64 and view.shape == x.shape
    assert torch.equal(view, transform(x, draws(len(x))))
    few = transform(x[3:9], Draws(torch.arange(3, 9), 7))
    assert torch.equal(few, view[3:9])
    there = view != PADDING
    assert not (there[:, 1:] & ~there[:, :-1]).any()
    assert torch.equal(there.any(dim=1), (x != PADDING).any(dim=1))
    assert not torch.equal(view, x)


def test_mask_hides_its_share_and_changes_nothing_else(x: Tensor) -> None:
    view = TokenMask(p=0.3)(x, draws(len(x)))
    hidden = view == MASK
    assert abs(hidden[x != PADDING].float().mean().item() - 0.3) < 0.01
    assert torch.equal(view[~hidden], x[~hidden])


def test_drop_keeps_the_order(x: Tensor) -> None:
    view = TokenDrop(p=0.25)(x, draws(len(x)))
    long = view[:: len(LENGTHS)]
    assert abs((long != PADDING).float().mean().item() - 0.75) < 0.01
    for row in view:
        kept = row[row != PADDING]
        assert bool((kept.diff() > 0).all())


def test_swap_exchanges_neighbors_only(x: Tensor) -> None:
    view = TokenSwap(p=0.4)(x, draws(len(x)))
    assert torch.equal(view.sort(dim=1).values, x.sort(dim=1).values)
    assert int((view - x)[x != PADDING].abs().max()) == 1
    assert (
        abs((view != x)[:: len(LENGTHS)].float().mean().item() - 0.39) < 0.02
    )  # one or two ends have no partner


def test_crop_is_a_stretch_of_the_text_and_reaches_both_ends(x: Tensor) -> None:
    view = TokenCrop(low=0.5, high=0.8, length=24)(x, draws(len(x)))
    assert view.shape[1] == 24 and TokenCrop(length=24).output_shape((3, 40)) == (3, 24)
    for row, whole in zip(view, x, strict=True):
        kept = row[row != PADDING]
        count = int((whole != PADDING).sum())
        assert bool((kept.diff() == 1).all())
        assert len(kept) <= 24 and (count == 0) == (len(kept) == 0)
        assert count == 0 or min(24, 0.5 * count) <= len(kept) <= 0.8 * count + 1
    long = view[:: len(LENGTHS)]
    assert int(long[:, 0].min()) == 2 and int(long.max()) == 41


def test_a_crop_of_everything_is_the_text(x: Tensor) -> None:
    assert torch.equal(TokenCrop(low=1.0)(x, draws(len(x))), x)


@pytest.mark.parametrize(
    "make", [lambda: TokenMask(p=1.0), lambda: TokenDrop(p=-0.1), lambda: TokenCrop(low=0.0)]
)
def test_what_makes_no_sense_is_refused(make: type[Transform]) -> None:
    with pytest.raises(ValueError, match=r"^[`A-Z].* got .*\. [A-Z].*"):
        make()
