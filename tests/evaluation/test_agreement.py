"""What stands at low bits where nothing has labels: the neighbors that are kept."""

import pytest
import torch

from mezzotint.evaluation.bits import knn_overlap
from mezzotint.evaluation.features import Extraction


def extraction(x: torch.Tensor) -> Extraction:
    return Extraction(x, torch.arange(len(x)))


def test_it_is_the_overlap_of_the_ten_nearest_without_the_sample_itself() -> None:
    g = torch.Generator().manual_seed(0)
    x, y = torch.randn(60, 5, generator=g), torch.randn(60, 5, generator=g)
    assert knn_overlap(extraction(x), extraction(3.0 * x)).value == 1.0, (
        "cosine: the length does not matter"
    )

    def nearest(features: torch.Tensor, row: int) -> set[int]:
        near = (
            torch.cosine_similarity(features, features[row : row + 1])
            .argsort(descending=True)
            .tolist()
        )
        return set([other for other in near if other != row][:10])

    kept = [len(nearest(x, row) & nearest(y, row)) / 10 for row in range(60)]
    found = knn_overlap(extraction(x), extraction(y))
    assert found.value == pytest.approx(sum(kept) / 60) and found.metric == "all/knn_overlap"
    assert str(found.protocol) == "neighbors/1 k=10 samples=60"


def test_few_samples_have_fewer_neighbors() -> None:
    g = torch.Generator().manual_seed(0)
    x = torch.randn(4, 5, generator=g)
    assert str(knn_overlap(extraction(x), extraction(-x)).protocol) == "neighbors/1 k=3 samples=4"
    assert knn_overlap(extraction(x[:1]), extraction(x[:1])).value == 1.0
