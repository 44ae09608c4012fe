"""LearnedCodebook: what VQ and RQ share."""

import pytest
import torch

from mezzotint.codebooks import RQ
from mezzotint.codebooks.gradient import Gradient


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
