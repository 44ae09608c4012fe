"""The Python examples of README and docs/runs.md are real."""

import re
from typing import Any

import pytest
import torch

from mezzotint.encoders.resnet import resnet8
from mezzotint.types import Input
from tests import ROOT


def test_the_randomized_quantization_example_runs() -> None:
    blocks = re.findall(
        r"```python\n(.*?)```", (ROOT / "README.md").read_text(encoding="utf-8"), re.S
    )
    scope: dict[str, object] = {}
    exec(next(block for block in blocks if "randomized_quantize" in block), scope)
    view = scope["view"]
    assert isinstance(view, torch.Tensor) and view.shape == (8, 3, 32, 32)
    assert all(len(row.unique()) <= 8 for row in view.flatten(0, 1))


def test_the_few_bits_example_runs(capsys: pytest.CaptureFixture[str]) -> None:
    blocks = re.findall(
        r"```python\n(.*?)```", (ROOT / "README.md").read_text(encoding="utf-8"), re.S
    )
    encoder = resnet8(Input((3, 16, 16), (0.5,) * 3, (0.5,) * 3), stem="small", width=8).eval()
    x = torch.randn(4, 3, 16, 16)
    exact = encoder(x)
    scope: dict[str, Any] = {"encoder": encoder, "x": x}
    exec(next(block for block in blocks if "quant.bits" in block), scope)
    assert not torch.equal(scope["features"], exact) and scope["features"].requires_grad
    assert torch.equal(encoder(x), exact)
    assert "weights" in capsys.readouterr().out
