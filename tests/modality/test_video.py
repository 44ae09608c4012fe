"""Videos: tubes as patches, four frames as a picture."""

import math

import pytest
import torch

from mezzotint.modality.image import histogram, image_statistics
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


def test_handmade_features_are_those_of_four_frames_and_their_differences() -> None:
    input = Input((2, 10, 16, 24), (0.0,) * 2, (1.0,) * 2, "video")
    x = torch.randn(3, *input.shape)
    found = modality_of(input).handmade_features(x, input)
    times = (0, 3, 5, 8)  # spread from the first to the last that has a next frame
    still = torch.stack([image_statistics(x[:, :, t]) for t in times]).mean(dim=0)
    moved = torch.stack([(x[:, :, t + 1] - x[:, :, t]).abs() for t in times], dim=1)
    areas = moved.view(3, 4, 2, 4, 4, 4, 6).mean(dim=(4, 6))
    motion = torch.cat([areas.mean(dim=1), areas.std(dim=1, correction=0)], dim=1).flatten(1)
    spread = histogram(moved.transpose(1, 2).flatten(2), 0.0, 2.0, 8).flatten(1)
    blocks = [still, motion / math.sqrt(2 * 2 * 16), spread / math.sqrt(2)]
    assert found is not None
    torch.testing.assert_close(found, torch.cat(blocks, dim=1), atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("shape", [(1, 1, 1, 1), (3, 2, 40, 7), (2, 5, 33, 64)])
def test_videos_of_any_size_have_features_of_one_number(shape: tuple[int, ...]) -> None:
    channels = shape[0]
    input = Input(shape, (0.0,) * channels, (1.0,) * channels, "video")
    for x in (torch.randn(2, *shape), torch.ones(2, *shape)):
        found = modality_of(input).handmade_features(x, input)
        assert found is not None and found.isfinite().all()
        assert found.shape == (2, 576 + 40 * channels + 32 * channels + 8 * channels)


def test_a_still_video_does_not_move() -> None:
    input = Input((3, 6, 16, 16), (0.0,) * 3, (1.0,) * 3, "video")
    still = torch.randn(1, 3, 1, 16, 16).expand(1, 3, 6, 16, 16)
    found = modality_of(input).handmade_features(still, input)
    assert found is not None
    assert not found[:, -120:-24].any() and found[:, -24:].count_nonzero() == 3
