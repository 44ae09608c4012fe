"""Point clouds of one's own: arrays, the HDF5 files of ModelNet40 work, or a folder of meshes and clouds.

Every cloud is brought to one number of points, and by default centered in a unit sphere. What is
done with bad ones:

- Points that are not finite are left out of their cloud. A cloud with fewer than four finite
  points, or whose points are all the same, cannot be used.
- In arrays all clouds are read when the source is opened, so an unusable one is an error that names
  it.
- In a folder each file is read when it is needed, so an unusable one (a mesh without area, a
  damaged file) is skipped, counted and named by the loader, as unreadable images are.
"""

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import numpy as np
import numpy.typing as npt
import torch

from mezzotint.data.memory import InMemory
from mezzotint.data.points.files import (
    CLOUDS,
    MESHES,
    centered,
    cloud_files,
    read_arrays,
    read_cloud,
    resampled,
)
from mezzotint.data.sampling import held_out, one_percent
from mezzotint.data.source import FOLDER, Index, Source, Task, label_tasks
from mezzotint.recipe.component import factory
from mezzotint.types import Input, Sample, Unreadable

Scaling = Literal["unit_sphere", "none"]
Float32 = npt.NDArray[np.float32]

_MEASURED = 256  # files from which mean and spread are taken


class PointClouds(Source, abstract=True):
    """Clouds from a file of arrays or a folder; `point_clouds` makes the one that suits the path.

    Attributes:
        labels: int64 `[N]`; negative where there is none.
        test: bool `[N]`, the split that the files define; `None` where they define none.
        classes: names, by label.
        holdout: part of each class to be scored, without a split.
    """

    modality = "points"
    opens = frozenset({FOLDER, *CLOUDS, ".h5", ".hdf5"})
    labels: Index
    test: npt.NDArray[np.bool_] | None
    classes: list[str]
    holdout: float

    @classmethod
    def open(cls, path: str, input: Input) -> Source:
        return point_clouds(path=path, points=input.shape[1])

    def evaluation(self) -> tuple[Source, Sequence[Task]]:
        """All clouds, and the class of each: from all labels, and from one in a hundred (Wu et al. 2023, section 4.3)."""
        given = self.test is not None and self.test.any() and not self.test.all()
        if given and self.test is not None:
            tasks = label_tasks("label/test", self.labels, self.test, self.classes)
        else:
            chosen = held_out(self.labels, self.holdout, "label")
            tasks = label_tasks("label/holdout", self.labels, chosen, self.classes)
        return self, [*tasks, *(one_percent(task) for task in tasks)]


@factory
def point_clouds(
    *,
    path: str,
    points: int = 1024,
    x: str = "x",
    y: str | None = "y",
    scaling: Scaling = "unit_sphere",
    holdout: float = 0.2,
) -> PointClouds:
    """Point clouds from a file of arrays or a folder.

    An `.npz` holds `[N, P, 3]` or `[N, 3, P]` and labels. A folder holds either ModelNet's `.h5`
    files (`data`, `label`; their names say train or test), or files of one cloud each (`.npy`,
    `.npz`, and through trimesh `.off`, `.obj`, `.ply`, `.stl`), whose first folder is their class.
    Folders named `train` and `test` are the split; without them a part of each class is held out.

    Args:
        path: of an `.npz` file, an `.h5` file, or a folder.
        points: of every cloud; larger ones are thinned at random, smaller ones repeated, meshes
            sampled by area.
        x: name of the clouds in an `.npz`.
        y: name of the labels in an `.npz`: integers (negative: no label) or strings; `null` leaves
            them out.
        scaling: `unit_sphere` centers each cloud and scales its farthest point to 1, as ModelNet40
            work does.
        holdout: part of each class to be scored, where no folder or file says which.

    Raises:
        ValueError: when there is nothing to read, or an array holds a cloud that cannot be used.
    """
    if points < 1 or scaling not in ("unit_sphere", "none") or not 0.0 < holdout < 1.0:
        raise ValueError(
            f"got points={points}, scaling={scaling!r}, holdout={holdout}; allowed are 1 point or more, unit_sphere or "
            "none, and more than 0 and less than 1: 1024, unit_sphere and 0.2 are the defaults"
        )
    place = Path(path)
    if place.is_dir() and not list(place.glob("*.h5")):
        return _CloudFolder(place, points, scaling, holdout)
    arrays = read_arrays(place, x, y)
    shaped = [
        _shaped(cloud, points, scaling, f"{path}: cloud {i}")
        for i, cloud in enumerate(arrays.clouds)
    ]
    return _CloudArrays(
        np.stack(shaped), arrays.labels, arrays.test, arrays.classes, place.stem, holdout
    )


class _CloudArrays(PointClouds, InMemory):
    """Clouds in memory.

    Args:
        clouds: float32 `[N, 3, P]`.
        labels: int64 `[N]`; negative where there is none.
        test: bool `[N]`, the split that the files say; `None` where they say nothing.
        classes: names, by label.
        name: what samples are called.
        holdout: part of each class to be scored, without a split.
    """

    def __init__(
        self,
        clouds: Float32,
        labels: Index,
        test: npt.NDArray[np.bool_] | None,
        classes: Sequence[str],
        name: str,
        holdout: float,
    ) -> None:
        self.images, self.labels, self.test = torch.from_numpy(clouds), labels, test
        self.classes, self.ids, self.holdout = list(classes), name, holdout
        self.input = _input(clouds)


class _CloudFolder(PointClouds):
    """A folder of files of one cloud each, read when they are needed.

    Args:
        root: of the folder.
        points: of every cloud.
        scaling: as for `point_clouds`.
        holdout: part of each class to be scored, without folders that say so.

    Raises:
        ValueError: when the folder holds no file of a known kind, or none of the first ones can be
            read.
    """

    def __init__(self, root: Path, points: int, scaling: Scaling, holdout: float) -> None:
        self.root, self.points, self.scaling, self.holdout = root, points, scaling, holdout
        self.files, self.labels, self.test, self.classes = cloud_files(root)
        measured, reason = [], ""
        for index in range(0, len(self.files), max(1, len(self.files) // _MEASURED)):
            try:
                measured.append(self._cloud(index))
            except Unreadable as error:
                reason = str(error)
        if not measured:
            raise ValueError(
                f"{root}: none of its files can be used, such as {reason}; allowed are {', '.join((*CLOUDS, *MESHES))}"
            )
        self.input = _input(np.stack(measured))

    def __len__(self) -> int:
        return len(self.files)

    def read(self, index: int) -> Sample:
        """One cloud, float32 `[3, points]`.

        Raises:
            Unreadable: when the file is damaged, or its cloud cannot be used.
        """
        label = int(self.labels[index])
        return {
            "x": torch.from_numpy(self._cloud(index)),
            "id": self.files[index],
            "label": label if label >= 0 else None,
        }

    def _cloud(self, index: int) -> Float32:
        name = self.files[index]
        try:
            # The name, not the path, keys the sampling: a moved folder gives the same clouds.
            return _shaped(
                read_cloud(self.root / name, self.points, name), self.points, self.scaling, name
            )
        except (ValueError, OSError) as error:
            raise Unreadable(name, str(error).removeprefix(f"{name}: ")) from None

    def fingerprint(self) -> str:
        """A hash of all names, sizes and settings."""
        digest = hashlib.blake2b(f"{self.points} {self.scaling}".encode(), digest_size=8)
        for name in self.files:
            digest.update(f"{name}\0{(self.root / name).stat().st_size}\0".encode())
        return digest.hexdigest()


def _shaped(cloud: npt.NDArray[np.float64], points: int, scaling: Scaling, name: str) -> Float32:
    """A cloud `[P, 3]` as the encoder takes it, float32 `[3, points]`."""
    try:
        kept = resampled(np.asarray(cloud, np.float64), points, name)
        kept = centered(kept) if scaling == "unit_sphere" else kept
    except ValueError as error:
        raise ValueError(f"{name}: {error}") from None
    return np.ascontiguousarray(kept.T, np.float32)


def _input(clouds: Float32) -> Input:
    """Means by axis, and one spread for all axes, so that shapes keep their proportions."""
    values = clouds.astype(np.float64)
    means = values.mean(axis=(0, 2))
    spread = float(np.sqrt(np.square(values - means[:, None]).mean())) or 1.0
    return Input(tuple(clouds.shape[1:]), tuple(means.tolist()), (spread,) * 3, "points")
