"""BRIDLE (Nguyen et al. 2025, arXiv 2502.02118), encoder phase: predict the codes of hidden patches.

A frozen tokenizer turns every patch of the whole view into S codes. The encoder sees the patches
that a mask leaves; a decoder predicts the codes of the others, with a head for each level:
cross-entropy over K codes. Phases take turns: this one, then `bridle_tokenizer`, which makes a
better tokenizer out of the encoder, then this one again. In the first there is no encoder to learn
from, and the tokenizer is a `cold_start`.

The same frame holds its relatives. BEATs (Chen et al. 2022, arXiv 2212.09058): a `vq` codebook, and
students that start afresh (do not load the encoder). BEST-RQ (Chiu et al. 2022, arXiv 2202.01855):
`tokenizer: {kind: cold_start, project: false}` with a `random_projection` codebook, and no second
phase.

Differs from BRIDLE's source: the cold start does not see positions; the codebook is started from
the vectors of all ranks and frozen to the bit; several codes a level are the nearest ones; the
encoder has no class token.

Shapes: B samples, L patches, S levels of K codes, c codes a level, D width of the codes.
"""

import torch
from torch import Tensor

from mezzotint.augment.masking import Mask, RandomMask
from mezzotint.codebooks.codebook import Codebook
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
        encoder: a ViT, to be trained.
        codebook: what makes codes of the tokenizer's vectors. Frozen, once it is started from the
            first batch.
        tokenizer: what makes vectors of patches. `learned_tokenizer` needs a phase of
            `bridle_tokenizer` before.
        mask: which patches are hidden.
        decoder: size of the network that predicts.
        codes_per_level: how many of the nearest codes are predicted.
        temperature: of the probabilities that they share, in squared distances; `None` gives each a
            head of its own.
        cache: remember the codes of views that come again, bit for bit; for views without
            randomness.
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
                f"got codes_per_level={codes_per_level}, temperature={temperature}; allowed are 1 to "
                f"{codebook.num_codes} codes, and a temperature for 2 or more: leave both out for the nearest code"
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
        """The mean cross-entropy over hidden patches, levels and codes."""
        self.require_given()
        keep, hidden = self.draw(views)
        x = views.x[0]
        values, where = self.encoder.patches.split(x)
        targets, codes = self.targets(views, self.encoder.patches.vectors(values), where)
        seen = health_logs(codes, where)
        loss, logs = code_loss(
            self.guess(x, keep, hidden, where), targets, hidden, self.codebook.num_codes
        )
        return Step(loss, {**logs, **seen})

    @torch.no_grad()
    def targets(self, views: Views, vectors: Tensor, where: Tensor) -> tuple[Targets, Codes]:
        """What is to be predicted of all patches, and the codes to look at.

        Args:
            views: one.
            vectors: what its patches hold, `[B, L, P]`.
            where: they stand, `[1 or B, L, A]`.
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
            return made.indices, made.weights

        found, _ = self.cache(views.draws.ids, x, make)
        targets = Targets(found[0], found[1] if len(found) > 1 else None)
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
        """Codes to look at, of indices from the cache; the residual is that of the last vectors that were seen."""
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
