"""Quantized targets: codebooks that map vectors to codes to predict."""

from mezzotint.codebooks.codebook import Codebook as Codebook
from mezzotint.codebooks.ema import EMA as EMA
from mezzotint.codebooks.fsq import FSQ as FSQ
from mezzotint.codebooks.health import Health as Health
from mezzotint.codebooks.health import health as health
from mezzotint.codebooks.random_projection import RandomProjection as RandomProjection
from mezzotint.codebooks.rq import RQ as RQ
from mezzotint.codebooks.vq import VQ as VQ
