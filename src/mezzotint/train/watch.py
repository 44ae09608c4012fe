"""What is looked at between steps, at chosen epochs: online kNN for the log, and features for the report's maps.

A map keeps the principal components of the features of the same samples at each time, not their
places in the plane: how they are laid out is decided when the report is written, and all maps
together, so that they can be compared.

How many views pass through encoders: what runs have to be compared at, rather than epochs.
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
from mezzotint.train.online import OnlineKNN

_SAMPLES = 500
_FOLDER = "maps"


@dataclass(frozen=True)
class FeatureMap:
    """Features of some samples at one time of a run.

    Attributes:
        epoch: after which they were taken; 0 is before training.
        components: principal components of the features, each of length one before; float16 `[N,
            P]`.
        samples: int64 `[N]`, places in the source.
        labels: int64 `[N]`; −1 without.
    """

    epoch: int
    components: npt.NDArray[np.float16]
    samples: npt.NDArray[np.int64]
    labels: npt.NDArray[np.int64]


class Watch:
    """Looks at a run's encoder when it is time to.

    Args:
        recipe: of the run; `run.log` says when.
        steps_per_epoch: what makes epochs of steps.

    Raises:
        RecipeError: when the maps are to be laid out by a package that is not there.
    """

    def __init__(self, recipe: Recipe, steps_per_epoch: int) -> None:
        log = recipe.run.log
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
        self.mapped = None
        if self.map_every:
            require_layout(log.map_layout)
            self.mapped = _mapped(recipe.data)

    def __call__(self, out: Path, done: int) -> dict[str, float]:
        """Look after `done` steps; a map goes into the directory of the run.

        Returns:
            What there is to log.
        """
        if self.mapped is not None and (done % self.map_every == 0 or done == self.last):
            self._write(out / _FOLDER, done // self.steps_per_epoch, *self.mapped)
        if self.knn is None or done == 0 or done % self.knn_every:
            return {}
        return self.knn.measure(self.encoder)

    def _write(
        self, folder: Path, epoch: int, source: Source, places: torch.Tensor, labels: torch.Tensor
    ) -> None:
        found = extract_readable(self.encoder, source, indices=places)
        if not dist.is_main() or len(found.x) < 2 or not bool(found.x.isfinite().all()):
            return
        folder.mkdir(exist_ok=True)
        with replacing(folder / f"epoch-{epoch:04d}.npz") as temporary:
            np.savez(
                temporary,
                components=components(normalize(found.x, dim=1), self.seed).astype(np.float16),
                samples=found.indices.numpy(),
                labels=labels[found.indices].numpy(),
            )


def _mapped(data: Source) -> tuple[Source, torch.Tensor, torch.Tensor]:
    """A source, the places in it that are mapped, and the labels of all its samples.

    They are training samples, in the order of which online kNN holds out the first; test samples
    stay unseen.
    """
    everything, tasks = data.evaluation()
    task = first_classification(tasks)
    if task is None:
        return (
            everything,
            sample_order(len(everything), 0, 0)[:_SAMPLES],
            torch.full((len(everything),), -1),
        )
    order = sample_order(len(task.train), 0, 0)[:_SAMPLES]
    return everything, torch.from_numpy(task.train)[order], torch.as_tensor(task.labels)


def read_maps(run: Path) -> list[FeatureMap]:
    """The maps in a run's directory by epoch, of the samples that all have; what cannot be read is left out."""
    found = []
    for path in sorted((run / _FOLDER).glob("epoch-*.npz")):
        epoch = re.fullmatch(r"epoch-(\d+)", path.stem)
        if epoch is None:
            continue
        try:
            with path.open("rb") as file, np.load(file, allow_pickle=False) as held:
                found.append(
                    FeatureMap(int(epoch[1]), held["components"], held["samples"], held["labels"])
                )
        except (OSError, ValueError, KeyError, zipfile.BadZipFile):
            continue
    if not found:
        return []
    shared = np.sort(found[0].samples)
    for other in found[1:]:
        shared = np.intersect1d(shared, other.samples)
    return [_part(one, shared) for one in sorted(found, key=lambda one: one.epoch)]


def _part(whole: FeatureMap, samples: npt.NDArray[np.int64]) -> FeatureMap:
    """The rows of some of its samples, in their order."""
    order = np.argsort(whole.samples)
    rows = order[np.searchsorted(whole.samples, samples, sorter=order)]
    return FeatureMap(whole.epoch, whole.components[rows], samples, whole.labels[rows])


class Passes:
    """Counts the views that pass through encoders, with and without gradient.

    Args:
        method: whose encoders are watched: the trained one, and momentum copies of it.
        watch: false counts nothing, as where a compiled graph would be cut by the counting.
    """

    def __init__(self, method: Method, *, watch: bool = True) -> None:
        self.learning = self.watching = 0
        encoders = [m for m in method.modules() if isinstance(m, Encoder)] if watch else []
        self._encoders, self._hooks = encoders, list[RemovableHandle]()

    def start(self) -> None:
        """Count from here on: a run's features are measured before its first step, too."""
        self._hooks = [encoder.register_forward_hook(self._count) for encoder in self._encoders]

    def _count(self, module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        if output.requires_grad:
            self.learning += len(inputs[0])
        else:
            self.watching += len(inputs[0])

    def stop(self) -> tuple[int, int]:
        """Views with gradient, and without, since the start; what passes later is not counted."""
        while self._hooks:
            self._hooks.pop().remove()
        return self.learning, self.watching

    def facts(self, samples: int, views: int) -> dict[str, float]:
        """For a run's environment: views a sample, and passes of each sample; no passes where none were counted.

        Args:
            samples: that were counted, of this process.
            views: of each.
        """
        learning, watching = self.learning / samples, self.watching / samples
        counted = (
            {"encoder_passes": learning, "encoder_passes_without_gradient": watching}
            if learning
            else {}
        )
        return {"views": views, **counted}
