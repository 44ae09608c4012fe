"""Pictures of codes: patches nearest to them, and patches joined to samples."""

import pytest
import torch

from mezzotint.encoders.vit import ViT
from mezzotint.report.code_pictures import Coded, can_draw_patches, join, nearest_patches
from mezzotint.types import Codes, Input


@pytest.mark.parametrize(
    ("shape", "patch"), [((3, 8, 12), [4, 2]), ((3, 4, 8, 8), [2, 4, 8]), ((2, 12), [3])]
)
def test_join_is_the_inverse_of_split(shape: tuple[int, ...], patch: list[int]) -> None:
    kinds: dict[int, str] = {2: "image", 3: "video", 1: "series"}
    encoder = ViT(
        Input(shape, (0.0,) * shape[0], (1.0,) * shape[0], kinds[len(patch)]),
        width=12,
        depth=1,
        heads=2,
        patch=patch,
    )
    x = torch.randn(2, *shape)
    values, _ = encoder.patches.split(x)
    assert torch.equal(join(values[1], encoder), x[1])


def test_nearest_patches_are_of_different_samples_and_have_the_code() -> None:
    indices = torch.tensor([[0, 1, 0], [1, 1, 1], [0, 0, 1]]).unsqueeze(-1)
    distances = torch.tensor([[3.0, 9, 2], [9, 9, 9], [1, 4, 0]]).unsqueeze(-1)
    codes = Codes(torch.zeros(0), indices, torch.zeros(()), torch.zeros(1, 2), torch.zeros(1))
    coded = Coded(torch.zeros(3), torch.zeros(3, 3, 1), torch.zeros(1, 3, 1), codes, distances)
    assert nearest_patches(coded, 0, 0) == [(2, 0), (0, 2)]
    assert nearest_patches(coded, 0, 1) == [(2, 2), (0, 1), (1, 0)]


def test_only_patches_on_a_grid_can_be_drawn() -> None:
    image = Input((3, 8, 8), (0.0,) * 3, (1.0,) * 3)
    table = Input((6,), (0.0,) * 6, (1.0,) * 6, "table")
    assert can_draw_patches(ViT(image, width=12, depth=1, heads=2, patch=[4, 4]))
    assert not can_draw_patches(ViT(table, width=12, depth=1, heads=2))
