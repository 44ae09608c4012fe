"""Tables: each feature is a patch, and rows have no picture."""

import pytest
import torch

from mezzotint.modality.modality import modality_of
from mezzotint.modality.patches import PatchSize
from mezzotint.types import Input

INPUT = Input((7,), (0.0,) * 7, (1.0,) * 7, "table")


def test_a_patch_is_value_times_vector_and_has_a_learned_position() -> None:
    patches = modality_of(INPUT).patches(INPUT, 12, PatchSize())
    embedding = patches.position_embedding(12)
    x = torch.randn(3, 7)
    values, positions = patches.split(x)
    times, plus = patches.get_parameter("table.weight"), embedding.get_parameter("table.weight")
    embedded = patches.embed(values) + embedding(positions)
    torch.testing.assert_close(embedded, x[:, :, None] * times + plus)
    assert torch.equal(patches.vectors(values)[..., 0], x)


def test_raw_features_are_the_row() -> None:
    x = torch.randn(3, 7)
    assert torch.equal(modality_of(INPUT).raw_features(x, INPUT), x)


def test_raw_rows_are_what_one_would_make_by_hand() -> None:
    assert modality_of(INPUT).handmade_features(torch.randn(3, 7), INPUT) is None


def test_rows_have_no_picture() -> None:
    with pytest.raises(ValueError, match="Rows have no pictures. Supported: audio, image, "):
        modality_of(INPUT).picture(torch.zeros(7), INPUT)
