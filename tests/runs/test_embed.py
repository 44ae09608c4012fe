"""Features of every sample, read as the encoder's training data were, in each modality."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from mezzotint import load_encoder, save_encoder
from mezzotint.data.image.folder import ImageFolder
from mezzotint.data.series.series import Series
from mezzotint.data.source import Source
from mezzotint.data.table.table import Table
from mezzotint.data.tokens.tokens import Tokens
from mezzotint.encoders.encoder import Encoder
from mezzotint.encoders.resnet import resnet10
from mezzotint.encoders.rows import TableMLP
from mezzotint.evaluation.features import WHITEN, Whitening, extract
from mezzotint.modality.modality import modality_of
from mezzotint.recipe.schema import construct, resolve
from mezzotint.runs.embed import embed
from mezzotint.runs.subject import open_data
from tests.test_contract_sources import EXAMPLES, build

Arrays = dict[str, np.ndarray]
PATHS = {
    "arrays": "x.npz",
    "audio_folder": "",
    "captioned_images": "captions.csv",
    "image_folder": "",
    "point_clouds": "",
    "series": "x.npz",
    "table": "x.csv",
    "tokens": "",
    "video_folder": "",
}
"""What a user names of each example: its file, or the folder itself."""


def encoder_of(source: Source) -> Encoder:
    """A small encoder of the source's modality."""
    torch.manual_seed(0)
    own = modality_of(source.input)
    config = {"kind": "vit", "width": 12, "depth": 1, "heads": 2, **own.example.patches}
    if source.modality == "image_text":
        config["patch"] = 4
    if source.modality in ("audio", "series", "table"):  # as small as these samples
        config = own.example.encoder
    encoder: Encoder = construct(
        resolve(config, "Encoder", "encoder"), "Encoder", {"Encoder": (source.input,)}
    )
    return encoder.eval()


def written(path: Path, encoder: Path, name: str | None, *overrides: str) -> Arrays:
    loaded = load_encoder(encoder)
    embed(loaded, open_data(encoder, loaded, name, overrides), path)
    with np.load(path) as arrays:
        return dict(arrays)


@pytest.mark.parametrize("kind", PATHS)
def test_data_is_read_as_in_training(kind: str, tmp_path: Path) -> None:
    """The settings of the example differ from the defaults, and nothing names them again."""
    source = build(kind, EXAMPLES[kind](tmp_path, 4))
    encoder = encoder_of(source)
    save_encoder(encoder, tmp_path / "encoder", source=source)
    found = written(tmp_path / "f.npz", tmp_path / "encoder", str(tmp_path / PATHS[kind]))
    samples, split = source.everything()
    expected = extract(encoder, samples)
    ids = [samples.id_of(i) for i in range(len(samples))]
    order = np.argsort(np.array(ids), kind="stable")
    assert found["ids"].tolist() == [ids[i] for i in order]
    np.testing.assert_allclose(found["features"], expected.numpy()[order], atol=1e-5)
    assert found["split"].tolist() == split[order].tolist()
    assert len(found["labels"]) == len(ids) and len(found["split"]) == len(ids)
    if kind != "captioned_images":
        assert found["classes"].tolist() in (["a", "b"], ["0", "1"])
        assert set(found["split"].tolist()) >= {"train"} and len(set(found["split"])) == 2


def named(arrays: Arrays) -> list[str]:
    return [arrays["classes"][label] for label in arrays["labels"]]


def table(path: Path, header: str, *rows: str) -> str:
    path.write_text("\n".join([header, *rows]))
    return str(path)


def test_a_row_of_a_table_gives_the_same_features_in_any_file(tmp_path: Path) -> None:
    people = [f"{150 + 3 * i},{'ab'[i % 2]},{'xy'[i % 2]}" for i in range(10)]
    source = Table(path=table(tmp_path / "people.csv", "height,color,kind", *people), y="kind")
    save_encoder(TableMLP(source.input, width=8), tmp_path / "encoder", source=source)
    every = written(tmp_path / "f.npz", tmp_path / "encoder", str(tmp_path / "people.csv"))
    assert len(every["features"]) == 10 and named(every) == ["x", "y"] * 5
    swapped = table(tmp_path / "few.csv", "kind,note,color,height", "y,1,b,153", "x,2,a,150")
    few = written(tmp_path / "g.npz", tmp_path / "encoder", swapped)
    np.testing.assert_array_equal(few["features"], every["features"][[1, 0]])
    assert named(few) == ["y", "x"]
    taller = table(tmp_path / "t.csv", "height,color,kind", *[f"{200 + i},a,x" for i in range(4)])
    other = written(tmp_path / "h.npz", tmp_path / "encoder", taller)["features"]
    assert not np.isclose(other[0], every["features"][0]).all()
    with pytest.raises(ValueError, match="lacks the columns 'color', which the encoder was train"):
        written(tmp_path / "i.npz", tmp_path / "encoder", table(tmp_path / "m.csv", "height", "3"))


def test_channels_of_a_series_are_matched_by_name(tmp_path: Path) -> None:
    rows = [f"{i},{i * i % 7},{'ab'[i // 20]}" for i in range(40)]
    source = Series(path=table(tmp_path / "a.csv", "x,z,label", *rows), window=8, stride=4)
    save_encoder(encoder_of(source), tmp_path / "encoder", source=source)
    every = written(tmp_path / "f.npz", tmp_path / "encoder", str(tmp_path / "a.csv"))
    swapped = table(tmp_path / "b.csv", "z,w,x", *[f"{i * i % 7},5,{i}" for i in range(8)])
    one = written(tmp_path / "g.npz", tmp_path / "encoder", swapped)
    np.testing.assert_allclose(one["features"], every["features"][:1], atol=1e-5)
    assert len(every["features"]) == 2 * (1 + (20 - 8) // 4)  # the stride of training
    with pytest.raises(ValueError, match="has no column z, only x, label"):
        written(
            tmp_path / "g.npz", tmp_path / "encoder", table(tmp_path / "c.csv", "x,label", "1,a")
        )
    wider = written(
        tmp_path / "g.npz", tmp_path / "encoder", str(tmp_path / "a.csv"), "data.stride=8"
    )
    assert len(wider["features"]) == 4


def test_a_tokenizer_is_kept_with_the_encoder(tmp_path: Path) -> None:
    vocabulary = tmp_path / "words.txt"
    vocabulary.write_text("red\nblue\ngreen\n[UNK]")
    (tmp_path / "a.txt").write_text("red blue\ngreen red blue\n")
    source = Tokens(path=str(tmp_path / "a.txt"), length=4, tokenizer=str(vocabulary))
    save_encoder(encoder_of(source), tmp_path / "encoder", source=source)
    before = written(tmp_path / "f.npz", tmp_path / "encoder", str(tmp_path / "a.txt"))
    vocabulary.unlink()
    (tmp_path / "encoder").rename(tmp_path / "moved")
    after = written(tmp_path / "f.npz", tmp_path / "moved", str(tmp_path / "a.txt"))
    np.testing.assert_array_equal(before["features"], after["features"])
    stored = json.loads((tmp_path / "moved" / "encoder.json").read_text())["preprocessing"]
    assert stored["source"]["tokenizer"] == "tokenizer.txt" and str(tmp_path) not in str(
        stored["source"]["tokenizer"]
    )


@pytest.fixture
def pets(tmp_path: Path) -> Path:
    for split, count in (("train", 3), ("val", 2)):
        for number, name in enumerate(("cat", "dog")):
            folder = tmp_path / "pets" / split / name
            folder.mkdir(parents=True)
            for i in range(count):
                Image.new("RGB", (20, 24), (40 * i, 90 * number, 9)).save(folder / f"{i}.png")
    source = ImageFolder(root=str(tmp_path / "pets"), size=16)
    save_encoder(resnet10(source.input, stem="small", width=4), tmp_path / "encoder", source=source)
    return tmp_path


def test_what_is_scored_is_written_too_and_what_is_unreadable_is_said(pets: Path) -> None:
    (pets / "pets" / "val" / "dog" / "bad.png").write_bytes(b"no image")
    loaded = load_encoder(pets / "encoder")
    done = embed(loaded, open_data(pets / "encoder", loaded, str(pets / "pets")), pets / "f.npz")
    assert done.splits == {"train": 6, "val": 4} and list(done.classes) == ["cat", "dog"]
    assert str(done) == "10 samples (6 train, 4 val), 32 features, 2 classes"
    assert done.left_out[-1].startswith(
        "1 samples cannot be read and are left out: val/dog/bad.png: "
    )


def test_nothing_readable_is_one_sentence(pets: Path) -> None:
    (pets / "bad").mkdir()
    for name in ("a.png", "b.png"):
        (pets / "bad" / name).write_bytes(b"")
    with pytest.raises(ValueError, match="None of the 2 images can be read; the first is a.png: e"):
        written(pets / "f.npz", pets / "encoder", str(pets / "bad"))
    assert not (pets / "f.npz").exists()


def test_an_encoder_without_its_preprocessing_reads_with_defaults_or_is_refused(
    pets: Path,
) -> None:
    source = ImageFolder(root=str(pets / "pets"), size=16)
    save_encoder(resnet10(source.input, stem="small", width=4), pets / "bare")
    assert len(written(pets / "f.npz", pets / "bare", str(pets / "pets"))["features"]) == 10
    rows = Table(path=table(pets / "a.csv", "x,label", "1,a", "2,b", "3,a"))
    save_encoder(TableMLP(rows.input, width=4), pets / "old")
    with pytest.raises(ValueError, match="was saved without the encoding of its table's columns"):
        written(pets / "f.npz", pets / "old", str(pets / "a.csv"))
    with pytest.raises(ValueError, match="Data is missing: the encoder was saved without its data"):
        written(pets / "f.npz", pets / "bare", None)


def test_several_labels_a_sample(tmp_path: Path) -> None:
    make: Callable[[Path, int], dict[str, object]] = EXAMPLES["image_tags"]
    source = build("image_tags", make(tmp_path, 4))
    done = embed(encoder_of(source), source, tmp_path / "f.npz")
    with np.load(tmp_path / "f.npz") as arrays:
        assert arrays["labels"].dtype == np.bool_ and arrays["labels"].shape == (8, 2)
        assert arrays["classes"].tolist() == ["cat", "dog"] == list(done.classes)


def test_one_file_is_embedded_as_in_its_folder(pets: Path) -> None:
    every = written(pets / "f.npz", pets / "encoder", str(pets / "pets"))
    one = written(pets / "g.npz", pets / "encoder", str(pets / "pets" / "val" / "dog" / "1.png"))
    assert one["ids"].tolist() == ["1.png"] and one["labels"].tolist() == [-1]
    same = every["ids"].tolist().index("val/dog/1.png")
    np.testing.assert_allclose(one["features"][0], every["features"][same], atol=1e-5)


def test_whitened_features_keep_their_map_for_later_samples(pets: Path) -> None:
    encoder, data = load_encoder(pets / "encoder"), str(pets / "pets")
    plain = written(pets / "f.npz", pets / "encoder", data)
    for index in range(4):  # as many training samples as a whitening takes
        for name in ("cat", "dog"):
            color = (9 + 60 * index, 90, 20 if name == "cat" else 200)
            Image.new("RGB", (20, 24), color).save(pets / "pets" / "train" / name / f"n{index}.png")
    source = open_data(pets / "encoder", encoder, data)
    embed(encoder, source, pets / "w.npz", whiten="fit")
    embed(encoder, source, pets / "p.npz")
    with np.load(pets / "w.npz") as white, np.load(pets / "p.npz") as every:
        train = torch.from_numpy(every["features"][every["split"] == "train"])
        expected = Whitening.fit(train, WHITEN)(torch.from_numpy(every["features"]))
        np.testing.assert_allclose(white["features"], expected.numpy(), atol=1e-3)
        assert "whitening" not in every
        mean, matrix, features = white["mean"], white["whitening"], white["features"]
        same = white["ids"].tolist().index("val/dog/1.png")
    one = open_data(pets / "encoder", encoder, str(pets / "pets" / "val" / "dog" / "1.png"))
    embed(encoder, one, pets / "one.npz", whiten=pets / "w.npz")
    with np.load(pets / "one.npz") as found:
        np.testing.assert_allclose(found["features"][0], features[same], atol=1e-4)
        row = plain["features"][plain["ids"].tolist().index("val/dog/1.png")]
        np.testing.assert_allclose(found["features"][0], (row - mean) @ matrix, atol=1e-3)
    with pytest.raises(ValueError, match="needs 10 training samples or more, got 1. Give"):
        embed(encoder, one, pets / "no.npz", whiten="fit")
    with pytest.raises(ValueError, match="has the arrays features, .* and no map to whiten by"):
        embed(encoder, one, pets / "no.npz", whiten=pets / "f.npz")
    with pytest.raises(ValueError, match="must be fit, or a file"):
        embed(encoder, one, pets / "no.npz", whiten="fitted")
    with pytest.raises(ValueError, match="keeps its map with the features in an .npz"):
        embed(encoder, source, pets / "no.parquet", whiten="fit")
    np.savez(pets / "other.npz", mean=np.zeros(3), whitening=np.eye(3))
    with pytest.raises(ValueError, match="whitens 3 features, and the encoder has"):
        embed(encoder, one, pets / "no.npz", whiten=pets / "other.npz")
    assert not list(pets.glob("no.*"))


def test_one_recording_is_embedded_as_in_its_folder(tmp_path: Path) -> None:
    source = build("audio_folder", EXAMPLES["audio_folder"](tmp_path, 4))
    save_encoder(encoder_of(source), tmp_path / "encoder", source=source)
    every = written(tmp_path / "f.npz", tmp_path / "encoder", str(tmp_path))
    one = written(tmp_path / "g.npz", tmp_path / "encoder", str(tmp_path / "b" / "2.wav"))
    same = every["ids"].tolist().index("b/2.wav")
    np.testing.assert_allclose(one["features"][0], every["features"][same], atol=1e-5)


def test_splits_that_nothing_uses_are_written_too(pets: Path) -> None:
    for name in ("cat", "fox"):
        (pets / "pets" / "test" / name).mkdir(parents=True)
        Image.new("RGB", (20, 24), (9, 9, 200)).save(pets / "pets" / "test" / name / "0.png")
    found = written(pets / "f.npz", pets / "encoder", str(pets / "pets"))
    of_test = [i for i, name in enumerate(found["split"]) if name == "test"]
    assert len(found["features"]) == 12 and len(of_test) == 2
    assert [found["ids"][i] for i in of_test] == ["test/cat/0.png", "test/fox/0.png"]
    # The run knows no fox: it has no label.
    assert [int(found["labels"][i]) for i in of_test] == [0, -1]


def test_a_split_to_score_is_written_without_classes_too(tmp_path: Path, pets: Path) -> None:
    for split in ("train", "val"):
        (tmp_path / "flat" / split / "cat").mkdir(parents=True)
        Image.new("RGB", (20, 24), (9, 90, 20)).save(tmp_path / "flat" / split / "cat" / "0.png")
    found = written(pets / "f.npz", pets / "encoder", str(tmp_path / "flat"))
    assert found["split"].tolist() == ["train", "val"] and found["classes"].tolist() == ["cat"]
