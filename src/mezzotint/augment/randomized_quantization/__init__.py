"""Randomized quantization: the augmentation, row by row and batch by batch."""

from typing import TYPE_CHECKING

from mezzotint._lazy import lazy_names

if TYPE_CHECKING:
    from mezzotint.augment.randomized_quantization.transform import (
        RandomizedQuantization as RandomizedQuantization,
    )

__getattr__, __dir__ = lazy_names(__name__, __file__)
