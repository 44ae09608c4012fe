"""Callbacks of the loop: online kNN, drift, feature maps for the report, and forward passes.

A map keeps the principal components of the features of the same samples at each time, not their
positions in the plane: the report lays out all maps together, so that they can be compared.

Runs are compared at equal forward passes through encoders, rather than at equal epochs.
"""

import re
import zipfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.nn.functional import normalize
from torch.utils.hooks import RemovableHandle

from mezzotint import dist
from mezzotint.data.source import Source, first_classification
from mezzotint.encoders.encoder import Encoder
from mezzotint.evaluation.features import extract_readable
from mezzotint.evaluation.projection import components, require_layout
from mezzotint.files import replacing
from mezzotint.methods.method import Method
from mezzotint.recipe.recipe import Recipe
from mezzotint.seeding import sample_order
from mezzotint.train.continued import Drift
from mezzotint.train.online import OnlineKNN
from mezzotint.train.sharding import whole_encoder

_SAMPLES = 500
_FOLDER = "maps"


@dataclass(frozen=True)
class FeatureMap:
    """Features of some samples after one epoch of a run.

    Attributes:
        epoch: number of epochs trained; 0 is before training.
        components: principal components of the normalized features, float16 `[N, P]`.
        samples: indices in the source, int64 `[N]`.
        labels: int64 `[N]`; −1 for no label.
    """

    epoch: int
    components: npt.NDArray[np.float16]
    samples: npt.NDArray[np.int64]
    labels: npt.NDArray[np.int64]


class EpochCallback:
    """Measure online kNN and write feature maps at the epochs that `run.log` chooses.

    A run with `init` measures its drift from the start each epoch.

    Args:
        recipe: the run's.
        steps_per_epoch: number of steps after which an epoch ends.
        twin: whole copy of an encoder that is divided over processes; `None` if it is not.

    Raises:
        RecipeError: when the layout of the maps needs a package that is not installed.
    """

    def __init__(self, recipe: Recipe, steps_per_epoch: int, twin: Encoder | None = None) -> None:
        log, self.twin = recipe.run.log, twin
        self.encoder, self.seed, self.steps_per_epoch = (
            recipe.encoder,
            recipe.run.seed,
            steps_per_epoch,
        )
        self.last = recipe.run.epochs * steps_per_epoch
        self.knn_every, self.map_every = (
            log.knn_epochs * steps_per_epoch,
            log.map_epochs * steps_per_epoch,
        )
        self.knn = OnlineKNN(recipe.data) if self.knn_every else None
        self.drift = Drift(*_mapped(recipe.data)[:2]) if recipe.init is not None else None
        self.mapped = None
        if self.map_every:
            require_layout(log.map_layout)
            self.mapped = _mapped(recipe.data)

    def is_due(self, done: int) -> bool:
        """Whether a measurement needs the state after `done` steps."""
        every = (self.knn_every, self.map_every)
        drifts = self.drift is not None and done % self.steps_per_epoch == 0
        return drifts or done == self.last or any(n and done % n == 0 for n in every)

    def __call__(self, out: Path, done: int) -> dict[str, float]:
        """Act after `done` steps; a map goes into the directory of the run.

        Returns:
            Metrics to log.
        """
        if self.mapped is not None and (done % self.map_every == 0 or done == self.last):
            self._write(out / _FOLDER, done // self.steps_per_epoch, *self.mapped)
        drift = self.drift if done and done % self.steps_per_epoch == 0 else None
        knn = self.knn if done and self.knn_every and done % self.knn_every == 0 else None
        if drift is None and knn is None:
            return {}
        encoder = whole_encoder(self.encoder, self.twin)
        moved = {} if drift is None else drift.measure(encoder, out)
        return moved | ({} if knn is None else knn.measure(encoder))

    def _write(
        self, folder: Path, epoch: int, source: Source, indices: torch.Tensor, labels: torch.Tensor
    ) -> None:
        encoder = whole_encoder(self.encoder, self.twin)
        features = extract_readable(encoder, source, indices=indices)
        if not dist.is_main() or len(features.x) < 2 or not bool(features.x.isfinite().all()):
            return
        folder.mkdir(exist_ok=True)
        with replacing(folder / f"epoch-{epoch:04d}.npz") as temporary:
            np.savez(
                temporary,
                components=components(normalize(features.x, dim=1), self.seed).astype(np.float16),
                samples=features.indices.numpy(),
                labels=labels[features.indices].numpy(),
            )


def _mapped(data: Source) -> tuple[Source, torch.Tensor, torch.Tensor]:
    """Choose the samples of the maps: a source, indices in it, and the labels of all its samples.

    They are training samples; online kNN holds out the first ones of the same order. Test samples
    are never used.
    """
    everything, tasks = data.evaluation()
    task = first_classification(tasks)
    if task is None:
        return (
            everything,
            sample_order(len(everything), 0, 0, stop=_SAMPLES),
            torch.full((len(everything),), -1),
        )
    order = sample_order(len(task.train), 0, 0, stop=_SAMPLES)
    return everything, torch.from_numpy(task.train)[order], torch.as_tensor(task.labels)


def read_maps(run: Path) -> list[FeatureMap]:
    """Read the maps of a run by epoch, with the samples that all maps have; skip damaged files."""
    maps = []
    for path in sorted((run / _FOLDER).glob("epoch-*.npz")):
        epoch = re.fullmatch(r"epoch-(\d+)", path.stem)
        if epoch is None:
            continue
        try:
            with path.open("rb") as file, np.load(file, allow_pickle=False) as arrays:
                maps.append(
                    FeatureMap(
                        int(epoch[1]), arrays["components"], arrays["samples"], arrays["labels"]
                    )
                )
        except (OSError, ValueError, KeyError, zipfile.BadZipFile):
            continue
    if not maps:
        return []
    shared = np.sort(maps[0].samples)
    for other in maps[1:]:
        shared = np.intersect1d(shared, other.samples)
    return [_part(one, shared) for one in sorted(maps, key=lambda one: one.epoch)]


def _part(whole: FeatureMap, samples: npt.NDArray[np.int64]) -> FeatureMap:
    """Select the rows of some of its samples, in their order."""
    order = np.argsort(whole.samples)
    rows = order[np.searchsorted(whole.samples, samples, sorter=order)]
    return FeatureMap(whole.epoch, whole.components[rows], samples, whole.labels[rows])


class ForwardPassCounter:
    """Count the views that pass through encoders, with and without gradient.

    Args:
        method: its encoders are counted: the trained one and its momentum copies.
        enabled: false to count nothing, because the hooks would break up a compiled graph.
    """

    def __init__(self, method: Method, *, enabled: bool = True) -> None:
        self.with_gradient = self.without_gradient = 0
        encoders = [m for m in method.modules() if isinstance(m, Encoder)] if enabled else []
        self._encoders, self._hooks = encoders, list[RemovableHandle]()

    def start(self) -> None:
        """Start counting; features that were extracted before training are not counted."""
        self._hooks = [encoder.register_forward_hook(self._count) for encoder in self._encoders]

    def _count(self, module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        if output.requires_grad:
            self.with_gradient += len(inputs[0])
        else:
            self.without_gradient += len(inputs[0])

    def stop(self) -> tuple[int, int]:
        """Stop counting, and return the views with and without gradient since the start."""
        while self._hooks:
            self._hooks.pop().remove()
        return self.with_gradient, self.without_gradient

    def as_json(self, samples: int, views: int) -> dict[str, float]:
        """Views and forward passes per sample, for a run's environment.json.

        Args:
            samples: number that was counted, in this process.
            views: of each sample.
        """
        if not self.with_gradient:  # nothing was counted
            return {"views": views}
        return {
            "views": views,
            "forward_passes": self.with_gradient / samples,
            "forward_passes_without_gradient": self.without_gradient / samples,
        }
