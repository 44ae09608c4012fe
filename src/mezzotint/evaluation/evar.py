"""The linear probe of BYOL-A and EVAR (Niizumi et al. 2021, arXiv 2103.06695), for audio.

Features are standardized one by one with mean and standard deviation of the training samples
(scikit-learn's StandardScaler), and Adam trains a linear classifier until the validation accuracy
has not risen for some epochs; the weights of the best epoch are scored. The data may define the
validation samples; else they are a stratified tenth of the training samples, another for each seed.
BYOL-A reports means over repeats.

Settings of BYOL-A: learning rate 1e-3, batches of 200, at most 200 epochs, patience 10. Settings of
EVAR: learning rate 3e-4, weight decay 1e-8, patience 20. Unlike `linear`, which is solved to its
optimum, the result depends on the schedule; it is here for comparisons with published results.
"""

from collections.abc import Iterator
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from mezzotint.data.listing.sampling import held_out
from mezzotint.evaluation.metrics import classification, labeled, learnable
from mezzotint.evaluation.probe import Probe, Row
from mezzotint.evaluation.protocol import Protocol
from mezzotint.recipe.component import factory
from mezzotint.seeding import key_of, sample_order
from mezzotint.types import Features

_BETAS, _EPS = (0.9, 0.999), 1e-8


class EVAR(Probe):
    """Train a linear classifier on standardized features by Adam, with early stopping.

    Args:
        lr: learning rate of Adam.
        batch_size: features per step, or all where there are fewer.
        epochs: largest number of epochs.
        patience: epochs without a better validation accuracy after which training stops.
        weight_decay: L2 penalty, in the gradient.
        validation: fraction of the training samples to hold out, where the data defines none.
        name: name of the protocol in the rows.
    """

    name: ClassVar[str] = "evar"
    kinds = ("classify",)

    def __init__(
        self,
        *,
        lr: float = 3e-4,
        batch_size: int = 200,
        epochs: int = 200,
        patience: int = 20,
        weight_decay: float = 1e-8,
        validation: float = 0.1,
        name: str = "evar",
    ) -> None:
        if (
            lr <= 0.0
            or min(batch_size, epochs, patience) < 1
            or weight_decay < 0.0
            or not 0.0 < validation < 1.0
        ):
            raise ValueError(
                "`lr` must be positive, `batch_size`, `epochs` and `patience` 1 or more, "
                "`weight_decay` 0 or more and `validation` between 0 and 1, got "
                f"lr={lr}, batch_size={batch_size}, epochs={epochs}, patience={patience}, "
                f"weight_decay={weight_decay}, validation={validation}. The defaults are EVAR's."
            )
        self.lr, self.batch_size, self.epochs, self.patience = lr, batch_size, epochs, patience
        self.weight_decay, self.validation, self.protocol_name = weight_decay, validation, name

    @property
    def protocol(self) -> Protocol:
        """`NAME/1` and all settings."""
        return Protocol.of(
            self.protocol_name,
            scale="each",
            lr=float(self.lr),
            batch=self.batch_size,
            epochs=self.epochs,
            patience=self.patience,
            wd=float(self.weight_decay),
            validation=float(self.validation),
        )

    def run(self, train: Features, test: Features, *, seeds: int = 1) -> Iterator[Row]:
        """Yield `top1`, from eleven classes on `top5`, `mean_per_class`, and the best epoch."""
        x, names, y = learnable(train)
        queries, answers = labeled(test, "test")
        for seed in range(seeds):
            validation = self._validation(train, y, seed)
            scaler = _Standard(x if validation is None else x[~validation])
            head, best = self._fit(scaler(x), y, len(names), validation, seed)
            for measure, value in classification(head(scaler(queries)), names, answers):
                yield self.row(measure, value, seed)
            yield self.row("epochs", float(best), seed)

    def _validation(self, train: Features, y: Tensor, seed: int) -> Tensor | None:
        """Return the validation samples, bool `[N]`; `None` where each class has one sample."""
        validation = train.validation
        if validation is None:
            validation = torch.from_numpy(
                held_out(y.cpu().numpy(), self.validation, f"evar/{seed}")
            ).to(y.device)
        return validation if bool(validation.any()) and not bool(validation.all()) else None

    def _fit(
        self, x: Tensor, y: Tensor, classes: int, validation: Tensor | None, seed: int
    ) -> tuple[nn.Linear, int]:
        """Train; return the classifier of the first epoch with the best validation accuracy."""
        own_x, own_y = (x, y) if validation is None else (x[~validation], y[~validation])
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(key_of("evar", seed) & 0x7FFFFFFF)
            head = nn.Linear(x.shape[1], classes).to(x.device)
        optimizer = torch.optim.Adam(
            head.parameters(), self.lr, betas=_BETAS, eps=_EPS, weight_decay=self.weight_decay
        )
        batch = min(self.batch_size, len(own_x))
        highest, best, kept = -1.0, 0, [p.detach().clone() for p in head.parameters()]
        for epoch in range(1, self.epochs + 1):
            for rows in torch.split(sample_order(len(own_x), seed, epoch).to(x.device), batch):
                optimizer.zero_grad()
                cross_entropy(head(own_x[rows]), own_y[rows]).backward()
                optimizer.step()
            if validation is None:
                continue
            with torch.no_grad():
                accuracy = (
                    (head(x[validation]).argmax(dim=1) == y[validation]).double().mean().item()
                )
            if accuracy > highest:
                highest, best, kept = (
                    accuracy,
                    epoch,
                    [p.detach().clone() for p in head.parameters()],
                )
            elif epoch - best >= self.patience:
                break
        if validation is None:
            return head.requires_grad_(False), self.epochs
        with torch.no_grad():
            for parameter, value in zip(head.parameters(), kept, strict=True):
                parameter.copy_(value)
        return head.requires_grad_(False), best


class _Standard:
    """Scale each feature to mean 0 and standard deviation 1; a constant one is only centered."""

    def __init__(self, x: Tensor) -> None:
        self.mean = x.double().mean(dim=0)
        std = x.double().std(dim=0, correction=0)
        # What scikit-learn takes for constant: a variance within the rounding error of its sum.
        eps = torch.finfo(torch.float64).eps
        constant = std.square() <= len(x) * eps * std.square() + (len(x) * self.mean * eps).square()
        self.std = torch.where(constant, 1.0, std)

    def __call__(self, x: Tensor) -> Tensor:
        """`[N, D]` → float32 `[N, D]`."""
        return ((x.double() - self.mean) / self.std).float()


@factory
def byol_a_linear(
    *,
    lr: float = 1e-3,
    batch_size: int = 200,
    epochs: int = 200,
    patience: int = 10,
    validation: float = 0.1,
) -> Probe:
    """Run the probe `evar` with BYOL-A's settings.

    Args:
        lr: learning rate of Adam.
        batch_size: features per step, or all where there are fewer.
        epochs: largest number of epochs.
        patience: epochs without a better validation accuracy after which training stops.
        validation: fraction of the training samples to hold out, where the data defines none.
    """
    return EVAR(
        lr=lr,
        batch_size=batch_size,
        epochs=epochs,
        patience=patience,
        weight_decay=0.0,
        validation=validation,
        name="byol_a_linear",
    )
