"""The transformer of DABS: published size, learned positions, dropout in training alone."""

import pytest
import torch

from mezzotint.encoders.domain_agnostic import DomainAgnostic
from mezzotint.modality.patches import LearnedPositions
from mezzotint.types import Input


def test_the_published_size_and_no_dropout_in_eval_mode() -> None:
    model = DomainAgnostic(Input((3, 32, 32), (0.5,) * 3, (0.25,) * 3), patch=16)
    block = 3 * 256 * 512 + 512 * 256 + 256 + 2 * 256 * 512 + 512 + 256 + 4 * 256
    assert sum(p.numel() for p in model.blocks.parameters()) == 12 * block
    assert model.places.table.weight.shape == (4, 256) and model.cls is not None  # type: ignore[union-attr]
    x = torch.randn(2, 3, 32, 32)
    assert not torch.equal(model(x), model(x))
    model.eval()
    assert torch.equal(model(x), model(x))
    out = model.encode(*model.embed(x))
    torch.testing.assert_close(model(x), out.mean(dim=1))
    assert out.shape == (2, 5, 256)
    with pytest.raises(ValueError, match="must have at most 4 patches, .* got 9"):
        model(torch.randn(1, 3, 48, 48))


def test_positions_are_rows_of_a_table_in_grid_order() -> None:
    positions = LearnedPositions((2, 3), 8)
    where = torch.tensor([[0.0, 0.0], [0.0, 2.0], [1.0, 1.0]])
    assert torch.equal(positions(where), positions.table.weight[[0, 2, 4]])


def test_positions_of_points_come_from_their_centers() -> None:
    points = Input((3, 70), (0.0,) * 3, (1.0,) * 3, "points")
    encoder = DomainAgnostic(points, width=24, depth=1, heads=2)
    assert not isinstance(encoder.places, LearnedPositions)
    assert encoder(torch.randn(2, 3, 70)).shape == (2, 24)


def test_a_dropout_of_one_is_refused() -> None:
    with pytest.raises(ValueError, match="`dropout` must be at least 0 and below 1, got 1.0"):
        DomainAgnostic(Input((3, 32, 32), (0.5,) * 3, (0.25,) * 3), dropout=1.0)
