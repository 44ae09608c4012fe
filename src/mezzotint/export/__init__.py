"""Export encoders to formats that other programs serve; each artifact is verified first."""

from mezzotint.export.exporting import export as export
from mezzotint.export.packed import load_packed as load_packed
from mezzotint.export.packed import save_packed as save_packed
from mezzotint.export.verify import VerificationError as VerificationError
from mezzotint.quant.onnx.qdq import quantize_onnx as quantize_onnx
