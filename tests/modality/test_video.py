"""Videos: tubes as patches, four frames as a picture."""

import torch

from mezzotint.modality.modality import modality_of
from mezzotint.modality.patches import PatchSize
from mezzotint.types import Input

INPUT = Input((1, 10, 6, 5), (0.0,), (1.0,), "video")


def test_default_patches_are_tubes_of_two_frames() -> None:
    input = Input((3, 8, 32, 32), (0.0,) * 3, (1.0,) * 3, "video")
    patches = modality_of(input).patches(input, 12, PatchSize())
    assert patches.grid == (4, 2, 2) and patches.num_values == 3 * 2 * 16 * 16


def test_the_picture_is_four_frames_in_a_row_stored_or_as_a_view() -> None:
    x = torch.arange(10, dtype=torch.uint8).view(1, 10, 1, 1).expand(1, 10, 6, 5).contiguous() * 20
    picture = modality_of(INPUT).picture
    shown = picture(x, INPUT)
    assert shown.shape == (3, 6, 23) and shown[0, 0, [0, 6, 12, 18]].tolist() == [0, 60, 120, 180]
    assert int(shown[1, 0, 5]) == 255 and torch.equal(picture(x / 255, INPUT), shown)


def test_frames_are_floats_one_after_another() -> None:
    x = torch.randint(0, 256, (3, 5, 4, 6), dtype=torch.uint8)
    frames = modality_of(INPUT).frames(x)
    assert frames is not None and torch.equal(frames, x.transpose(0, 1) / 255)


def test_raw_features_are_averages_of_areas() -> None:
    x = torch.randn(2, 1, 8, 32, 32)
    features = modality_of(INPUT).raw_features(x, INPUT)
    areas = x.view(2, 1, 4, 2, 16, 2, 16, 2).mean(dim=(3, 5, 7))
    torch.testing.assert_close(features, areas.flatten(1))
    small = torch.randn(2, 1, 2, 4, 4)
    assert torch.equal(modality_of(INPUT).raw_features(small, INPUT), small.flatten(1))
