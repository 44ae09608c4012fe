"""BRIDLE (Nguyen et al. 2025, arXiv 2502.02118), tokenizer phase: codes that hold what the encoder knows.

The tokenizer turns all patches into vectors, the codebook into codes, and an estimator, from these
codes alone, makes the features that the frozen encoder has of the same patches: 1 − cos, plus the
codebook's commitment loss. The books follow their vectors by moving averages. BEATs (Chen et al.
2022, arXiv 2212.09058) does the same with one book.

This phase leaves the encoder as it is. Differs from BRIDLE's source in what `codebooks` says; in
that books are started from the vectors of all ranks; and in that features are compared with their
mean over the batch left out (`center`). Without that, what all patches have in common makes the
cosine large whatever the codes say, and few codes are used.
"""

from typing import ClassVar, Self

import torch
from torch import Tensor
from torch.nn.functional import cosine_similarity

from mezzotint import dist
from mezzotint.codebooks.codebook import Codebook
from mezzotint.encoders.encoder import Encoder
from mezzotint.encoders.vit import ViT
from mezzotint.methods.code_targets import health_logs, start
from mezzotint.methods.masked import need_patches
from mezzotint.methods.method import Method
from mezzotint.methods.tokenizer import Estimator, LearnedTokenizer, Tokenizer
from mezzotint.types import Step, Views


class BRIDLETokenizer(Method, kind="bridle_tokenizer"):
    """Learn a tokenizer from a frozen encoder.

    Args:
        encoder: the teacher, a ViT that an earlier phase trained.
        codebook: to be learned, started from the first batch.
        tokenizer: to be learned.
        estimator_depth: blocks of the network that makes features out of codes.
        center: leave out of the features what all patches of all ranks have in common.
    """

    encoder: ViT
    min_views: ClassVar[int] = 1
    max_views: ClassVar[int | None] = 1
    needs_patches: ClassVar[bool] = True
    reports_collapse: ClassVar[bool] = False
    no_accumulation: ClassVar[str] = "the codebook follows every batch that it sees"
    needs = ("encoder",)

    def __init__(
        self,
        encoder: Encoder,
        *,
        codebook: Codebook,
        tokenizer: Tokenizer = LearnedTokenizer(),  # noqa: B008 - keeps no state
        estimator_depth: int = 3,
        center: bool = True,
    ) -> None:
        super().__init__(need_patches(encoder).requires_grad_(False))
        if not tokenizer.learns:
            raise ValueError(
                f"got the tokenizer {tokenizer.config['kind']}, which has nothing to learn; allowed is "
                "learned_tokenizer: leave method.tokenizer out"
            )
        self.codebook = codebook
        self.tokenizer = tokenizer.build(self.encoder, codebook.dim)
        self.estimator = Estimator(self.encoder, codebook.out_dim, estimator_depth)
        self.center = center

    def train(self, mode: bool = True) -> Self:
        """The teacher stays in eval mode: its features do not change."""
        super().train(mode)
        self.encoder.eval()
        return self

    def forward(self, views: Views) -> Step:
        """1 − cos of estimated and true features, the mean over all patches, plus the codebook's loss."""
        self.require_views(views)
        self.require_given()
        x = views.x[0]
        values, where = self.encoder.patches.split(x)
        with torch.no_grad():
            features = self.encoder.tokens(x)
        z = self.tokenizer(x, self.encoder.patches.vectors(values), where)
        start(self.codebook, z)
        codes = self.codebook(z)
        apart = distance(self.estimator(codes.quantized, where), features, center=self.center)
        logs = {
            "cosine": 1.0 - apart.detach(),
            "commitment": codes.loss.detach(),
            **health_logs(codes, where),
        }
        return Step(apart + codes.loss, logs)


def distance(estimated: Tensor, features: Tensor, *, center: bool) -> Tensor:
    """1 − cos of `[B, L, D]` and frozen `[B, L, D]`, in full precision, the mean over B and L."""
    features = features.detach().float()
    if center:
        features = features - dist.mean(features.mean(dim=(0, 1)))
    return 1.0 - cosine_similarity(estimated.float(), features, dim=-1, eps=1e-6).mean()
