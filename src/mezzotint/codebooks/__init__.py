"""Quantized targets: codebooks that turn vectors into codes to predict."""

from mezzotint.codebooks.books import EMA as EMA
from mezzotint.codebooks.codebook import Codebook as Codebook
from mezzotint.codebooks.fsq import FSQ as FSQ
from mezzotint.codebooks.health import Health as Health
from mezzotint.codebooks.health import health as health
from mezzotint.codebooks.random_projection import RandomProjection as RandomProjection
from mezzotint.codebooks.rq import RQ as RQ
from mezzotint.codebooks.vq import VQ as VQ
