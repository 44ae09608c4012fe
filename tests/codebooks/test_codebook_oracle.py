"""Codebooks against vector-quantize-pytorch 1.32.0.

Codes in eval mode are equal. In training its averages are the rule `count` with smoothed counts,
and its rotation trick is the same for one codebook; its losses and gradients of several cosine
levels differ by design.
"""

from typing import Any

import pytest
import torch
import vector_quantize_pytorch as theirs
from torch import Tensor

from mezzotint.codebooks import EMA, FSQ, RQ, VQ
from mezzotint.codebooks.learned import LearnedCodebook
from mezzotint.seeding import Draws, key_of


def normal(name: str, *shape: int) -> Tensor:
    return Draws(torch.arange(shape[0]), key_of("oracle")).normal(name, *shape[1:])


X = normal("x", 2048, 32)


def started(codebook: LearnedCodebook) -> LearnedCodebook:
    codebook.initialize(X)
    return codebook


def copy_codes(codebook: LearnedCodebook, layers: list[Any]) -> None:
    for codes, layer in zip(codebook.books.vectors, layers, strict=True):
        layer._codebook.embed.data.copy_(codes)
        layer._codebook.embed_avg.data.copy_(
            codebook.books.sums[0] if codebook.books.sums is not None else codes
        )
        layer._codebook.cluster_size.data.copy_(codebook.books.counts[0])


@pytest.mark.parametrize("cosine", [True, False])
def test_vq_codes(cosine: bool) -> None:
    ours = started(VQ(dim=32, num_codes=512, metric="cosine" if cosine else "euclidean")).eval()
    oracle = theirs.VectorQuantize(
        dim=32, codebook_size=512, use_cosine_sim=cosine, rotation_trick=False
    ).eval()
    copy_codes(ours, [oracle])
    z = normal("z", 4096, 32)
    quantized, indices, _ = oracle(z[None])
    codes = ours(z)
    assert torch.equal(codes.indices[:, 0], indices[0])
    torch.testing.assert_close(codes.quantized, quantized[0])


@pytest.mark.parametrize("shared", [True, False])
@pytest.mark.parametrize("cosine", [True, False])
def test_rq_codes(cosine: bool, shared: bool) -> None:
    ours = started(
        RQ(dim=32, num_codes=128, residual="bridle" if cosine else "plain", shared=shared)
    ).eval()
    oracle = theirs.ResidualVQ(
        dim=32,
        num_quantizers=4,
        codebook_size=128,
        use_cosine_sim=cosine,
        rotation_trick=False,
        shared_codebook=shared,
    ).eval()
    copy_codes(ours, list(oracle.layers)[: len(ours.books.vectors)])
    z = normal("z", 4096, 32) * (5.0 if cosine else 1.0)
    quantized, indices, _ = oracle(z[None])
    codes = ours(z)
    assert torch.equal(codes.indices, indices[0])
    torch.testing.assert_close(codes.quantized, quantized[0], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("rotation", [True, False])
@pytest.mark.parametrize("cosine", [True, False])
def test_a_training_step_of_vq(cosine: bool, rotation: bool) -> None:
    ours = started(
        VQ(
            dim=32,
            num_codes=64,
            metric="cosine" if cosine else "euclidean",
            ema=EMA(decay=0.9, expire_below=0.0),
            gradient="rotation" if rotation else "straight_through",
        )
    )
    oracle = theirs.VectorQuantize(
        dim=32,
        codebook_size=64,
        use_cosine_sim=cosine,
        rotation_trick=rotation,
        decay=0.9,
        commitment_weight=0.25,
    )
    copy_codes(ours, [oracle])
    weight = normal("w", 2048, 32)
    own, other = (normal("z", 2048, 32).requires_grad_() for _ in range(2))
    codes = ours(own)
    quantized, indices, loss = oracle(other[None])
    assert torch.equal(codes.indices[:, 0], indices[0])
    ((codes.quantized * weight).sum() + 100.0 * codes.loss).backward()
    ((quantized[0] * weight).sum() + 100.0 * loss.sum()).backward()
    torch.testing.assert_close(codes.loss, loss.squeeze())
    torch.testing.assert_close(own.grad, other.grad, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(
        ours.books.vectors, oracle._codebook.embed.data, rtol=1e-4, atol=1e-4
    )


def test_a_training_step_of_rq() -> None:
    ours = started(RQ(dim=32, num_codes=64, num_levels=2, ema=EMA(expire_below=0.0)))
    oracle = theirs.ResidualVQ(
        dim=32,
        num_quantizers=2,
        codebook_size=64,
        rotation_trick=False,
        decay=0.99,
        commitment_weight=0.25,
    )
    copy_codes(ours, list(oracle.layers))
    own, other = (normal("z", 2048, 32).requires_grad_() for _ in range(2))
    codes = ours(own)
    quantized, indices, losses = oracle(other[None])
    assert torch.equal(codes.indices, indices[0])
    torch.testing.assert_close(codes.loss, losses.mean())
    codes.loss.backward()
    losses.mean().backward()
    torch.testing.assert_close(own.grad, other.grad, rtol=1e-4, atol=1e-8)


@pytest.mark.parametrize("levels", [(8, 5, 5, 5), (3, 4), (8, 8, 8, 6, 5)])
def test_fsq(levels: tuple[int, ...]) -> None:
    ours, oracle = FSQ(levels=levels), theirs.FSQ(levels=list(levels))
    own, other = (3.0 * normal("z", 1000, len(levels)) for _ in range(2))
    own.requires_grad_()
    other.requires_grad_()
    codes = ours(own)
    quantized, indices = oracle(other[None])
    assert torch.equal(codes.indices[:, 0], indices[0].long())
    assert torch.equal(codes.quantized, quantized[0])
    assert torch.equal(ours.decode(codes.indices), oracle.indices_to_codes(indices)[0])
    codes.quantized.square().sum().backward()
    quantized.square().sum().backward()
    torch.testing.assert_close(own.grad, other.grad)
