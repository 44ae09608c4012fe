"""Triangle meshes as point clouds: read by trimesh, sampled evenly over their surface.

A triangle is chosen with a probability proportional to its area, and a point in it uniformly (Osada et al. 2002,
"Shape distributions", section 4.1): the cloud says where the surface is, whatever the triangulation. The randomness is
a function of a key, so a mesh gives the same cloud in every run and on every machine.
"""

from pathlib import Path
from typing import IO, Any

import numpy as np
import numpy.typing as npt
import torch

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
    options: dict[str, Any] = {"skip_materials": True} if kind == "obj" or str(file).endswith(".obj") else {}
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
    chosen = corners[np.searchsorted(area, u[:, 0] * area[-1], side="right").clip(max=len(area) - 1)]
    # A point of the parallelogram beyond the diagonal is mirrored back into the triangle.
    beyond = u[:, 1] + u[:, 2] > 1.0
    a, b = np.where(beyond, 1.0 - u[:, 1], u[:, 1])[:, None], np.where(beyond, 1.0 - u[:, 2], u[:, 2])[:, None]
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


def centred(points: Array) -> Array:
    """Centroid in the origin, and the farthest point at a distance of 1: the convention of ModelNet40 work.

    Raises:
        ValueError: when all points are one.
    """
    points = points - points.mean(axis=0)
    radius = np.linalg.norm(points, axis=1).max()
    if not radius > 0.0:
        raise ValueError("all its points are the same; allowed is a cloud with an extent: leave it out")
    scaled: Array = points / radius
    return scaled


def _uniform(key: str, *shape: int) -> Array:
    draws = Draws(torch.zeros(1, dtype=torch.int64), key_of("surface", key))
    return draws.uniform("points", *shape)[0].double().numpy()
