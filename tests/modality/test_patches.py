"""Grid patches against slices, positions against their definition."""

import math

import pytest
import torch

from mezzotint.modality.patches import GridPatches, PatchSize, SinCos, grid_positions, take


def test_patches_are_slices_in_row_order() -> None:
    x = torch.randn(2, 3, 4, 8, 16)
    values, positions = GridPatches((3, 4, 8, 16), (2, 4, 4), 24).split(x)
    number = 0
    for t in range(2):
        for i in range(2):
            for j in range(4):
                tube = x[:, :, 2 * t : 2 * t + 2, 4 * i : 4 * i + 4, 4 * j : 4 * j + 4]
                assert torch.equal(values[:, number], tube.flatten(1))
                assert positions[0, number].tolist() == [t, i, j]
                number += 1


@pytest.mark.parametrize(("grid", "width"), [((5,), 10), ((2, 3), 24), ((2, 2, 3), 26)])
def test_positions_are_those_of_the_definition(grid: tuple[int, ...], width: int) -> None:
    embedded = SinCos(len(grid), width)(grid_positions(grid, torch.device("cpu")))[0]
    part = 2 * (width // (2 * len(grid)))
    widths = [width - part * (len(grid) - 1)] + [part] * (len(grid) - 1)
    for number, row in enumerate(embedded.tolist()):
        rest = number
        position: list[int] = []
        for size in reversed(grid):
            position.insert(0, rest % size)
            rest //= size
        expected: list[float] = []
        for coordinate, own in zip(position, widths, strict=True):
            angles = [coordinate / 10000 ** (i / (own // 2)) for i in range(own // 2)]
            expected += [math.sin(a) for a in angles] + [math.cos(a) for a in angles]
        assert row == pytest.approx(expected, abs=1e-5)
    assert len(embedded.unique(dim=0)) == math.prod(grid)


def test_an_embedded_patch_is_a_convolution() -> None:
    patches, x = GridPatches((3, 8, 12), (4, 4), 10), torch.randn(2, 3, 8, 12)
    weight = patches.project.weight.view(10, 3, 4, 4)
    expected = torch.nn.functional.conv2d(x, weight, patches.project.bias, stride=4)
    embedded = patches.embed(patches.split(x)[0])
    torch.testing.assert_close(embedded, expected.flatten(2).mT, atol=1e-5, rtol=1e-4)


def test_sides_of_a_patch() -> None:
    assert PatchSize().sides((2, 16, 16)) == (2, 16, 16)
    assert PatchSize(4).sides((2, 16, 16)) == (4, 4, 4)
    assert PatchSize([2, 8]).sides((16, 16)) == (2, 8)
    for wrong in (0, [], [4, 0]):
        with pytest.raises(ValueError, match="`patch` must be 1 or more"):
            PatchSize(wrong)


def test_patches_that_do_not_fill_the_sample_are_refused() -> None:
    with pytest.raises(
        ValueError, match=r"must divide the sizes \(8, 12\) of a sample, got \(5, 4\)"
    ):
        GridPatches((3, 8, 12), (5, 4), 10)
    with pytest.raises(ValueError, match=r"`width` must be even and at least 6"):
        SinCos(3, 5)


def test_take_gathers_rows() -> None:
    x, rows = torch.arange(24).view(2, 4, 3), torch.tensor([[3, 0], [1, 1]])
    assert torch.equal(take(x, rows), torch.stack([x[0, [3, 0]], x[1, [1, 1]]]))
