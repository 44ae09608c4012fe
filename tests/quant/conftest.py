"""A small network, trained for seconds, with the distributions of trained networks."""

import copy
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from mezzotint.data.image.embedded import EmbeddedImages
from mezzotint.encoders.resnet import ResNet, resnet8
from mezzotint.types import Input


@pytest.fixture(scope="session")
def digits() -> tuple[Tensor, Tensor]:
    """Normalized `[1024, 1, 8, 8]`, and labels."""
    source = EmbeddedImages(name="digits")
    x = torch.as_tensor(source.images)[:1024].float().div(255.0)
    mean, std = source.input.mean[0], source.input.std[0]
    return (x - mean) / std, torch.as_tensor(source.labels)[:1024]


@pytest.fixture(scope="session")
def _trained(digits: tuple[Tensor, Tensor]) -> ResNet:
    x, labels = digits
    with torch.random.fork_rng():
        torch.manual_seed(0)
        encoder = resnet8(Input((1, 8, 8), (0.3053,), (0.3759,)), stem="small", width=8)
        head = nn.Linear(encoder.dim, 10)
        optimizer = torch.optim.Adam([*encoder.parameters(), *head.parameters()], 5e-3)
        for step in range(60):
            part = slice(step % 8 * 128, step % 8 * 128 + 128)
            loss = nn.functional.cross_entropy(head(encoder(x[part])), labels[part])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    encoder.zero_grad()
    return encoder.eval()


@pytest.fixture
def trained(_trained: ResNet) -> ResNet:
    """One's own copy, in eval mode."""
    return copy.deepcopy(_trained)


@pytest.fixture(scope="session")
def feature_error() -> Callable[[Tensor, Tensor], float]:
    """Squared error over variance."""
    return lambda a, b: float((a - b).square().sum() / (b - b.mean(0)).square().sum())
