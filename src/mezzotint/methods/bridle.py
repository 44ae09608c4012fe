"""BRIDLE (Nguyen et al. 2025, arXiv 2502.02118), encoder phase: predict codes of masked patches.

A frozen tokenizer turns every patch of the whole view into S codes. The encoder processes the
visible patches; a decoder predicts the codes of masked patches, with a head for each level:
cross-entropy over K codes. Phases alternate: this one, then `bridle_tokenizer`, which trains a
better tokenizer from the encoder, then this one again. The first phase has no encoder to learn
from, so its tokenizer is a `cold_start`.

Related methods are settings of this class. BEATs (Chen et al. 2022, arXiv 2212.09058): a `vq`
codebook, and students from new weights (do not load the encoder). BEST-RQ (Chiu et al. 2022, arXiv
2202.01855): `tokenizer: {kind: cold_start, project: false}` with a `random_projection` codebook,
and no second phase.

Differs from BRIDLE's source: the codebook is initialized from the vectors of all ranks and frozen
to the bit, and several codes per level are the nearest ones. By default, the cold start does not
use positions and the encoder has no class token; the recipes that end in `_published` choose as the
source does.

Shapes: B samples, L patches, S levels of K codes, c codes a level, D width of the codes.
"""

import torch
from torch import Tensor

from mezzotint.augment.masking import Mask, RandomMask
from mezzotint.codebooks.codebook import Codebook, need_finite
from mezzotint.encoders.decoder import Decoder
from mezzotint.encoders.encoder import Encoder
from mezzotint.methods.code_targets import (
    Targets,
    TokenCache,
    code_loss,
    find_targets,
    health_logs,
    start,
)
from mezzotint.methods.masked import Masked, need_patches
from mezzotint.methods.tokenizer import ColdStart, Tokenizer
from mezzotint.types import Codes, Step, Views


class BRIDLE(Masked):
    """Predict codes of a frozen tokenizer.

    Args:
        encoder: ViT, to be trained.
        codebook: codebook of the tokenizer's vectors; frozen after it is initialized from the first
            batch.
        tokenizer: network from patches to vectors. `learned_tokenizer` needs an earlier phase of
            `bridle_tokenizer`.
        mask: rule by which patches are masked.
        decoder: size of the network that predicts codes.
        codes_per_level: number of nearest codes that are predicted.
        temperature: temperature of the soft targets over these codes, in squared distances; `None`
            gives each code its own head.
        cache: reuse the codes of identical views; for views without randomness.
    """

    def __init__(
        self,
        encoder: Encoder,
        *,
        codebook: Codebook,
        tokenizer: Tokenizer = ColdStart(),  # noqa: B008 - keeps no state
        mask: Mask = RandomMask(ratio=0.8),  # noqa: B008
        decoder: Decoder = Decoder(),  # noqa: B008
        codes_per_level: int = 1,
        temperature: float | None = None,
        cache: bool = False,
    ) -> None:
        if not 1 <= codes_per_level <= codebook.num_codes or (
            temperature is not None and codes_per_level == 1
        ):
            raise ValueError(
                f"`method.codes_per_level` must be 1 to {codebook.num_codes}, with a "
                "`temperature` only "
                f"from 2 on, got {codes_per_level} and temperature={temperature}. Leave both out "
                "to "
                "predict the nearest code."
            )
        heads = 1 if temperature is not None else codes_per_level
        super().__init__(encoder, mask, decoder, codebook.num_levels * heads * codebook.num_codes)
        self.codebook = codebook.freeze()
        self.tokenizer = tokenizer.build(need_patches(encoder), codebook.dim).requires_grad_(False)
        self.needs = ("tokenizer", "codebook") if tokenizer.learns else ()
        self.per_level, self.temperature = codes_per_level, temperature
        self.cache = TokenCache() if cache else None
        self.residual = torch.zeros(codebook.num_levels)

    def forward(self, views: Views) -> Step:
        self.require_given()
        keep, hidden = self.draw(views)
        x = views.x[0]
        values, where = self.encoder.patches.split(x)
        targets, codes = self.targets(views, self.encoder.patches.vectors(values), where)
        health = health_logs(codes, where)
        loss, logs = code_loss(
            self.predict(x, keep, hidden, where), targets, hidden, self.codebook.num_codes
        )
        # On a device, the loss of codes is NaN for vectors that are not finite.
        return Step(loss + 0.0 * codes.loss, {**logs, **health})

    @torch.no_grad()
    def targets(self, views: Views, vectors: Tensor, where: Tensor) -> tuple[Targets, Codes]:
        """Compute the targets of all patches, and their codes for the log.

        Args:
            views: a single view.
            vectors: values of its patches, `[B, L, P]`.
            where: positions of its patches, `[1 or B, L, A]`.
        """
        x = views.x[0]
        self._start(x, vectors, where)
        if self.cache is None:
            return self._find(x, vectors, where)

        def make(rows: Tensor) -> tuple[Tensor, Tensor | None]:
            made, codes = self._find(
                x[rows], vectors[rows], where if where.shape[0] == 1 else where[rows]
            )
            self.residual = codes.residual
            need_finite(codes.loss.isfinite())
            return made.indices, made.weights

        cached, _ = self.cache(views.draws.ids, x, make)
        targets = Targets(cached[0], cached[1] if len(cached) > 1 else None)
        return targets, self._as_codes(targets.indices[..., 0])

    @torch.compiler.disable  # type: ignore[untyped-decorator]
    def _start(self, x: Tensor, vectors: Tensor, where: Tensor) -> None:
        if not self.codebook.ready:
            start(self.codebook, self.tokenizer(x, vectors, where))

    def _find(self, x: Tensor, vectors: Tensor, where: Tensor) -> tuple[Targets, Codes]:
        return find_targets(
            self.codebook, self.tokenizer(x, vectors, where), self.per_level, self.temperature
        )

    def _as_codes(self, indices: Tensor) -> Codes:
        """Make codes for the log from cached indices; the residual is from the last new codes."""
        levels, num_codes = self.codebook.num_levels, self.codebook.num_codes
        usage = torch.zeros(levels, num_codes, device=indices.device)
        ones = usage.new_ones(1).expand(indices[..., 0].numel())
        for level in range(levels):
            usage[level].index_add_(0, indices[..., level].reshape(-1), ones)
        return Codes(
            usage.new_zeros(0),
            indices,
            usage.new_zeros(()),
            usage,
            self.residual.to(indices.device),
        )
