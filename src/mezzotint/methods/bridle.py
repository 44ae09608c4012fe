"""BRIDLE (Nguyen et al. 2025, arXiv 2502.02118): predict codes of masked patches, learn the codes.

*Encoder phase* (`BRIDLE`). A frozen tokenizer turns every patch of the whole view into S codes. The
encoder processes the visible patches; a decoder predicts the codes of masked patches, with a head
for each level: cross-entropy over K codes. Phases alternate: this one, then `bridle_tokenizer`,
which trains a better tokenizer from the encoder, then this one again. The first phase has no
encoder to learn from, so its tokenizer is a `cold_start`.

*Tokenizer phase* (`BRIDLETokenizer`), which does not change the encoder. The tokenizer turns all
patches into vectors, the codebook turns vectors into codes, and an estimator predicts the features
of the frozen encoder from these codes alone. The loss is 1 − cos, plus the codebook's commitment
loss. Codebooks follow their vectors by moving averages.

*Both at once* (`BRIDLEJoint`). Every step trains the encoder to predict the codes of the current
tokenizer; every n-th step also trains the tokenizer, with `weight`, and updates the codebook. No
gradient of the tokenizer's loss reaches the encoder. In the steps between, the tokenizer's gradient
is 0 and not `None`, so that all ranks wait for the same gradients; its optimizer continues with the
momentum that is left.

Related methods are settings of these classes. BEATs (Chen et al. 2022, arXiv 2212.09058): a `vq`
codebook, and students from new weights (do not load the encoder). BEST-RQ (Chiu et al. 2022, arXiv
2202.01855): `tokenizer: {kind: cold_start, project: false}` with a `random_projection` codebook,
and no second phase.

Differs from BRIDLE's source (see also the module docstrings of `codebooks`): the codebook is
initialized from the vectors of all ranks and frozen to the bit, and several codes per level are the
nearest ones. By default, the cold start does not use positions and the encoder has no class token;
the recipes that end in `_published` choose as the source does. The tokenizer compares features
after subtracting their mean over the batch (`center`): without it, the common part of all patches
makes the cosine large for any codes, and few codes are used.

Shapes: B samples, L patches, S levels of K codes, c codes a level, D width of the codes.
"""

from typing import Any, ClassVar, Self

import torch
from torch import Tensor
from torch.nn.functional import cosine_similarity

from mezzotint import dist
from mezzotint.augment.masking import Mask, RandomMask
from mezzotint.codebooks.codebook import Codebook, need_finite
from mezzotint.encoders.decoder import Decoder
from mezzotint.encoders.encoder import Encoder
from mezzotint.encoders.vit import ViT
from mezzotint.methods.code_targets import (
    Targets,
    TokenCache,
    code_loss,
    find_targets,
    health_logs,
    start,
)
from mezzotint.methods.masked import Masked, need_patches
from mezzotint.methods.method import Method
from mezzotint.methods.tokenizer import ColdStart, Estimator, LearnedTokenizer, Tokenizer
from mezzotint.recipe.component import require_sizes
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

    cache: TokenCache | None

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
        if not 1 <= codes_per_level <= codebook.num_codes:
            raise ValueError(
                f"`method.codes_per_level` must be 1 to {codebook.num_codes}, the codes of a "
                f"level, got {codes_per_level}. Leave it out to predict the nearest code."
            )
        if temperature is not None and not temperature > 0.0:
            raise ValueError(
                f"`method.temperature` must be positive, or null, got {temperature}. Leave it out "
                "to give each code its own head."
            )
        if temperature is not None and codes_per_level == 1:
            raise ValueError(
                "`method.temperature` needs method.codes_per_level of 2 or more, got 1. Leave both "
                "out to predict the nearest code."
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
        require_sizes("method", estimator_depth=estimator_depth)
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


class BRIDLEJoint(Masked, kind="bridle_joint"):
    """Train encoder and tokenizer together, from random weights.

    Args:
        encoder: ViT, to be trained.
        codebook: codebook to learn, initialized from the first batch.
        tokenizer: network to learn, from patches to vectors.
        mask: rule by which patches are masked.
        decoder: size of the network that predicts codes.
        estimator_depth: blocks of the network that predicts features from codes.
        every: number of steps between two updates of the tokenizer.
        weight: weight of the tokenizer's loss.
        center: subtract the mean over all patches of all ranks from the features.
    """

    no_accumulation: ClassVar[str] = "the codebook follows every batch"
    unshardable: ClassVar[str] = "some of its parts are trained in every few steps only"
    steps: Tensor

    def __init__(
        self,
        encoder: Encoder,
        *,
        codebook: Codebook,
        tokenizer: LearnedTokenizer = LearnedTokenizer(),  # noqa: B008 - keeps no state
        mask: Mask = RandomMask(ratio=0.8),  # noqa: B008
        decoder: Decoder = Decoder(),  # noqa: B008
        estimator_depth: int = 3,
        every: int = 5,
        weight: float = 0.2,
        center: bool = True,
    ) -> None:
        require_sizes("method", estimator_depth=estimator_depth)
        if every < 1 or weight <= 0.0:
            raise ValueError(
                "`method.every` must be at least 1 and `method.weight` positive, got "
                f"{every} and {weight}. Try 5 and 0.2."
            )
        super().__init__(encoder, mask, decoder, codebook.num_levels * codebook.num_codes)
        self.codebook = codebook
        self.tokenizer = tokenizer.build(self.encoder, codebook.dim)
        self.estimator = Estimator(self.encoder, codebook.out_dim, estimator_depth)
        self.every, self.weight, self.center = every, weight, center
        self.register_buffer("steps", torch.zeros((), dtype=torch.int64))
        self._steps: int | None = 0

    def forward(self, views: Views) -> Step:
        keep, hidden = self.draw(views)
        x, turn = views.x[0], self._turn()
        values, where = self.encoder.patches.split(x)
        with torch.set_grad_enabled(turn and torch.is_grad_enabled()):
            z = self.tokenizer(x, self.encoder.patches.vectors(values), where)
            start(self.codebook, z)
            if turn:
                codes = self.codebook(z)
            else:
                with self.codebook.freezing():
                    codes = self.codebook(z)
        targets = Targets(codes.indices.unsqueeze(-1))
        loss, logs = code_loss(
            self.predict(x, keep, hidden, where), targets, hidden, self.codebook.num_codes
        )
        logs |= health_logs(codes, where)
        if not turn:
            idle = torch.stack(
                [p.sum() for part in (self.tokenizer, self.estimator) for p in part.parameters()]
            )
            return Step(loss + 0.0 * (idle.sum() + codes.loss.detach()), logs)
        with torch.no_grad():
            features = self.encoder.tokens(x)
        error = distance(self.estimator(codes.quantized, where), features, center=self.center)
        return Step(loss + self.weight * (error + codes.loss), logs)

    def after_step(self, progress: float) -> None:
        self.steps += 1
        self._steps = None if self._steps is None else self._steps + 1

    @torch.compiler.disable  # type: ignore[untyped-decorator]
    def _turn(self) -> bool:
        """Whether the codebook learns in this step, whose number is read from the device once."""
        if self._steps is None:
            self._steps = int(self.steps)
        return self._steps % self.every == 0

    def _load_from_state_dict(self, *args: Any) -> None:
        super()._load_from_state_dict(*args)
        self._steps = None
