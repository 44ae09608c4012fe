"""docs/formats.md says what files have: every key of a written file, a decoder that works."""

import dataclasses
import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from mezzotint import quant
from mezzotint.encoders.resnet import resnet8
from mezzotint.encoders.saving import load_encoder, save_encoder
from mezzotint.evaluation.probe import Row
from mezzotint.evaluation.protocol import PTQ, Protocol
from mezzotint.export.packed import save_packed
from mezzotint.quant.bitwidth import Bits
from mezzotint.types import Input
from tests import ROOT

PAGE = (ROOT / "docs" / "formats.md").read_text(encoding="utf-8")
INPUT = Input((3, 16, 16), (0.5,) * 3, (0.25,) * 3)


def keys(title: str) -> list[str]:
    """The keys that the tables of a section list in their first column."""
    section = re.split(r"^## ", PAGE, flags=re.M)
    (text,) = (part for part in section if part.startswith(title))
    cells = re.findall(r"^\| (`.*?) \|", text, re.M)
    return [key for cell in cells for key in re.findall(r"`([^`]+)`", cell)]


def read(path: Path) -> Mapping[str, Any]:
    found: Mapping[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return found


def test_an_encoder_has_the_keys_of_the_page(tmp_path: Path) -> None:
    save_encoder(resnet8(INPUT, stem="small", width=2), tmp_path)
    found = read(tmp_path / "encoder.json")
    listed = keys("`encoder.json`")
    assert set(listed) == {*found, *found["input"], "mup"}
    assert found["format"] == 1 and "| [`encoder.json`](#encoderjson), [`packed.json`]" in PAGE


def test_packed_weights_are_decoded_by_the_lines_of_the_page(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.manual_seed(0)
    encoder = resnet8(INPUT, stem="small", width=4).eval()
    quant.quantize_(encoder, "ssql")
    quant.calibrate(encoder, [torch.randn(8, 3, 16, 16)])
    save_packed(encoder, tmp_path, Bits.parse("W3A4"))
    found = read(tmp_path / "packed.json")
    assert set(keys("`packed.json`")) | set(keys("`encoder.json`")) >= set(found) - {"input"}
    monkeypatch.chdir(tmp_path)
    (code,) = re.findall(r"```python\n(.*?)```", PAGE, re.S)
    names: dict[str, Any] = {}
    exec(compile(code, "docs/formats.md", "exec"), names)
    name = names["name"]
    np.testing.assert_array_equal(names["weight"], load_encoder(tmp_path).get_parameter(name).data)
    assert len(np.unique(names["codes"])) <= 8
    described = {"bits", "lowest", "highest", "divide", "layout"}
    assert all(set(entry) == described for entry in found["activations"].values())


def test_rows_and_protocols_have_the_fields_of_the_page() -> None:
    assert keys("`evaluation.json`") == [field.name for field in dataclasses.fields(Row)]
    text = PAGE.split("`protocol` has")[1].split("\n## ")[0]
    for kind in (Protocol, PTQ):
        assert all(f"`{field.name}`" in text for field in dataclasses.fields(kind)), kind
