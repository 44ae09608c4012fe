"""Distillation: a student learns the features of frozen teachers, without labels.

A projector maps the student's features to those of all teachers; each view of the student is
compared with the teachers' features of the same view, or of the clean sample if the views have one
(`clean_target`). Three losses:

- `cosine`: minus the mean cosine, teacher by teacher.
- `mse`: mean squared error of features that are standardized sample by sample.
- `relational`: cross-entropy between two distributions over a queue of earlier teacher features,
  the similarities of the teacher's and of the student's feature to them (SEED, Fang et al. 2021,
  arXiv 2101.04731). It asks which samples are alike, and not for the features themselves.

`dense` adds the same comparison at every position of a feature map or of patch tokens (`relational`
compares cosines there): the student's map is resized to the teacher's and projected to its
channels, as in AM-RADIO (Ranzinger et al. 2024, arXiv 2312.06709).

`ssql` takes it as its `base`, so that the student is trained at low bits at once. `squat` is
SQuaT's idea (Lee et al., AISTATS 2026, github.com/lcdbsa522/SQuaT): in the pass at low bits the
teacher's features are rounded to the student's own grid, so that a loss of zero can be reached.
Taken from it: the grid has the range and the bits of the student. Differs: the student's features
go through a projector, because its width differs, so the grid is laid over the projections (the
range of the pass in fp32, the activation bits of the step) and both sides are rounded to it; the
authors compare feature maps of equal width at an activation of the network, learn its range, and
add a loss on logits, which features do not have.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import ClassVar, Literal, Self

import torch
from torch import Tensor, nn
from torch.nn.functional import cosine_similarity, layer_norm, log_softmax, normalize

from mezzotint import dist
from mezzotint.augment.views import CleanTarget, ViewGenerator
from mezzotint.data.open import other_front_end, range_words, require_same_meaning
from mezzotint.data.source import Source
from mezzotint.encoders.encoder import Encoder
from mezzotint.encoders.heads import mlp
from mezzotint.methods.siamese import (
    Siamese,
    collapse_signals,
    each_view,
    enqueue,
    require_in_queue,
)
from mezzotint.methods.teachers import FeatureCache, Teachers, not_repeated, parts_of, resized
from mezzotint.quant.grid import make_grid
from mezzotint.quant.hooks import evaluating
from mezzotint.quant.observers import MinMax
from mezzotint.recipe.component import require_sizes
from mezzotint.types import Input, Step, Views

Loss = Literal["cosine", "mse", "relational"]


class Distill(Siamese):
    """Learn the features of frozen teachers.

    Args:
        encoder: the student.
        teachers: runs, encoder directories, local folders of timm's hub layout, or ONNX files.
        loss: what is compared; see the module.
        dense: weight of the comparison at every position of the feature maps; 0 for none.
        squat: round both sides to the student's grid in the pass at low bits; needs `ssql`.
        cache: keep the teachers' features in memory; for teachers that see the same in every epoch.
        hidden_dim: width of the projector's hidden layer.
        queue_size: teacher features that `relational` compares with; at least the global batch.
        temperature: temperature of the student's distribution in `relational`.
        teacher_temperature: temperature of the teacher's distribution.
    """

    max_views: ClassVar[int | None] = None
    min_views: ClassVar[int] = 1
    takes_target_views: ClassVar[bool] = True
    cache: FeatureCache | None
    queue: Tensor
    pointer: Tensor

    def __init__(
        self,
        encoder: Encoder,
        *,
        teachers: list[str],
        loss: Loss = "cosine",
        dense: float = 0.0,
        squat: bool = False,
        cache: bool = False,
        hidden_dim: int = 2048,
        queue_size: int = 4096,
        temperature: float = 0.2,
        teacher_temperature: float = 0.05,
    ) -> None:
        super().__init__(encoder)
        require_sizes("method", hidden_dim=hidden_dim)
        for name, value in (
            ("temperature", temperature), ("teacher_temperature", teacher_temperature),
        ):  # fmt: skip
            if value <= 0.0:
                raise ValueError(f"`method.{name}` must be positive, got {value}. Try 0.1.")
        if dense < 0.0:
            raise ValueError(f"`method.dense` must be 0 or more, got {dense}. Try 1.")
        if queue_size < 1:
            raise ValueError(
                "`method.queue_size` must be at least the global batch size, got "
                f"{queue_size}. Try 4096."
            )
        self.teachers = Teachers(teachers, encoder.input, dense=dense > 0.0)
        self.dims, self.maps = self.teachers.dims, self.teachers.maps
        self.loss, self.temperature, self.dense, self.squat = loss, temperature, dense, squat
        self.teacher_temperature = teacher_temperature
        self.cache = FeatureCache() if cache else None
        self.projector = mlp([encoder.dim, hidden_dim, sum(self.dims)])
        if self.maps:
            channels = _map_channels(encoder)
            self.map_heads = nn.ModuleList(nn.Conv2d(channels, c, 1) for c, _, _ in self.maps)
        if loss == "relational":
            self.register_buffer(
                "queue", _units(torch.randn(queue_size, sum(self.dims)), self.dims)
            )
            self.register_buffer("pointer", torch.zeros((), dtype=torch.int64))
        self._fresh: list[Tensor] = []

    def require_source(self, source: Source) -> None:
        """Refuse samples that look like those of a teacher's training and mean something else.

        Raises:
            ValueError: for other columns, another tokenizer, front-end or range of values.
        """
        described = source.preprocessing()
        for path, network in zip(self.config["teachers"], self.teachers.networks, strict=True):
            require_same_meaning(network.preprocessing, described, "method.teachers", path)
            shown = other_front_end(network.preprocessing, described)
            if not shown and network.input.range not in ((), source.input.range):
                ranges = (range_words(found) for found in (source.input, network.input))
                shown = " instead of ".join(ranges)
            if shown:
                raise ValueError(
                    f"`method.teachers`: the data is read in another way than `{path}` was trained "
                    f"({shown}). Read it as the teacher was, or choose another teacher."
                )

    def require_generator(self, views: ViewGenerator, input: Input) -> None:
        """Refuse a cache for random views, positions that do not match, and SQuaT in fp32.

        Raises:
            ValueError: with the keys to change.
        """
        if self.squat and not self.at_low_bits:
            raise ValueError(_SQUAT_ALONE)
        if self.dense and isinstance(views, CleanTarget):
            raise ValueError(
                "`method.dense` needs teachers that see the student's crop, and those of "
                "`views.kind: clean_target` see the whole sample. Leave one of them out."
            )
        if self.cache is not None and not views.repeats(input):
            raise ValueError(not_repeated("these views are random"))

    def forward(self, views: Views) -> Step:
        if self.squat:  # with `ssql` around it, the parts are called one by one
            raise ValueError(_SQUAT_ALONE)
        return super().forward(views)

    def online(self, views: Views) -> tuple[list[Tensor], list[Tensor]]:
        """Compute projections `[B, D₁ + …]`, and predictions, to which those of maps are added."""
        if not self.maps:
            zs = each_view(self.projector, each_view(self.encoder, views.x))
            return zs, zs
        pairs = [self.encoder.features_and_map(x) for x in views.x]
        zs = [self.projector(features) for features, _ in pairs]
        maps = [self._projected(found) for _, found in pairs]
        return zs, [torch.cat([z, *own], dim=1) for z, own in zip(zs, maps, strict=True)]

    def _projected(self, found: Tensor) -> list[Tensor]:
        """Bring the student's map `[B, C, h, w]` to the grid and the channels of each teacher."""
        heads = zip(self.map_heads, self.maps, strict=True)
        return [head(resized(found, size[1:])).flatten(1) for head, size in heads]

    @torch.no_grad()
    def targets(self, views: Views, zs: Sequence[Tensor]) -> dict[int, Tensor]:
        """Compute the features of all teachers, one after the other: `[B, D₁ + D₂ + …]`."""
        ids = views.draws.ids
        ts = {
            index: self.teachers(x)
            if self.cache is None
            else self.cache(index, ids, x, self.teachers)
            for index, x in enumerate(views.x)
        }
        if self.loss == "relational":
            self._fresh.append(_units(ts[0][:, : sum(self.dims)], self.dims))
        return ts

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        """Move the teachers with the method, to another device or memory format."""
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        self.teachers.apply(fn, recurse)
        return self

    def compare(
        self, ps: Sequence[Tensor], ts: Mapping[int, Tensor], views: Views
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Compare each view of the student with the teachers' features of it, or of the sample."""
        own = [ts[index] if len(ts) > 1 else ts[0] for index in range(len(ps))]
        terms = [self._distance(p.float(), t.float()) for p, t in zip(ps, own, strict=True)]
        with torch.no_grad():
            cosines = [
                torch.stack([cosine_similarity(a, b, dim=1).mean() for a, b in self._pairs(p, t)])
                for p, t in zip(ps, own, strict=True)
            ]
            mean = torch.stack(cosines).mean(dim=0)
        logs = {"teacher_cosine": mean[: len(self.dims)].mean()}
        if self.maps:
            logs["dense_cosine"] = mean[len(self.dims) :].mean()
        return torch.stack(terms).mean(), logs

    def _pairs(self, p: Tensor, t: Tensor) -> list[tuple[Tensor, Tensor]]:
        """Pair the features, then the maps, of the student and of each teacher."""
        sides = (parts_of(row, self.dims, self.maps) for row in (p, t))
        return list(zip(*sides, strict=True))

    def _distance(self, p: Tensor, t: Tensor) -> Tensor:
        pairs = self._pairs(p, t)
        features, maps = pairs[: len(self.dims)], pairs[len(self.dims) :]
        if self.loss == "relational":
            queue = self.queue.clone()  # it changes before a compiled backward pass has read it
            count = sum(self.dims)
            loss = _relational(
                _units(p[:, :count], self.dims), _units(t[:, :count], self.dims), queue,
                (self.temperature, self.teacher_temperature),
            )  # fmt: skip
        else:
            loss = torch.stack([self._apart(a, b) for a, b in features]).mean()
        if not maps:
            return loss
        return loss + self.dense * torch.stack([self._apart(a, b) for a, b in maps]).mean()

    def _apart(self, a: Tensor, b: Tensor) -> Tensor:
        """Compare features `[B, D]`, or maps `[B, C, N]` position by position."""
        if self.loss == "mse":
            return (_standardized(a) - _standardized(b)).square().mean()
        return -cosine_similarity(a, b, dim=1).mean()

    def on_grid(
        self, pqs: Sequence[Tensor], ts: Mapping[int, Tensor], ps: Sequence[Tensor], bits: Tensor
    ) -> tuple[list[Tensor], dict[int, Tensor]]:
        """Round predictions at low bits and targets to the student's grid, if `squat` says so.

        Each teacher's part has its own range, that of the predictions in fp32 in all views, after
        the normalization of the loss.
        """
        if not self.squat:
            return list(pqs), dict(ts)
        ranges = []
        for part in zip(*(self._normalized(p.detach()) for p in ps), strict=True):
            observer = MinMax()
            observer.update(torch.cat([values.flatten() for values in part])[None])
            observer.synchronize()
            ranges.append(observer.range("ssql_asymmetric", bits))
        grids = [make_grid("ssql_asymmetric", low, high, bits) for low, high in ranges]

        def rounded(row: Tensor) -> Tensor:
            parts = zip(self._normalized(row), grids, strict=True)
            return torch.cat([grid.quantize(x.flatten(1)) for x, grid in parts], dim=1)

        return [rounded(p) for p in pqs], {index: rounded(t) for index, t in ts.items()}

    def _normalized(self, row: Tensor) -> list[Tensor]:
        """Cut a row, and bring each part to the scale that the loss compares it at."""
        scale = _standardized if self.loss == "mse" else normalize
        return [scale(part) for part in parts_of(row.float(), self.dims, self.maps)]

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


_SQUAT_ALONE = (
    "`method.squat` rounds features to the grid of a student at low bits, and this student is "
    "trained in fp32. Wrap distill: method={kind: ssql, base: {kind: distill, squat: true, …}}, or "
    "leave squat out."
)


def _map_channels(encoder: Encoder) -> int:
    """Count the channels of an encoder's feature map, by one sample of zeros."""
    with torch.no_grad(), evaluating(encoder):
        try:
            _, found = encoder.features_and_map(encoder.input.blank())
        except ValueError as error:
            raise ValueError(f"`method.dense` with this student: {error}") from error
    return int(found.shape[1])


def _units(x: Tensor, dims: Sequence[int]) -> Tensor:
    """Normalize the features of each teacher, so that all of them weigh the same in a product."""
    parts = [normalize(part, dim=1) for part in x.split(list(dims), dim=1)]
    return torch.cat(parts, dim=1) / math.sqrt(len(dims))


def _standardized(x: Tensor) -> Tensor:
    """Standardize `[B, D]`, or the channels of `[B, C, N]`, for each sample or position."""
    moved = x.movedim(1, -1)
    found: Tensor = layer_norm(moved, moved.shape[-1:])
    return found.movedim(-1, 1)


def _relational(p: Tensor, t: Tensor, queue: Tensor, temperatures: tuple[float, float]) -> Tensor:
    """Cross-entropy of similarities to a queue `[K, D]`; all are of unit length."""
    student, teacher = temperatures
    wanted = (t @ queue.T / teacher).softmax(dim=1)
    loss: Tensor = -(wanted * log_softmax(p @ queue.T / student, dim=1)).sum(dim=1).mean()
    return loss
