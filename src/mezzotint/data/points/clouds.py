"""Read point clouds from arrays, from HDF5 files as for ModelNet40, or from a folder of files.

Every point cloud is resampled to one number of points, and by default centered in a unit sphere.
Unusable ones:

- Points that are not finite are dropped. A point cloud with fewer than four finite points, or with
identical points only, is unusable.
- Arrays are read when the source is opened, so an unusable point cloud is an error.
- Files of a folder are read when they are needed, so the loader skips and counts an unusable one (a
mesh without area, a damaged file), as it does with unreadable images.
"""

import copy
import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import torch

from mezzotint.data.listing.groups import (
    check_pattern,
    grouped,
    independent_files,
    same_rows,
)
from mezzotint.data.listing.sampling import held_out, one_percent
from mezzotint.data.memory import InMemory, usable_std
from mezzotint.data.points.files import (
    CLOUDS,
    MESHES,
    centered,
    cloud_files,
    content_key,
    read_arrays,
    read_cloud,
    resampled,
)
from mezzotint.data.source import FOLDER, Index, Source, Task, label_tasks
from mezzotint.recipe.component import factory
from mezzotint.types import Input, Sample, Unreadable

Scaling = Literal["unit_sphere", "none"]
Float32 = npt.NDArray[np.float32]

_MEASURED = 256  # files for measuring mean and standard deviation


class PointClouds(Source, abstract=True):
    """Point clouds from a file of arrays or a folder; `point_clouds` picks the subclass.

    Pretraining never sees the test samples that the files define.

    Attributes:
        labels: int64 `[N]`; negative for unlabeled samples.
        classes: names, by label.
        holdout: fraction of each class to score, without a split.
    """

    modality = "points"
    opens = frozenset({FOLDER, *CLOUDS, ".h5", ".hdf5"})
    labels: Index
    classes: list[str]
    holdout: float

    @classmethod
    def located(cls, path: str, input: Input) -> dict[str, Any]:
        return {"path": path, "points": input.shape[1]}

    def preprocessing(self) -> dict[str, Any]:
        return {
            **super().preprocessing(),
            "points": self.input.shape[1],
            "scaling": self.config.get("scaling", "unit_sphere"),
            "unit_sphere": "subtract the mean of the points, divide by the largest distance from 0",
        }

    def _tasks(self, labels: Index, name: str | None, groups: Index) -> Sequence[Task]:
        """Return the tasks: all labels, and 1 % (Wu et al. 2023, section 4.3)."""
        if name is not None:
            test = np.arange(len(labels)) >= len(self)
            tasks = label_tasks(f"label/{name}", labels, test, self.classes)
        else:
            chosen = held_out(labels, self.holdout, "label", groups)
            tasks = label_tasks("label/holdout", labels, chosen, self.classes)
        return [*tasks, *(one_percent(task) for task in tasks)]


@factory
def point_clouds(
    *,
    path: str,
    points: int = 1024,
    x: str = "x",
    y: str | None = "y",
    scaling: Scaling = "unit_sphere",
    holdout: float = 0.2,
    group: str | None = None,
) -> PointClouds:
    """Read point clouds from a file of arrays or a folder.

    An `.npz` has points `[N, P, 3]` or `[N, 3, P]` and labels. A folder has either ModelNet's `.h5`
    files (`data`, `label`; named train or test), or one file per point cloud (`.npy`, `.npz`, and
    with trimesh `.off`, `.obj`, `.ply`, `.stl`); `data/listing/layout.py` says which folders are
    classes and splits. Without a split a part of each class is held out. Pretraining never sees the
    test samples of a split.

    Args:
        path: path of an `.npz` file, an `.h5` file, or a folder.
        points: points per sample; larger point clouds are subsampled at random, smaller ones
            repeated, meshes sampled by area.
        x: name of the points in an `.npz`.
        y: name of the labels in an `.npz`: integers (negative: no label) or strings; `null` ignores
            them.
        scaling: `unit_sphere` centers each sample and scales its farthest point to 1, as usual for
            ModelNet40.
        holdout: fraction of each class to score, if no folder or file defines the split.
        group: regular expression that finds the object or scan in the path of a file; its samples
            are held out together; by default the conventions of `data/listing/groups.py`.

    Raises:
        ValueError: when there is nothing to read, or an array has an unusable point cloud.
    """
    if points < 1 or scaling not in ("unit_sphere", "none") or not 0.0 < holdout < 1.0:
        raise ValueError(
            "`points` must be 1 or more, `scaling` unit_sphere or none, and `holdout` more than 0 "
            f"and less than 1, got points={points}, scaling={scaling!r}, holdout={holdout}. 1024, "
            "unit_sphere and 0.2 are the defaults."
        )
    check_pattern(group)
    file = Path(path)
    if file.is_dir() and not list(file.glob("*.h5")):
        return _CloudFolder(file, points, scaling, holdout, group)
    arrays = read_arrays(file, x, y)
    shaped = [
        _shaped(values, points, scaling, f"{path}: cloud {i}")
        for i, values in enumerate(arrays.points)
    ]
    return _CloudArrays(
        np.stack(shaped),
        arrays.labels,
        arrays.test,
        arrays.classes,
        file.stem,
        holdout,
        same_rows(arrays.points),
    )


class _CloudArrays(PointClouds, InMemory):
    """Point clouds in memory.

    Args:
        samples: float32 `[N, 3, P]`.
        labels: int64 `[N]`; negative for unlabeled samples.
        test: bool `[N]`, the split that the files define; `None` if they define none.
        classes: names, by label.
        name: prefix of the ids.
        holdout: fraction of each class to score, without a split.
        content: int64 `[N]`, groups of samples of the same points in the file.
    """

    def __init__(
        self,
        samples: Float32,
        labels: Index,
        test: npt.NDArray[np.bool_] | None,
        classes: Sequence[str],
        name: str,
        holdout: float,
        content: Index,
    ) -> None:
        # A split without test samples, or without training samples, counts as none.
        whole = test is None or test.all() or not test.any()
        test = np.zeros(len(labels), np.bool_) if whole or test is None else test
        order = np.argsort(test, kind="stable")
        self._all, self._labels = torch.from_numpy(samples[order]), labels[order]
        self._content = grouped(list(map(str, content[order])))
        seen = int((~test).sum())
        self.images, self.labels = self._all[:seen], self._labels[:seen]
        self.classes, self.holdout = list(classes), holdout
        self.ids = [f"{name}/{i:06d}" for i in order.tolist()]
        self.input = _input(samples[order[:seen]])

    def evaluation(self) -> tuple[Source, Sequence[Task]]:
        """Return all samples, and the tasks."""
        everything = self.with_samples(self._all, self._labels)
        everything.groups = self._content
        split = "test" if len(self) < len(self._all) else None
        everything.held_out = None if split is None else (len(self), split)
        return everything, self._tasks(self._labels, split, everything.groups)


class _CloudFolder(PointClouds):
    """A folder with one file per point cloud, read when they are needed.

    Args:
        root: path of the folder.
        points: points per sample.
        scaling: see `point_clouds`.
        holdout: fraction of each class to score, without folders that define the split.
        group: see `point_clouds`.

    Raises:
        ValueError: when the folder has no supported file, or no sampled file can be read.
    """

    def __init__(
        self, root: Path, points: int, scaling: Scaling, holdout: float, group: str | None
    ) -> None:
        self.root, self.points, self.scaling, self.holdout = root, points, scaling, holdout
        self.group = group
        found = cloud_files(root)
        self.classes, self.notes, self.split = found.classes, found.notes, found.split
        self._all, self._labels = found.names, found.labels
        seen = len(found.names) if found.test is None else int((~found.test).sum())
        self.files, self.labels = self._all[:seen], self._labels[:seen]
        measured, reason = [], ""
        for index in range(0, len(self.files), max(1, len(self.files) // _MEASURED)):
            try:
                measured.append(self._points(index))
            except Unreadable as error:
                reason = f"{str(error).rstrip('.')}."
        if not measured:
            raise ValueError(
                f"`{root}`: none of the sampled files can be used, such as {reason} Supported: "
                f"{', '.join((*CLOUDS, *MESHES))}. Check the files."
            )
        self.input = _input(np.stack(measured))

    def __len__(self) -> int:
        return len(self.files)

    def read(self, index: int) -> Sample:
        """Read one point cloud, float32 `[3, points]`.

        Raises:
            Unreadable: when the file is damaged, or its point cloud is unusable.
        """
        label = int(self.labels[index])
        return {
            "x": torch.from_numpy(self._points(index)),
            "id": self.files[index],
            "label": label if label >= 0 else None,
        }

    def evaluation(self) -> tuple[Source, Sequence[Task]]:
        """Return all samples, and the tasks."""
        both = copy.copy(self)
        both.files, both.labels = self._all, self._labels
        if self.groups is None:
            self.groups = independent_files(
                str(self.root), both.files, both.labels, self.classes, self.group
            )
        both.groups = self.groups
        both.held_out = None if self.split is None else (len(self), self.split)
        return both, self._tasks(both.labels, self.split, self.groups)

    def _points(self, index: int) -> Float32:
        name = self.files[index]
        try:
            values = read_cloud(self.root / name, self.points)
            return _shaped(values, self.points, self.scaling, name)
        except (ValueError, OSError) as error:
            raise Unreadable(name, str(error).removeprefix(f"{name}: ")) from None

    def fingerprint(self) -> str:
        """Hash all names, sizes and settings."""
        digest = hashlib.blake2b(f"{self.points} {self.scaling}".encode(), digest_size=8)
        for name in self.files:
            digest.update(f"{name}\0{(self.root / name).stat().st_size}\0".encode())
        return digest.hexdigest()


def _shaped(values: npt.NDArray[np.float64], points: int, scaling: Scaling, name: str) -> Float32:
    """Convert points `[P, 3]` to the encoder's input, float32 `[3, points]`.

    The points themselves key their sampling: a point cloud gives the same ones in any file.
    """
    try:
        whole = np.asarray(values, np.float64)
        kept = resampled(whole, points, content_key(whole))
        kept = centered(kept) if scaling == "unit_sphere" else kept
    except ValueError as error:
        raise ValueError(f"{name}: {error}") from None
    return np.ascontiguousarray(kept.T, np.float32)


def _input(samples: Float32) -> Input:
    """Take the mean of each axis, and one std for all axes, to keep the proportions of shapes."""
    values = samples.astype(np.float64)
    means = values.mean(axis=(0, 2))
    spread = np.sqrt(np.square(values - means[:, None]).mean())
    spread = float(usable_std(spread, np.abs(values).max(), np.float32))
    return Input(tuple(samples.shape[1:]), tuple(means.tolist()), (spread,) * 3, "points")
