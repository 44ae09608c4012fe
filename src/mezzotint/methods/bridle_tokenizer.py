"""BRIDLE (Nguyen et al. 2025, arXiv 2502.02118), tokenizer phase: distill the encoder into codes.

The tokenizer turns all patches into vectors, the codebook turns vectors into codes, and an
estimator predicts the features of the frozen encoder from these codes alone. The loss is 1 − cos,
plus the codebook's commitment loss. Codebooks follow their vectors by moving averages. BEATs (Chen
et al. 2022, arXiv 2212.09058) does the same with a single codebook.

This phase does not change the encoder. Differs from BRIDLE's source: see the module docstrings of
`codebooks`; codebooks are initialized from the vectors of all ranks; and features are compared
after subtracting their mean over the batch (`center`). Without it, the common part of all patches
makes the cosine large for any codes, and few codes are used.
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
    """Train a tokenizer on the features of a frozen encoder.

    Args:
        encoder: teacher, a ViT that an earlier phase trained.
        codebook: codebook to learn, initialized from the first batch.
        tokenizer: network to learn, from patches to vectors.
        estimator_depth: blocks of the network that predicts features from codes.
        center: subtract the mean over all patches of all ranks from the features.
    """

    encoder: ViT
    min_views: ClassVar[int] = 1
    max_views: ClassVar[int | None] = 1
    needs_patches: ClassVar[bool] = True
    reports_collapse: ClassVar[bool] = False
    no_accumulation: ClassVar[str] = "the codebook follows every batch"
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
                f"`method.tokenizer` must be learned_tokenizer, got {tokenizer.config['kind']}, "
                "which has "
                "nothing to learn. Leave it out."
            )
        self.codebook = codebook
        self.tokenizer = tokenizer.build(self.encoder, codebook.dim)
        self.estimator = Estimator(self.encoder, codebook.out_dim, estimator_depth)
        self.center = center

    def train(self, mode: bool = True) -> Self:
        """Set the mode; the teacher stays in eval mode, so that its features do not change."""
        super().train(mode)
        self.encoder.eval()
        return self

    def forward(self, views: Views) -> Step:
        self.require_views(views)
        self.require_given()
        x = views.x[0]
        values, where = self.encoder.patches.split(x)
        with torch.no_grad():
            features = self.encoder.tokens(x)
        z = self.tokenizer(x, self.encoder.patches.vectors(values), where)
        start(self.codebook, z)
        codes = self.codebook(z)
        error = distance(self.estimator(codes.quantized, where), features, center=self.center)
        logs = {
            "cosine": 1.0 - error.detach(),
            "commitment": codes.loss.detach(),
            **health_logs(codes, where),
        }
        return Step(error + codes.loss, logs)


def distance(estimated: Tensor, features: Tensor, *, center: bool) -> Tensor:
    """Average 1 − cos of estimated and true features `[B, L, D]`, in full precision."""
    features = features.detach().float()
    if center:
        features = features - dist.mean(features.mean(dim=(0, 1)))
    return 1.0 - cosine_similarity(estimated.float(), features, dim=-1, eps=1e-6).mean()
