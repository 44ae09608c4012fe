"""VQ and RQ: what they share, and the golden codes of each."""

import pytest
import torch
from torch import Tensor
from torch.nn.functional import normalize

from mezzotint.codebooks import RQ, VQ
from mezzotint.codebooks.gradient import Gradient
from tests.codebooks.reference import CODES, X, digits, normal, with_codes


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


# vector-quantize-pytorch 1.32.0 (torch 2.14.1, CPU), in eval mode, rotation_trick=False, on the
# vectors and codes of `reference`. Codes are hexadecimal digits, one string per level.
VQ_COSINE = "da48284e3b588f1bc489f069ab6b7f6a4af6f392ab5a5d8a2fdc5bf88c22c8f3"
VQ_EUCLIDEAN = "da46a64e355d6f559409f369a5657a6a4af6f392ab5a5a3af3a755f6073ae8f3"


def test_golden_codes_of_vq() -> None:
    cosine = with_codes(VQ(dim=8, num_codes=16), normalize(CODES[:1], dim=-1))
    assert torch.equal(cosine(X).indices[:, 0], digits(VQ_COSINE))
    euclidean = with_codes(VQ(dim=8, num_codes=16, metric="euclidean"), CODES[:1])
    assert torch.equal(euclidean(X).indices[:, 0], digits(VQ_EUCLIDEAN))


def test_cosine_vq_is_the_naive_one() -> None:
    vectors = normalize(CODES[0], dim=-1)
    codebook = with_codes(VQ(dim=8, num_codes=16, commitment=0.7), vectors[None])
    weight = normal("w", 64, 8)
    ours, theirs = (X.clone().requires_grad_() for _ in range(2))
    codes = codebook(ours)
    directions = normalize(theirs, dim=1)
    chosen = vectors[(directions @ vectors.t()).argmax(1)]
    quantized = directions + (chosen - directions).detach()
    loss = 0.7 * (directions - chosen).square().mean()
    ((codes.quantized * weight).sum() + 3.0 * codes.loss).backward()
    ((quantized * weight).sum() + 3.0 * loss).backward()
    torch.testing.assert_close(codes.quantized, quantized)
    torch.testing.assert_close(codes.loss, loss)
    torch.testing.assert_close(ours.grad, theirs.grad)


# vector-quantize-pytorch 1.32.0 (torch 2.14.1, CPU), in eval mode, rotation_trick=False, on the
# vectors and codes of `reference`. Codes are hexadecimal digits, one string per level.
RQ_COSINE = (
    "da48284e3b588f1bc489f069ab6b7f6a4af6f392ab5a5d8a2fdc5bf88c22c8f3",
    "10ada829aef7844c4dfabf0cf35df99b7bf3e293ed69cbffd7f14318e1b51917",
    "62c671494732b791bc49729e99b724daa7fb40d52e381d0d799f13f1910af163",
    "48642d6e16ada731863d856b85bb1e3558ee89355f251a3856a70f5b08348efc",
)
RQ_EUCLIDEAN = (
    "da46a64e355d6f559409f369a5657a6a4af6f392ab5a5a3af3a755f6073ae8f3",
    "90dee605aef5548e0debb5fefb5bf39b12f3c2f1eb69638fa73f6b15e6bea993",
    "a2ed1dcbe7a22eda2c2e022e26d4ad5a20eba2622a33612d12b6d1350a118ca2",
    "b545756a0f5f548f1e9d5d6c85bf89f58c4eb432535b3398b2d5555225e3563b",
)
COSINE_FIRST = [-0.8218, 0.5279, -0.6024, 0.8761, -1.3807, 1.5747, -0.0861, -0.4252]
EUCLIDEAN_FIRST = [-1.1165, 0.9270, -0.3055, -0.0314, -1.2790, 2.1878, 0.4360, -0.3538]


def test_golden_codes_of_rq() -> None:
    bridle = with_codes(RQ(dim=8, num_codes=16, residual="bridle"), normalize(CODES, dim=-1))(X)
    assert torch.equal(bridle.indices, torch.stack([digits(level) for level in RQ_COSINE], 1))
    torch.testing.assert_close(bridle.quantized[0], torch.tensor(COSINE_FIRST), rtol=0, atol=6e-5)
    plain = with_codes(RQ(dim=8, num_codes=16), CODES)(X)
    assert torch.equal(plain.indices, torch.stack([digits(level) for level in RQ_EUCLIDEAN], 1))
    torch.testing.assert_close(plain.quantized[0], torch.tensor(EUCLIDEAN_FIRST), rtol=0, atol=6e-5)


def naive(
    x: Tensor, all_codes: Tensor, residual: str, beta: float
) -> tuple[Tensor, Tensor, Tensor]:
    """RQ as in the papers, by autograd: straight-through quantized vectors, loss, energies."""
    left, total, losses, energies = x, torch.zeros_like(x), [], []
    for vectors in all_codes:
        met = normalize(left, dim=1) if residual == "bridle" else left
        codes = vectors[torch.cdist(met.detach().double(), vectors.double()).argmin(1)]
        losses.append(beta * (left - codes).square().mean())
        left, total = left - codes, total + codes
        energies.append(left.detach().square().sum() / x.detach().square().sum())
    return x + (total - x).detach(), torch.stack(losses).mean(), torch.stack(energies)


@pytest.mark.parametrize("residual", ["plain", "bridle"])
def test_rq_is_the_naive_one(residual: str) -> None:
    all_codes = normalize(CODES, dim=-1) if residual == "bridle" else CODES
    codebook = with_codes(RQ(dim=8, num_codes=16, residual=residual, commitment=0.7), all_codes)  # type: ignore[arg-type]
    weight = normal("w", 64, 8)
    ours, theirs = (X.clone().requires_grad_() for _ in range(2))
    codes = codebook(ours)
    quantized, loss, energies = naive(theirs, all_codes, residual, 0.7)
    ((codes.quantized * weight).sum() + 3.0 * codes.loss).backward()
    ((quantized * weight).sum() + 3.0 * loss).backward()
    torch.testing.assert_close(codes.quantized, quantized)
    torch.testing.assert_close(codes.loss, loss)
    torch.testing.assert_close(codes.residual, energies)
    torch.testing.assert_close(ours.grad, theirs.grad)
