"""Vectors, codes and helpers that the tests of codebooks share."""

import torch
from torch import Tensor

from mezzotint.codebooks.learned import LearnedCodebook
from mezzotint.seeding import Draws, key_of


def normal(name: str, *shape: int) -> Tensor:
    return Draws(torch.arange(shape[0]), key_of("codebooks")).normal(name, *shape[1:])


def digits(text: str) -> Tensor:
    return torch.tensor([int(digit, 16) for digit in text])


def with_codes(codebook: LearnedCodebook, codes: Tensor) -> LearnedCodebook:
    codebook.books.vectors.copy_(codes)
    codebook.books.start()
    return codebook.eval()


X = normal("x", 64, 8)
CODES = normal("books", 4, 16, 8) * torch.tensor([1.0, 0.5, 0.25, 0.125]).view(4, 1, 1)
"""Codes of four levels, as `vectors` of a codebook."""
