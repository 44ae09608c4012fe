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
    vectors, counts = (
        codebook.books.vectors[0].clone().double(),
        codebook.books.counts[0].clone().double(),
    )
    sums = vectors * counts[:, None]
    for step in range(5):
        z = normal(f"step{step}", 40, 8)
        met = normalize(z.double(), dim=1) if metric == "cosine" else z.double()
        chosen = torch.cdist(met, vectors).argmin(1)
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
                vectors[code] = 0.9 * vectors[code] + 0.1 * mean
            else:
                vectors[code] = sums[code] / counts[code]
            vectors[code] = normalize(vectors[code], dim=0) if metric == "cosine" else vectors[code]
        torch.testing.assert_close(
            codebook.books.vectors[0].double(), vectors, rtol=1e-5, atol=1e-6
        )
        torch.testing.assert_close(codebook.books.counts[0].double(), counts, rtol=1e-6, atol=1e-6)


def test_steps_of_expiry() -> None:
    assert [step for step in range(1, 13) if EMA(expire_every=4).expires_at(step)] == [4, 8, 12]
    assert not any(EMA(expire_below=0.0).expires_at(step) for step in range(1, 50))


def test_an_unused_code_stays_bit_for_bit() -> None:
    for rule in ("count", "norm"):
        ema = EMA(rule=rule, expire_below=0.0)
        codebook = VQ(dim=8, num_codes=16, metric="euclidean", ema=ema)
        codebook.initialize(X)
        before = codebook.books.vectors[0].clone()
        codes = codebook(X[:3])
        unused = codes.usage[0] == 0
        assert torch.equal(codebook.books.vectors[0][unused], before[unused])
        assert not torch.equal(codebook.books.vectors[0][~unused], before[~unused])
