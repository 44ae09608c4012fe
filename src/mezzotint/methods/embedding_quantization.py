"""Randomized quantization of intermediate embeddings, as a view of any kind of data (Wu et al. 2023, section 4).

The paper puts it in the place of e-Mix in DABS, and leaves open how: here a sample is embedded once
and quantized twice, each dimension of the embedding over the sequence, and both go through the
transformer; their projections are contrasted with all others of the batch. Padding does not count
for the range, and stays. Nothing has to be known of the data, not even whether it is numbers: text
has no levels, but its embeddings do.

A quantized number depends on its row's ends alone, so without help the embedding would hardly
learn. The gradient is passed straight through (`gradient: ste`).

Shapes: B samples, L patches, D width.
"""

from typing import ClassVar

import torch
from torch import Tensor

from mezzotint.augment.randomized_quantization.transform import RandomizedQuantization
from mezzotint.augment.transform import Params
from mezzotint.encoders.encoder import Encoder
from mezzotint.methods.masked import dabs_head, need_patches
from mezzotint.methods.method import Method
from mezzotint.methods.siamese import collapse_signals
from mezzotint.methods.simclr import nt_xent
from mezzotint.types import Step, Views


class EmbeddingQuantization(Method):
    """Contrast two random quantizations of what a sample is embedded as.

    Args:
        encoder: a transformer over patches.
        quantization: of embeddings `[B, L, D]`; its `channel_dim` is 2, and its gradient `ste`.
        dim: width of the projections.
        temperature: of the softmax.
    """

    no_accumulation: ClassVar[str] = (
        "its negatives are the other samples of the batch, and micro-batches would have fewer of them"
    )
    min_views: ClassVar[int] = 1
    max_views: ClassVar[int | None] = 2
    needs_patches: ClassVar[bool] = True
    asymmetric_views: ClassVar[bool] = True

    def __init__(
        self,
        encoder: Encoder,
        *,
        quantization: RandomizedQuantization = RandomizedQuantization(  # noqa: B008
            bins=8, channel_dim=2, gradient="ste"
        ),
        dim: int = 128,
        temperature: float = 0.2,
    ) -> None:
        super().__init__(need_patches(encoder))
        if temperature <= 0.0:
            raise ValueError(
                f"temperature must be above 0, got {temperature}; 0.2 is that of e-Mix"
            )
        if quantization.channel_dim != 2:
            raise ValueError(
                f"got quantization.channel_dim={quantization.channel_dim}; allowed is 2, the dimensions of an "
                "embedding: set it"
            )
        self.quantization, self.temperature = quantization, temperature
        self.head = dabs_head(encoder.dim, dim)

    def forward(self, views: Views) -> Step:
        """The cross-entropy of finding a sample's other quantization; of two views each is quantized once."""
        self.require_views(views)
        encoder = need_patches(self.encoder)
        drawn = [self._draw(views, place) for place in range(2)]
        zs = []
        for place in range(2):
            x = views.x[place % len(views.x)]
            if place < len(views.x):
                embedded, where = encoder.embed(x)
            there = encoder.valid_mask(x)
            out = encoder.encode(self._quantized(embedded, x, drawn[place]), where, there)
            zs.append(self.head(encoder.pool(out, there)))
        loss, accuracy = nt_xent(torch.stack(zs), self.temperature)
        return Step(loss, {"accuracy": accuracy, **collapse_signals(zs)})

    def _quantized(self, embedded: Tensor, x: Tensor, params: Params) -> Tensor:
        there = need_patches(self.encoder).patches.valid_mask(x)
        return self.quantization.apply(
            embedded, params, None if there is None else there.unsqueeze(2)
        )

    @torch.compiler.disable  # type: ignore[untyped-decorator]
    def _draw(self, views: Views, place: int) -> Params:
        """Fractions for each dimension of the embedding; outside the compiled graph, as the key changes each step."""
        shape = (len(views.draws.ids), 1, self.encoder.dim)
        return self.quantization.draw(shape, views.draws.fold("quantization", place))
