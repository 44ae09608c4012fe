"""The attentive probe: a classifier that may choose among the patch tokens of a frozen transformer.

Mean pooling hides what few patches know. Here a learned query per head attends to a sample's
patches, and a linear layer classifies the result (as in CoCa, Yu et al. 2022, arXiv 2205.01917, and
V-JEPA, Bardes et al. 2024, arXiv 2404.08471). Differs from those in having no other layers: with
frozen keys a query is a direction of the patches' features, and the values are these features.
Queries start near zero, at the mean over patches.

Selection as in the linear probe: learning rate and number of epochs by accuracy (or mean average
precision) on a fifth of the training samples, then a fit to all of them. Patches are cached in
float32: samples × patches × dimension × 4 bytes.

Shapes: N samples, L patches, D features, H heads, C classes.
"""

from collections.abc import Iterator
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits, cross_entropy

from mezzotint.data.listing.sampling import held_out
from mezzotint.encoders.encoder import Encoder
from mezzotint.evaluation.metrics import classification, labeled, learnable, require_finite
from mezzotint.evaluation.probe import Probe, Row
from mezzotint.evaluation.protocol import Protocol
from mezzotint.seeding import key_of
from mezzotint.types import Features

_BATCH = 128
_STOPS = 5


class Attentive(Probe):
    """Train learned queries over frozen patch tokens, and a linear classifier.

    Args:
        heads: number of queries H.
        epochs: largest number of epochs.
        rates: candidate learning rates.
        weight_decay: weight decay of AdamW.
        validation: fraction of the training samples on which learning rate and epochs are chosen.
    """

    name: ClassVar[str] = "attentive"
    kinds = ("classify", "tag")
    tokens = True

    def __init__(
        self,
        *,
        heads: int = 4,
        epochs: int = 40,
        rates: tuple[float, float] = (3e-3, 3e-2),
        weight_decay: float = 1e-2,
        validation: float = 0.2,
    ) -> None:
        if heads < 1 or epochs < _STOPS or min(rates) <= 0.0 or not 0.0 < validation < 1.0:
            raise ValueError(
                f"`heads` must be 1 or more, `epochs` {_STOPS} or more, `rates` positive and "
                f"`validation` between 0 and 1, got heads={heads}, epochs={epochs}, rates={rates}, "
                f"validation={validation}. Try 4, 40, (3e-3, 3e-2) and 0.2."
            )
        if weight_decay < 0.0:
            raise ValueError(f"`weight_decay` must be 0 or more, got {weight_decay}. Try 0.01.")
        self.heads, self.epochs, self.rates = heads, epochs, tuple(rates)
        self.weight_decay, self.validation = weight_decay, validation

    @property
    def protocol(self) -> Protocol:
        """`attentive/1` and all settings."""
        return Protocol.of(
            "attentive",
            heads=self.heads,
            epochs=self.epochs,
            rates=",".join(f"{rate:g}" for rate in self.rates),
            weight_decay=float(self.weight_decay),
            validation=float(self.validation),
        )

    def run(self, train: Features, test: Features, *, seeds: int = 1) -> Iterator[Row]:
        """Yield the metrics of the linear probe on patch tokens `[N, L, D]`; NaN is padding."""
        x, names, y = learnable(train, padded=True)
        queries, answers = labeled(test, "test", padded=True)
        _require_finite_tokens(x, "training")
        _require_finite_tokens(queries, "test")
        real = x[x[..., 0].isfinite()]
        mean, scale = real.mean(0), (real - real.mean(0)).square().mean().sqrt().clamp_min(1e-12)
        x, queries = (x - mean) / scale, (queries - mean) / scale
        for seed in range(seeds):
            rate, epochs = self._select(x, y, names, seed, train.validation)
            head = next(
                state
                for done, state in self._fit(x, y, len(names), rate, seed, epochs)
                if done == epochs
            )
            for measure, value in classification(head.scores(queries), names, answers):
                yield self.row(measure, value, seed)

    def _select(
        self, x: Tensor, y: Tensor, names: Tensor, seed: int, given: Tensor | None
    ) -> tuple[float, int]:
        """Choose learning rate and epochs with the best held-out metric, then the lowest loss."""
        strata = y if y.ndim == 1 else y.new_zeros(len(y), dtype=torch.int64)
        out = torch.from_numpy(held_out(strata.numpy(), self.validation, f"attentive/{seed}"))
        out = out if given is None else given
        if not out.any():
            return self.rates[0], self.epochs
        candidates = []
        for rate in self.rates:
            for done, head in self._fit(x[~out], y[~out], len(names), rate, seed, self.epochs):
                scores = head.scores(x[out])
                truth = y[out] if y.ndim == 2 else names[y[out]]
                metric = next(value for _, value in classification(scores, names, truth))
                candidates.append((-metric, float(_loss(scores, y[out])), rate, done))
        return min(candidates)[2:]

    def _fit(
        self, x: Tensor, y: Tensor, classes: int, rate: float, seed: int, epochs: int
    ) -> Iterator[tuple[int, "_Head"]]:
        """Yield the head at some numbers of epochs, the last of them `epochs`."""
        generator = torch.Generator().manual_seed(key_of(seed, "attentive"))
        head = _Head(x.shape[2], self.heads, classes, generator)
        optimizer = torch.optim.AdamW(head.parameters(), lr=rate, weight_decay=self.weight_decay)
        stops = {max(1, round(self.epochs * part / _STOPS)) for part in range(1, _STOPS + 1)} | {
            epochs
        }
        for epoch in range(1, epochs + 1):
            for rows in torch.split(torch.randperm(len(x), generator=generator), _BATCH):
                optimizer.zero_grad()
                torch.autograd.backward(_loss(head(x[rows]), y[rows]))
                optimizer.step()
            if epoch in stops:
                yield epoch, head


def _require_finite_tokens(x: Tensor, role: str) -> None:
    """Raise a ValueError for tokens `[N, L, D]` that are not finite; all-NaN tokens are padding."""
    nan = x.isnan()
    padding = nan.all(dim=2)
    require_finite(x[~padding], role)
    if bool(padding.all()):
        raise ValueError(f"All {role} features are NaN. Did training diverge?")


class _Head(nn.Module):
    def __init__(self, dim: int, heads: int, classes: int, generator: torch.Generator) -> None:
        super().__init__()
        self.query = nn.Parameter(torch.randn(heads, dim, generator=generator) * 0.01)
        self.weight = nn.Parameter(torch.zeros(classes, heads * dim))
        self.bias = nn.Parameter(torch.zeros(classes))

    def forward(self, x: Tensor) -> Tensor:
        """`[N, L, D]` → `[N, C]`."""
        valid = x[..., :1].isfinite()
        x = x.nan_to_num(0.0)
        attention = (x @ self.query.T).masked_fill(~valid, -torch.inf).softmax(dim=1)
        pooled = attention.transpose(1, 2) @ x
        return pooled.flatten(1) @ self.weight.T + self.bias

    @torch.no_grad()
    def scores(self, x: Tensor) -> Tensor:
        return torch.cat([self(part) for part in torch.split(x, _BATCH)])


def _loss(scores: Tensor, y: Tensor) -> Tensor:
    return (
        cross_entropy(scores, y)
        if y.ndim == 1
        else binary_cross_entropy_with_logits(scores, y.to(scores.dtype))
    )


class PatchTokens(Encoder, abstract=True):
    """Return the patch tokens of an encoder as its features, concatenated; padding is NaN.

    Args:
        encoder: encoder with a method `tokens`.

    Raises:
        ValueError: for an encoder without patch tokens.
    """

    def __init__(self, encoder: Encoder) -> None:
        if not callable(getattr(encoder, "tokens", None)):
            kind = getattr(encoder, "config", {}).get("kind", type(encoder).__name__)
            raise ValueError(
                f"The probe `attentive` needs an encoder with patch tokens, got {kind}. Leave it "
                "out, or choose encoder.kind=vit."
            )
        super().__init__(encoder.input, encoder.dim)
        self.encoder = encoder

    def forward(self, x: Tensor) -> Tensor:
        """`[B, *input.shape]` → `[B, L · D]`."""
        tokens: Tensor = self.encoder.tokens(x)  # type: ignore[operator]
        valid = self.encoder.valid_mask(x) if hasattr(self.encoder, "valid_mask") else None  # type: ignore[operator]
        if valid is not None:
            tokens = tokens.masked_fill(~valid.unsqueeze(2), torch.nan)
        return tokens.flatten(1)
