"""The linear probe of BYOL-A and EVAR (Niizumi et al. 2021, arXiv 2103.06695), for audio.

Features are standardized one by one with mean and deviation of the training samples (scikit-learn's
StandardScaler), and a linear classifier is trained by Adam until the validation accuracy has not
risen for some epochs; the weights of the best epoch are scored. The validation samples are those
that the data says, else a stratified tenth of the training samples, another for each seed. BYOL-A's
figures are means over repeats of that.

Settings of BYOL-A: rate 1e-3, batches of 200, at most 200 epochs, patience 10. EVAR's: rate 3e-4,
decay 1e-8, patience
20. Against `linear`, our own, which is solved to its optimum, it is one of a schedule; it is here
  so that figures can be set beside published ones.
"""

from collections.abc import Iterator
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from mezzotint.data.sampling import held_out
from mezzotint.evaluation.metrics import classification, labeled, learnable
from mezzotint.evaluation.probe import Probe, Row
from mezzotint.evaluation.protocol import Protocol
from mezzotint.recipe.component import factory
from mezzotint.seeding import key_of, sample_order
from mezzotint.types import Features

_BETAS, _EPS = (0.9, 0.999), 1e-8


class EVAR(Probe):
    """A linear classifier on standardized features, trained by Adam and stopped early.

    Args:
        lr: of Adam.
        batch_size: features a step, or all where there are fewer.
        epochs: at most.
        patience: epochs without a better validation accuracy after which training stops.
        weight_decay: L2 penalty, in the gradient.
        validation: share of the training samples that are held out, where the data does not say
            which.
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
                f"got lr={lr}, batch_size={batch_size}, epochs={epochs}, patience={patience}, "
                f"weight_decay={weight_decay}, validation={validation}; allowed are a rate above 0, whole numbers from "
                "1 on, a penalty of 0 or more and a share between 0 and 1: the defaults are EVAR's"
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
        """Yield `top1`, with more than ten classes `top5`, `mean_per_class`, and `epochs`, at which it was best."""
        x, names, y = learnable(train)
        queries, answers = labeled(test, "test")
        for seed in range(seeds):
            held = self._held(train, y, seed)
            scaler = _Standard(x if held is None else x[~held])
            head, best = self._fit(scaler(x), y, len(names), held, seed)
            for measure, value in classification(head(scaler(queries)), names, answers):
                yield self.row(measure, value, seed)
            yield self.row("epochs", float(best), seed)

    def _held(self, train: Features, y: Tensor, seed: int) -> Tensor | None:
        """Validation samples, bool `[N]`; none where a class has one sample, and all are learned from to the end."""
        held = train.validation
        if held is None:
            held = torch.from_numpy(held_out(y.cpu().numpy(), self.validation, f"evar/{seed}")).to(
                y.device
            )
        return held if bool(held.any()) and not bool(held.all()) else None

    def _fit(
        self, x: Tensor, y: Tensor, classes: int, held: Tensor | None, seed: int
    ) -> tuple[nn.Linear, int]:
        """Train; the classifier of the epoch with the best validation accuracy, the first of equal ones."""
        own_x, own_y = (x, y) if held is None else (x[~held], y[~held])
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(key_of("evar", seed) & 0x7FFFFFFF)
            head = nn.Linear(x.shape[1], classes).to(x.device)
        optimizer = torch.optim.Adam(
            head.parameters(), self.lr, betas=_BETAS, eps=_EPS, weight_decay=self.weight_decay
        )
        batch = min(self.batch_size, len(own_x))
        most, best, kept = -1.0, 0, [p.detach().clone() for p in head.parameters()]
        for epoch in range(1, self.epochs + 1):
            for rows in torch.split(sample_order(len(own_x), seed, epoch).to(x.device), batch):
                optimizer.zero_grad()
                cross_entropy(head(own_x[rows]), own_y[rows]).backward()  # type: ignore[no-untyped-call]
                optimizer.step()
            if held is None:
                continue
            with torch.no_grad():
                accuracy = (head(x[held]).argmax(dim=1) == y[held]).double().mean().item()
            if accuracy > most:
                most, best, kept = accuracy, epoch, [p.detach().clone() for p in head.parameters()]
            elif epoch - best >= self.patience:
                break
        if held is None:
            return head.requires_grad_(False), self.epochs
        with torch.no_grad():
            for parameter, value in zip(head.parameters(), kept, strict=True):
                parameter.copy_(value)
        return head.requires_grad_(False), best


class _Standard:
    """To mean 0 and deviation 1, feature by feature; one that never varies stays as it is, but for its mean."""

    def __init__(self, x: Tensor) -> None:
        self.mean = x.double().mean(dim=0)
        deviation = x.double().std(dim=0, correction=0)
        # What scikit-learn takes for constant: a variance within the rounding error of its sum.
        eps = torch.finfo(torch.float64).eps
        constant = (
            deviation.square()
            <= len(x) * eps * deviation.square() + (len(x) * self.mean * eps).square()
        )
        self.deviation = torch.where(constant, 1.0, deviation)

    def __call__(self, x: Tensor) -> Tensor:
        """`[N, D]` → float32 `[N, D]`."""
        return ((x.double() - self.mean) / self.deviation).float()


@factory
def byol_a_linear(
    *,
    lr: float = 1e-3,
    batch_size: int = 200,
    epochs: int = 200,
    patience: int = 10,
    validation: float = 0.1,
) -> Probe:
    """BYOL-A's settings of the probe `evar`.

    Args:
        lr: of Adam.
        batch_size: features a step, or all where there are fewer.
        epochs: at most.
        patience: epochs without a better validation accuracy after which training stops.
        validation: share of the training samples that are held out, where the data does not say
            which.
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
