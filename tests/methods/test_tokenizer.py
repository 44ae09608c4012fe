"""Tokenizers: the cold start and its variants."""

import torch

from mezzotint.encoders.vit import ViT
from mezzotint.methods.tokenizer import ColdStart, LearnedTokenizer
from mezzotint.types import Input

INPUT = Input((1, 16, 32), (0.0,), (1.0,), "audio")


def vit(width: int = 16) -> ViT:
    torch.manual_seed(0)
    return ViT(INPUT, width=width, depth=2, heads=2, patch=4)  # 4 × 8 patches


def test_cold_start_does_not_see_positions_and_the_variant_of_the_source_does() -> None:
    same = torch.randn(16).repeat(1, 32, 1)
    where = vit().patches.split(torch.zeros(1, 1, 16, 32))[1]
    plain = ColdStart().build(vit(), 8)(same, same, where)
    placed = ColdStart(positions=True).build(vit(), 8)(same, same, where)
    assert plain.std(dim=1).max() < 1e-6 < 0.1 < placed.std(dim=1).max()


def test_cold_start_is_normalized_and_the_same_on_every_rank() -> None:
    x = torch.randn(2, 32, 16)
    where = torch.zeros(1, 32, 2)
    torch.manual_seed(5)
    network = ColdStart().build(vit(), 8)
    z = network(x, x, where)
    torch.manual_seed(6)
    torch.testing.assert_close(
        ColdStart().build(vit(), 8)(x, 5.0 * x + 3.0, where), z, atol=1e-3, rtol=1e-3
    )
    assert not torch.allclose(ColdStart(seed=1).build(vit(), 8)(x, x, where), z)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(network(x, x, where), z)
    assert not list(network.parameters())


def test_learned_vectors_are_normalized_unless_they_are_to_stay() -> None:
    x = torch.randn(2, *INPUT.shape)
    built = []
    for normalize in (True, False):
        torch.manual_seed(3)
        built.append(LearnedTokenizer(normalize=normalize).build(vit(), 8)(x, x, x))
    plain = built[1]
    assert (plain.mean(-1).abs() > 1e-3).any()
    expected = torch.nn.functional.layer_norm(plain, (8,))
    torch.testing.assert_close(built[0], expected, atol=1e-5, rtol=1e-4)
