"""Sources of video: files, lists and rendered rotating objects."""

from typing import TYPE_CHECKING

from mezzotint._lazy import lazy_names

if TYPE_CHECKING:
    from mezzotint.data.video.embedded import RotatingObjects as RotatingObjects
    from mezzotint.data.video.folder import VideoFolder as VideoFolder

__getattr__, __dir__ = lazy_names(__name__, __file__)
