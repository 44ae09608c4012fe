"""Quantize networks so that one set of weights runs at 2 to 8 bits."""

from mezzotint.quant.bitwidth import FP32 as FP32
from mezzotint.quant.bitwidth import Bits as Bits
from mezzotint.quant.bitwidth import bits as bits
from mezzotint.quant.bitwidth import calibrate as calibrate
from mezzotint.quant.bitwidth import off as off
from mezzotint.quant.convert import quantize_ as quantize_
from mezzotint.quant.grid import fake_quantize as fake_quantize
