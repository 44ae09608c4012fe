"""Detection and segmentation on top of an encoder."""

from typing import TYPE_CHECKING

from mezzotint._lazy import lazy_names

if TYPE_CHECKING:
    from mezzotint.detection.detection import Transfer as Transfer
    from mezzotint.detection.detection import run_transfer as run_transfer
    from mezzotint.detection.detection import trained_model as trained_model

__getattr__, __dir__ = lazy_names(__name__, __file__)
