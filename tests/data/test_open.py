"""Data by the name that a user types, for the encoder that is to take it."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from mezzotint.data.open import embedded_names, open_source, sources
from mezzotint.encoders.rows import TableMLP
from mezzotint.encoders.saving import save_encoder
from mezzotint.modality.modality import modality_names
from mezzotint.recipe.schema import construct, resolve
from mezzotint.types import Input

IMAGE = Input((3, 32, 32), (0.5,) * 3, (0.5,) * 3)


@pytest.mark.parametrize("name", ["emoji", "digits", "furniture", "smartwatch", "speech"])
def test_embedded_data_by_name(name: str) -> None:
    with pytest.raises(ValueError, match="the encoder takes time series of shape"):
        open_source(name, Input((99, 7), (0.0,) * 99, (1.0,) * 99, "series"))


def test_what_fits_is_opened(tmp_path: Path) -> None:
    assert len(open_source("emoji", IMAGE)) == 3822
    (tmp_path / "photos").mkdir()
    for number in range(3):
        Image.new("RGB", (40, 50), (number, 0, 0)).save(tmp_path / "photos" / f"{number}.png")
    assert open_source(str(tmp_path / "photos"), IMAGE).input.shape == (3, 32, 32)
    np.savez(
        tmp_path / "s.npz", x=np.random.default_rng(0).normal(size=(6, 2, 40)).astype(np.float32)
    )
    series = Input((2, 40), (0.0, 0.0), (1.0, 1.0), "series")
    assert open_source(str(tmp_path / "s.npz"), series).input.modality == "series"


def test_tokens_are_those_that_the_encoder_knows(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("some words\nand more\n")
    np.save(tmp_path / "a.npy", np.array([[3, 4, 9], [1, 2, 0]]))
    known, other = (Input((8,), (), (), "tokens", size) for size in (258, 30_524))
    assert len(open_source(str(tmp_path / "a.txt"), known)) == 2
    for encoder in (known, other):
        assert open_source(str(tmp_path / "a.npy"), encoder).input == encoder
    with pytest.raises(
        ValueError, match="vocabulary of 258 tokens, but the encoder knows 30524. Set `data.token"
    ):
        open_source(str(tmp_path / "a.txt"), other)
    with pytest.raises(ValueError, match="must be above the largest token 9, got 6"):
        open_source(str(tmp_path / "a.npy"), Input((8,), (), (), "tokens", 8))


def test_images_with_captions_are_named_by_their_list(tmp_path: Path) -> None:
    Image.new("RGB", (40, 50)).save(tmp_path / "a.png")
    (tmp_path / "captions.csv").write_text("path,caption\na.png,a black square\na.png,nothing\n")
    encoder = Input((4, 16, 16), (0.5,) * 3 + (0.0,), (0.5,) * 3 + (1.0,), "image_text", 258, 12)
    source = open_source(str(tmp_path / "captions.csv"), encoder)
    assert len(source) == 2 and source.read(1)["x"].shape == (4, 16, 16)
    with pytest.raises(ValueError, match="Supported for image_text: .csv, .json; embedded data: "):
        open_source("nowhere", encoder)


def test_sound_may_have_any_length() -> None:
    from mezzotint.data.audio.embedded import Speech

    mels, frames = Speech().input.shape[1:]
    wanted = Input((1, mels, frames + 10), (0.0,), (1.0,), "audio")
    assert open_source("speech", wanted).input.shape[1] == mels


def test_what_does_not_exist_is_refused_with_what_the_modality_allows() -> None:
    with pytest.raises(
        ValueError,
        match="`nowhere` does not exist. Supported for image: a folder, .arrow, .npy, .npz, ",
    ):
        open_source("nowhere", IMAGE)
    points = Input((3, 64), (0.0,) * 3, (1.0,) * 3, "points")
    with pytest.raises(
        ValueError, match="Supported for points: a folder, .h5, .hdf5, .npy, .npz; embedded"
    ):
        open_source("nowhere", points)
    with pytest.raises(ValueError, match="Supported for video: a folder; embedded data: "):
        open_source("nowhere", Input((1, 4, 8, 8), (0.0,), (1.0,), "video"))


def test_a_suffix_that_no_source_opens_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.wav").write_bytes(b"RIFF")
    with pytest.raises(
        ValueError, match="a.wav` cannot be read as image. Supported for image: a fold"
    ):
        open_source(str(tmp_path / "a.wav"), IMAGE)


def test_no_two_sources_open_the_same_path_or_name() -> None:
    paths = [(source.modality, suffix) for source in sources() for suffix in source.opens]
    names = [name for source in sources() for name in source.embedded]
    assert len(set(paths)) == len(paths) and len(set(names)) == len(names)
    assert {modality for modality, _ in paths} == set(modality_names())
    for name in names:
        source = embedded_names()[name].open_embedded(name)
        assert source.input.modality == source.modality and source.config["kind"] == source.kind


@pytest.mark.parametrize("kind", ["table", "series", "tokens"])
def test_samples_to_embed_need_no_labels_and_a_label_that_is_asked_for_must_exist(
    tmp_path: Path, kind: str
) -> None:
    rows = "\n".join(f"{i % 7},word {i},{'ab'[i // 20]}" for i in range(40))
    (tmp_path / "a.csv").write_text(f"v,text,Kind\n{rows}\n")
    (tmp_path / "b.csv").write_text("v,text\n" + "\n".join(f"{i},word" for i in range(40)) + "\n")
    label = "label" if kind == "tokens" else "y"
    size: dict[str, Any] = {"series": {"window": 4, "channels": ["v"]}, "tokens": {"length": 8}}
    config = {"kind": kind, "path": str(tmp_path / "a.csv"), label: "Kind", **size.get(kind, {})}
    trained = construct(resolve(config, "Source", "data"), "Source", {})
    assert trained.classes == ["a", "b"] and trained.described()
    described = trained.preprocessing()
    input, encoder = trained.input, None
    if kind == "table":
        encoder = tmp_path / "encoder"
        save_encoder(TableMLP(input, width=4), encoder, source=trained)
    opened = open_source(str(tmp_path / "b.csv"), input, described, encoder=encoder)
    assert opened.evaluation()[1] == [] and "has no column 'Kind'" in opened.notes[-1]
    with pytest.raises(ValueError, match="has no column 'Sort'"):
        open_source(
            str(tmp_path / "b.csv"),
            input,
            described,
            overrides=[f"data.{label}=Sort"],
            encoder=encoder,
        )
