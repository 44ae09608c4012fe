"""Is it learning? Online kNN, and a linear classifier that is trained along; never on test samples."""

import torch
from torch import Tensor, nn
from torch.nn.functional import one_hot

from mezzotint import dist
from mezzotint.data.labeled import Labeled
from mezzotint.data.source import Source, first_classification
from mezzotint.encoders.encoder import Encoder
from mezzotint.evaluation.features import extract_readable
from mezzotint.evaluation.knn import KNN
from mezzotint.optim.schedules import MultiStep, Schedule
from mezzotint.recipe.component import Component
from mezzotint.recipe.schema import RecipeError
from mezzotint.seeding import sample_order
from mezzotint.types import Features

_MOST = 10_000


class OnlineKNN:
    """Scores an encoder on a validation fifth of the training samples of the data's first classification task.

    Args:
        source: of the run; without labels there is nothing to measure.
        limit: take at most so many samples.
    """

    def __init__(self, source: Source, *, limit: int = _MOST) -> None:
        self.name = ""
        self.source, tasks = source.evaluation()
        task = first_classification(tasks)
        if task is None or len(task.train) < 10:
            return
        chosen = torch.from_numpy(task.train)[sample_order(len(task.train), 0, 0)][:limit]
        self.name = f"knn/{task.name}"
        self.indices = chosen
        self.labels = torch.from_numpy(task.labels)

    def measure(self, encoder: Encoder) -> dict[str, float]:
        """Accuracy on the held-out fifth, under `knn/TASK`; empty without labels."""
        if not self.name:
            return {}
        found = extract_readable(encoder, self.source, indices=self.indices)
        everything = Features(found.x, self.labels[found.indices])
        held_out = len(everything.x) // 5
        train, scored = everything[held_out:], everything[:held_out]
        rows = KNN().run(train, scored)
        return {self.name: next(row.value for row in rows if row.metric == "top1")}


class Classifier(Component):
    """A linear classifier that learns along from detached features: it sees the encoder, which never sees it.

    It takes the features of the last view of a step and the labels of a `labeled` source, and
    learns by SGD. What it logs is its accuracy on each batch before it learns from it, on augmented
    training samples: a curve to look at, and no evaluation (Huang et al. 2022, arXiv 2208.00275,
    whose milestones are epochs 60 and 80 of any number).

    Args:
        lr: learning rate; not scaled by the batch. 30 suits features of encoders trained by SGD,
            0.2 by LARS.
        momentum: of the buffer.
        weight_decay: L2 penalty.
        schedule: of the learning rate.
    """

    def __init__(
        self,
        *,
        lr: float = 30.0,
        momentum: float = 0.9,
        weight_decay: float = 0.0,
        schedule: Schedule = MultiStep(milestones=[0.6, 0.8]),  # noqa: B008 - keeps no state
    ) -> None:
        if lr <= 0.0 or not 0.0 <= momentum < 1.0 or weight_decay < 0.0:
            raise ValueError(
                f"run.log.classifier: got lr={lr}, momentum={momentum}, weight_decay={weight_decay}; allowed are a "
                "rate above 0, a momentum in [0, 1), and a decay of 0 or more"
            )
        self.lr, self.momentum, self.weight_decay, self.schedule = (
            lr,
            momentum,
            weight_decay,
            schedule,
        )


class OnlineClassifier(nn.Module):
    """The classifier of a run, with its state; one for all processes, whose gradients are averaged.

    Cross-entropy has its gradient in closed form, so nothing of it enters the graph, the optimizer
    or the scaler of the run.

    Args:
        settings: how it learns.
        source: whose labels it learns.
        encoder: whose features it sees, in training mode alone.

    Raises:
        RecipeError: when the samples of the source have no classes.
    """

    weight: Tensor
    bias: Tensor
    weight_momentum: Tensor
    bias_momentum: Tensor

    def __init__(self, settings: Classifier, source: Source, encoder: Encoder) -> None:
        super().__init__()
        if not isinstance(source, Labeled) or source.task.kind != "classify":
            raise RecipeError(
                f"got run.log.classifier with data.kind={source.config.get('kind')}, which gives a step no classes; "
                "allowed is labeled data with classes: data: {kind: labeled, source: {kind: …}}"
            )
        self.settings, self.num_classes = settings, source.num_classes
        for name, shape in (
            ("weight", (self.num_classes, encoder.dim)),
            ("bias", (self.num_classes,)),
        ):
            self.register_buffer(name, torch.zeros(shape))
            self.register_buffer(f"{name}_momentum", torch.zeros(shape))
        self._latest: Tensor | None = None
        self._seen: list[tuple[Tensor, Tensor]] = []
        encoder.register_forward_hook(self._look)

    @classmethod
    def of(
        cls, settings: Classifier | None, source: Source, encoder: Encoder, device: torch.device
    ) -> "OnlineClassifier | None":
        """The classifier of a run that asks for one, on its device."""
        return None if settings is None else cls(settings, source, encoder).to(device)

    def _look(self, module: nn.Module, inputs: object, features: Tensor) -> None:
        if module.training:
            self._latest = features.detach()

    def note(self, labels: Tensor) -> None:
        """Keep the features of the last view of a micro-batch, with its labels int64 `[B]`.

        Raises:
            RecipeError: when the method never asked the encoder for features.
        """
        if self._latest is None:
            raise RecipeError(
                "got run.log.classifier with a method that takes no features from its encoder; allowed are methods of "
                "views: leave it out"
            )
        self._seen.append((self._latest[-len(labels) :].float(), labels))
        self._latest = None

    @torch.no_grad()
    def learn(self, progress: tuple[int, int, int]) -> dict[str, float]:
        """One step on all micro-batches that were noted.

        Args:
            progress: step (from 0), steps of the run, and steps an epoch.

        Returns:
            `classifier/top1` and, from six classes on, `classifier/top5`: fractions of this
                process's samples.
        """
        x_BD, y_B = (torch.cat(column) for column in zip(*self._seen, strict=True))
        self._seen = []
        y_B = y_B.to(x_BD.device)
        logits_BC = x_BD @ self.weight.T + self.bias
        found = {"classifier/top1": float((logits_BC.argmax(dim=1) == y_B).float().mean())}
        if self.num_classes > 5:
            best = logits_BC.topk(5, dim=1).indices
            found["classifier/top5"] = float((best == y_B[:, None]).any(dim=1).float().mean())
        error_BC = (logits_BC.softmax(dim=1) - one_hot(y_B, self.num_classes)) / len(y_B)
        gradient = dist.mean(
            torch.cat([error_BC.T @ x_BD, error_BC.sum(dim=0)[:, None]], dim=1)
        )  # [C, D + 1]
        if torch.isfinite(gradient).all():
            lr = self.settings.lr * self.settings.schedule(*progress)
            for name, part in (("weight", gradient[:, :-1]), ("bias", gradient[:, -1])):
                value, buffer = getattr(self, name), getattr(self, f"{name}_momentum")
                buffer.mul_(self.settings.momentum).add_(part).add_(
                    value, alpha=self.settings.weight_decay
                )
                value.sub_(lr * buffer)
        return found
