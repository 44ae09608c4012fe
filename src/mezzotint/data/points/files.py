"""Read point clouds from files, before they are subsampled and centered.

trimesh reads triangle meshes; points are sampled evenly over their surface.

A triangle is chosen with a probability proportional to its area, and a point in it uniformly (Osada
et al. 2002, "Shape distributions", section 4.1): the points follow the surface, whatever the
triangulation. The draws are a function of a key, so a mesh gives the same points in every run and
on every machine.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np
import numpy.typing as npt
import torch

from mezzotint.data.formats.columns import chosen_name
from mezzotint.data.formats.numpy_files import (
    label_indices,
    named_array,
    numpy_arrays,
    with_class_names,
)
from mezzotint.data.listing.folder import scan
from mezzotint.data.listing.layout import parts_of, role_of_file, scored_role
from mezzotint.data.source import Index
from mezzotint.seeding import Draws, key_of

MESHES = (".off", ".obj", ".ply", ".stl")
MIN_POINTS = 4
"""Points that span a volume; point clouds with fewer are refused."""

Array = npt.NDArray[np.float64]


def read_mesh(file: str | Path | IO[bytes], kind: str = "") -> tuple[Array, npt.NDArray[np.int64]]:
    """Read vertices and triangles; polygons are triangulated, and parts are joined.

    Args:
        file: a path, or an open file.
        kind: suffix without the dot, for an open file.

    Returns:
        Vertices `[V, 3]` and triangles `[F, 3]`; a file of points alone has no triangles.

    Raises:
        ValueError: when trimesh is missing, or cannot read the file.
    """
    try:
        import trimesh  # optional: only meshes need it
    except ImportError:
        raise ValueError(
            "Meshes are read with trimesh, which is not installed. Run `pip install "
            "'mezzotint[points]'`, or use .npy, .npz or .h5 files of points."
        ) from None
    options: dict[str, Any] = (
        {"skip_materials": True} if kind == "obj" or str(file).endswith(".obj") else {}
    )
    try:
        loaded: Any = trimesh.load(file, file_type=kind or None, process=False, **options)
        geometry = loaded.to_geometry() if hasattr(loaded, "to_geometry") else loaded
        vertices = np.asarray(geometry.vertices, np.float64)
        faces = np.asarray(getattr(geometry, "faces", np.zeros((0, 3))), np.int64).reshape(-1, 3)
    except Exception as error:  # a damaged file can raise nearly any exception
        detail = " ".join(str(error).split())[:160] or type(error).__name__
        raise ValueError(
            f"cannot be read ({detail}). Supported meshes: {', '.join(MESHES)}. Export it again."
        ) from None
    return vertices.reshape(-1, 3), faces


def sample_surface(vertices: Array, faces: npt.NDArray[np.int64], count: int, key: str) -> Array:
    """Sample points evenly over the surface of a mesh.

    Args:
        vertices: `[V, 3]`; triangles with a vertex that is not finite are dropped.
        faces: `[F, 3]`, indices of vertices; without any, the vertices are the points.
        count: number of points.
        key: key of the draws, such as the name of the file.

    Returns:
        `[count, 3]`.

    Raises:
        ValueError: for a mesh without area, or fewer than four points.
    """
    if len(faces) == 0:
        return resampled(vertices, count, key)
    if faces.min() < 0 or faces.max() >= len(vertices):
        raise ValueError(
            f"a triangle names vertex {int(faces.max())}, but there are {len(vertices)}. Export "
            "the mesh again."
        )
    corners = vertices[faces]
    corners = corners[np.isfinite(corners).all(axis=(1, 2))]
    normal = np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
    area = np.linalg.norm(normal, axis=1).cumsum()
    if len(area) == 0 or not area[-1] > 0.0:
        raise ValueError(f"its {len(faces)} triangles have no area. Repair the mesh, or remove it.")
    u = _uniform(key, count, 3)
    chosen = corners[
        np.searchsorted(area, u[:, 0] * area[-1], side="right").clip(max=len(area) - 1)
    ]
    # Points of the parallelogram beyond the diagonal are mirrored back into the triangle.
    beyond = u[:, 1] + u[:, 2] > 1.0
    a, b = (
        np.where(beyond, 1.0 - u[:, 1], u[:, 1])[:, None],
        np.where(beyond, 1.0 - u[:, 2], u[:, 2])[:, None],
    )
    points: Array = chosen[:, 0] * (1.0 - a - b) + chosen[:, 1] * a + chosen[:, 2] * b
    return points


def resampled(points: Array, count: int, key: str) -> Array:
    """Choose `count` points: none twice if there are enough, else all equally often.

    Args:
        points: `[P, 3]`; points that are not finite are dropped.
        count: number of points.
        key: key of the draws.

    Raises:
        ValueError: for fewer than four finite points.
    """
    finite = points[np.isfinite(points).all(axis=1)]
    if len(finite) < MIN_POINTS:
        raise ValueError(
            f"{len(finite)} of its {len(points)} points are finite, and {MIN_POINTS} are needed. "
            "Remove it."
        )
    order = _uniform(key, len(finite)).argsort(kind="stable")
    return finite[np.resize(order, count)]


def content_key(*arrays: npt.NDArray[Any]) -> str:
    """Return a key of the draws for a point cloud or mesh: a hash of its values."""
    digest = hashlib.blake2b(digest_size=16)
    for array in arrays:
        digest.update(np.ascontiguousarray(array).tobytes())
    return digest.hexdigest()


def centered(points: Array) -> Array:
    """Move the centroid to the origin and scale the farthest point to 1, as usual for ModelNet40.

    Raises:
        ValueError: when all points are identical.
    """
    points = points - points.mean(axis=0)
    radius = np.linalg.norm(points, axis=1).max()
    if not radius > 0.0:
        raise ValueError("all its points are identical. Remove it.")
    scaled: Array = points / radius
    return scaled


def _uniform(key: str, *shape: int) -> Array:
    draws = Draws(torch.zeros(1, dtype=torch.int64), key_of("surface", key))
    return draws.uniform("points", *shape)[0].double().numpy()


CLOUDS = (".npy", ".npz")
_COLUMNS = 16  # values of a point, at most; an array with fewer rows than that is `[3, P]`
_EXPECTED = "an .npy or .npz file of numbers"


@dataclass(frozen=True)
class PointTable:
    """Point clouds of one or several files.

    Attributes:
        points: `[N, P, 3]`.
        labels: int64 `[N]`; negative for unlabeled samples.
        classes: names, by label.
        test: bool `[N]`, the samples to score; `None` if the files define no split.
    """

    points: npt.NDArray[Any]
    labels: Index
    classes: list[str]
    test: npt.NDArray[np.bool_] | None = None


def read_arrays(path: Path, x: str, y: str | None) -> PointTable:
    """Read the point clouds of an `.npz` file, or of the `.h5` files of a folder.

    Raises:
        ValueError: when there are none.
    """
    if path.is_dir() or path.suffix.lower() in (".h5", ".hdf5"):
        return _read_h5(sorted(path.glob("*.h5")) if path.is_dir() else [path])
    if not path.exists():
        raise ValueError(
            f"`{path}` does not exist. Supported: {', '.join(CLOUDS)}, .h5, or a folder. Check "
            "`data.path`."
        )
    if path.suffix.lower() not in CLOUDS:
        raise ValueError(
            f"`{path}` must be {', '.join(CLOUDS)}, .h5, or a folder of such files, got the suffix "
            f"{path.suffix!r}. Convert it."
        )
    arrays = numpy_arrays(path, _EXPECTED, single="x")
    x = named_array(x, arrays, path, "points")
    points = _points_last(arrays[x], f"{path}: {x}")
    y = chosen_name(y, list(arrays), default="y", key="data.y", path=path, noun="array")
    if y is None:
        return PointTable(points, np.full(len(points), -1, np.int64), [])
    labels = with_class_names(arrays[y], arrays, path)
    return PointTable(points, *label_indices(labels, len(points), f"{path}: {y}"))


def read_cloud(path: Path, points: int) -> npt.NDArray[np.float64]:
    """Read one point cloud `[P, 3]`, with all of its points; a mesh is sampled by area.

    Raises:
        ValueError: when the file is damaged, or the mesh has no area.
    """
    if path.suffix.lower() in MESHES:
        vertices, faces = read_mesh(path)
        if len(faces) == 0:  # points, which are chosen as those of an array
            return vertices
        return sample_surface(vertices, faces, points, content_key(vertices, faces))
    arrays = numpy_arrays(path, _EXPECTED, single="x")
    if not arrays:
        raise ValueError("it has no array. Write it again with np.savez.")
    known = [name for name in ("x", "points", "pos", "xyz") if name in arrays]
    if len(arrays) > 1 and len(known) != 1:
        raise ValueError(
            f"it has the arrays {', '.join(arrays)}, and which one has the points is unclear. Call "
            "that one x, or write an .npy file."
        )
    values = arrays[known[0]] if known else next(iter(arrays.values()))
    if values.ndim == 2 and 3 <= values.shape[0] <= _COLUMNS < values.shape[1]:
        values = values.T
    if values.ndim != 2 or values.shape[1] < 3 or values.dtype.kind not in "fiu":
        raise ValueError(
            f"its array must be numbers [points, 3 or more], got {values.dtype} of shape "
            f"{values.shape}. Write it again."
        )
    return values[:, :3].astype(np.float64)  # more columns are normals or colors


@dataclass(frozen=True)
class CloudFiles:
    """The files of a folder, those to train on first.

    Attributes:
        names: relative paths.
        labels: int64 `[N]`; negative for unlabeled samples.
        test: bool `[N]`, the samples to score; `None` if no folder defines the split.
        classes: names, by label.
        split: name of the split that is scored.
        notes: what a user should know.
    """

    names: list[str]
    labels: Index
    test: npt.NDArray[np.bool_] | None
    classes: list[str]
    split: str | None
    notes: Sequence[str]


def cloud_files(root: Path) -> CloudFiles:
    """List the files of a folder; folders are classes and splits as for images.

    Raises:
        ValueError: when there are none.
    """
    known = (*CLOUDS, *MESHES)
    parts = parts_of(scan(str(root), frozenset(known), "point clouds"), "point clouds")
    if not parts.train:
        found = f" ({'; '.join(parts.notes)})" if parts.notes else ""
        raise ValueError(
            f"`{root}` has no point clouds{found}. Supported: {', '.join(known)}. Check "
            "`data.path`."
        )
    names = [*parts.train, *parts.scored]
    found_classes = [parts.layout.class_of(name) for name in names]
    classes = sorted({name for name in found_classes if name is not None})
    labels = np.array([-1 if c is None else classes.index(c) for c in found_classes], np.int64)
    test = np.arange(len(names)) >= len(parts.train) if parts.scored else None
    return CloudFiles(names, labels, test, classes, parts.name, parts.notes)


def _points_last(values: npt.NDArray[Any], name: str) -> npt.NDArray[Any]:
    """Return points as `[N, P, 3]` from either layout."""
    if (
        values.ndim != 3
        or 3 not in values.shape[1:]
        or values.dtype.kind not in "fiu"
        or 0 in values.shape
    ):
        raise ValueError(
            f"{name} must be numbers [N, points, 3] or [N, 3, points], got {values.dtype} of shape "
            f"{values.shape}. Put point clouds of different sizes into a folder, one .npy each."
        )
    return values if values.shape[2] == 3 else values.transpose(0, 2, 1)


def _read_h5(paths: list[Path]) -> PointTable:
    """Read ModelNet40 as sampled by PointNet's authors: `data` `[N, 2048, 3]`, `label` `[N, 1]`."""
    try:
        import h5py  # optional: only these files need it
    except ImportError:
        raise ValueError(
            f"`{paths[0]}` is read with h5py, which is not installed. Run `pip install "
            "'mezzotint[points]'`, or use .npz files."
        ) from None
    points, labels = [], []
    roles: list[str | None] = []
    for path in paths:
        try:
            with h5py.File(path, "r") as file:
                points.append(_points_last(file["data"][:], f"{path}: data"))
                labels.append(np.asarray(file["label"][:]).reshape(-1).astype(np.int64))
        except Exception as error:  # a damaged file can raise nearly any exception
            detail = " ".join(str(error).split())[:160] or type(error).__name__
            raise ValueError(
                f"`{path}` cannot be read ({detail}). It must be HDF5 with 'data' and 'label'. "
                "Fetch it again."
            ) from None
        roles += [role_of_file(path.stem)] * len(points[-1])
    values, names = np.concatenate(labels), paths[0].parent / "shape_names.txt"
    indices, classes = label_indices(values, len(values), "label")
    if names.is_file():
        words = names.read_text(encoding="utf-8").split()
        classes = [words[int(name)] if int(name) < len(words) else name for name in classes]
    # Without a test file, the validation file is scored.
    scored = scored_role(roles, (indices >= 0).tolist(), first="test")
    used = np.array([role in (None, "train", scored) for role in roles])
    test = np.array([role is not None and role == scored for role in roles])[used]
    return PointTable(
        np.concatenate(points)[used], indices[used], classes, test if test.any() else None
    )
