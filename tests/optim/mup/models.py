"""An MLP, a CNN and a Transformer of any width, with any class of readout."""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mezzotint.optim.mup import MuReadout


class MLP(nn.Module):
    def __init__(self, width: int, readout: type[Any] = MuReadout, **keywords: Any) -> None:
        super().__init__()
        self.first = nn.Linear(20, width)
        self.second = nn.Linear(width, width)
        self.third = nn.Linear(width, width)
        self.readout = readout(width, 10, **keywords)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.first(x.flatten(1)))
        x = F.relu(self.second(x))
        return self.readout(F.relu(self.third(x)))  # type: ignore[no-any-return]


class CNN(nn.Module):
    def __init__(self, width: int, readout: type[Any] = MuReadout, **keywords: Any) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, width, 3, padding=1)
        self.norm = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, 2 * width, 3, padding=1)
        self.fc = nn.Linear(2 * width, width)
        self.readout = readout(width, 10, **keywords)

    def forward(self, x: Tensor) -> Tensor:
        x = F.max_pool2d(F.relu(self.norm(self.conv1(x))), 2)
        x = F.relu(self.conv2(x)).mean(dim=(2, 3))
        return self.readout(F.relu(self.fc(x)))  # type: ignore[no-any-return]


class Layer(nn.Module):
    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.q, self.k, self.v, self.out = (nn.Linear(width, width) for _ in range(4))
        self.up, self.down = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        batch, length, width = x.shape
        normed = self.norm1(x)
        q, k, v = (
            f(normed).view(batch, length, self.heads, -1).transpose(1, 2)
            for f in (self.q, self.k, self.v)
        )
        scores = q @ k.transpose(2, 3) * (8 / (width // self.heads))
        mixed = (scores.softmax(dim=-1) @ v).transpose(1, 2).reshape(batch, length, width)
        x = x + self.out(mixed)
        return x + self.down(F.gelu(self.up(self.norm2(x))))  # type: ignore[no-any-return]


class Transformer(nn.Module):
    """A language model of 12 tokens; scores are 8 · q·k / d, which is √d_base / d at width 128."""

    def __init__(self, width: int, readout: type[Any] = MuReadout, **keywords: Any) -> None:
        super().__init__()
        self.table = nn.Embedding(12, width)
        self.positions = nn.Parameter(torch.randn(1, 6, width))
        self.layers = nn.Sequential(Layer(width, 2), Layer(width, 2))
        self.norm = nn.LayerNorm(width)
        self.readout = readout(width, 12, **keywords)

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.layers(self.table(tokens) + self.positions)
        return self.readout(self.norm(x)).flatten(0, 1)  # type: ignore[no-any-return]


ARCHITECTURES: dict[str, Any] = {"mlp": MLP, "cnn": CNN, "transformer": Transformer}


def batch(name: str, seed: int = 0) -> tuple[Tensor, Tensor]:
    """A batch of inputs and labels for an architecture."""
    generator = torch.Generator().manual_seed(seed)
    if name == "transformer":
        tokens = torch.randint(12, (4, 6), generator=generator)
        return tokens, tokens.roll(-1, dims=1).flatten()
    shape = (16, 20) if name == "mlp" else (16, 3, 8, 8)
    return torch.randn(shape, generator=generator), torch.randint(10, (16,), generator=generator)
