"""Randomized quantization of embeddings: views of any kind of data (Wu et al. 2023, section 4).

The paper uses it instead of e-Mix in DABS, without details. Here a sample is embedded once and
quantized twice, each dimension of the embedding over the sequence; both results go through the
transformer, and their projections are contrasted with all others of the batch. Padding does not
count for the range, and is not changed. The data need not even be numeric: text has no levels, but
its embeddings do.

A quantized value depends only on the ends of its row, so the embedding would hardly learn without
a straight-through gradient (`gradient: ste`).

Shapes: B samples, L patches, D width.
"""

from collections.abc import Sequence
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
from mezzotint.recipe.component import require_sizes
from mezzotint.types import Step, Views


class EmbeddingQuantization(Method):
    """Contrast two random quantizations of a sample's embeddings.

    Args:
        encoder: transformer over patches, to be trained.
        quantization: transform of embeddings `[B, L, D]` with `channel_dim: 2`, `gradient: ste`.
        dim: width of the projections.
        temperature: temperature of the softmax.
    """

    no_accumulation: ClassVar[str] = (
        "its negatives are the other samples of the batch, and micro-batches have fewer"
    )
    has_rows: ClassVar[bool] = True
    min_samples: ClassVar[int] = 2
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
        require_sizes("method", dim=dim)
        if temperature <= 0.0:
            raise ValueError(
                f"`method.temperature` must be positive, got {temperature}. e-Mix uses 0.2."
            )
        if quantization.channel_dim != 2:
            raise ValueError(
                "`method.quantization.channel_dim` must be 2, the dimensions of an embedding, got "
                f"{quantization.channel_dim}."
            )
        self.quantization, self.temperature = quantization, temperature
        self.head = dabs_head(encoder.dim, dim)

    def forward(self, views: Views) -> Step:
        """Quantize one view twice, or each of two views once, and contrast the results."""
        self.require_views(views)
        # Drawn in this function: a compiled one below it would be compiled again for each key.
        params = [self._draw(views, index) for index in range(2)]
        return self.compare_rows(self._projections(views, params), views)

    def rows(self, views: Views) -> list[Tensor]:
        """Compute the projections of both quantizations."""
        return self._projections(views, [self._draw(views, index) for index in range(2)])

    def _projections(self, views: Views, params: Sequence[Params]) -> list[Tensor]:
        encoder = need_patches(self.encoder)
        zs = []
        for index in range(2):
            x = views.x[index % len(views.x)]
            if index < len(views.x):
                embedded, where = encoder.embed(x)
            valid = encoder.valid_mask(x)
            out = encoder.encode(self._quantized(embedded, x, params[index]), where, valid)
            zs.append(self.head(encoder.pool(out, valid)))
        return zs

    def compare_rows(self, rows: list[Tensor], views: Views) -> Step:
        loss, accuracy = nt_xent(torch.stack(rows), self.temperature)
        return Step(loss, {"accuracy": accuracy, **collapse_signals(rows)})

    def _quantized(self, embedded: Tensor, x: Tensor, params: Params) -> Tensor:
        valid = need_patches(self.encoder).patches.valid_mask(x)
        return self.quantization.apply(
            embedded, params, None if valid is None else valid.unsqueeze(2)
        )

    @torch.compiler.disable  # type: ignore[untyped-decorator]
    def _draw(self, views: Views, index: int) -> Params:
        """Draw parameters outside the compiled graph, as the key changes each step."""
        shape = (len(views.draws.ids), 1, self.encoder.dim)
        return self.quantization.draw(shape, views.draws.fold("quantization", index))
