"""Quantization of ONNX files for runtimes: which operators, which ranges, where the pairs of nodes go."""

from mezzotint.quant.onnx.qdq import quantize_onnx as quantize_onnx
