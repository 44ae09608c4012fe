"""SSQL (Cao et al. 2022, arXiv 2207.05432): train a siamese method in fp32 and at random low bits.

One set of weights learns to work at every bit-width. Each step runs the base method in fp32, which
collects the ranges of activations; draws the bits of all weights and the bits of all activations;
runs the same weights again, quantized; and compares both results with the same fp32 targets. There
are no shadow weights and no learned scales: ranges and grids are computed again in each step
("post-step quantization").

Any siamese method can be the base. Differs from the authors' code, which has a class for each: bits
are drawn from (seed, step), so that ranks agree and a resumed run continues with the same bits;
ranges are pooled over ranks; a dead channel is excluded from the grid alone, instead of its whole
tensor; the gradient at the ends of the grid does not depend on the version of torch
(`mezzotint.quant.grid`).
"""

from collections.abc import Mapping, Sequence
from typing import ClassVar, Literal

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from mezzotint.augment.views import ViewGenerator
from mezzotint.data.source import Source
from mezzotint.encoders.encoder import Encoder
from mezzotint.methods.method import Branch, BranchName, Method
from mezzotint.methods.siamese import Siamese
from mezzotint.quant.bitwidth import Quantizers
from mezzotint.quant.convert import (
    PolicyName,
    QuantizationPolicy,
    make_encoder_quantizable,
    quantize_,
)
from mezzotint.seeding import Draws
from mezzotint.types import Input, Step, Views

_PROJECTOR = QuantizationPolicy("projector", placement="none")
BatchNormMode = Literal["shared", "frozen"]
Ties = Literal["outward", "published"]


class SSQL(Method):
    """Train a siamese method in fp32 and at random low bits at once.

    Args:
        encoder: network to train; it becomes quantizable.
        base: siamese method that is wrapped; its encoder must be the same object.
        weight_bits: lowest and highest bits of the weights.
        activation_bits: lowest and highest bits of the activations.
        shared_bits: draw one bit-width for both (from `weight_bits`), as in the authors' reverse
            variant.
        policy: layers and positions that are quantized.
        float_loss: add the base's own loss.
        quantized_pairs: also compare predictions at low bits with targets at low bits.
        reverse: predict in fp32, and take the targets from the network at low bits, without a
            gradient.
        ties: the extremes of a channel's weights lie halfway between two codes. `"outward"` decides
            this as exact arithmetic does; `"published"` leaves it to the last bit, as the authors'
            code does, where several processes and one drift apart.
        batch_norm: `"shared"` updates running statistics in forward passes at low bits too, as the
            authors do; `"frozen"` only in fp32.
    """

    max_views: ClassVar[int | None] = None
    no_accumulation: ClassVar[str] = "the ranges of activations depend on the whole batch"

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
        ties: Ties = "outward",
        batch_norm: BatchNormMode = "shared",
    ) -> None:
        nn.Module.__init__(self)  # the encoder is the base's, and registered once
        if base.encoder is not encoder:
            raise ValueError(
                "`base` must have the same encoder object. Write SSQL(encoder, "
                "base=SimSiam(encoder))."
            )
        for name, (low, high) in (
            ("weight_bits", weight_bits),
            ("activation_bits", activation_bits),
        ):
            if not 2 <= low <= high <= 8:
                raise ValueError(
                    f"`method.{name}` must be the lowest and the highest bits, 2 to 8, got "
                    f"[{low}, {high}]. Try [2, 8]."
                )
        if (reverse or quantized_pairs) and not base.own_targets:
            raise ValueError(
                "`method.reverse` and `method.quantized_pairs` need targets of the trained branch, "
                f"but {type(base).__name__} takes them from a momentum copy. Choose SimSiam or "
                "SimCLR, or set both to false."
            )
        self.base, self.cache = base, base.cache
        base.at_low_bits = True
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
        self._halfway = [
            quantizer
            for _, quantizer in self._encoder.weights + self._projector.weights
            if ties == "outward" and quantizer.scheme == "ssql_symmetric"
        ]

    @property
    def encoder(self) -> Encoder:  # type: ignore[override]
        """Return the base's encoder."""
        return self.base.encoder

    def branches(self) -> Mapping[BranchName, Branch]:
        return self.base.branches()

    def forward(self, views: Views) -> Step:
        """Average the losses in fp32 and at low bits."""
        self.base.require_views(views)
        weight, activation = self.draw_bits(views.draws)
        frozen = self._norms() if self.batch_norm == "frozen" else []
        self._encoder.start_observing()
        zs, ps = self.base.online(views)
        self._encoder.stop_observing()
        ts = self.base.targets(views.for_targets(), zs)
        loss, logs = self.base.compare(ps, ts, views)
        zqs, pqs = self._low_bits(views, weight, activation, frozen)
        terms = [loss] if self.float_loss else []
        tqs = (
            _detached(self.base.targets(views, zqs)) if self.reverse or self.quantized_pairs else {}
        )
        on_grid = self.base.on_grid(pqs, _detached(ts), ps, activation)
        low, _ = (
            self.base.compare(ps, tqs, views)
            if self.reverse
            else self.base.compare(*on_grid, views)
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
        """Draw the bits of weights and activations from the step's key, equal on all ranks."""
        one = Draws(torch.zeros(1, dtype=torch.int64, device=draws.ids.device), draws.key)
        (w_low, w_high), (a_low, a_high) = self.weight_bits, self.activation_bits
        weight = one.integers("ssql.weight_bits", low=w_low, high=w_high + 1).squeeze().float()
        if self.shared_bits:
            return weight, weight
        return weight, one.integers(
            "ssql.activation_bits", low=a_low, high=a_high + 1
        ).squeeze().float()

    def _norms(self) -> list[_BatchNorm]:
        """Collect BatchNorms with running statistics.

        Called in each step, as distributed training replaces them after construction.
        """
        return [
            m for m in self.base.modules() if isinstance(m, _BatchNorm) and m.track_running_stats
        ]

    def _low_bits(
        self, views: Views, weight: Tensor, activation: Tensor, frozen: Sequence[_BatchNorm]
    ) -> tuple[list[Tensor], list[Tensor]]:
        """Run the trained branch at low bits; the projector's weights have 8 bits."""
        self._encoder.set_bits(weight, activation)
        self._projector.set_bits(8, 32)
        for quantizer in self._halfway:
            quantizer.scheme = "ssql_outward"
        learning = torch.is_grad_enabled() and not self.reverse
        for norm in frozen:
            norm.track_running_stats = False
        with torch.set_grad_enabled(learning):
            outputs = self.base.online(views)
        for norm in frozen:
            norm.track_running_stats = True
        for quantizer in self._halfway:
            quantizer.scheme = "ssql_symmetric"
        self._encoder.set_off()
        self._projector.set_off()
        self._encoder.forget_observed()
        return outputs

    def require_generator(self, views: ViewGenerator, input: Input) -> None:
        self.base.require_generator(views, input)

    def require_source(self, source: Source) -> None:
        self.base.require_source(source)

    def require_batch(self, size: int) -> None:
        self.base.require_batch(size)

    def before_step(self) -> None:
        self.base.before_step()

    def after_step(self, progress: float) -> None:
        self.base.after_step(progress)


def _detached(ts: Mapping[int, Tensor]) -> dict[int, Tensor]:
    return {index: t.detach() for index, t in ts.items()}


@torch.no_grad()
def _drift(zs: Sequence[Tensor], zqs: Sequence[Tensor]) -> dict[str, Tensor]:
    """Average the cosine of projections in fp32 and at low bits."""
    cosines = [
        nn.functional.cosine_similarity(z.float(), q.float(), dim=1).mean()
        for z, q in zip(zs, zqs, strict=True)
    ]
    return {"low_bits_cosine": torch.stack(cosines).mean()}
