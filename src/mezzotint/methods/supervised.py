"""Supervised training, fine-tuning, and the linear probe on augmented images, in the same loop.

A linear classifier on the encoder is trained on the labels of a `labeled` source. Starting from a
saved encoder (`init`) makes it fine-tuning (protocol C of SSQL, Cao et al. 2022, arXiv 2207.05432;
the semi-supervised protocol of Chen et al. 2020, arXiv 2002.05709); freezing the encoder (`freeze`)
makes it a linear probe as in the papers, on augmented images, and with `bits` on the features of a
quantized encoder. The supervised baseline of Huang et al. 2022 (arXiv 2208.00275) has one view of
a sample; with more, the loss is their mean, or with `single_aug` that of the first.

A step may drop patches of a transformer (`drop`), which makes it cheaper and regularizes it:
AudioMAE's fine-tuning drops whole times and frequencies (Huang et al. 2022, arXiv 2207.06405).
"""

from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar, Literal, Self

import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits, cross_entropy, one_hot
from torch.nn.modules.batchnorm import _BatchNorm

from mezzotint.augment.masking import Mask
from mezzotint.augment.mixing import Mixing
from mezzotint.encoders.encoder import Encoder
from mezzotint.encoders.saving import load_encoder, take_structure
from mezzotint.files import replacing, write_json
from mezzotint.methods.masked import need_patches
from mezzotint.methods.method import Method
from mezzotint.methods.siamese import collapse_signals
from mezzotint.quant.bitwidth import Bits, Quantizers
from mezzotint.quant.convert import make_encoder_quantizable
from mezzotint.seeding import Draws
from mezzotint.types import Step, Views

Loss = Literal["cross_entropy", "binary"]
_NOBODY = Draws(torch.zeros(1, dtype=torch.int64), 0)


class Supervised(Method):
    """Predict the labels of samples.

    Args:
        encoder: network to train.
        num_classes: number of classes.
        loss: `"cross_entropy"` for one label per sample; `"binary"` cross-entropy of each class for
            any number of labels.
        single_aug: use the first view only; otherwise the loss is the mean over views.
        label_smoothing: fraction of the target that is spread over all classes.
        mixing: mixup or CutMix of samples and labels; `None` for neither.
        drop: mask of the patches that a ViT drops in training, drawn for each sample; `None` to
            keep all.
        freeze: freeze the encoder in eval mode: a linear probe.
        logit_norm: add a BatchNorm after the classifier, so that a probe does not depend on the
            scale of features.
        init: directory of a saved encoder to start from: a run, or what `mezzotint import` wrote.
        bits: bit-widths to train at, such as W4A4. Ranges of activations are taken from each batch
            in fp32; with `freeze` from the first batch alone, and the head is then trained on
            features of one fixed, quantized encoder, as in SSQL's linear evaluation.
    """

    min_views: ClassVar[int] = 1
    max_views: ClassVar[int | None] = None
    needs_labels: ClassVar[bool] = True
    calibrated: Tensor

    def __init__(
        self,
        encoder: Encoder,
        *,
        num_classes: int,
        loss: Loss = "cross_entropy",
        single_aug: bool = False,
        label_smoothing: float = 0.0,
        mixing: Mixing | None = None,
        drop: Mask | None = None,
        freeze: bool = False,
        logit_norm: bool = False,
        init: str | None = None,
        bits: str | int | None = None,
    ) -> None:
        super().__init__(encoder)
        self.bits = None if bits is None else Bits.parse(bits, "method.bits")
        _check(num_classes, label_smoothing, self.bits)
        self.num_classes, self.loss, self.single_aug = num_classes, loss, single_aug
        self.label_smoothing, self.mixing, self.freeze = label_smoothing, mixing, freeze
        self.drop = drop
        if drop is not None:
            drop.draw(
                need_patches(encoder).patches.grid, _NOBODY
            )  # refused here rather than in the first step
        if init is not None:
            start_from(encoder, init)
        if freeze:
            encoder.requires_grad_(False)
        self._quantizers: Quantizers | None = None
        if self.bits is not None:
            make_encoder_quantizable(encoder, getattr(encoder, "quantization", None) or "ssql")
            self._quantizers = Quantizers.of(encoder)
            if freeze:  # saved, so that a resumed run keeps its ranges
                self.register_buffer("calibrated", torch.tensor(False))
                self._ranged = False  # the same, without waiting for the device
        self.head = nn.Linear(encoder.dim, num_classes)
        nn.init.normal_(self.head.weight, std=0.01)
        nn.init.zeros_(self.head.bias)
        self.logit_norm = nn.BatchNorm1d(num_classes) if logit_norm else nn.Identity()

    def train(self, mode: bool = True) -> Self:
        """Set the mode; a frozen encoder stays in eval mode."""
        super().train(mode)
        if self.freeze:
            self.encoder.eval()
        return self

    def classify(self, features: Tensor) -> Tensor:
        """`[B, dim]` → logits `[B, num_classes]`."""
        logits: Tensor = self.logit_norm(self.head(features))
        return logits

    def forward(self, views: Views) -> Step:
        self.require_views(views)
        labels = self._labels(views)
        xs = views.x[:1] if self.single_aug else views.x
        if self.frozen_bits is not None and not self._ranged:
            self._calibrate(xs)
        terms, features, accuracies = [], [], []
        for index, plain in enumerate(xs):
            x, target = plain, labels
            if self.mixing is not None:
                targets = one_hot(labels, self.num_classes) if labels.ndim == 1 else labels
                x, target = self.mixing(plain, targets.float(), views.draws.fold("mixing", index))
            keep = (
                ()
                if self.drop is None
                else self._visible(self.drop, x, views.draws.fold("drop", index))
            )
            with torch.set_grad_enabled(torch.is_grad_enabled() and not self.freeze):
                h = self._features(x, keep)
            logits = self.classify(h).float()
            terms.append(self._loss(logits, target))
            features.append(h.detach())
            if labels.ndim == 1:
                accuracies.append((logits.detach().argmax(dim=1) == labels).float().mean())
        logs = collapse_signals(features) if len(features) > 1 else _spread(features[0])
        if accuracies:
            logs["accuracy"] = torch.stack(accuracies).mean()
        return Step(torch.stack(terms).mean(), logs)

    def _labels(self, views: Views) -> Tensor:
        if views.labels is None:
            raise ValueError(
                "supervised needs labels, but the data has none in training. Wrap it: "
                "`data: {kind: labeled, source: {kind: …}}`."
            )
        binary = self.loss == "binary"
        if (views.labels.ndim == 2) > binary or (
            views.labels.ndim == 2 and views.labels.shape[1] != self.num_classes
        ):
            raise ValueError(
                "Labels must be one per sample, or one column per class with loss=binary, got "
                f"shape {list(views.labels.shape)} for loss={self.loss} and {self.num_classes} "
                "classes. Change `method.loss` or `method.num_classes`."
            )
        # Checked where the labels are, on the CPU, where that waits for no device.
        if views.labels.ndim == 1 and not torch.compiler.is_compiling():
            self._refuse_unknown(views.labels)
        labels = views.labels.to(views.x[0].device, non_blocking=True)
        return one_hot(labels, self.num_classes) if labels.ndim == 1 and binary else labels

    def _refuse_unknown(self, labels: Tensor) -> None:
        low, high = (int(v) for v in torch.aminmax(labels))
        if low < 0 or high >= self.num_classes:
            raise ValueError(
                f"Labels must be 0 to {self.num_classes - 1}, got {low} to {high}. Set "
                f"method.num_classes={high + 1}."
            )

    def _loss(self, logits: Tensor, target: Tensor) -> Tensor:
        if self.loss == "binary":
            smooth = target.float() * (1.0 - self.label_smoothing) + self.label_smoothing / 2.0
            return binary_cross_entropy_with_logits(logits, smooth)
        return cross_entropy(logits, target, label_smoothing=self.label_smoothing)

    @torch.compiler.disable  # type: ignore[untyped-decorator]
    def _visible(self, drop: Mask, x: Tensor, draws: Draws) -> tuple[Tensor, ...]:
        """Draw the visible patches in training; nothing in eval mode."""
        if not self.training:
            return ()
        return drop.draw(need_patches(self.encoder).patches.grid_of(x), draws)[:1]

    def save_classifier(self, folder: Path, classes: Sequence[str]) -> None:
        """Write the classifier into the directory of its encoder, with the names of its classes."""
        state = {name: tensor.contiguous() for name, tensor in self.head.state_dict().items()}
        with replacing(folder / "classifier.safetensors") as temporary:
            save_file(state, temporary)
        norm = self.config.get("logit_norm", False)
        description = {"classes": list(classes), "logit_norm": norm}
        write_json(folder / "classifier.json", description, sealed=True)

    @property
    def frozen_bits(self) -> Bits | None:
        """Bits of a frozen encoder whose head is trained on quantized features; else `None`."""
        return None if self.bits is None or self.bits.is_float or not self.freeze else self.bits

    @torch.compiler.disable  # type: ignore[untyped-decorator]
    def _calibrate(self, xs: Sequence[Tensor]) -> None:
        """Set the ranges of a frozen encoder once, unless a checkpoint brought them."""
        assert self._quantizers is not None and self.bits is not None
        self._ranged = True
        if bool(self.calibrated):
            return
        self._observe(xs)
        self._quantizers.set_bits(self.bits.weight, self.bits.activation)
        self._quantizers.set_off()
        self._quantizers.forget_observed()
        self.calibrated.fill_(True)

    def _features(self, x: Tensor, keep: tuple[Tensor, ...]) -> Tensor:
        """Compute features, in fp32 or at low bits with ranges from an fp32 pass."""
        if self._quantizers is None or self.bits is None:
            out: Tensor = self.encoder(x, *keep)
            return out
        if not self.freeze:
            self._observe([x], keep)
        self._quantizers.set_bits(self.bits.weight, self.bits.activation)
        h: Tensor = self.encoder(x, *keep)
        self._quantizers.set_off()
        if not self.freeze:
            self._quantizers.forget_observed()
        return h

    def _observe(self, xs: Sequence[Tensor], keep: tuple[Tensor, ...] = ()) -> None:
        """Set the ranges of activations from an fp32 pass that leaves running statistics alone."""
        assert self._quantizers is not None
        norms = [
            m for m in self.encoder.modules() if isinstance(m, _BatchNorm) and m.track_running_stats
        ]
        self._quantizers.start_observing()
        for norm in norms:
            norm.track_running_stats = norm.training is False
        with torch.no_grad():
            for x in xs:
                self.encoder(x, *keep)
        for norm in norms:
            norm.track_running_stats = True
        self._quantizers.stop_observing()


def start_from(encoder: Encoder, path: str) -> None:
    """Load weights, input normalization and quantizers of a saved encoder.

    Raises:
        ValueError: for another network, or another shape of samples.
    """
    saved = load_encoder(path)
    if saved.input.shape != encoder.input.shape:
        raise ValueError(
            f"`{path}` takes samples of shape {list(saved.input.shape)}, but the data has "
            f"{list(encoder.input.shape)}. Set the size of the data."
        )
    take_structure(encoder, saved)
    try:
        encoder.load_state_dict(saved.state_dict())
    except RuntimeError as error:
        raise ValueError(
            f"`{path}` is a {saved.config['kind']} that differs from the encoder of the recipe, "
            f"{encoder.config}: {' '.join(str(error).split())[:160]}. Copy the encoder section of "
            "its encoder.json into the recipe."
        ) from error
    encoder.input = saved.input


def _spread(h_BD: Tensor) -> dict[str, Tensor]:
    """Compute `feature_std` of a single view; see `collapse_signals`."""
    signals = collapse_signals([h_BD, h_BD])
    return {"feature_std": signals["feature_std"]}


def _check(num_classes: int, smoothing: float, bits: Bits | None) -> None:
    if num_classes < 1:
        raise ValueError(f"`method.num_classes` must be at least 1, got {num_classes}.")
    if not 0.0 <= smoothing < 1.0:
        raise ValueError(f"`method.label_smoothing` must be in [0, 1), got {smoothing}. Try 0.1.")
    if bits is not None and 1 in (bits.weight, bits.activation):
        raise ValueError(f"`method.bits` must be 2 to 8, or 32 for fp32, got {bits}. Try W4A4.")
