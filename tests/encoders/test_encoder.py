"""The base class refuses other modalities and shapes in one sentence."""

import pytest
import torch
from torch import Tensor

from mezzotint.encoders.encoder import Encoder
from mezzotint.types import Input

IMAGE = Input((3, 8, 8), (0.5,) * 3, (0.25,) * 3)
TEXT = Input((12,), (), (), "tokens", 30)


class Mean(Encoder):
    """Mean of each channel."""

    modalities = frozenset({"image", "video"})

    def __init__(self, input: Input) -> None:
        super().__init__(input, input.shape[0])

    def forward(self, x: Tensor, scale: float = 1.0) -> Tensor:
        return x.flatten(2).mean(dim=2) * scale


class Length(Encoder):
    """Number of tokens."""

    def __init__(self, input: Input) -> None:
        super().__init__(input, 1)

    def forward(self, x: Tensor) -> Tensor:
        return (x != 0).float().sum(dim=1, keepdim=True)


def test_another_modality_is_refused_with_those_that_are_taken() -> None:
    with pytest.raises(
        ValueError, match=r"^`Mean` takes images or videos, got token sequences of shape"
    ):
        Mean(TEXT)


def test_other_sizes_are_taken_but_not_other_channels_or_axes() -> None:
    encoder = Mean(IMAGE)
    x = torch.randn(2, 3, 5, 9)
    torch.testing.assert_close(encoder(x, scale=2.0), 2.0 * x.mean(dim=(2, 3)))
    for wrong in (torch.randn(2, 1, 8, 8), torch.randn(3, 8, 8), torch.randn(2, 4, 3, 8, 8)):
        with pytest.raises(ValueError, match=r"shape \[batch, 3, 8, 8\], got \["):
            encoder(wrong)


def test_texts_may_have_any_length() -> None:
    encoder = Length(TEXT)
    assert encoder(torch.ones(2, 5, dtype=torch.int64)).tolist() == [[5.0], [5.0]]
    with pytest.raises(ValueError, match=r"shape \[batch, 12\], got \[2, 5, 1\]"):
        encoder(torch.ones(2, 5, 1, dtype=torch.int64))


def test_an_encoder_without_forward_says_so() -> None:
    with pytest.raises(TypeError, match="Encoder has no forward"):
        Encoder(IMAGE, 3)(torch.zeros(1, 3, 8, 8))


def test_the_check_neither_breaks_the_graph_nor_costs_a_recompilation() -> None:
    encoder = Mean(IMAGE)
    compiled = torch.compile(encoder, backend="eager", fullgraph=True, dynamic=True)
    for size in (8, 9, 12):
        x = torch.randn(2, 3, size, size)
        torch.testing.assert_close(compiled(x), encoder(x))
