import importlib.util
import io
import zipfile
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image

from tests import ROOT

SCRIPT = ROOT / "scripts" / "make_embedded_data.py"


@pytest.fixture(scope="module")
def script() -> ModuleType:
    spec = importlib.util.spec_from_file_location("make_embedded_data", SCRIPT)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_look_alikes_are_found_through_either_style(script: ModuleType) -> None:
    one = np.array([0, 1, 2, 2, 4, 5])
    other = np.array(
        [0, 1, 2, 3, 1, 3]
    )  # joins 1 with 4, and 3 with 5; the first style joins 2 with 3
    images = np.stack([one, other]).astype(np.uint8).reshape(2, 6, 1, 1, 1)
    assert script.look_alikes(images).tolist() == [0, 1, 2, 2, 1, 2]


def test_a_drawing_is_put_on_white_and_averaged(script: ModuleType) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (64, 64, 4), dtype=np.uint8)
    content = io.BytesIO()
    Image.fromarray(pixels).save(content, "PNG")
    share = pixels[..., 3:] / 255
    white = pixels[..., :3] * share + 255 * (1 - share)
    expected = white.reshape(32, 2, 32, 2, 3).mean(axis=(1, 3))
    assert np.abs(script.draw(content.getvalue()) - expected).max() <= 1.5


def test_the_same_arrays_give_the_same_bytes(script: ModuleType, tmp_path: Path) -> None:
    arrays: dict[str, npt.NDArray[Any]] = {
        "images": np.arange(4096, dtype=np.uint8).reshape(4, 32, 32),
        "labels": np.arange(4),
    }
    script.save(tmp_path / "1.npz", arrays)
    with zipfile.ZipFile(tmp_path / "1.npz") as archive:
        assert {entry.date_time for entry in archive.infolist()} == {(1980, 1, 1, 0, 0, 0)}
    script.save(tmp_path / "2.npz", {name: array.copy() for name, array in arrays.items()})
    assert (tmp_path / "1.npz").read_bytes() == (tmp_path / "2.npz").read_bytes()
    assert script.differences(arrays, tmp_path / "1.npz") == []
    assert script.differences({**arrays, "labels": np.arange(4) + 1}, tmp_path / "1.npz") == [
        "labels"
    ]
    assert script.differences({"images": arrays["images"]}, tmp_path / "1.npz") == ["labels"]


def test_an_archive_with_another_checksum_is_refused(script: ModuleType, tmp_path: Path) -> None:
    name = next(iter(script.ARCHIVES))
    (tmp_path / name).write_bytes(b"not the archive")
    with pytest.raises(
        SystemExit, match="has SHA-256 .*, but must have .* Delete it and fetch it again"
    ):
        script.fetch(name, tmp_path)
