"""RQ: golden codes and a naive reference."""

import pytest
import torch
from torch import Tensor
from torch.nn.functional import normalize

from mezzotint.codebooks import RQ
from tests.codebooks.reference import CODES, X, digits, normal, with_codes

# vector-quantize-pytorch 1.32.0 (torch 2.14.1, CPU), in eval mode, rotation_trick=False, on the
# vectors and codes of `reference`. Codes are hexadecimal digits, one string per level.
COSINE = (
    "da48284e3b588f1bc489f069ab6b7f6a4af6f392ab5a5d8a2fdc5bf88c22c8f3",
    "10ada829aef7844c4dfabf0cf35df99b7bf3e293ed69cbffd7f14318e1b51917",
    "62c671494732b791bc49729e99b724daa7fb40d52e381d0d799f13f1910af163",
    "48642d6e16ada731863d856b85bb1e3558ee89355f251a3856a70f5b08348efc",
)
EUCLIDEAN = (
    "da46a64e355d6f559409f369a5657a6a4af6f392ab5a5a3af3a755f6073ae8f3",
    "90dee605aef5548e0debb5fefb5bf39b12f3c2f1eb69638fa73f6b15e6bea993",
    "a2ed1dcbe7a22eda2c2e022e26d4ad5a20eba2622a33612d12b6d1350a118ca2",
    "b545756a0f5f548f1e9d5d6c85bf89f58c4eb432535b3398b2d5555225e3563b",
)
COSINE_FIRST = [-0.8218, 0.5279, -0.6024, 0.8761, -1.3807, 1.5747, -0.0861, -0.4252]
EUCLIDEAN_FIRST = [-1.1165, 0.9270, -0.3055, -0.0314, -1.2790, 2.1878, 0.4360, -0.3538]


def test_golden_codes_of_rq() -> None:
    bridle = with_codes(RQ(dim=8, num_codes=16, residual="bridle"), normalize(CODES, dim=-1))(X)
    assert torch.equal(bridle.indices, torch.stack([digits(level) for level in COSINE], 1))
    torch.testing.assert_close(bridle.quantized[0], torch.tensor(COSINE_FIRST), rtol=0, atol=6e-5)
    plain = with_codes(RQ(dim=8, num_codes=16), CODES)(X)
    assert torch.equal(plain.indices, torch.stack([digits(level) for level in EUCLIDEAN], 1))
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
