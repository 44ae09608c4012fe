"""Features in two dimensions: principal components, t-SNE, UMAP; comparable maps over epochs.

t-SNE (van der Maaten and Hinton, JMLR 2008) and UMAP (McInnes et al. 2018, arXiv 1802.03426) keep
neighbors together and choose the rest freely: two runs of either rotate, mirror and shuffle the
same features. So the maps of one run are laid out in the order of the epochs, each starting from
the one before, and are then rotated onto it.
"""

import importlib
import warnings
from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
from torch import Tensor

from mezzotint.recipe.schema import RecipeError

Layout = Literal["tsne", "pca", "umap"]
LAYOUTS = {"tsne": "t-SNE", "pca": "two principal components", "umap": "UMAP"}
Points = npt.NDArray[np.float64]

_COMPONENTS = 50
_MIN_POINTS = 10
"""Fewer points are shown by their components; their neighborhoods mean nothing."""


def require_layout(layout: Layout) -> None:
    """Check that a layout can be computed here.

    Raises:
        RecipeError: for an unknown layout, or UMAP without its package.
    """
    if layout not in LAYOUTS:
        raise RecipeError(
            f"The layout must be {', '.join(LAYOUTS)}, got {layout!r}. Choose one of them."
        )
    if layout == "umap":
        _umap()


def components(features: Tensor, seed: int) -> Points:
    """Return the first 50 principal components, or all if there are fewer.

    Args:
        features: float32 `[N, D]`.
        seed: seed of the randomized solver.

    Returns:
        float64 `[N, P]` with P ≤ 50; the features themselves where they hardly vary.
    """
    from sklearn.decomposition import PCA

    x: Points = features.double().numpy()
    parts = min(_COMPONENTS, *x.shape)
    if parts < 2 or float(x.std(axis=0).max()) <= 1e-12:
        return x
    found: Points = PCA(
        parts, svd_solver="full" if len(x) < 200 else "randomized", random_state=seed
    ).fit_transform(x)
    return found


def lay_out(x: Points, layout: Layout, seed: int, start: Points | None = None) -> Points:
    """Lay out samples in two dimensions.

    Args:
        x: principal components `[N, P]`.
        layout: t-SNE, UMAP or the first two components.
        seed: seed of t-SNE and UMAP.
        start: positions `[N, 2]` of an earlier layout to start from; by default the first two
            components.

    Returns:
        float64 `[N, 2]`, centered; scale and axes have no meaning.
    """
    if (
        layout != "pca"
        and len(x) >= _MIN_POINTS
        and min(x.shape) >= 2
        and float(x.std(axis=0).max()) > 1e-12
    ):
        x = _tsne(x, start, seed) if layout == "tsne" else _umap_of(x, start, seed)
    plane = np.zeros((len(x), 2))
    plane[:, : min(2, x.shape[1])] = x[:, :2]
    plane -= plane.mean(axis=0)
    return plane if start is None else plane @ _turn(plane, start)


def lay_out_all(parts: Sequence[Points], layout: Layout, seed: int) -> list[Points]:
    """Lay out the same samples at several epochs, each from the one before and rotated onto it.

    Args:
        parts: principal components `[N, P]` of each epoch, row by row of the same samples.
        layout: t-SNE, UMAP or the first two components.
        seed: seed of t-SNE and UMAP.
    """
    planes: list[Points] = []
    for x in parts:
        planes.append(lay_out(x, layout, seed, planes[-1] if planes else None))
    return planes


def unit_square(plane: Points) -> Points:
    """Shift and scale positions `[N, 2]` into [0, 1] × [0, 1], both axes alike."""
    plane = plane - (plane.max(axis=0) + plane.min(axis=0)) / 2
    scaled: Points = 0.5 + plane / max(float(np.abs(plane).max()) * 2, 1e-12)
    return scaled


def _turn(plane: Points, onto: Points) -> Points:
    """Return the rotation or reflection `[2, 2]` onto other positions (orthogonal Procrustes)."""
    u, _, v = np.linalg.svd(plane.T @ onto)
    turn: Points = u @ v
    return turn


def _tsne(x: Points, start: Points | None, seed: int) -> Points:
    """Run t-SNE from the first two components, at its authors' standard deviation of 1e-4.

    From an earlier layout it starts at that scale and with a third of the usual exaggeration, which
    moves only what has changed: on resampled clusters it kept as many neighbors, and moved the
    clusters a quarter as far.
    """
    from sklearn.manifold import TSNE
    from threadpoolctl import threadpool_limits

    begin = x[:, :2] / max(float(x[:, 0].std()), 1e-12) * 1e-4 if start is None else start
    perplexity, exaggeration = min(30.0, (len(x) - 1) / 3.0), 12.0 if start is None else 4.0
    settings = {
        "init": begin.astype(np.float32),
        "early_exaggeration": exaggeration,
        "max_iter": 500,
    }
    with threadpool_limits(1):  # as fast for few points, and reproducible on any number of cores
        made: Points = TSNE(perplexity=perplexity, random_state=seed, **settings).fit_transform(x)
    return made.astype(np.float64)


def _umap_of(x: Points, start: Points | None, seed: int) -> Points:
    begin = (x[:, :2] if start is None else start).astype(np.float32)
    mapper = _umap().UMAP(n_neighbors=min(15, len(x) - 1), init=begin, random_state=seed, n_jobs=1)
    made: Points = mapper.fit_transform(x)
    return made.astype(np.float64)


def _umap() -> Any:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about packages for unused parts of it
            return importlib.import_module("umap")
    except ImportError as error:
        raise RecipeError(
            "The layout umap needs umap-learn, which is not installed. Run pip install "
            "'mezzotint[umap]', or choose tsne or pca."
        ) from error
