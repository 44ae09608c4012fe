"""Online evaluation while a run trains: kNN and a linear classifier; never on test samples."""

from typing import TYPE_CHECKING

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

if TYPE_CHECKING:
    from mezzotint.recipe.recipe import Recipe

_MOST = 10_000


class OnlineKNN:
    """Score an encoder by kNN on a fifth of the training samples, held out for validation.

    Args:
        source: the run's; its first classification task is used, and without one nothing is
            measured.
        limit: maximum number of samples.
    """

    def __init__(self, source: Source, *, limit: int = _MOST) -> None:
        self.name = ""
        self.source, tasks = source.evaluation()
        task = first_classification(tasks)
        if task is None or len(task.train) < 10:
            return
        chosen = torch.from_numpy(task.train)[sample_order(len(task.train), 0, 0, stop=limit)]
        self.name = f"knn/{task.name}"
        self.indices = chosen
        self.labels = torch.from_numpy(task.labels)

    def measure(self, encoder: Encoder) -> dict[str, float]:
        """Return accuracy on the held-out fifth under `knn/TASK`; nothing without labels."""
        if not self.name:
            return {}
        readable = extract_readable(encoder, self.source, indices=self.indices)
        everything = Features(readable.x, self.labels[readable.indices])
        held_out = len(everything.x) // 5
        train, scored = everything[held_out:], everything[:held_out]
        if not bool(everything.x.isfinite().all()):
            return {}  # the guard decides what becomes of a run that diverges
        rows = KNN().run(train, scored)
        return {self.name: next(row.value for row in rows if row.metric == "top1")}


class Classifier(Component):
    """Train a linear classifier online on detached features; the encoder gets no gradient from it.

    It takes the features of the last view of a step and the labels of a `labeled` source, and
    is trained by SGD. It logs its accuracy on each batch before it trains on it, on augmented
    training samples: a learning curve, not an evaluation (Huang et al. 2022, arXiv 2208.00275,
    whose milestones are epochs 60 and 80 of any number).

    Args:
        lr: learning rate; not scaled by the batch size. 30 suits features of encoders trained by
            SGD, 0.2 by LARS.
        momentum: momentum of SGD.
        weight_decay: L2 penalty.
        schedule: schedule of the learning rate.
    """

    def __init__(
        self,
        *,
        lr: float = 30.0,
        momentum: float = 0.9,
        weight_decay: float = 0.0,
        schedule: Schedule = MultiStep(milestones=[0.6, 0.8]),  # noqa: B008 - keeps no state
    ) -> None:
        if not lr > 0.0:
            raise ValueError(f"`run.log.classifier.lr` must be positive, got {lr}. Try 30.")
        if not 0.0 <= momentum < 1.0:
            raise ValueError(
                f"`run.log.classifier.momentum` must be at least 0 and below 1, got {momentum}. "
                "Try 0.9."
            )
        if not weight_decay >= 0.0:
            raise ValueError(
                f"`run.log.classifier.weight_decay` must be at least 0, got {weight_decay}. Try 0."
            )
        self.lr, self.momentum, self.weight_decay, self.schedule = (
            lr,
            momentum,
            weight_decay,
            schedule,
        )


class OnlineClassifier(nn.Module):
    """The online classifier of a run; its gradients are averaged over the processes.

    Cross-entropy has its gradient in closed form, so nothing of the classifier enters the run's
    graph, optimizer or gradient scaler.

    Args:
        settings: learning rate, momentum, weight decay and schedule.
        source: the source of the labels.
        encoder: the source of the features, in training mode only.

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
                "`run.log.classifier` needs a labeled source with classes, "
                f"got data.kind={source.config.get('kind')}. "
                "Write data: {kind: labeled, source: {kind: …}}."
            )
        self.settings, self.num_classes = settings, source.num_classes
        for name, shape in (
            ("weight", (self.num_classes, encoder.dim)),
            ("bias", (self.num_classes,)),
        ):
            self.register_buffer(name, torch.zeros(shape))
            self.register_buffer(f"{name}_momentum", torch.zeros(shape))
        self._latest: Tensor | None = None
        self._batches: list[tuple[Tensor, Tensor]] = []
        encoder.register_forward_hook(self._keep_features)

    @classmethod
    def of(cls, recipe: "Recipe", device: torch.device) -> "OnlineClassifier | None":
        """Make the classifier of a run on its device, if the recipe has one."""
        settings = recipe.run.log.classifier
        return None if settings is None else cls(settings, recipe.data, recipe.encoder).to(device)

    def _keep_features(self, module: nn.Module, inputs: object, features: Tensor) -> None:
        if module.training:
            self._latest = features.detach()

    def start(self) -> None:
        """Begin a step, which may be one that is computed again."""
        self._batches = []

    def note(self, labels: Tensor) -> None:
        """Keep the features of the last view of a micro-batch, with its labels int64 `[B]`.

        Raises:
            RecipeError: when the method does not compute features of views.
        """
        if self._latest is None:
            raise RecipeError(
                "`run.log.classifier` needs a method that computes features of views. "
                "Leave the classifier out."
            )
        self._batches.append((self._latest[-len(labels) :].float(), labels))
        self._latest = None

    @torch.no_grad()
    def learn(self, progress: tuple[int, int, int]) -> dict[str, Tensor]:
        """Train one step on all micro-batches that were noted; nothing is read from the device.

        Args:
            progress: step (from 0), steps of the run, and steps per epoch.

        Returns:
            `classifier/top1` and, from six classes on, `classifier/top5`: fractions of this
                process's samples, float32 `[]`.
        """
        if not self._batches:  # the method could not take the first one
            return {}
        x_BD, y_B = (torch.cat(column) for column in zip(*self._batches, strict=True))
        self._batches = []
        y_B = y_B.to(x_BD.device, non_blocking=True)
        logits_BC = x_BD @ self.weight.T + self.bias
        metrics = {"classifier/top1": (logits_BC.argmax(dim=1) == y_B).float().mean()}
        if self.num_classes > 5:
            best = logits_BC.topk(5, dim=1).indices
            metrics["classifier/top5"] = (best == y_B[:, None]).any(dim=1).float().mean()
        error_BC = (logits_BC.softmax(dim=1) - one_hot(y_B, self.num_classes)) / len(y_B)
        gradient = dist.mean(
            torch.cat([error_BC.T @ x_BD, error_BC.sum(dim=0)[:, None]], dim=1)
        )  # [C, D + 1]
        finite = gradient.isfinite().all()
        lr = self.settings.lr * self.settings.schedule(*progress)
        for name, part in (("weight", gradient[:, :-1]), ("bias", gradient[:, -1])):
            value, buffer = getattr(self, name), getattr(self, f"{name}_momentum")
            moved = self.settings.momentum * buffer + part + self.settings.weight_decay * value
            # Features that are NaN or inf leave the classifier as it is.
            torch.where(finite, moved, buffer, out=buffer)
            torch.where(finite, value - lr * buffer, value, out=value)
        return metrics
