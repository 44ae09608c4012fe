"""The base class of codebooks: soft targets, freezing, checks."""

import pytest
import torch
from torch import Tensor

from mezzotint.codebooks.codebook import Codebook, full_precision, need_finite


class Line(Codebook):
    """K codes 0, 1, …, K − 1 on a line, for vectors of one dimension."""

    def __init__(self) -> None:
        super().__init__(1, 4)

    def nearest(self, z: Tensor, k: int) -> tuple[Tensor, Tensor]:
        self._check_k(k)
        squared = (self._rows(z) - torch.arange(4.0)).square()
        distances, indices = squared.topk(k, largest=False)
        return indices.view(*z.shape[:-1], 1, k), distances.view(*z.shape[:-1], 1, k)


def test_soft_targets_are_a_softmax_of_negative_squared_distances() -> None:
    indices, probabilities = Line().soft_targets(torch.tensor([[0.9]]), 3, temperature=0.5)
    assert indices.tolist() == [[[1, 0, 2]]]
    weights = torch.tensor([-(0.1**2), -(0.9**2), -(1.1**2)]).div(0.5).exp()
    torch.testing.assert_close(probabilities[0, 0], weights / weights.sum())


def test_freezing_survives_train_and_ends_with_the_block() -> None:
    codebook = Line()
    assert codebook.learning
    with codebook.freezing() as frozen:
        assert frozen is codebook and not codebook.train().learning
    assert codebook.learning and not codebook.eval().learning
    codebook.train().freeze()
    with codebook.freezing():
        pass
    assert codebook.frozen and not codebook.freeze(False).frozen


def test_the_base_names_what_a_subclass_lacks() -> None:
    class Empty(Codebook, abstract=True):
        """A codebook without methods."""

    codebook = Empty(2, 4)
    for call in (codebook, codebook.decode, lambda z: codebook.nearest(z, 1)):
        with pytest.raises(TypeError, match="Empty has no"):
            call(torch.zeros(3, 2))
    codebook.check_ranks()
    assert codebook.ready and not list(codebook.parameters())


def test_sizes_are_checked() -> None:
    with pytest.raises(ValueError, match="`num_codes` must be 2 or more, got 1. Try 256."):
        Codebook(2, 1)
    with pytest.raises(ValueError, match="must be 1 or more, got 0 and 1. Try 256 and 4."):
        Codebook(0, 2)
    assert Codebook(2, 4, 3).out_dim == 2 and Codebook(2, 4, 3, 6).out_dim == 6


def test_full_precision_turns_autocast_off() -> None:
    x = torch.ones(2, 2)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert (x @ x).dtype == torch.bfloat16
        with full_precision(x):
            assert (x @ x).dtype == torch.float32


def test_vectors_must_be_finite() -> None:
    need_finite(torch.tensor(True))
    with pytest.raises(ValueError, match="^Vectors must be finite, got NaN or inf. Find"):
        need_finite(torch.tensor(False))
