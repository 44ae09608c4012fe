"""Files that hold point clouds: what is read from them, before anything is thinned or centred."""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from mezzotint.data.meshes import MESHES, read_mesh, sample_surface
from mezzotint.data.numpy_files import label_places, numpy_arrays
from mezzotint.data.source import Index

CLOUDS = (".npy", ".npz")
_ALLOWED = "are .npy and .npz files of numbers"


@dataclass(frozen=True)
class CloudTable:
    """Clouds of one or several files.

    Attributes:
        clouds: `[N, P, 3]`.
        labels: int64 `[N]`; negative where there is none.
        classes: names, by label.
        test: bool `[N]`, which are for scoring; `None` where the files do not say.
    """

    clouds: npt.NDArray[Any]
    labels: Index
    classes: list[str]
    test: npt.NDArray[np.bool_] | None = None


def read_arrays(path: Path, x: str, y: str | None) -> CloudTable:
    """All clouds of an `.npz` file, or of the `.h5` files of a folder.

    Raises:
        ValueError: when there are none.
    """
    if path.is_dir() or path.suffix in (".h5", ".hdf5"):
        return _read_h5(sorted(path.glob("*.h5")) if path.is_dir() else [path])
    if path.suffix not in CLOUDS:
        raise ValueError(
            f"{path}: got the suffix {path.suffix!r}; allowed are {', '.join(CLOUDS)}, .h5, and a folder of clouds"
        )
    arrays = numpy_arrays(path, _ALLOWED, single="x")
    if x not in arrays:
        raise ValueError(f"{path} has no array {x!r}; it has {', '.join(arrays)}: name the clouds with x=")
    clouds = _points_last(arrays[x], f"{path}: {x}")
    if y is None or y not in arrays:
        if y not in (None, "y"):
            raise ValueError(f"{path} has no array {y!r}; it has {', '.join(arrays)}: name the labels with y=")
        return CloudTable(clouds, np.full(len(clouds), -1, np.int64), [])
    return CloudTable(clouds, *_labels(arrays[y], len(clouds), f"{path}: {y}"))


def read_cloud(path: Path, points: int, key: str) -> npt.NDArray[np.float64]:
    """One cloud of a file, `[P, 3]`; a mesh is sampled by area.

    Raises:
        ValueError: when the file is damaged, or the mesh has no area.
    """
    if path.suffix.lower() in MESHES:
        return sample_surface(*read_mesh(path), points, key)
    arrays = list(numpy_arrays(path, _ALLOWED, single="x").values())
    cloud = arrays[0]
    if cloud.ndim != 2 or cloud.shape[1] < 3 or cloud.dtype.kind not in "fiu":
        raise ValueError(
            f"its array is of type {cloud.dtype} and shape {cloud.shape}; allowed are numbers [points, 3 or more]"
        )
    return cloud[:, :3].astype(np.float64)  # further columns are normals or colours


def cloud_files(root: Path) -> tuple[list[str], Index, npt.NDArray[np.bool_] | None, list[str]]:
    """The files of a folder: names from the root, labels, which are for scoring, and the names of the classes.

    Raises:
        ValueError: when there are none.
    """
    known = (*CLOUDS, *MESHES)
    files = sorted(p.relative_to(root) for p in root.rglob("*") if p.suffix.lower() in known and p.is_file())
    if not files:
        raise ValueError(f"{root} holds no point clouds; allowed are {', '.join(known)}: check the path")
    parts = [[part for part in file.parts[:-1] if part.lower() not in ("train", "test")] for file in files]
    classes = sorted({part[0] for part in parts if part})
    place = {name: i for i, name in enumerate(classes)}
    labels = np.array([place[part[0]] if part else -1 for part in parts], np.int64)
    test = np.array([any(part.lower() == "test" for part in file.parts[:-1]) for file in files])
    return [file.as_posix() for file in files], labels, test if test.any() else None, classes


def _labels(values: npt.NDArray[Any], count: int, name: str) -> tuple[Index, list[str]]:
    """As `label_places`; a column `[N, 1]`, as ModelNet's files have it, counts as one."""
    return label_places(values.reshape(-1) if values.shape == (count, 1) else values, count, name)


def _points_last(clouds: npt.NDArray[Any], name: str) -> npt.NDArray[Any]:
    """`[N, P, 3]` from either layout."""
    if clouds.ndim != 3 or 3 not in clouds.shape[1:] or clouds.dtype.kind not in "fiu" or 0 in clouds.shape:
        raise ValueError(
            f"{name} is of type {clouds.dtype} and shape {clouds.shape}; allowed are numbers [clouds, points, 3] or "
            "[clouds, 3, points]: clouds of different sizes go into a folder, one .npy each"
        )
    return clouds if clouds.shape[2] == 3 else clouds.transpose(0, 2, 1)


def _read_h5(paths: list[Path]) -> CloudTable:
    """ModelNet40 as PointNet's authors sampled it: `data` `[N, 2048, 3]`, `label` `[N, 1]`, names in a text file."""
    try:
        import h5py  # an extra: only these files need it
    except ImportError:
        raise ValueError(
            "got .h5 files, and h5py is not installed; allowed without it are .npz files: "
            "pip install 'mezzotint[points]'"
        ) from None
    clouds, labels, test = [], [], []
    for path in paths:
        try:
            with h5py.File(path, "r") as file:
                clouds.append(_points_last(file["data"][:], f"{path}: data"))
                labels.append(np.asarray(file["label"][:]).reshape(-1).astype(np.int64))
        except (OSError, KeyError) as error:
            detail = " ".join(str(error).split())[:160]
            raise ValueError(
                f"{path} cannot be read ({detail}); allowed are HDF5 files with 'data' and 'label': fetch it again"
            ) from None
        test += [bool(re.search("test", path.stem))] * len(clouds[-1])
    values, names = np.concatenate(labels), paths[0].parent / "shape_names.txt"
    places, classes = _labels(values, len(values), "label")
    if names.is_file():
        words = names.read_text(encoding="utf-8").split()
        classes = [words[int(name)] if int(name) < len(words) else name for name in classes]
    return CloudTable(np.concatenate(clouds), places, classes, np.array(test) if any(test) else None)
