"""Data by the name that a user types, for the encoder that is to take it."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from mezzotint.data.opening import open_source
from mezzotint.types import Input

IMAGE = Input((3, 32, 32), (0.5,) * 3, (0.5,) * 3)


@pytest.mark.parametrize("name", ["emoji", "digits", "furniture", "smartwatch", "speech"])
def test_embedded_data_by_name(name: str) -> None:
    with pytest.raises(ValueError, match="the encoder takes series of shape"):
        open_source(name, Input((99, 7), (0.0,) * 99, (1.0,) * 99, "series"))


def test_what_fits_is_opened(tmp_path: Path) -> None:
    assert len(open_source("emoji", IMAGE)) == 3822
    (tmp_path / "photos").mkdir()
    for number in range(3):
        Image.new("RGB", (40, 50), (number, 0, 0)).save(tmp_path / "photos" / f"{number}.png")
    assert open_source(str(tmp_path / "photos"), IMAGE).input.shape == (3, 32, 32)
    np.savez(tmp_path / "s.npz", x=np.random.default_rng(0).normal(size=(6, 2, 40)).astype(np.float32))
    series = Input((2, 40), (0.0, 0.0), (1.0, 1.0), "series")
    assert open_source(str(tmp_path / "s.npz"), series).input.modality == "series"


def test_sound_may_have_any_length() -> None:
    from mezzotint.data.speech import Speech

    mels, frames = Speech().input.shape[1:]
    wanted = Input((1, mels, frames + 10), (0.0,), (1.0,), "audio")
    assert open_source("speech", wanted).input.shape[1] == mels


def test_what_does_not_exist_is_refused_with_what_the_modality_allows() -> None:
    with pytest.raises(ValueError, match="allowed is an image folder, an .npz or .npy file, or emoji, mnist5k"):
        open_source("nowhere", IMAGE)
    points = Input((3, 64), (0.0,) * 3, (1.0,) * 3, "points")
    with pytest.raises(ValueError, match="allowed is a folder of clouds or meshes"):
        open_source("nowhere", points)
    with pytest.raises(ValueError, match="allowed is a folder of videos"):
        open_source("nowhere", Input((1, 4, 8, 8), (0.0,), (1.0,), "video"))
