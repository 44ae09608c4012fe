"""RandomProjection: golden codes and the distribution of its draws."""

import torch
from torch.nn.functional import normalize

from mezzotint.codebooks import RandomProjection
from tests.codebooks.reference import X, digits, normal


def test_golden_codes_of_random_projection() -> None:
    """vector-quantize-pytorch 1.32.0, a `RandomProjectionQuantizer` for each codebook."""
    expected = (
        "8fb888fde080d0484f8df8dddbdb4e2ffd8cf020d80d82ddbfd80bbe28338865",
        "6cbbb79d8bcd7d38c9ec0d98d549cdb331ea10cddbcd81dd1adcc5dbe506d60c",
    )
    codebook = RandomProjection(dim=8, num_codes=16, num_codebooks=2, code_dim=4)
    codebook.projections.copy_(normal("projections", 2, 4, 8))
    codebook.directions.copy_(normalize(normal("directions", 2, 16, 4), dim=-1))
    assert torch.equal(codebook(X).indices, torch.stack([digits(level) for level in expected], 1))


def test_random_projection_is_what_the_paper_draws() -> None:
    codebook = RandomProjection(dim=200, num_codes=4096, num_codebooks=2, code_dim=16, seed=3)
    reach = (6.0 / 216.0) ** 0.5
    assert codebook.projections.abs().max() <= reach
    torch.testing.assert_close(
        codebook.projections.std(), torch.tensor(reach / 3.0**0.5), rtol=0.02, atol=0
    )
    torch.testing.assert_close(codebook.directions.norm(dim=-1), torch.ones(2, 4096))
    assert codebook.directions.mean(1).abs().max() < 0.02
    assert not torch.equal(
        codebook.projections, RandomProjection(dim=200, num_codes=16).projections[:, :, :]
    )


def test_codes_are_those_of_a_naive_projection() -> None:
    codebook = RandomProjection(dim=8, num_codes=16, num_codebooks=2, code_dim=4)
    x = (X - X.mean(1, keepdim=True)) / (X.var(1, keepdim=True, correction=0) + 1e-5).sqrt()
    codes = codebook(X)
    for level in range(2):
        projected = normalize(x @ codebook.projections[level].t(), dim=1)
        expected = (projected @ codebook.directions[level].t()).argmax(1)
        assert torch.equal(codes.indices[:, level], expected)
        part = codes.quantized[:, 4 * level : 4 * level + 4]
        assert torch.equal(part, codebook.directions[level][expected])


def test_normalization_removes_scale_and_offset() -> None:
    codebook = RandomProjection(dim=8, num_codes=16, code_dim=4)
    assert torch.equal(codebook(X).indices, codebook(5.0 * X + 3.0).indices)
    plain = RandomProjection(dim=8, num_codes=16, code_dim=4, normalize=False)
    assert torch.equal(plain(X).indices, plain(5.0 * X).indices)
    assert not torch.equal(plain(X).indices, plain(X + 3.0).indices)
