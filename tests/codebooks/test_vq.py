"""VQ: golden codes and a naive reference."""

import torch
from torch.nn.functional import normalize

from mezzotint.codebooks import VQ
from tests.codebooks.reference import CODES, X, digits, normal, with_codes

# vector-quantize-pytorch 1.32.0 (torch 2.14.1, CPU), in eval mode, rotation_trick=False, on the
# vectors and codes of `reference`. Codes are hexadecimal digits, one string per level.
COSINE = "da48284e3b588f1bc489f069ab6b7f6a4af6f392ab5a5d8a2fdc5bf88c22c8f3"
EUCLIDEAN = "da46a64e355d6f559409f369a5657a6a4af6f392ab5a5a3af3a755f6073ae8f3"


def test_golden_codes_of_vq() -> None:
    cosine = with_codes(VQ(dim=8, num_codes=16), normalize(CODES[:1], dim=-1))
    assert torch.equal(cosine(X).indices[:, 0], digits(COSINE))
    euclidean = with_codes(VQ(dim=8, num_codes=16, metric="euclidean"), CODES[:1])
    assert torch.equal(euclidean(X).indices[:, 0], digits(EUCLIDEAN))


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
