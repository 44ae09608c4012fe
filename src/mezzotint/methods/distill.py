"""Distillation: a student learns the features of frozen teachers, without labels.

A projector maps the student's features to those of all teachers; each view of the student is
compared with the teachers' features of the same view. Three losses:

- `cosine`: minus the mean cosine, teacher by teacher.
- `mse`: mean squared error of features that are standardized sample by sample.
- `relational`: cross-entropy between two distributions over a queue of earlier teacher features,
  the similarities of the teacher's and of the student's feature to them (SEED, Fang et al. 2021,
  arXiv 2101.04731). It asks which samples are alike, and not for the features themselves.

A teacher may take another size, other channels and another normalization than the student: views
are resized (bilinear), gray is repeated or colors are averaged, and normalized again. With
`views.per_branch` the teacher's views are quantized by a draw of their own. `ssql` takes it as its
`base`, so that the student is trained at low bits at once.

Teachers are no part of the method: checkpoints do not hold them, and a run that goes on reads them
again.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import ClassVar, Literal, Self

import torch
from torch import Tensor
from torch.nn.functional import cosine_similarity, interpolate, layer_norm, log_softmax, normalize

from mezzotint import dist
from mezzotint.encoders.encoder import Encoder
from mezzotint.encoders.heads import mlp
from mezzotint.encoders.onnx import load_exported
from mezzotint.encoders.saving import load_encoder
from mezzotint.methods.siamese import (
    Siamese,
    collapse_signals,
    each_view,
    enqueue,
    require_in_queue,
)
from mezzotint.modality.modality import modality_of
from mezzotint.types import Input, Views

Loss = Literal["cosine", "mse", "relational"]


class Distill(Siamese):
    """Learn the features of frozen teachers.

    Args:
        encoder: the student.
        teachers: runs, encoder directories or ONNX files.
        loss: what is compared; see the module.
        hidden_dim: width of the projector's hidden layer.
        queue_size: teacher features that `relational` compares with; at least the global batch.
        temperature: temperature of the student's distribution in `relational`.
        teacher_temperature: temperature of the teacher's distribution.
    """

    max_views: ClassVar[int | None] = None
    min_views: ClassVar[int] = 1
    takes_target_views: ClassVar[bool] = True
    queue: Tensor
    pointer: Tensor

    def __init__(
        self,
        encoder: Encoder,
        *,
        teachers: list[str],
        loss: Loss = "cosine",
        hidden_dim: int = 2048,
        queue_size: int = 4096,
        temperature: float = 0.2,
        teacher_temperature: float = 0.05,
    ) -> None:
        super().__init__(encoder)
        if not teachers:
            raise ValueError("`method.teachers` must name an encoder or more, got none.")
        for name, value in (
            ("temperature", temperature), ("teacher_temperature", teacher_temperature),
        ):  # fmt: skip
            if value <= 0.0:
                raise ValueError(f"`method.{name}` must be positive, got {value}. Try 0.1.")
        if queue_size < 1:
            raise ValueError(
                "`method.queue_size` must be at least the global batch size, got "
                f"{queue_size}. Try 4096."
            )
        # In a tuple, so that torch does not count them as modules of the method.
        self._teachers = tuple(_teacher(path, encoder.input) for path in teachers)
        self.dims = [teacher.dim for teacher in self._teachers]
        self.loss, self.temperature = loss, temperature
        self.teacher_temperature = teacher_temperature
        self.projector = mlp([encoder.dim, hidden_dim, sum(self.dims)])
        if loss == "relational":
            self.register_buffer(
                "queue", _units(torch.randn(queue_size, sum(self.dims)), self.dims)
            )
            self.register_buffer("pointer", torch.zeros((), dtype=torch.int64))
        self._fresh: list[Tensor] = []

    def online(self, views: Views) -> tuple[list[Tensor], list[Tensor]]:
        zs = each_view(self.projector, each_view(self.encoder, views.x))
        return zs, zs

    @torch.no_grad()
    def targets(self, views: Views, zs: Sequence[Tensor]) -> dict[int, Tensor]:
        """Compute the features of all teachers, one after the other: `[B, D₁ + D₂ + …]`."""
        ts = {index: self.features(x) for index, x in enumerate(views.x)}
        if self.loss == "relational":
            self._fresh.append(_units(ts[0].float(), self.dims))
        return ts

    @torch.no_grad()
    def features(self, x: Tensor) -> Tensor:
        """Compute the teachers' features of a view that is normalized for the student."""
        student = self.encoder.input
        return torch.cat([t(converted(x, student, t.input)) for t in self._teachers], dim=1)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        """Move the teachers with the method, to another device or memory format."""
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        for teacher in self._teachers:
            teacher._apply(fn, recurse)  # type: ignore[no-untyped-call]
        return self

    def compare(
        self, ps: Sequence[Tensor], ts: Mapping[int, Tensor], views: Views
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Compare each view of the student with the teachers' features of the same view."""
        terms = [self._distance(p.float(), ts[index].float()) for index, p in enumerate(ps)]
        with torch.no_grad():
            cosines = [
                cosine_similarity(a, b, dim=1).mean()
                for p, t in zip(ps, ts.values(), strict=True)
                for a, b in zip(p.split(self.dims, 1), t.split(self.dims, 1), strict=True)
            ]
        return torch.stack(terms).mean(), {"teacher_cosine": torch.stack(cosines).mean()}

    def _distance(self, p: Tensor, t: Tensor) -> Tensor:
        if self.loss == "relational":
            queue = self.queue.clone()  # it changes before a compiled backward pass has read it
            return _relational(
                _units(p, self.dims), _units(t, self.dims), queue,
                (self.temperature, self.teacher_temperature),
            )  # fmt: skip
        sides = zip(p.split(self.dims, 1), t.split(self.dims, 1), strict=True)
        if self.loss == "cosine":
            return -torch.stack([cosine_similarity(a, b, dim=1).mean() for a, b in sides]).mean()
        standard = [(_standardized(a), _standardized(b)) for a, b in sides]
        return torch.stack([(a - b).square().mean() for a, b in standard]).mean()

    def signals(self, zs: Sequence[Tensor], ts: Mapping[int, Tensor]) -> dict[str, Tensor]:
        """Compute `collapse_signals` of the student; a single view is paired with itself."""
        return collapse_signals(zs if len(zs) > 1 else [*zs, *zs])

    def require_batch(self, size: int) -> None:
        super().require_batch(size)
        if self.loss == "relational":
            require_in_queue(size, self.queue)

    def before_step(self) -> None:
        """Drop the features of a skipped step."""
        self._fresh = []

    @torch.no_grad()
    def after_step(self, progress: float) -> None:
        """Put the teachers' features of the first view into the queue."""
        if self._fresh:
            enqueue(self.queue, self.pointer, dist.gather(torch.cat(self._fresh)))
            self._fresh = []


def _teacher(path: str, student: Input) -> Encoder:
    """Load a frozen teacher of the student's modality.

    Raises:
        ValueError: for a path without an encoder, or one of another modality.
    """
    if Path(path).suffix == ".onnx":
        teacher: Encoder = load_exported(path, lambda: student)
    else:
        teacher = load_encoder(path)
    if teacher.input.modality != student.modality:
        raise ValueError(
            f"`method.teachers`: `{path}` takes {modality_of(teacher.input).plural}, and the data "
            f"has {modality_of(student).plural}. Choose a teacher of this modality."
        )
    shapes = teacher.input.shape, student.shape
    if not _is_image(student) and not modality_of(student).fits(student, teacher.input):
        raise ValueError(
            f"`method.teachers`: `{path}` takes samples of shape {list(shapes[0])}, and the data "
            f"has {list(shapes[1])}. Read the data as the teacher was trained."
        )
    return teacher.requires_grad_(False).eval()


def converted(x: Tensor, student: Input, teacher: Input) -> Tensor:
    """Bring a batch that is normalized for the student to the teacher's input.

    Args:
        x: `[B, C, …]`, in the student's normalization; images may be crops of any size, which are
            resized to the teacher's.
        student: input of the student.
        teacher: input of the teacher.
    """
    if student == teacher or not student.mean:
        return x
    shape = (1, -1, *(1,) * (x.ndim - 2))
    mean, std = (torch.tensor(v, device=x.device).view(shape) for v in (student.mean, student.std))
    plain = x.float() * std + mean
    if _is_image(student):
        plain = _with_channels(plain, teacher.shape[0])
        if plain.shape[-2:] != teacher.shape[-2:]:
            plain = interpolate(
                plain, size=teacher.shape[-2:], mode="bilinear", antialias=True, align_corners=False
            )
    mean, std = (torch.tensor(v, device=x.device).view(shape) for v in (teacher.mean, teacher.std))
    return (plain - mean) / std


def _is_image(input: Input) -> bool:
    """Whether samples are images, which can be resized and take other channels."""
    return modality_of(input).axes == ("channels", "height", "width")


def _with_channels(x: Tensor, channels: int) -> Tensor:
    """Average colors to gray, and repeat gray for the channels of a teacher."""
    if x.shape[1] == channels:
        return x
    gray = x.mean(dim=1, keepdim=True)
    return gray.expand(-1, channels, *x.shape[2:])


def _units(x: Tensor, dims: Sequence[int]) -> Tensor:
    """Normalize the features of each teacher, so that all of them weigh the same in a product."""
    parts = [normalize(part, dim=1) for part in x.split(list(dims), dim=1)]
    return torch.cat(parts, dim=1) / math.sqrt(len(dims))


def _standardized(x: Tensor) -> Tensor:
    found: Tensor = layer_norm(x, x.shape[1:])
    return found


def _relational(p: Tensor, t: Tensor, queue: Tensor, temperatures: tuple[float, float]) -> Tensor:
    """Cross-entropy of similarities to a queue `[K, D]`; all are of unit length."""
    student, teacher = temperatures
    wanted = (t @ queue.T / teacher).softmax(dim=1)
    loss: Tensor = -(wanted * log_softmax(p @ queue.T / student, dim=1)).sum(dim=1).mean()
    return loss
