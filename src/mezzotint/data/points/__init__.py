"""Sources of point clouds: files, meshes and embedded furniture."""

from typing import TYPE_CHECKING

from mezzotint._lazy import lazy_names

if TYPE_CHECKING:
    from mezzotint.data.points.clouds import point_clouds as point_clouds
    from mezzotint.data.points.embedded import Furniture as Furniture

__getattr__, __dir__ = lazy_names(__name__, __file__)
