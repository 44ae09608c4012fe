"""The search for nearest codes: against all distances, at ties, and of what is not a number."""

import pytest
import torch

from mezzotint.codebooks.kmeans import nearest
from mezzotint.seeding import Draws


@pytest.mark.parametrize(
    "shape", [(1, 2, 3), (700, 1000, 4), (3000, 5, 16)], ids=["one", "many codes", "many vectors"]
)
def test_it_finds_what_all_distances_find(shape: tuple[int, int, int]) -> None:
    rows, codes, width = shape
    x = Draws(torch.arange(rows), 1).normal("x", width) + 20.0
    book = Draws(torch.arange(codes), 2).normal("book", width) + 20.0
    distances = torch.cdist(x.double(), book.double())
    assert torch.equal(nearest(x, book)[0], distances.argmin(1))


def test_of_equal_codes_the_first_is_taken_and_the_score_is_the_cosine() -> None:
    book = torch.eye(3)[[0, 1, 0, 2]]
    found, score = nearest(torch.eye(3) * 0.5, book, on_sphere=True)
    assert found.tolist() == [0, 1, 3] and score.tolist() == [0.5] * 3


def test_vectors_that_are_no_numbers_still_get_a_code_of_the_book() -> None:
    x = torch.tensor([[float("nan"), 0.0], [float("inf"), 0.0], [1.0, 0.0]])
    found, _ = nearest(x, torch.eye(2))
    assert found.min() >= 0 and found.max() < 2 and found[2] == 0
