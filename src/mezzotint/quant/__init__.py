"""Quantize networks so that one set of weights runs at 2 to 8 bits."""

from typing import TYPE_CHECKING

from mezzotint._lazy import lazy_names

if TYPE_CHECKING:
    from mezzotint.quant.allocate import allocate_ as allocate_
    from mezzotint.quant.batch_norm import correct_bias_ as correct_bias_
    from mezzotint.quant.batch_norm import fold_batch_norm_ as fold_batch_norm_
    from mezzotint.quant.bitwidth import Bits as Bits
    from mezzotint.quant.bitwidth import Quantizers as Quantizers
    from mezzotint.quant.bitwidth import bits as bits
    from mezzotint.quant.bitwidth import calibrate as calibrate
    from mezzotint.quant.bitwidth import off as off
    from mezzotint.quant.clipping_observers import MSE as MSE
    from mezzotint.quant.clipping_observers import Entropy as Entropy
    from mezzotint.quant.clipping_observers import Percentile as Percentile
    from mezzotint.quant.convert import QuantizationPolicy as QuantizationPolicy
    from mezzotint.quant.convert import quantize_ as quantize_
    from mezzotint.quant.fake import ActivationQuantizer as ActivationQuantizer
    from mezzotint.quant.fake import Quantizer as Quantizer
    from mezzotint.quant.fake import Rangeless as Rangeless
    from mezzotint.quant.fake import WeightQuantizer as WeightQuantizer
    from mezzotint.quant.grid import fake_quantize as fake_quantize
    from mezzotint.quant.learned import LSQ as LSQ
    from mezzotint.quant.learned import PACT as PACT
    from mezzotint.quant.learned import Binary as Binary
    from mezzotint.quant.learned import DoReFaActivation as DoReFaActivation
    from mezzotint.quant.learned import DoReFaWeight as DoReFaWeight
    from mezzotint.quant.observers import Gaussian as Gaussian
    from mezzotint.quant.observers import MinMax as MinMax
    from mezzotint.quant.observers import MomentumMinMax as MomentumMinMax
    from mezzotint.quant.observers import Observer as Observer
    from mezzotint.quant.onnx.qdq import quantize_onnx as quantize_onnx
    from mezzotint.quant.reconstruct import AdaRound as AdaRound
    from mezzotint.quant.reconstruct import LearnedStep as LearnedStep
    from mezzotint.quant.reconstruct import reconstruct_ as reconstruct_
    from mezzotint.quant.sensitivity import layer_sensitivity as layer_sensitivity
    from mezzotint.quant.transformers import Log2 as Log2

__getattr__, __dir__ = lazy_names(__name__, __file__)
