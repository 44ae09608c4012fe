"""From a sample of any modality to a sequence of patches: the one place where a transformer knows the modality.

A sample is cut into L patches, each of P values that stand somewhere:

| modality | a patch | where it stands |
|---|---|---|
| image, audio | p × p pixels; mels × frames | row and column of the grid |
| video | a tube of t × p × p | time, row and column |
| series | p steps of all channels | its number |
| points | the k nearest of a center, centers farthest apart (Yu et al. 2022, arXiv 2111.14819) | the center |
| tokens | one token | its number |
| image with text | p × p pixels, then the tokens | its number (`image_text_patches`) |
| table | one feature: its value times a vector of the feature (Gorishniy et al. 2021, arXiv 2106.11959) | its number |

Positions are fixed sines and cosines of the true grid (Vaswani et al. 2017; in several axes as MAE,
He et al. 2022, an equal share of the width each), so that any size of input has them; those of
points are learned from the centers.

Shapes: B samples, L patches, P values of a patch, D width, A axes.

Patches of an image followed by the tokens of its text, as one sequence: what DABS does with several
inputs.

Shapes: B samples, L patches and tokens, P values of a patch, D width.
"""

import itertools
import math
from abc import ABC, abstractmethod
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn.functional import one_hot

from mezzotint.data.image_text import unpack
from mezzotint.types import PADDING, Input


class Patches(nn.Module, ABC):
    """Cuts samples into patches, and embeds them.

    Attributes:
        grid: patches along each axis, of samples of the stated size.
        num_values: P, of `vectors`.
    """

    grid: tuple[int, ...]
    num_values: int

    @property
    def axes(self) -> int:
        """A, the numbers that say where a patch stands."""
        return len(self.grid)

    @property
    def count(self) -> int:
        """L, of samples of the stated size."""
        return math.prod(self.grid)

    def grid_of(self, x: Tensor) -> tuple[int, ...]:
        """Patches along each axis of these samples, whose size may be another."""
        return self.grid

    def there(self, x: Tensor) -> Tensor | None:
        """Which patches are no padding, bool `[B, L]`; `None` where samples have none."""
        return None

    @abstractmethod
    def split(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """What `embed` takes of each patch, `[B, L, …]`, and where each stands, float32 `[1 or B, L, A]`."""

    @abstractmethod
    def embed(self, values: Tensor) -> Tensor:
        """Some patches of `split`, `[B, L', …]` → `[B, L', D]`, each by itself and without its position."""

    def vectors(self, values: Tensor) -> Tensor:
        """What a patch holds, without where it stands: float `[B, L', P]`, to be predicted or quantized."""
        return values

    def places(self, width: int) -> nn.Module:
        """A module that turns where patches stand, `[…, L, A]`, into `[…, L, width]`."""
        return SinCos(self.axes, width)


class SinCos(nn.Module):
    """Fixed positions: sines, then cosines, of each axis at frequencies from 1 down to 1 / 10000.

    Args:
        axes: A; each has an equal, even share of the width, and the first has what is left over.
        width: even.
    """

    def __init__(self, axes: int, width: int) -> None:
        super().__init__()
        if width % 2 or width < 2 * axes:
            raise ValueError(
                f"got width {width} for positions of {axes} axes; allowed is an even number from {2 * axes} on: choose "
                "a multiple of 12"
            )
        share = 2 * (width // (2 * axes))
        self.widths = [width - share * (axes - 1)] + [share] * (axes - 1)

    def forward(self, where: Tensor) -> Tensor:
        """`[…, L, A]` → `[…, L, width]`."""
        parts = []
        for axis, width in enumerate(self.widths):
            half = torch.arange(width // 2, device=where.device, dtype=torch.float32)
            angle = where[..., axis, None] * (-math.log(10000.0) * half / (width // 2)).exp()
            parts += [angle.sin(), angle.cos()]
        return torch.cat(parts, dim=-1)


def grid_places(grid: Sequence[int], device: torch.device) -> Tensor:
    """Where the patches of a grid stand, row by row: float32 `[1, L, A]`."""
    axes = torch.meshgrid(
        *(torch.arange(n, device=device, dtype=torch.float32) for n in grid), indexing="ij"
    )
    return torch.stack([axis.reshape(-1) for axis in axes], dim=-1).unsqueeze(0)


def take(x: Tensor, indices: Tensor) -> Tensor:
    """`[B, N, …]` and int64 `[B, M]` → `[B, M, …]`."""
    index = indices.view(*indices.shape, *(1 for _ in x.shape[2:])).expand(-1, -1, *x.shape[2:])
    return x.gather(1, index)


class GridPatches(Patches):
    """Patches of a regular grid: images, spectrograms, videos, series.

    A linear on the values of a patch, which is a convolution whose stride is its kernel.

    Args:
        shape: `(C, *sizes)` of a sample.
        side: of a patch along each axis.
        dim: D.
    """

    def __init__(self, shape: tuple[int, ...], side: Sequence[int], dim: int) -> None:
        super().__init__()
        self.side = tuple(side)
        self.grid = self._cut(shape[1:])
        self.num_values = shape[0] * math.prod(self.side)
        self.project = nn.Linear(self.num_values, dim)

    def grid_of(self, x: Tensor) -> tuple[int, ...]:
        """Patches along each axis of `[B, C, *sizes]`."""
        return self._cut(x.shape[2:])

    def _cut(self, sizes: Sequence[int]) -> tuple[int, ...]:
        if len(sizes) != len(self.side) or any(
            n < p or n % p for n, p in zip(sizes, self.side, strict=True)
        ):
            raise ValueError(
                f"got samples of size {tuple(sizes)} and patches of {self.side}; allowed are patches that fill the "
                "sample: choose encoder.patch so that it divides the size, or crop or pad the samples"
            )
        return tuple(n // p for n, p in zip(sizes, self.side, strict=True))

    def split(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """`[B, C, *sizes]` → `[B, L, P]`, channel by channel within a patch, and `[1, L, A]`."""
        grid = self.grid_of(x)
        axes = len(grid)
        cut = x.reshape(
            *x.shape[:2], *itertools.chain.from_iterable(zip(grid, self.side, strict=True))
        )
        numbers, sides = range(2, 2 + 2 * axes, 2), range(3, 3 + 2 * axes, 2)
        values = cut.permute(0, *numbers, 1, *sides).reshape(
            x.shape[0], math.prod(grid), self.num_values
        )
        return values, grid_places(grid, x.device)

    def embed(self, values: Tensor) -> Tensor:
        """`[B, L', P]` → `[B, L', D]`."""
        return self.project(values)  # type: ignore[no-any-return]


class TokenPatches(Patches):
    """Each token is a patch.

    The table starts standard normal, as in DABS (Tamkin et al. 2021, arXiv 2111.12062): on the
    scale of the positions that are added to it. At a deviation of 0.02 sines and cosines drown the
    tokens (`docs/tokens.md`).

    Args:
        shape: `(L,)`.
        vocabulary: how many tokens there are.
        dim: D.
    """

    def __init__(self, shape: tuple[int, ...], vocabulary: int, dim: int) -> None:
        super().__init__()
        if vocabulary < 2:
            raise ValueError(
                f"got tokens of a vocabulary of {vocabulary}; allowed is 2 or more: let the source state it"
            )
        self.grid, self.num_values = shape, vocabulary
        self.table = nn.Embedding(vocabulary, dim)
        nn.init.normal_(self.table.weight)

    def grid_of(self, x: Tensor) -> tuple[int, ...]:
        """The length of `[B, L]`."""
        return tuple(x.shape[1:])

    def there(self, x: Tensor) -> Tensor:
        """Every token but `PADDING`."""
        return x != PADDING

    def split(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """int64 `[B, L]` as it is, and `[1, L, 1]`."""
        return x, grid_places(x.shape[1:], x.device)

    def embed(self, values: Tensor) -> Tensor:
        """int64 `[B, L']` → `[B, L', D]`."""
        return self.table(values)  # type: ignore[no-any-return]

    def vectors(self, values: Tensor) -> Tensor:
        """One 1 in as many places as there are tokens."""
        return one_hot(values, self.num_values).float()


class TablePatches(Patches):
    """Each feature of a row is a patch: its value times a vector of its own.

    Args:
        shape: `(F,)`.
        dim: D.
    """

    def __init__(self, shape: tuple[int, ...], dim: int) -> None:
        super().__init__()
        self.grid, self.num_values = shape, 1
        self.table = nn.Embedding(shape[0], dim)
        nn.init.normal_(self.table.weight, std=0.02)

    def split(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """`[B, F]` → `[B, F, 2]`, value and number of the feature, and `[1, F, 1]`."""
        where = grid_places(x.shape[1:], x.device)
        return torch.cat(
            [x.unsqueeze(2), where.expand(x.shape[0], -1, -1).to(x.dtype)], dim=2
        ), where

    def embed(self, values: Tensor) -> Tensor:
        """`[B, L', 2]` → `[B, L', D]`."""
        return values[..., :1] * self.table(values[..., 1].long())  # type: ignore[no-any-return]

    def vectors(self, values: Tensor) -> Tensor:
        """The value alone."""
        return values[..., :1]

    def places(self, width: int) -> nn.Module:
        """A learned vector a feature."""
        return _Numbered(self.grid[0], width)


class _Numbered(nn.Module):
    def __init__(self, count: int, width: int) -> None:
        super().__init__()
        self.table = nn.Embedding(count, width)
        nn.init.normal_(self.table.weight, std=0.02)

    def forward(self, where: Tensor) -> Tensor:
        return self.table(where[..., 0].long())  # type: ignore[no-any-return]


_NO_TOKEN = -1.0


class ImageTextPatches(Patches):
    """A linear for the patches of the image, and a table for the tokens behind them; places are counted through both.

    Args:
        input: of images with text.
        side: of a patch along height and width.
        dim: D.
    """

    def __init__(self, input: Input, side: tuple[int, ...], dim: int) -> None:
        super().__init__()
        self.image = GridPatches((3, *input.shape[1:]), side, dim)
        self.text = TokenPatches((input.text,), input.vocabulary, dim)
        self.grid = (self.image.count + input.text,)
        self.num_values = self.image.num_values + self.text.num_values

    def there(self, x: Tensor) -> Tensor:
        """All patches of the image, and every token but `PADDING`."""
        _, tokens = unpack(x, self.text.count)
        image = torch.ones(len(x), self.image.count, dtype=torch.bool, device=x.device)
        return torch.cat([image, tokens != PADDING], dim=1)

    def split(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """`[B, 4, H, W]` → the values of a patch, 0 of a token, and last its number or −1: `[B, L, P + 1]`."""
        colors, tokens = unpack(x, self.text.count)
        values, _ = self.image.split(colors)
        patches = torch.cat([values, values.new_full((*values.shape[:2], 1), _NO_TOKEN)], dim=2)
        words = values.new_zeros(len(x), self.text.count, self.image.num_values + 1)
        words[..., -1] = tokens.to(values.dtype)
        return torch.cat([patches, words], dim=1), grid_places(self.grid, x.device)

    def embed(self, values: Tensor) -> Tensor:
        """`[B, L', P + 1]` → `[B, L', D]`."""
        number = values[..., -1].long()
        patches, words = self.image.embed(values[..., :-1]), self.text.embed(number.clamp(min=0))
        return torch.where((number < 0).unsqueeze(-1), patches, words.to(patches.dtype))

    def vectors(self, values: Tensor) -> Tensor:
        """The values of a patch, then one 1 in as many places as there are tokens; each is 0 where the other is."""
        number = values[..., -1].long()
        words = self.text.vectors(number.clamp(min=0)) * (number >= 0).unsqueeze(-1)
        return torch.cat([values[..., :-1], words.to(values.dtype)], dim=-1)
