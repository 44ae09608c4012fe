"""Images with boxes and masks, for detection and segmentation."""

from typing import TYPE_CHECKING

from mezzotint._lazy import lazy_names

if TYPE_CHECKING:
    from mezzotint.data.detection.coco import COCOFolder as COCOFolder
    from mezzotint.data.detection.embedded import Pasted as Pasted
    from mezzotint.data.detection.source import DetectionSource as DetectionSource
    from mezzotint.data.detection.voc import VOCFolder as VOCFolder

__getattr__, __dir__ = lazy_names(__name__, __file__)
