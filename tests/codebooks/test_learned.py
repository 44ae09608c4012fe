"""LearnedCodebook: what VQ and RQ share."""

import pytest
import torch

from mezzotint.codebooks import RQ, VQ
from mezzotint.codebooks.gradient import Gradient
from tests.codebooks.reference import X, normal


@pytest.mark.parametrize("gradient", ["straight_through", "rotation"])
@pytest.mark.parametrize("residual", ["plain", "bridle"])
def test_silence_gives_no_nan(residual: str, gradient: Gradient) -> None:
    codebook = RQ(dim=8, num_codes=4, residual=residual, gradient=gradient)  # type: ignore[arg-type]
    z = torch.zeros(16, 8, requires_grad=True)
    for _ in range(3):
        codes = codebook(z)
        (codes.quantized.sum() + codes.loss).backward()
    assert z.grad is not None and z.grad.isfinite().all() and codes.loss.isfinite()
    assert all(buffer.isfinite().all() for buffer in codebook.buffers())


def test_vq_is_rq_with_one_level() -> None:
    vq, rq = VQ(dim=8, num_codes=16, metric="euclidean"), RQ(dim=8, num_codes=16, num_levels=1)
    for step in range(4):
        z = normal(f"s{step}", 64, 8)
        one, other = vq(z), rq(z)
        assert torch.equal(one.quantized, other.quantized) and torch.equal(one.loss, other.loss)
    assert torch.equal(vq.books.vectors, rq.books.vectors)


def test_decoding_some_levels_is_the_sum_of_their_codes() -> None:
    codebook = RQ(dim=8, num_codes=16, num_levels=3)
    codebook(X)
    indices = codebook.eval()(X).indices
    expected = torch.zeros_like(X)
    for level in range(3):
        expected = expected + codebook.books.vectors[level][indices[:, level]]
        torch.testing.assert_close(codebook.decode(indices[:, : level + 1]), expected)


def test_levels_of_a_shared_codebook_start_with_a_part_of_the_codes_each() -> None:
    codebook = RQ(dim=8, num_codes=15, num_levels=3, shared=True)
    codebook.initialize(X)
    assert codebook.books.vectors.shape == (1, 15, 8)
    lengths = codebook.books.vectors[0].norm(dim=1)
    first, second, third = lengths[:5].mean(), lengths[5:10].mean(), lengths[10:].mean()
    assert first > second > third  # residuals of later levels are shorter


def test_residual_energy_falls_with_every_level() -> None:
    codebook = RQ(dim=8, num_codes=16, num_levels=4)
    codebook(X)
    residual = codebook.eval()(X).residual
    assert (residual.diff() < 0).all() and 0 < residual[-1] < residual[0] < 1
