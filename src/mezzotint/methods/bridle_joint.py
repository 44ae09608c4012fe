"""BRIDLE (Nguyen et al. 2025, arXiv 2502.02118), both phases at once.

Every step trains the encoder to predict the codes of the current tokenizer; every n-th step also
trains the tokenizer, with `weight`, and updates the codebook. No gradient of the tokenizer's loss
reaches the encoder. In the steps between, the tokenizer's gradient is 0 and not `None`, so that all
ranks wait for the same gradients; its optimizer continues with the momentum that is left.
"""

from typing import Any, ClassVar

import torch
from torch import Tensor

from mezzotint.augment.masking import Mask, RandomMask
from mezzotint.codebooks.codebook import Codebook
from mezzotint.encoders.decoder import Decoder
from mezzotint.encoders.encoder import Encoder
from mezzotint.methods.bridle_tokenizer import distance
from mezzotint.methods.code_targets import Targets, code_loss, health_logs, start
from mezzotint.methods.masked import Masked
from mezzotint.methods.tokenizer import Estimator, LearnedTokenizer
from mezzotint.types import Step, Views


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
