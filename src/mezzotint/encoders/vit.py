"""Vision Transformer (Dosovitskiy et al. 2021, arXiv 2010.11929) for any modality.

Samples are cut into patches, which go through pre-norm blocks. Named sizes, as width / depth /
heads: tiny 192 / 12 / 3, small 384 / 12 / 6, base 768 / 12 / 12, large 1024 / 24 / 16. Everything
that depends on the modality is in `modality`. Initialization and details are MAE's (He et al. 2022,
arXiv 2111.06377): fixed sine-cosine positions, Xavier-uniform linears, biases 0, LayerNorms with
ε = 1e-6.

`initialization: mocov3` is MoCo v3's (Chen et al. 2021, arXiv 2104.02057): queries, keys and
values are Xavier-uniform each on its own, and the class token is nearly 0.

Differs from MAE: by default there is no class token. With `pool: cls` it is the feature, and with
`pool: patches` it takes part in attention with the patches, whose mean is the feature, as in MAE
and BRIDLE. The last LayerNorm comes before the mean, during pretraining and afterwards.

Padding of tokens is neither attended to nor averaged, so the features of a text do not depend on
the length of the batch.

Shapes: B samples, L patches, D width.
"""

import math
from typing import ClassVar, Literal

import torch
from torch import Tensor, nn
from torch.nn.functional import pad, scaled_dot_product_attention

from mezzotint.encoders.encoder import Encoder
from mezzotint.modality.modality import modality_of
from mezzotint.modality.patches import (
    GridPatches,
    LearnedPositions,
    PatchSize,
    SinCos,
    grid_positions,
    take,
)
from mezzotint.recipe.component import require_sizes
from mezzotint.types import Input

Pool = Literal["mean", "cls", "patches"]
Positions = Literal["fixed", "learned"]
Initialization = Literal["mae", "mocov3"]


class Attention(nn.Module):
    """Multi-head self-attention.

    Args:
        width: D.
        heads: number of heads.
        inner: width of all heads together; by default D.
        bias: give queries, keys and values a bias.

    Attributes:
        logit_factor: factor of the logits, which are divided by √(size of a head). muP sets it
            where heads grow with the width.
    """

    def __init__(self, width: int, heads: int, inner: int | None = None, bias: bool = True) -> None:
        super().__init__()
        self.logit_factor = 1.0
        # A stated head width instead of -1 in `view`, which an empty batch makes ambiguous.
        self.heads, inner = heads, inner or width
        self.head_width = inner // max(1, heads)
        if heads < 1 or inner % heads:
            raise ValueError(
                f"`heads` must divide the width {inner}, got {heads}. Try {max(1, inner // 64)}."
            )
        self.qkv = nn.Linear(width, 3 * inner, bias=bias)
        self.proj = nn.Linear(inner, width)

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """`[B, L, D]` → `[B, L, D]`; `mask`, bool `[B, 1, 1, L]`, is true for valid keys."""
        batch, length, _ = x.shape
        qkv = self.qkv(x).view(batch, length, 3, self.heads, self.head_width)
        q, k, v = qkv.permute(2, 0, 3, 1, 4)
        scale = self.logit_factor * self.head_width**-0.5
        out = scaled_dot_product_attention(
            q, k, v, attn_mask=mask, scale=None if self.logit_factor == 1.0 else scale
        )
        return self.proj(out.transpose(1, 2).flatten(2))  # type: ignore[no-any-return]


class DropPath(nn.Module):
    """Drops a residual branch for random samples in training (Huang et al. 2016, arXiv 1603.09382).

    Args:
        p: probability of dropping it; branches that stay are divided by 1 − p.
    """

    def __init__(self, p: float) -> None:
        super().__init__()
        self.p = p

    def forward(self, x: Tensor) -> Tensor:
        """`[B, …]` → the same shape."""
        if not self.training or self.p == 0.0:
            return x
        kept = torch.rand(x.shape[0], *(1 for _ in x.shape[1:]), device=x.device) >= self.p
        return x * kept / (1.0 - self.p)


class Block(nn.Module):
    """A pre-norm transformer block.

    Args:
        width: D.
        heads: number of attention heads.
        drop_path: probability of dropping each of the two branches.

    Attributes:
        residual_ends: last layer of each residual branch, which muP scales by depth.
    """

    residual_ends: ClassVar[tuple[str, ...]] = ("attn.proj", "mlp.2")

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
    """Stack blocks; the probability of dropping a branch rises with depth from 0 to `drop_path`."""
    if depth < 1:
        raise ValueError(f"`depth` must be at least 1, got {depth}. Try 12.")
    if not 0.0 <= drop_path < 1.0:
        raise ValueError(f"`drop_path` must be at least 0 and below 1, got {drop_path}. Try 0.1.")
    return nn.Sequential(
        *(Block(width, heads, drop_path * i / max(1, depth - 1)) for i in range(depth))
    )


def initialize(module: nn.Module) -> None:
    """Set the weights of all linears in a module Xavier-uniform, and their biases to 0."""
    for part in module.modules():
        if isinstance(part, nn.Linear):
            nn.init.xavier_uniform_(part.weight)
            if part.bias is not None:
                nn.init.zeros_(part.bias)


def _initialize_as_mocov3(vit: "ViT") -> None:
    """Draw queries, keys and values as three square matrices, and a class token of std 1e-6."""
    for module in vit.modules():
        if isinstance(module, Attention):
            for part in module.qkv.weight.detach().chunk(3):
                nn.init.xavier_uniform_(part)
    if vit.cls is not None:
        nn.init.normal_(vit.cls, std=1e-6)


class ViT(Encoder):
    """Encode samples of any modality by a transformer over patches; ViT-S/16 (21.6 M) by default.

    `width: 768` with 12 heads is ViT-B/16 (85.6 M parameters).

    Args:
        input: of any modality.
        width: width of the tokens, and number of features.
        depth: number of blocks.
        heads: number of attention heads.
        patch: side of a patch, one for all axes or one for each: `[mels, frames]`, `[frames,
            height, width]`; by default 16, and 2 along the frames of a video.
        pool: feature of a sample: `mean` over its patches; `cls`, a class token; or `patches`, the
            mean over patches that attend to a class token too.
        drop_path: probability of dropping a branch of the last block; it is 0 at the first.
        positions: `fixed` sines and cosines for samples of any size, or `learned` ones for one
            size, which start there and which weights of other projects bring along.
        groups: patches of a point cloud.
        group_size: points of each patch of a point cloud.
        initialization: start of the weights, `"mae"` or `"mocov3"`; the latter treats queries, keys
            and values as three matrices, and draws a class token of std 1e-6 instead of 0.02.
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
        positions: Positions = "fixed",
        groups: int = 64,
        group_size: int = 32,
        initialization: Initialization = "mae",
    ) -> None:
        require_sizes("encoder", width=width, heads=heads, groups=groups, group_size=group_size)
        super().__init__(input, width)
        self.heads, self.pools = heads, pool
        if pool not in ("mean", "cls", "patches"):
            raise ValueError(f"`pool` must be mean, cls or patches, got {pool!r}.")
        size = PatchSize(patch, groups, group_size)
        self.patches = modality_of(input).patches(input, width, size)
        # Saved weights of learned positions have this name.
        self.places = self.patches.position_embedding(width)
        self.cls = nn.Parameter(torch.randn(1, 1, width) * 0.02) if pool != "mean" else None
        self.blocks = blocks(width, depth, heads, drop_path)
        self.norm = nn.LayerNorm(width, eps=1e-6)
        initialize(self)
        if initialization == "mocov3":
            _initialize_as_mocov3(self)
        if positions == "learned":
            self.places = self._learned_positions(width)
        elif positions != "fixed":
            raise ValueError(f"`positions` must be fixed or learned, got {positions!r}.")

    def _learned_positions(self, width: int) -> LearnedPositions:
        """Make positions that start as the fixed ones."""
        if not isinstance(self.places, SinCos):
            raise ValueError(
                f"`positions: learned` needs patches of a grid, got {self.input.modality}. Leave "
                "it out."
            )
        learned = LearnedPositions(self.patches.grid, width)
        start = self.places(grid_positions(self.patches.grid, torch.device("cpu")))[0]
        learned.table.weight.data.copy_(start)
        return learned

    def tokens(self, x: Tensor, keep: Tensor | None = None) -> Tensor:
        """Compute the features of the patches.

        Args:
            x: `[B, *sizes]`, normalized.
            keep: int64 `[B, L']`, the visible patches of each sample; by default all.

        Returns:
            `[B, L', D]`, in the order of `keep`, without the class token.
        """
        out = self.encode(*self.embed(x, keep), self.valid_mask(x, keep))
        return out if self.cls is None else out[:, 1:]

    def map_layer(self) -> tuple[nn.Module, bool]:
        if not isinstance(self.patches, GridPatches) or len(self.patches.side) > 2:
            return super().map_layer()
        return self.norm, False

    def as_map(self, values: Tensor, x: Tensor) -> Tensor:
        """Tokens `[B, L, D]`, maybe after a class token → `[B, D, h, w]`."""
        grid = (1, *self.patches.grid_of(x))[-2:]
        found: Tensor = values[:, -math.prod(grid) :].transpose(1, 2).unflatten(2, grid)
        return found

    def forward(self, x: Tensor, keep: Tensor | None = None) -> Tensor:
        """`[B, *sizes]` → `[B, D]`, from the visible patches alone; `keep` as for `tokens`."""
        valid = self.valid_mask(x, keep)
        return self.pool(self.encode(*self.embed(x, keep), valid), valid)

    def valid_mask(self, x: Tensor, keep: Tensor | None = None) -> Tensor | None:
        """Return bool `[B, L']`, false for padding; `None` if the modality has no padding."""
        valid = self.patches.valid_mask(x)
        if valid is None:
            return None
        valid = valid if keep is None else valid.gather(1, keep)
        # An empty text attends to its first padding token: a softmax over nothing is NaN.
        first = torch.arange(valid.shape[1], device=valid.device) == 0
        return valid | (first & ~valid.any(dim=1, keepdim=True))

    def embed(self, x: Tensor, keep: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Embed patches to `[B, L', D]`; also return their positions, `[1 or B, L', A]`."""
        values, positions = self.patches.split(x)
        if keep is not None:
            positions = take(positions.expand(x.shape[0], -1, -1), keep)
            values = take(values, keep)
        return self.patches.embed(values), positions

    def encode(self, embedded: Tensor, positions: Tensor, valid: Tensor | None = None) -> Tensor:
        """Run the blocks on embedded patches.

        Args:
            embedded: `[B, L', D]`, as `embed` returns them.
            positions: `[1 or B, L', A]`.
            valid: bool `[B, L']`, the patches that may be attended to, as `valid_mask` returns it.

        Returns:
            `[B, L', D]`, or `[B, 1 + L', D]` with the class token first.
        """
        tokens = self.with_positions(embedded, positions)
        mask = None if valid is None else self._with_cls(valid)[:, None, None]
        for block in self.blocks:
            tokens = block(tokens, mask)
        return self.norm(tokens)  # type: ignore[no-any-return]

    def with_positions(self, embedded: Tensor, positions: Tensor) -> Tensor:
        """Add position embeddings, and put the class token first if there is one."""
        tokens: Tensor = embedded + self.places(positions)
        if self.cls is None:
            return tokens
        return torch.cat([self.cls.expand(tokens.shape[0], -1, -1).to(tokens.dtype), tokens], dim=1)

    def pool(self, out: Tensor, valid: Tensor | None = None) -> Tensor:
        """Pool the output of `encode` to `[B, D]`; `valid` as for `encode`."""
        if self.pools == "cls":
            return out[:, 0]
        return self._mean(out, valid)

    def _mean(self, out: Tensor, valid: Tensor | None) -> Tensor:
        """Average all valid tokens; the class token among them unless `pool: patches`."""
        if self.pools == "patches":
            out = out[:, 1:]
        if valid is None:
            return out.mean(dim=1)
        weight = (valid if self.pools == "patches" else self._with_cls(valid)).to(out.dtype)
        return (out * (weight / weight.sum(dim=1, keepdim=True)).unsqueeze(2)).sum(dim=1)

    def _with_cls(self, valid: Tensor) -> Tensor:
        return valid if self.cls is None else pad(valid, (1, 0), value=True)
