"""NNCF quantizes every operator, and OpenVINO agrees with the simulation."""

from pathlib import Path

import pytest

from mezzotint.export import export
from mezzotint.quant.bitwidth import Bits
from tests.untrained_run import read_verification


def test_openvino(run: Path) -> None:
    pytest.importorskip("openvino")
    pytest.importorskip("nncf")
    found = read_verification(export(run, "onnx", Bits(8, 8), runtime="openvino", calibration=64))
    assert found["operators"]["quantized"] == found["operators"]["of"] == 9
    assert found["to_simulation"]["cosine_mean"] > 0.99 and found["runtime"]["name"] == "openvino"
