import json
from pathlib import Path

import pytest
import torch

from mezzotint import load_encoder, save_encoder
from mezzotint.encoders.resnet import resnet18
from mezzotint.files import seal
from mezzotint.types import Input

RGB = Input((3, 32, 32), (0.1, 0.2, 0.3), (0.4, 0.5, 0.6))


def test_round_trip(tmp_path: Path) -> None:
    encoder = resnet18(RGB, stem="small", width=4).eval()
    save_encoder(encoder, tmp_path / "e", {"why": "a test"})
    loaded = load_encoder(tmp_path / "e")
    x = torch.randn(3, 3, 32, 32)
    assert torch.equal(loaded(x), encoder(x))
    assert loaded.input == RGB and loaded.dim == 32 and not loaded.training
    description = json.loads((tmp_path / "e" / "encoder.json").read_text())
    assert description["encoder"]["kind"] == "resnet18" and description["made_by"] == {
        "why": "a test"
    }
    assert {p.name for p in (tmp_path / "e").iterdir()} == {
        "encoder.json",
        "encoder.safetensors",
        "seals.json",
    }


def test_damage_is_noticed(tmp_path: Path) -> None:
    save_encoder(resnet18(RGB, width=2), tmp_path)
    path = tmp_path / "encoder.safetensors"
    content = bytearray(path.read_bytes())
    content[-3] ^= 4
    path.write_bytes(content)
    with pytest.raises(ValueError, match="is damaged: its SHA-256 is"):
        load_encoder(tmp_path)
    path.unlink()
    with pytest.raises(ValueError, match="is damaged"):
        load_encoder(tmp_path)


@pytest.mark.parametrize("kind", ["os.system", "torch.nn.Linear", "resnet19"])
def test_a_description_names_only_this_package(tmp_path: Path, kind: str) -> None:
    save_encoder(resnet18(RGB, width=2), tmp_path)
    path = tmp_path / "encoder.json"
    description = json.loads(path.read_text())
    description["encoder"]["kind"] = kind
    path.write_text(json.dumps(description))
    seal(path)
    with pytest.raises(ValueError, match=f"`encoder.kind` must be one of .*, got '{kind}'"):
        load_encoder(tmp_path)


def test_another_architecture_is_refused(tmp_path: Path) -> None:
    save_encoder(resnet18(RGB, width=2), tmp_path)
    path = tmp_path / "encoder.json"
    description = json.loads(path.read_text())
    description["encoder"]["width"] = 4
    path.write_text(json.dumps(description))
    seal(path)
    with pytest.raises(ValueError, match="does not fit its encoder.json"):
        load_encoder(tmp_path)
