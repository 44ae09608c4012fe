"""Checkpoints of other projects: their layouts, and their weights in our encoders."""

from typing import TYPE_CHECKING

from mezzotint._lazy import lazy_names

if TYPE_CHECKING:
    from mezzotint.interop.load import Loaded as Loaded
    from mezzotint.interop.load import load_checkpoint as load_checkpoint

__getattr__, __dir__ = lazy_names(__name__, __file__)
