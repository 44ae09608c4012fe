"""Quantized networks: one set of weights that works from 2 to 8 bits."""

from mezzotint.quant.layers import quantize_ as quantize_
from mezzotint.quant.ste import fake_quantize as fake_quantize
from mezzotint.quant.widths import bits as bits
from mezzotint.quant.widths import calibrate as calibrate
from mezzotint.quant.widths import off as off
