"""EMA updates of codes against the formulas of the papers."""

import pytest
import torch
from torch.nn.functional import normalize

from mezzotint.codebooks import EMA, VQ
from tests.codebooks.reference import X, normal


@pytest.mark.parametrize("metric", ["cosine", "euclidean"])
@pytest.mark.parametrize("rule", ["count", "norm"])
def test_averages_are_those_of_the_papers(rule: str, metric: str) -> None:
    ema = EMA(rule=rule, decay=0.9, expire_below=0.0)  # type: ignore[arg-type]
    codebook = VQ(dim=8, num_codes=16, metric=metric, ema=ema)  # type: ignore[arg-type]
    codebook.initialize(X)
    book, counts = (
        codebook.books.vectors[0].clone().double(),
        codebook.books.counts[0].clone().double(),
    )
    sums = book * counts[:, None]
    for step in range(5):
        z = normal(f"step{step}", 40, 8)
        met = normalize(z.double(), dim=1) if metric == "cosine" else z.double()
        chosen = torch.cdist(met, book).argmin(1)
        assert torch.equal(codebook(z).indices[:, 0], chosen)
        for code in range(16):
            own = met[chosen == code]
            counts[code] = 0.9 * counts[code] + 0.1 * len(own)
            sums[code] = 0.9 * sums[code] + 0.1 * own.sum(0)
            if len(own) == 0:
                continue
            mean = own.mean(0)
            if rule == "norm":
                mean = normalize(mean, dim=0) if metric == "cosine" else mean
                book[code] = 0.9 * book[code] + 0.1 * mean
            else:
                book[code] = sums[code] / counts[code]
            book[code] = normalize(book[code], dim=0) if metric == "cosine" else book[code]
        torch.testing.assert_close(codebook.books.vectors[0].double(), book, rtol=1e-5, atol=1e-6)
        torch.testing.assert_close(codebook.books.counts[0].double(), counts, rtol=1e-6, atol=1e-6)
