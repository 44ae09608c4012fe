"""Masks: counts of the papers, structure, keyed draws, and grids that are too small."""

import pytest
import torch

from mezzotint.augment.masking import AxesMask, Mask, RandomMask, TubeMask
from mezzotint.seeding import Draws


def draws(*ids: int, key: int = 1) -> Draws:
    return Draws(torch.tensor(ids), key)


@pytest.mark.parametrize(
    ("mask", "grid", "visible"),
    [
        (RandomMask(ratio=0.8), (8, 64), 102),  # AudioSet: 410 of 512 predicted
        (RandomMask(ratio=0.8), (14, 14), 39),  # ImageNet: 157 of 196 predicted
        (RandomMask(ratio=0.75), (14, 14), 49),
        (TubeMask(ratio=0.9), (8, 14, 14), 160),  # Kinetics: 1408 of 1568 predicted
        (AxesMask(ratios=[0.3, 0.7]), (8, 64), 95),  # 5 of 8 frequencies at 19 of 64 times
        (AxesMask(ratios=[0.0, 0.5]), (8, 64), 256),
    ],
)
def test_as_many_patches_are_seen_as_in_the_papers(
    mask: Mask, grid: tuple[int, ...], visible: int
) -> None:
    count = torch.Size(grid).numel()
    keep, hidden = mask.draw(grid, draws(3, 4, 5))
    assert (
        keep.shape == (3, visible)
        and hidden.shape == (3, count - visible)
        and mask.visible(grid) == visible
    )
    both = torch.cat([keep, hidden], dim=1).sort(dim=1).values
    assert torch.equal(both, torch.arange(count).expand(3, -1))


@pytest.mark.parametrize(
    "mask",
    [RandomMask(), TubeMask(ratio=0.5), AxesMask(ratios=[0.5, 0.5])],
    ids=["random", "tube", "axes"],
)
def test_masks_belong_to_the_sample_and_not_to_the_batch(mask: Mask) -> None:
    keep, _ = mask.draw((4, 8), draws(0, 1, 2))
    alone, _ = mask.draw((4, 8), draws(1))
    assert torch.equal(keep[1], alone[0]) and not torch.equal(
        keep[0].sort().values, keep[1].sort().values
    )
    assert not torch.equal(alone, mask.draw((4, 8), draws(1, key=2))[0])


def test_random_masks_hide_every_patch_equally_often() -> None:
    keep, _ = RandomMask(ratio=0.75).draw((4, 4), draws(*range(4000)))
    seen = torch.zeros(16).index_add_(0, keep.flatten(), torch.ones(keep.numel())) / 4000
    assert (seen - 0.25).abs().max() < 5 * (0.25 * 0.75 / 4000) ** 0.5


def test_tubes_hide_the_same_places_at_all_times() -> None:
    keep, _ = TubeMask(ratio=0.75).draw((3, 2, 4), draws(0, 1))
    for row in keep.tolist():
        times = [sorted(p % 8 for p in row if p // 8 == t) for t in range(3)]
        assert times[0] == times[1] == times[2] and len(times[0]) == 2


def test_axes_hide_whole_rows_and_columns() -> None:
    keep, _ = AxesMask(ratios=[0.5, 0.25]).draw((4, 8), draws(0, 1))
    for row in keep.tolist():
        rows, columns = {p // 8 for p in row}, {p % 8 for p in row}
        assert len(rows) == 2 and len(columns) == 6
        assert sorted(row) == sorted(r * 8 + c for r in rows for c in columns)


@pytest.mark.parametrize(
    ("mask", "grid", "message"),
    [
        (
            RandomMask(ratio=0.9),
            (3, 3),
            r"random_mask must .*, got a grid of 3 × 3 patches with none visible. Change",
        ),
        (RandomMask(ratio=0.1), (1,), r"none visible"),
        (TubeMask(ratio=0.1), (2, 2, 2), r"none masked"),
        (TubeMask(), (12,), r"none masked|takes a grid of time and positions, got 1 axis"),
        (
            AxesMask(ratios=[0.5]),
            (4, 4),
            r"one value per axis, got 1 ratios for a grid of 2 axes. Try",
        ),
    ],
)
def test_grids_that_a_mask_does_not_fit_are_refused(
    mask: Mask, grid: tuple[int, ...], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        mask.draw(grid, draws(0))


@pytest.mark.parametrize("ratio", [0.0, 1.0, -0.1, 2.0])
def test_bad_ratios_are_refused(ratio: float) -> None:
    with pytest.raises(ValueError, match=rf"`ratio` must be above 0 and below 1, got {ratio}. Try"):
        RandomMask(ratio=ratio)
