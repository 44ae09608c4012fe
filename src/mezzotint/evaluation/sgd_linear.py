"""The linear probe as papers train it: epochs of SGD, at a learning rate that fits the features.

The result depends on the schedule: encoders of the MoCo family, trained by SGD, need a learning
rate of 30, encoders trained with LARS a hundredth of it, because their features are larger (Huang
et al. 2022, arXiv 2208.00275, where the second is a protocol of its own; SwAV reports the same). So
several learning rates can be tried in one pass: their classifiers are one matrix, each batch is
read once, and the best on a held-out fifth of the training samples is trained again on all of them.
Our own protocol needs no learning rate: `linear`, also called `convex`.

Cached features have no augmentation. On augmented images the same protocols are recipes,
`supervised/linear_…`: the supervised method with a frozen encoder. Their results differ by a flip
and a crop.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor

from mezzotint.data.listing.sampling import held_out
from mezzotint.evaluation.linear import Linear
from mezzotint.evaluation.metrics import classification, labeled, learnable
from mezzotint.evaluation.probe import Probe, Row
from mezzotint.evaluation.protocol import Protocol
from mezzotint.recipe.component import factory
from mezzotint.seeding import key_of, sample_order
from mezzotint.types import Features

ProbeOptimizer = Literal["sgd", "nesterov", "larc"]
ProbeSchedule = Literal["cosine", "steps"]
LRScaling = Literal["none", "linear"]

_TRUST = 1e-3
_VALIDATION = 0.2


@dataclass(frozen=True)
class _Heads:
    """Classifiers of R learning rates: weights `[R, C, D]` and biases `[R, C]`."""

    weight: Tensor
    bias: Tensor

    def logits(self, x: Tensor) -> Tensor:
        """`[N, D]` → `[N, R, C]`, in one product."""
        rates, classes, dim = self.weight.shape
        flat = torch.addmm(self.bias.view(-1), x, self.weight.view(-1, dim).T)
        return flat.view(len(x), rates, classes)


class SGDLinear(Probe, kind="sgd_linear"):
    """Train a linear classifier on frozen features by SGD.

    Args:
        lr: learning rates; with several, the one with the best top-1 on a held-out fifth of the
            training samples wins.
        epochs: passes over the training features.
        batch_size: features a step; a smaller training set is one batch.
        optimizer: `"sgd"` with momentum 0.9; `"nesterov"` momentum; `"larc"`, which scales each
            tensor's step to its norm, with a trust coefficient of 0.001 and no clipping.
        schedule: schedule of the learning rate: `"cosine"`, per epoch; `"steps"`, divided by ten at
            60 % and 80 % of the epochs.
        lr_scaling: `"linear"` multiplies the learning rate by the batch size over 256.
        weight_decay: L2 penalty.
        per_class: also yield the accuracy of each class, under `class_LABEL`.
        name: name of the protocol in the rows.
    """

    name: ClassVar[str] = "sgd_linear"
    kinds = ("classify",)

    def __init__(
        self,
        *,
        lr: Sequence[float] = (30.0,),
        epochs: int = 100,
        batch_size: int = 256,
        optimizer: ProbeOptimizer = "sgd",
        schedule: ProbeSchedule = "steps",
        lr_scaling: LRScaling = "none",
        weight_decay: float = 0.0,
        per_class: bool = False,
        name: str = "sgd_linear",
    ) -> None:
        if not lr or min(lr) <= 0.0:
            raise ValueError(
                f"`lr` must be one positive learning rate or more, got {list(lr)}. "
                "0.1 to 30 are usual."
            )
        if epochs < 1 or batch_size < 1 or weight_decay < 0.0:
            raise ValueError(
                "`epochs` and `batch_size` must be 1 or more and `weight_decay` 0 or more, got "
                f"epochs={epochs}, batch_size={batch_size}, weight_decay={weight_decay}. "
                "Try 100, 256 and 0."
            )
        self.lr, self.epochs, self.batch_size = (
            tuple(float(rate) for rate in lr),
            epochs,
            batch_size,
        )
        self.optimizer, self.schedule, self.lr_scaling = optimizer, schedule, lr_scaling
        self.weight_decay, self.per_class, self.protocol_name = weight_decay, per_class, name

    @property
    def protocol(self) -> Protocol:
        """`NAME/1` and all settings."""
        protocol = Protocol.of(
            self.protocol_name,
            lr=",".join(f"{rate:g}" for rate in self.lr),
            epochs=self.epochs,
            batch=self.batch_size,
            optimizer=self.optimizer,
            schedule=self.schedule,
            lr_scaling=self.lr_scaling,
            wd=float(self.weight_decay),
        )
        if len(self.lr) == 1:
            return protocol
        return protocol.with_settings(select="top1", validation=_VALIDATION)

    def run(self, train: Features, test: Features, *, seeds: int = 1) -> Iterator[Row]:
        """Yield `top1`, from eleven classes on `top5`, `mean_per_class`, and the learning rate."""
        x, names, y = learnable(train)
        queries, answers = labeled(test, "test")
        for seed in range(seeds):
            rate = self.lr[0] if len(self.lr) == 1 else self._select(x, y, len(names), seed)
            scores = self.train(x, y, len(names), (rate,), seed).logits(queries)[:, 0]
            for measure, value in classification(scores, names, answers):
                yield self.row(measure, value, seed)
            yield self.row("lr", rate, seed)
            if self.per_class:
                for label, value in class_accuracy(scores, names, answers):
                    yield self.row(f"class_{label}", value, seed)

    def _select(self, x: Tensor, y: Tensor, num_classes: int, seed: int) -> float:
        """Choose the learning rate with the best held-out top-1; among ties the smallest."""
        out = torch.from_numpy(held_out(y.cpu().numpy(), _VALIDATION, f"sgd_linear/{seed}")).to(
            x.device
        )
        if not out.any():  # one sample per class: nothing to hold out
            return min(self.lr)
        rates = tuple(sorted(self.lr))
        logits = self.train(x[~out], y[~out], num_classes, rates, seed).logits(x[out])
        correct = (logits.argmax(dim=2) == y[out].unsqueeze(1)).sum(dim=0)
        correct[~logits.isfinite().all(dim=2).all(dim=0)] = -1  # training diverged
        return rates[int(correct.argmax())]

    def train(
        self, x: Tensor, y: Tensor, num_classes: int, rates: Sequence[float], seed: int
    ) -> _Heads:
        """Train the classifiers of all learning rates at once, from one start and in one order.

        Args:
            x: `[N, D]`.
            y: int64 `[N]`, of `0 … num_classes − 1`.
            num_classes: C.
            rates: R learning rates.
            seed: seed of start and order.
        """
        count, dim = x.shape
        generator = torch.Generator().manual_seed(key_of("sgd_linear", seed))
        start = torch.empty(num_classes, dim).normal_(std=0.01, generator=generator).to(x)
        heads = _Heads(start.repeat(len(rates), 1, 1), x.new_zeros(len(rates), num_classes))
        update = _Update(self.optimizer, self.weight_decay, heads)
        batch = min(self.batch_size, count)
        base = x.new_tensor(rates) * (batch / 256 if self.lr_scaling == "linear" else 1.0)
        for epoch in range(self.epochs):
            lr = base * self._factor(epoch)
            order = sample_order(count, seed, epoch).to(x.device)
            for rows in torch.split(order[: count // batch * batch], batch):
                rows_x = x[rows]
                # The gradient of the cross-entropy, by hand: no graph is kept.
                residual = heads.logits(rows_x).softmax(dim=2)
                residual.scatter_add_(
                    2,
                    y[rows].view(-1, 1, 1).expand(-1, len(rates), 1),
                    residual.new_full((batch, len(rates), 1), -1.0),
                )
                residual /= batch
                gradient = (residual.view(batch, -1).T @ rows_x).view_as(heads.weight)
                update.step(gradient, residual.sum(dim=0), lr)
        return heads

    def _factor(self, epoch: int) -> float:
        if self.schedule == "cosine":
            return 0.5 * (1.0 + float(torch.cos(torch.tensor(torch.pi * epoch / self.epochs))))
        return float(0.1 ** sum(epoch >= round(part * self.epochs) for part in (0.6, 0.8)))


class _Update:
    """Apply a gradient to the classifiers, each at its own learning rate."""

    def __init__(self, optimizer: ProbeOptimizer, weight_decay: float, heads: _Heads) -> None:
        self.optimizer, self.weight_decay = optimizer, weight_decay
        self.tensors = (heads.weight, heads.bias)
        self.buffers = [torch.zeros_like(t) for t in self.tensors]

    def step(self, weight: Tensor, bias: Tensor, lr: Tensor) -> None:
        """Take a step of momentum SGD; the gradients are changed in place."""
        for tensor, gradient, buffer in zip(
            self.tensors, (weight, bias), self.buffers, strict=True
        ):
            shape = (-1, *[1] * (tensor.ndim - 1))
            if self.optimizer == "larc":
                own, other = tensor.flatten(1).norm(dim=1), gradient.flatten(1).norm(dim=1)
                ratio = _TRUST * own / (other + self.weight_decay * own + 1e-8)
                ratio = torch.where((own > 0) & (other > 0), ratio, torch.ones_like(ratio))
                gradient.add_(tensor, alpha=self.weight_decay).mul_(ratio.view(shape))
            elif self.weight_decay:
                gradient.add_(tensor, alpha=self.weight_decay)
            buffer.mul_(0.9).add_(gradient)
            move = gradient.add_(buffer, alpha=0.9) if self.optimizer == "nesterov" else buffer
            tensor.addcmul_(move, lr.view(shape), value=-1.0)


def class_accuracy(scores: Tensor, names: Tensor, labels: Tensor) -> Iterator[tuple[int, float]]:
    """Yield label and accuracy of each class; arguments as for `classification`."""
    correct = names[scores.argmax(dim=1)] == labels
    for label in torch.unique(labels).tolist():
        yield label, correct[labels == label].double().mean().item()


@factory
def convex(*, validation: float = 0.2, tolerance: float = 1e-3) -> Probe:
    """Solve the linear probe to its optimum: another name of `linear`.

    Args:
        validation: fraction of the training samples on which the penalty is chosen.
        tolerance: each fit stops when its loss is provably this close to the minimum, in nats.
    """
    return Linear(validation=validation, tolerance=tolerance)


@factory
def airl_sgd(*, lr: Sequence[float] = (30.0,), per_class: bool = False) -> Probe:
    """Run Revisiting AIRL's protocol for SGD-trained encoders.

    100 epochs, learning rate 30 per 256 samples, divided by ten at epochs 60 and 80.

    Args:
        lr: learning rates for 256 samples a step; with several, the best on a held-out fifth of the
            training samples.
        per_class: also the accuracy of each class.
    """
    return SGDLinear(lr=lr, lr_scaling="linear", per_class=per_class, name="airl_sgd")


@factory
def airl_large_norm(*, lr: Sequence[float] = (0.2,), per_class: bool = False) -> Probe:
    """Run Revisiting AIRL's protocol for LARS-trained encoders.

    80 epochs of batch 1024, learning rate 0.2, Nesterov, cosine. The authors' code makes the loader
    before it reads the batch size and so runs 256; here it is 1024.

    Args:
        lr: learning rates; with several, the best on a held-out fifth of the training samples.
        per_class: also the accuracy of each class.
    """
    return SGDLinear(
        lr=lr,
        epochs=80,
        batch_size=1024,
        optimizer="nesterov",
        schedule="cosine",
        per_class=per_class,
        name="airl_large_norm",
    )


@factory
def mocov3(*, lr: Sequence[float] = (0.1,), per_class: bool = False) -> Probe:
    """Run MoCo v3's protocol.

    90 epochs of batch 1024, learning rate 0.1 per 256 for a ResNet-50 and 3 for a ViT, cosine.

    Args:
        lr: learning rates for 256 samples a step; with several, the best on a held-out fifth of the
            training samples.
        per_class: also the accuracy of each class.
    """
    return SGDLinear(
        lr=lr,
        epochs=90,
        batch_size=1024,
        schedule="cosine",
        lr_scaling="linear",
        per_class=per_class,
        name="mocov3",
    )


@factory
def solo_learn(*, lr: Sequence[float] = (0.1,), per_class: bool = False) -> Probe:
    """Run solo-learn's protocol, which MASSRL's fork keeps.

    100 epochs, learning rate 0.1 per 256 samples (BYOL's; its SimCLR has 1 and its MoCo v2+ 3),
    divided by ten at epochs 60 and 80.

    Args:
        lr: learning rates for 256 samples a step; with several, the best on a held-out fifth of the
            training samples.
        per_class: also the accuracy of each class.
    """
    return SGDLinear(lr=lr, lr_scaling="linear", per_class=per_class, name="solo_learn")


@factory
def ssql(
    *,
    data: Literal["cifar", "imagenet"] = "cifar",
    lr: Sequence[float] | None = None,
    per_class: bool = False,
) -> Probe:
    """Run SSQL's protocol.

    On CIFAR 100 epochs at learning rate 30, divided by ten at epochs 60 and 80; on ImageNet 60
    epochs of LARC, cosine.

    Args:
        data: which of the two.
        lr: learning rates; by default 30, and on ImageNet 0.8 (its ResNet-18; 2.4 for its
            ResNet-50).
        per_class: also the accuracy of each class.
    """
    if data == "cifar":
        return SGDLinear(lr=lr or (30.0,), batch_size=512, per_class=per_class, name="ssql")
    return SGDLinear(
        lr=lr or (0.8,),
        epochs=60,
        batch_size=1024,
        optimizer="larc",
        schedule="cosine",
        per_class=per_class,
        name="ssql",
    )
