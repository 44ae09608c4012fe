"""Vision Transformer (Dosovitskiy et al. 2021, arXiv 2010.11929) for any modality: patches, then pre-norm blocks.

Named sizes, as width / depth / heads: tiny 192 / 12 / 3, small 384 / 12 / 6, base 768 / 12 / 12,
large 1024 / 24 / 16. Everything that depends on the modality is in `modality`. Initialization
and details as in MAE (He et al. 2022, arXiv 2111.06377): fixed sine-cosine positions,
Xavier-uniform linears, biases 0, LayerNorms with ε = 1e-6.

Differs from MAE in that there is a class token only where it is the feature (`pool: cls`), and that
the last LayerNorm comes before the mean over patches, during pretraining and afterwards.

Padding of tokens is neither attended to nor averaged, so features are those of the text, however
long the batch is.

Shapes: B samples, L patches, D width.
"""

from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn.functional import pad, scaled_dot_product_attention

from mezzotint.encoders.encoder import Encoder
from mezzotint.modality.modality import modality_of
from mezzotint.modality.patches import PatchSize, take
from mezzotint.types import Input

Pool = Literal["mean", "cls"]


class Attention(nn.Module):
    """Multi-head self-attention.

    Args:
        width: D.
        heads: of attention.
        inner: width of all heads together; by default D.
        bias: of queries, keys and values.
    """

    def __init__(self, width: int, heads: int, inner: int | None = None, bias: bool = True) -> None:
        super().__init__()
        self.heads, inner = heads, inner or width
        if heads < 1 or inner % heads:
            raise ValueError(
                f"got width={inner} and heads={heads}; allowed are heads that divide the width: take 64 each"
            )
        self.qkv = nn.Linear(width, 3 * inner, bias=bias)
        self.proj = nn.Linear(inner, width)

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """`[B, L, D]` → `[B, L, D]`; `mask`, bool `[B, 1, 1, L]`, says what may be attended to."""
        batch, length, _ = x.shape
        q, k, v = self.qkv(x).view(batch, length, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        out = scaled_dot_product_attention(q, k, v, attn_mask=mask)
        return self.proj(out.transpose(1, 2).reshape(batch, length, -1))  # type: ignore[no-any-return]


class DropPath(nn.Module):
    """Leave a residual branch out for some samples, in training (Huang et al. 2016, arXiv 1603.09382).

    Args:
        p: probability; branches that stay are divided by 1 − p.
    """

    def __init__(self, p: float) -> None:
        super().__init__()
        self.p = p

    def forward(self, x: Tensor) -> Tensor:
        """`[B, …]` → the same."""
        if not self.training or self.p == 0.0:
            return x
        kept = torch.rand(x.shape[0], *(1 for _ in x.shape[1:]), device=x.device) >= self.p
        return x * kept / (1.0 - self.p)


class Block(nn.Module):
    """A pre-norm transformer block.

    Args:
        width: D.
        heads: of attention.
        drop_path: probability of leaving each of the two branches out.
    """

    def __init__(self, width: int, heads: int, drop_path: float = 0.0) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(width, eps=1e-6)
        self.attn = Attention(width, heads)
        self.norm2 = nn.LayerNorm(width, eps=1e-6)
        self.mlp = nn.Sequential(
            nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width)
        )
        self.drop_path = DropPath(drop_path)

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """`[B, L, D]` → `[B, L, D]`; `mask` as for `Attention`."""
        x = x + self.drop_path(self.attn(self.norm1(x), mask))
        return x + self.drop_path(self.mlp(self.norm2(x)))  # type: ignore[no-any-return]


def blocks(width: int, depth: int, heads: int, drop_path: float = 0.0) -> nn.Sequential:
    """Blocks one after the other; the probability of dropping a branch rises from 0 to `drop_path` with depth."""
    if depth < 1 or not 0.0 <= drop_path < 1.0:
        raise ValueError(
            f"got depth={depth}, drop_path={drop_path}; allowed are 1 or more, and [0, 1): take 12 and 0"
        )
    return nn.Sequential(
        *(Block(width, heads, drop_path * i / max(1, depth - 1)) for i in range(depth))
    )


def initialize(module: nn.Module) -> None:
    """Xavier-uniform weights and no biases, for every linear in a module."""
    for part in module.modules():
        if isinstance(part, nn.Linear):
            nn.init.xavier_uniform_(part.weight)
            if part.bias is not None:
                nn.init.zeros_(part.bias)


class ViT(Encoder):
    """A transformer over patches: 21.6 M parameters at width 384 (ViT-S/16), 85.6 M at 768 with 12 heads (ViT-B/16).

    Args:
        input: of any modality.
        width: of the tokens, and of the features.
        depth: number of blocks.
        heads: of attention.
        patch: side of a patch along each axis, or of all: `[mels, frames]`, `[frames, height,
            width]`; by default 16, and 2 in the time of video.
        pool: the feature is the mean over patches, or a class token.
        drop_path: probability of leaving out a branch of the last block; 0 at the first.
        groups: patches of a point cloud.
        group_size: points of each.
    """

    def __init__(
        self,
        input: Input,
        *,
        width: int = 384,
        depth: int = 12,
        heads: int = 6,
        patch: int | list[int] | None = None,
        pool: Pool = "mean",
        drop_path: float = 0.0,
        groups: int = 64,
        group_size: int = 32,
    ) -> None:
        super().__init__(input, width)
        self.heads = heads
        if pool not in ("mean", "cls"):
            raise ValueError(f"got pool={pool!r}; allowed is mean or cls: choose one of them")
        size = PatchSize(patch, groups, group_size)
        self.patches = modality_of(input).patches(input, width, size)
        self.places = self.patches.position_embedding(width)
        self.cls = nn.Parameter(torch.randn(1, 1, width) * 0.02) if pool == "cls" else None
        self.blocks = blocks(width, depth, heads, drop_path)
        self.norm = nn.LayerNorm(width, eps=1e-6)
        initialize(self)

    def tokens(self, x: Tensor, keep: Tensor | None = None) -> Tensor:
        """The patches' features.

        Args:
            x: `[B, *sizes]`, normalized.
            keep: int64 `[B, L']`, the patches that are seen, of each sample; by default all.

        Returns:
            `[B, L', D]`, in the order of `keep`, without the class token.
        """
        out = self.encode(*self.embed(x, keep), self.valid_mask(x, keep))
        return out if self.cls is None else out[:, 1:]

    def forward(self, x: Tensor, keep: Tensor | None = None) -> Tensor:
        """`[B, *sizes]` → `[B, D]`; of the patches in `keep` alone, as for `tokens`."""
        there = self.valid_mask(x, keep)
        return self.pool(self.encode(*self.embed(x, keep), there), there)

    def valid_mask(self, x: Tensor, keep: Tensor | None = None) -> Tensor | None:
        """Which patches are no padding: bool `[B, L']`, one in every sample at least; `None` where there is none."""
        there = self.patches.valid_mask(x)
        if there is None:
            return None
        there = there if keep is None else there.gather(1, keep)
        first = (
            torch.arange(there.shape[1], device=there.device) == 0
        )  # of an empty text, lest its softmax be NaN
        return there | (first & ~there.any(dim=1, keepdim=True))

    def embed(self, x: Tensor, keep: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Patches as vectors, without their positions, `[B, L', D]`; and where they stand, `[1 or B, L', A]`."""
        values, where = self.patches.split(x)
        if keep is not None:
            values, where = take(values, keep), take(where.expand(x.shape[0], -1, -1), keep)
        return self.patches.embed(values), where

    def encode(self, embedded: Tensor, where: Tensor, there: Tensor | None = None) -> Tensor:
        """What `embed` gives, or something like it, through the blocks: `[B, L', D]`, a class token before them.

        Args:
            embedded: `[B, L', D]`.
            where: they stand.
            there: as the method of this name gives it; only these are attended to.
        """
        tokens = self.placed(embedded, where)
        mask = None if there is None else self._with_cls(there)[:, None, None]
        for block in self.blocks:
            tokens = block(tokens, mask)
        return self.norm(tokens)  # type: ignore[no-any-return]

    def placed(self, embedded: Tensor, where: Tensor) -> Tensor:
        """What goes into the blocks: with positions, and a class token before."""
        tokens: Tensor = embedded + self.places(where)
        if self.cls is None:
            return tokens
        return torch.cat([self.cls.expand(tokens.shape[0], -1, -1).to(tokens.dtype), tokens], dim=1)

    def pool(self, out: Tensor, there: Tensor | None = None) -> Tensor:
        """The feature of each sample: what `encode` gives → `[B, D]`; `there` as for `encode`."""
        return self._mean(out, there) if self.cls is None else out[:, 0]

    def _mean(self, out: Tensor, there: Tensor | None) -> Tensor:
        """Over all tokens that are there, a class token among them."""
        if there is None:
            return out.mean(dim=1)
        share = self._with_cls(there).to(out.dtype)
        return (out * (share / share.sum(dim=1, keepdim=True)).unsqueeze(2)).sum(dim=1)

    def _with_cls(self, there: Tensor) -> Tensor:
        return there if self.cls is None else pad(there, (1, 0), value=True)
