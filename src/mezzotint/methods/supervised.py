"""Supervised training, and with it fine-tuning and the linear probe on augmented images: the same loop, with labels.

A linear classifier stands on the encoder and learns from the labels of a `labelled` source. Starting from a saved
encoder (`init`) makes it fine-tuning (protocol C of SSQL, Cao et al. 2022, arXiv 2207.05432; the semi-supervised
protocol of Chen et al. 2020, arXiv 2002.05709); holding the encoder still (`freeze`) makes it a linear probe as the
papers run it, on augmented images. The supervised baseline of Huang et al. 2022 (arXiv 2208.00275) takes two views of a
sample or, with `single_aug`, one.

Mixup (Zhang et al. 2017, arXiv 1710.09412) and CutMix (Yun et al. 2019, arXiv 1905.04899) are keyed like every other
draw: a step's mixing weight and box are functions of its key alone, and so equal on all ranks. Partners are drawn
within a rank's rows and, under accumulation, within a micro-batch.
"""

from typing import ClassVar, Literal, Self

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits, cross_entropy, one_hot
from torch.nn.modules.batchnorm import _BatchNorm

from mezzotint.encoders.encoder import Encoder
from mezzotint.encoders.saving import load_encoder
from mezzotint.methods.method import Method
from mezzotint.methods.siamese import collapse_signals
from mezzotint.quant.layers import make_encoder_quantizable
from mezzotint.quant.widths import Quantizers
from mezzotint.seeding import Draws, key_of
from mezzotint.types import Step, Views

Loss = Literal["cross_entropy", "binary"]


class Supervised(Method):
    """Predict the labels of samples.

    Args:
        encoder: to be trained.
        num_classes: how many labels there are.
        loss: `"cross_entropy"` for one label a sample; `"binary"` cross-entropy, class by class, for any number.
        single_aug: look at the first view alone; otherwise the loss is the mean over views.
        label_smoothing: share of the target that is spread over all classes.
        mixup: α of Beta(α, α), from which the weight of each step's blend is drawn; 0 for none.
        cutmix: α of the share of the image that is kept; 0 for none. With both, each step takes one of them.
        freeze: hold the encoder still, in eval mode: a linear probe.
        logit_norm: put a BatchNorm on the classifier's output, which frees a probe from the scale of the features.
        init: directory of a saved encoder to start from: a run, or what `mezzotint import` wrote.
        bits: train at these widths of weights and activations, whose ranges are taken from each batch in float.
    """

    num_views: ClassVar[int] = 0

    def __init__(
        self,
        encoder: Encoder,
        *,
        num_classes: int,
        loss: Loss = "cross_entropy",
        single_aug: bool = False,
        label_smoothing: float = 0.0,
        mixup: float = 0.0,
        cutmix: float = 0.0,
        freeze: bool = False,
        logit_norm: bool = False,
        init: str | None = None,
        bits: tuple[int, int] | None = None,
    ) -> None:
        super().__init__(encoder)
        _check(num_classes, label_smoothing, mixup, cutmix, bits, freeze)
        self.num_classes, self.loss, self.single_aug = num_classes, loss, single_aug
        self.label_smoothing, self.mixup, self.cutmix, self.freeze = label_smoothing, mixup, cutmix, freeze
        self.mixing = mixup > 0.0 or cutmix > 0.0
        if init is not None:
            start_from(encoder, init)
        if freeze:
            encoder.requires_grad_(False)
        self.bits = bits
        self._quantizers: Quantizers | None = None
        if bits is not None:
            make_encoder_quantizable(encoder, getattr(encoder, "quantization", None) or "ssql")
            self._quantizers = Quantizers.of(encoder)
        self.head = nn.Linear(encoder.dim, num_classes)
        nn.init.normal_(self.head.weight, std=0.01)
        nn.init.zeros_(self.head.bias)
        self.logit_norm = nn.BatchNorm1d(num_classes) if logit_norm else nn.Identity()

    def train(self, mode: bool = True) -> Self:
        """As `nn.Module.train`; an encoder that is held still stays in eval mode."""
        super().train(mode)
        if self.freeze:
            self.encoder.eval()
        return self

    def classify(self, features: Tensor) -> Tensor:
        """`[B, dim]` → logits `[B, num_classes]`."""
        logits: Tensor = self.logit_norm(self.head(features))
        return logits

    def forward(self, views: Views) -> Step:
        """The mean loss over views."""
        labels = self._labels(views)
        xs = views.x[:1] if self.single_aug else views.x
        terms, features, right = [], [], []
        for place, plain in enumerate(xs):
            x, target = self._mixed(plain, labels, views.draws, place) if self.mixing else (plain, labels)
            with torch.set_grad_enabled(torch.is_grad_enabled() and not self.freeze):
                h = self._features(x)
            logits = self.classify(h).float()
            terms.append(self._loss(logits, target))
            features.append(h.detach())
            if labels.ndim == 1:
                right.append((logits.detach().argmax(dim=1) == labels).float().mean())
        logs = collapse_signals(features) if len(features) > 1 else _spread(features[0])
        if right:
            logs["accuracy"] = torch.stack(right).mean()
        return Step(torch.stack(terms).mean(), logs)

    def _labels(self, views: Views) -> Tensor:
        if views.labels is None:
            raise ValueError(
                "supervised takes labelled samples, and the data has none in training; wrap it: "
                "data: {kind: labelled, source: {kind: …}}"
            )
        binary = self.loss == "binary"
        if (views.labels.ndim == 2) > binary or (views.labels.ndim == 2 and views.labels.shape[1] != self.num_classes):
            raise ValueError(
                f"got labels of shape {list(views.labels.shape)} for loss={self.loss} and {self.num_classes} classes; "
                "allowed is one label a sample, or with loss=binary one column a class"
            )
        if views.labels.ndim == 1:
            if not torch.compiler.is_compiling():
                self._refuse_unknown(views.labels)
            return one_hot(views.labels, self.num_classes) if binary else views.labels
        return views.labels

    def _refuse_unknown(self, labels: Tensor) -> None:
        low, high = (int(v) for v in torch.aminmax(labels))
        if low < 0 or high >= self.num_classes:
            raise ValueError(
                f"got labels from {low} to {high} for num_classes={self.num_classes}; allowed are 0 to "
                f"{self.num_classes - 1}: set method.num_classes={high + 1}"
            )

    def _loss(self, logits: Tensor, target: Tensor) -> Tensor:
        if self.loss == "binary":
            smooth = target.float() * (1.0 - self.label_smoothing) + self.label_smoothing / 2.0
            return binary_cross_entropy_with_logits(logits, smooth)
        return cross_entropy(logits, target, label_smoothing=self.label_smoothing)

    def _features(self, x: Tensor) -> Tensor:
        """Features, in float or at low bits; the ranges come from a float pass over the same samples."""
        if self._quantizers is None or self.bits is None:
            out: Tensor = self.encoder(x)
            return out
        norms = [m for m in self.encoder.modules() if isinstance(m, _BatchNorm) and m.track_running_stats]
        self._quantizers.start_observing()
        for norm in norms:
            norm.track_running_stats = norm.training is False
        with torch.no_grad():
            self.encoder(x)
        for norm in norms:
            norm.track_running_stats = True
        self._quantizers.stop_observing()
        self._quantizers.set_bits(*self.bits)
        h: Tensor = self.encoder(x)
        self._quantizers.set_off()
        self._quantizers.forget_observed()
        return h

    @torch.compiler.disable  # type: ignore[untyped-decorator]
    def _mixed(self, x: Tensor, labels: Tensor, draws: Draws, place: int = 0) -> tuple[Tensor, Tensor]:
        """Samples and targets after mixup or CutMix."""
        draws = draws.fold("mixing", place)
        rng = np.random.default_rng(key_of(draws.key, "weight"))
        cut = self.cutmix > 0.0 and (self.mixup == 0.0 or rng.random() < 0.5)
        alpha = self.cutmix if cut else self.mixup
        keep = float(rng.beta(alpha, alpha))
        order = draws.bits("partner").argsort(stable=True)
        partner = torch.empty_like(order)
        partner[order] = order.roll(1)  # a cycle through all rows: none is mixed with itself
        if cut:
            x, keep = _cut(x, x[partner], keep, rng)
        else:
            x = keep * x + (1.0 - keep) * x[partner]
        target = (one_hot(labels, self.num_classes) if labels.ndim == 1 else labels).float()
        return x, keep * target + (1.0 - keep) * target[partner]


def _cut(x: Tensor, other: Tensor, keep: float, rng: np.random.Generator) -> tuple[Tensor, float]:
    """Paste a box of the other samples into these; the share that is kept is that of the clipped box."""
    if x.ndim != 4:
        raise ValueError(f"cutmix cuts boxes out of [B, C, H, W], got {list(x.shape)}; set cutmix: 0, or take mixup")
    height, width = x.shape[2:]
    side = (1.0 - keep) ** 0.5
    rows, columns = int(height * side), int(width * side)
    top, left = int(rng.integers(height)) - rows // 2, int(rng.integers(width)) - columns // 2
    up, down, start, stop = max(0, top), min(height, top + rows), max(0, left), min(width, left + columns)
    x = x.clone()
    x[:, :, up:down, start:stop] = other[:, :, up:down, start:stop]
    return x, 1.0 - (down - up) * (stop - start) / (height * width)


def start_from(encoder: Encoder, path: str) -> None:
    """Give an encoder the weights, the input normalisation and the quantizers of a saved one.

    Raises:
        ValueError: when it is another network, or takes other samples.
    """
    saved = load_encoder(path)
    if saved.input.shape != encoder.input.shape:
        raise ValueError(
            f"{path} takes samples of shape {list(saved.input.shape)}, and the data has {list(encoder.input.shape)}; "
            "allowed is the same: set the size of the data"
        )
    if (policy := getattr(saved, "quantization", None)) is not None:
        make_encoder_quantizable(encoder, policy)
    try:
        encoder.load_state_dict(saved.state_dict())
    except RuntimeError as error:
        raise ValueError(
            f"{path} holds a {saved.config['kind']} that is not the encoder of this recipe, {encoder.config}: "
            f"{' '.join(str(error).split())[:160]}; give the encoder section of its encoder.json"
        ) from error
    encoder.input = saved.input


def _spread(h_BD: Tensor) -> dict[str, Tensor]:
    """`feature_std` of a single view; see `collapse_signals`."""
    signals = collapse_signals([h_BD, h_BD])
    return {"feature_std": signals["feature_std"]}


def _check(
    num_classes: int, smoothing: float, mixup: float, cutmix: float, bits: tuple[int, int] | None, freeze: bool
) -> None:
    if num_classes < 1:
        raise ValueError(f"num_classes must be at least 1, got {num_classes}; give the number of labels")
    if not 0.0 <= smoothing < 1.0:
        raise ValueError(f"label_smoothing must lie in [0, 1), got {smoothing}; 0.1 is usual")
    if mixup < 0.0 or cutmix < 0.0:
        raise ValueError(f"got mixup={mixup}, cutmix={cutmix}; allowed is 0 or more: 0.8 and 1.0 are usual")
    if bits is not None and (freeze or not all(2 <= b <= 8 or b == 32 for b in bits)):
        raise ValueError(
            f"got bits={list(bits)}, freeze={freeze}; allowed are 2 to 8 bits, or 32 for float, of an encoder that is "
            "trained: leave freeze out, and evaluate at low bits instead"
        )
