"""Quantize ONNX files for runtimes."""

from mezzotint.quant.onnx.qdq import quantize_onnx as quantize_onnx
