"""SSQL (Cao et al. 2022, arXiv 2207.05432): contrast the network in float with itself at a random number of bits.

One set of weights learns to work at every width. Each step runs the base method in float, which
collects the ranges of the activations; draws a width for all weights and one for all activations;
runs the same weights once more on their grids; and compares both runs with the same float targets.
There are no shadow weights and no learned scales: as the weights moved in the last step, ranges and
grids are made anew ("post-step quantization").

Any siamese method can be the base. Differs from the authors' code, which has a class for each:
widths are drawn from (seed, step), so that ranks agree and a resumed run goes on with the same;
ranges are pooled over ranks; a dead channel stays on its own, instead of its whole tensor, out of
the grid; the gradient of the grid's ends does not depend on the version of torch
(`mezzotint.quant.grid`).
"""

from collections.abc import Mapping, Sequence
from typing import ClassVar, Literal

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from mezzotint.encoders.encoder import Encoder
from mezzotint.methods.method import Branch, BranchName, Method
from mezzotint.methods.siamese import Siamese
from mezzotint.quant.bitwidth import Quantizers
from mezzotint.quant.convert import make_encoder_quantizable, quantize_
from mezzotint.quant.qconfig import PolicyName, QuantizationPolicy
from mezzotint.seeding import Draws
from mezzotint.types import Step, Views

_PROJECTOR = QuantizationPolicy("projector", placement="none")
BatchNormMode = Literal["shared", "frozen"]


class SSQL(Method):
    """A siamese method, trained in float and at random widths at once.

    Args:
        encoder: to be trained; it becomes quantizable.
        base: what is wrapped; its encoder must be the same object.
        weight_bits: least and greatest width of the weights.
        activation_bits: least and greatest width of the activations.
        shared_bits: draw one width for both (from `weight_bits`), as the reverse variant of the
            authors does.
        policy: which layers are quantized, and where.
        float_loss: whether the base's own loss is part of the loss.
        quantized_pairs: whether predictions at low bits are also compared with targets at low bits.
        reverse: predict in float, and take the targets from the network at low bits, which then
            gets no gradient.
        batch_norm: `"shared"`: the passes at low bits update the running statistics too, as the
            authors have it; `"frozen"`: only those in float do.
    """

    max_views: ClassVar[int | None] = None
    no_accumulation: ClassVar[str] = (
        "the ranges of activations are those of the whole batch, and micro-batches would have others"
    )

    def __init__(
        self,
        encoder: Encoder,
        *,
        base: Siamese,
        weight_bits: tuple[int, int] = (2, 8),
        activation_bits: tuple[int, int] = (4, 8),
        shared_bits: bool = False,
        policy: PolicyName = "ssql",
        float_loss: bool = True,
        quantized_pairs: bool = False,
        reverse: bool = False,
        batch_norm: BatchNormMode = "shared",
    ) -> None:
        nn.Module.__init__(self)  # the encoder is the base's, and registered once
        if base.encoder is not encoder:
            raise ValueError(
                "the base has another encoder; allowed is the same object: SSQL(e, base=SimSiam(e))"
            )
        for name, (low, high) in (
            ("weight_bits", weight_bits),
            ("activation_bits", activation_bits),
        ):
            if not 2 <= low <= high <= 8:
                raise ValueError(
                    f"{name} must be a least and a greatest width in 2 … 8, got [{low}, {high}]"
                )
        if (reverse or quantized_pairs) and not base.own_targets:
            raise ValueError(
                f"reverse and quantized_pairs need targets of the trained branch, and {type(base).__name__}'s come "
                "from a momentum copy; choose SimSiam or SimCLR, or leave both false"
            )
        self.base = base
        self.batch_norm = batch_norm
        self.weight_bits, self.activation_bits, self.shared_bits = (
            weight_bits,
            activation_bits,
            shared_bits,
        )
        self.float_loss, self.quantized_pairs, self.reverse = float_loss, quantized_pairs, reverse
        make_encoder_quantizable(encoder, policy)
        quantize_(base.projector, _PROJECTOR)
        self._encoder = Quantizers.of(encoder)
        self._projector = Quantizers.of(base.projector)

    @property
    def encoder(self) -> Encoder:  # type: ignore[override]
        """The base's."""
        return self.base.encoder

    def branches(self) -> Mapping[BranchName, Branch]:
        return self.base.branches()

    def forward(self, views: Views) -> Step:
        """The mean of the losses in float and at low bits."""
        self.base.require_views(views)
        weight, activation = self.draw_bits(views.draws)
        frozen = self._norms() if self.batch_norm == "frozen" else []
        self._encoder.start_observing()
        zs, ps = self.base.online(views)
        self._encoder.stop_observing()
        ts = self.base.targets(views, zs)
        loss, logs = self.base.compare(ps, ts, views)
        zqs, pqs = self._low_bits(views, weight, activation, frozen)
        terms = [loss] if self.float_loss else []
        tqs = (
            _detached(self.base.targets(views, zqs)) if self.reverse or self.quantized_pairs else {}
        )
        low, _ = (
            self.base.compare(ps, tqs, views)
            if self.reverse
            else self.base.compare(pqs, _detached(ts), views)
        )
        terms.append(low)
        if self.quantized_pairs:
            terms.append(self.base.compare(pqs, tqs, views)[0])
        logs |= {
            "float_loss": loss.detach(),
            "low_bits_loss": low.detach(),
            **_drift(zs, zqs),
            **self.base.signals(zs, ts),
        }
        logs |= {"weight_bits": weight, "activation_bits": activation}
        return Step(torch.stack(terms).mean(), logs)

    @torch.compiler.disable  # type: ignore[untyped-decorator]
    def draw_bits(self, draws: Draws) -> tuple[Tensor, Tensor]:
        """Widths of weights and activations for this step: functions of its key, equal on all ranks."""
        one = Draws(torch.zeros(1, dtype=torch.int64, device=draws.ids.device), draws.key)
        (w_low, w_high), (a_low, a_high) = self.weight_bits, self.activation_bits
        weight = one.integers("ssql.weight_bits", low=w_low, high=w_high + 1).squeeze().float()
        if self.shared_bits:
            return weight, weight
        return weight, one.integers(
            "ssql.activation_bits", low=a_low, high=a_high + 1
        ).squeeze().float()

    def _norms(self) -> list[_BatchNorm]:
        """The BatchNorms that keep running statistics; looked up late, as distributed training replaces them."""
        return [
            m for m in self.base.modules() if isinstance(m, _BatchNorm) and m.track_running_stats
        ]

    def _low_bits(
        self, views: Views, weight: Tensor, activation: Tensor, frozen: Sequence[_BatchNorm]
    ) -> tuple[list[Tensor], list[Tensor]]:
        """The trained branch on the grids of the present weights; the projector's weights have 8 bits."""
        self._encoder.set_bits(weight, activation)
        self._projector.set_bits(8, 32)
        learning = torch.is_grad_enabled() and not self.reverse
        for norm in frozen:
            norm.track_running_stats = False
        with torch.set_grad_enabled(learning):
            outputs = self.base.online(views)
        for norm in frozen:
            norm.track_running_stats = True
        self._encoder.set_off()
        self._projector.set_off()
        self._encoder.forget_observed()
        return outputs

    def require_batch(self, size: int) -> None:
        """What the base says."""
        self.base.require_batch(size)

    def before_step(self) -> None:
        """What the base does before a step."""
        self.base.before_step()

    def after_step(self, progress: float) -> None:
        """What the base does after a step."""
        self.base.after_step(progress)


def _detached(ts: Mapping[int, Tensor]) -> dict[int, Tensor]:
    return {place: t.detach() for place, t in ts.items()}


@torch.no_grad()
def _drift(zs: Sequence[Tensor], zqs: Sequence[Tensor]) -> dict[str, Tensor]:
    """The mean cosine of float projections and those at low bits."""
    cosines = [
        nn.functional.cosine_similarity(z.float(), q.float(), dim=1).mean()
        for z, q in zip(zs, zqs, strict=True)
    ]
    return {"low_bits_cosine": torch.stack(cosines).mean()}
