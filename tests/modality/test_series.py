"""Time series: patches of steps, and a picture with one strip a channel."""

import torch

from mezzotint.modality.modality import modality_of
from mezzotint.modality.patches import PatchSize
from mezzotint.types import Input

INPUT = Input((2, 50), (0.0,) * 2, (1.0,) * 2, "series")


def test_a_patch_is_some_steps_of_all_channels() -> None:
    patches, x = modality_of(INPUT).patches(INPUT, 12, PatchSize(10)), torch.randn(3, 2, 50)
    values, positions = patches.split(x)
    for number in range(5):
        assert torch.equal(values[:, number], x[:, :, 10 * number : 10 * number + 10].flatten(1))
    assert positions[0, :, 0].tolist() == list(range(5))


def test_raw_features_are_all_values() -> None:
    x = torch.randn(3, 2, 50)
    assert torch.equal(modality_of(INPUT).raw_features(x, INPUT), x.flatten(1))


def test_the_picture_has_a_strip_for_each_channel() -> None:
    t = torch.linspace(0, 1, 50)
    x = torch.stack([t, 1 - t])
    ink = 255.0 - modality_of(INPUT).picture(x, INPUT).float().mean(dim=0)
    assert ink.shape == (96, 192)
    left, right = ink[:, 2:8].sum(dim=1), ink[:, -8:-2].sum(dim=1)
    assert left[:48].argmax() > 30 and right[:48].argmax() < 15  # rises in the upper strip
    assert left[48:].argmax() < 15 and right[48:].argmax() > 30  # falls in the lower one
