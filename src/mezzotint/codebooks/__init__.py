"""Quantized targets: codebooks that map vectors to codes to predict."""

from typing import TYPE_CHECKING

from mezzotint._lazy import lazy_names

if TYPE_CHECKING:
    from mezzotint.codebooks.codebook import Codebook as Codebook
    from mezzotint.codebooks.ema import EMA as EMA
    from mezzotint.codebooks.fsq import FSQ as FSQ
    from mezzotint.codebooks.health import Health as Health
    from mezzotint.codebooks.health import measure_health as measure_health
    from mezzotint.codebooks.learned import RQ as RQ
    from mezzotint.codebooks.learned import VQ as VQ
    from mezzotint.codebooks.random_projection import RandomProjection as RandomProjection

__getattr__, __dir__ = lazy_names(__name__, __file__)
