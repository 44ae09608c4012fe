"""Sources of sensor series: files and embedded exercises."""

from typing import TYPE_CHECKING

from mezzotint._lazy import lazy_names

if TYPE_CHECKING:
    from mezzotint.data.series.embedded import Smartwatch as Smartwatch
    from mezzotint.data.series.series import Series as Series

__getattr__, __dir__ = lazy_names(__name__, __file__)
