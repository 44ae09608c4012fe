"""The page on export: both programs that serve an ONNX file give the encoder's features."""

import re
import wave
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from mezzotint.data.audio.folder import AudioFolder
from mezzotint.data.image.folder import ImageFolder
from mezzotint.data.source import Source
from mezzotint.data.table.table import Table
from mezzotint.encoders.encoder import Encoder
from mezzotint.encoders.resnet import resnet10
from mezzotint.encoders.rows import TableMLP
from mezzotint.evaluation.features import extract
from tests import ROOT

PAGE = (ROOT / "docs" / "export.md").read_text(encoding="utf-8")
IMAGES, TABLES, SOUNDS = (
    code for code in re.findall(r"```python\n(.*?)```\n", PAGE, re.S) if "InferenceSession" in code
)


def served(code: str, encoder: Encoder, source: Source) -> np.ndarray:
    """Write the file as the page expects it, run the program of the page, return its features."""
    from mezzotint.export.float_formats import write_onnx

    pytest.importorskip("onnxscript")
    pytest.importorskip("onnxruntime")
    encoder.preprocessing = source.preprocessing()
    write_onnx(encoder.eval(), Path("encoder.onnx"))
    names: dict[str, np.ndarray] = {}
    exec(compile(code, "docs/export.md", "exec"), names)
    return names["features"]


def test_an_image(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    pixels = np.random.default_rng(0).integers(0, 256, (37, 50, 3), dtype=np.uint8)
    Image.fromarray(pixels).save("photo.png")
    source = ImageFolder(root=".", size=16)
    encoder = resnet10(source.input, stem="small", width=4)
    found = served(IMAGES, encoder, source)
    np.testing.assert_allclose(found, extract(encoder, source).numpy(), atol=1e-4)
    lines = IMAGES[IMAGES.index("session") :].strip().splitlines()
    assert len(lines) <= 12


def test_a_row_of_a_table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("people.csv").write_text("height,color\n150,blue\n173.5,red\n,green\n181,red\n")
    source = Table(path="people.csv", y=None)
    torch.manual_seed(0)
    encoder = TableMLP(source.input, width=8)
    found = served(TABLES, encoder, source)
    np.testing.assert_allclose(found, extract(encoder, source).numpy()[1:2], atol=1e-5)


@pytest.mark.parametrize("seconds", [0.3, 0.9])
def test_a_sound(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, seconds: float) -> None:
    """A file that is shorter than a clip, and a longer one."""
    pytest.importorskip("soundfile")
    monkeypatch.chdir(tmp_path)
    values = np.random.default_rng(0).normal(0.0, 3000.0, round(16000 * seconds)).astype("<i2")
    with wave.open("sound.wav", "wb") as file:
        file.setparams((1, 2, 16000, 0, "NONE", ""))
        file.writeframes(values.tobytes())
    source = AudioFolder(root=".", seconds=0.6)
    torch.manual_seed(0)
    encoder = resnet10(source.input, stem="small", width=4)
    found = served(SOUNDS, encoder, source)
    np.testing.assert_allclose(found, extract(encoder, source).numpy(), atol=1e-4)
