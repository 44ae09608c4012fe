"""Files that hold point clouds: what is read from them, before anything is thinned or centered.

Triangle meshes as point clouds: read by trimesh, sampled evenly over their surface.

A triangle is chosen with a probability proportional to its area, and a point in it uniformly (Osada
et al. 2002, "Shape distributions", section 4.1): the cloud says where the surface is, whatever the
triangulation. The randomness is a function of a key, so a mesh gives the same cloud in every run
and on every machine.
"""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np
import numpy.typing as npt
import torch

from mezzotint.data.numpy_files import label_places, numpy_arrays
from mezzotint.data.source import Index
from mezzotint.seeding import Draws, key_of

MESHES = (".off", ".obj", ".ply", ".stl")
FEWEST = 4
"""Points that span a volume; a cloud of fewer is refused."""

Array = npt.NDArray[np.float64]


def read_mesh(file: str | Path | IO[bytes], kind: str = "") -> tuple[Array, npt.NDArray[np.int64]]:
    """The vertices and triangles of a file; polygons are triangulated, several parts joined.

    Args:
        file: a path, or an open file.
        kind: its suffix without the dot, where the file is open.

    Returns:
        Vertices `[V, 3]` and triangles `[F, 3]`; no triangles where the file holds points alone.

    Raises:
        ValueError: when trimesh is missing, or cannot read the file.
    """
    try:
        import trimesh  # an extra: only meshes need it
    except ImportError:
        raise ValueError(
            "got a mesh, and trimesh is not installed; allowed without it are .npy, .npz and .h5 files of points: "
            "pip install 'mezzotint[points]'"
        ) from None
    options: dict[str, Any] = (
        {"skip_materials": True} if kind == "obj" or str(file).endswith(".obj") else {}
    )
    try:
        loaded: Any = trimesh.load(file, file_type=kind or None, process=False, **options)
        geometry = loaded.to_geometry() if hasattr(loaded, "to_geometry") else loaded
        vertices = np.asarray(geometry.vertices, np.float64)
        faces = np.asarray(getattr(geometry, "faces", np.zeros((0, 3))), np.int64).reshape(-1, 3)
    except Exception as error:  # whatever a reader raises on a damaged file; there is no list of it
        detail = " ".join(str(error).split())[:160] or type(error).__name__
        raise ValueError(
            f"cannot be read ({detail}); allowed is a mesh in {', '.join(MESHES)}: export it again"
        ) from None
    return vertices.reshape(-1, 3), faces


def sample_surface(vertices: Array, faces: npt.NDArray[np.int64], count: int, key: str) -> Array:
    """Points spread evenly over the surface of a mesh.

    Args:
        vertices: `[V, 3]`; triangles with a vertex that is not finite are left out.
        faces: `[F, 3]`, indices of vertices; without any, the vertices themselves are the cloud.
        count: of points.
        key: what the draws depend on, such as the name of the file.

    Returns:
        `[count, 3]`.

    Raises:
        ValueError: for a mesh without area, or fewer than four points.
    """
    if len(faces) == 0:
        return resampled(vertices, count, key)
    if faces.min() < 0 or faces.max() >= len(vertices):
        raise ValueError(
            f"a triangle names vertex {int(faces.max())}; allowed are the {len(vertices)} there are: export it again"
        )
    corners = vertices[faces]
    corners = corners[np.isfinite(corners).all(axis=(1, 2))]
    normal = np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
    area = np.linalg.norm(normal, axis=1).cumsum()
    if len(area) == 0 or not area[-1] > 0.0:
        raise ValueError(
            f"its {len(faces)} triangles have no area; allowed is a surface: repair the mesh, or leave it out"
        )
    u = _uniform(key, count, 3)
    chosen = corners[
        np.searchsorted(area, u[:, 0] * area[-1], side="right").clip(max=len(area) - 1)
    ]
    # A point of the parallelogram beyond the diagonal is mirrored back into the triangle.
    beyond = u[:, 1] + u[:, 2] > 1.0
    a, b = (
        np.where(beyond, 1.0 - u[:, 1], u[:, 1])[:, None],
        np.where(beyond, 1.0 - u[:, 2], u[:, 2])[:, None],
    )
    points: Array = chosen[:, 0] * (1.0 - a - b) + chosen[:, 1] * a + chosen[:, 2] * b
    return points


def resampled(points: Array, count: int, key: str) -> Array:
    """A cloud of `count` points out of another: none twice where there are enough, and each as often as the next else.

    Args:
        points: `[P, 3]`; those that are not finite are left out.
        count: of points.
        key: what the choice depends on.

    Raises:
        ValueError: for fewer than four finite points.
    """
    finite = points[np.isfinite(points).all(axis=1)]
    if len(finite) < FEWEST:
        raise ValueError(
            f"{len(finite)} of its {len(points)} points are finite; allowed are {FEWEST} or more: leave it out"
        )
    order = _uniform(key, len(finite)).argsort(kind="stable")
    return finite[np.resize(order, count)]


def centered(points: Array) -> Array:
    """Centroid in the origin, and the farthest point at a distance of 1: the convention of ModelNet40 work.

    Raises:
        ValueError: when all points are one.
    """
    points = points - points.mean(axis=0)
    radius = np.linalg.norm(points, axis=1).max()
    if not radius > 0.0:
        raise ValueError(
            "all its points are the same; allowed is a cloud with an extent: leave it out"
        )
    scaled: Array = points / radius
    return scaled


def _uniform(key: str, *shape: int) -> Array:
    draws = Draws(torch.zeros(1, dtype=torch.int64), key_of("surface", key))
    return draws.uniform("points", *shape)[0].double().numpy()


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
        raise ValueError(
            f"{path} has no array {x!r}; it has {', '.join(arrays)}: name the clouds with x="
        )
    clouds = _points_last(arrays[x], f"{path}: {x}")
    if y is None or y not in arrays:
        if y not in (None, "y"):
            raise ValueError(
                f"{path} has no array {y!r}; it has {', '.join(arrays)}: name the labels with y="
            )
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
    return cloud[:, :3].astype(np.float64)  # further columns are normals or colors


def cloud_files(root: Path) -> tuple[list[str], Index, npt.NDArray[np.bool_] | None, list[str]]:
    """The files of a folder: names from the root, labels, which are for scoring, and the names of the classes.

    Raises:
        ValueError: when there are none.
    """
    known = (*CLOUDS, *MESHES)
    files = sorted(
        p.relative_to(root) for p in root.rglob("*") if p.suffix.lower() in known and p.is_file()
    )
    if not files:
        raise ValueError(
            f"{root} holds no point clouds; allowed are {', '.join(known)}: check the path"
        )
    parts = [
        [part for part in file.parts[:-1] if part.lower() not in ("train", "test")]
        for file in files
    ]
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
    if (
        clouds.ndim != 3
        or 3 not in clouds.shape[1:]
        or clouds.dtype.kind not in "fiu"
        or 0 in clouds.shape
    ):
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
    return CloudTable(
        np.concatenate(clouds), places, classes, np.array(test) if any(test) else None
    )
