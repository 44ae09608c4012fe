"""The contract of every data source: samples, ids, labels, tasks, fingerprints, refusals.

A new source is taken in by itself when all its keys have defaults. One that reads files needs an
entry in `EXAMPLES`, which writes tiny files for it.
"""

import json
import multiprocessing
import pickle
import tarfile
import wave
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import tifffile
import torch
from PIL import Image
from pyarrow import parquet
from torch import Tensor

from mezzotint.data.audio.folder import AudioFolder
from mezzotint.data.image.folder import ImageFolder
from mezzotint.data.open import sources
from mezzotint.data.prepare.shard import shard
from mezzotint.data.source import Source
from mezzotint.recipe.schema import construct, resolve
from mezzotint.recipe.signatures import index
from mezzotint.types import Crop
from tests.data.formats.test_parquet import save_to_disk, with_features
from tests.data.formats.test_shards import add

Config = dict[str, Any]
CLASSES = ("a", "b")


def noise(*shape: int) -> np.ndarray[Any, np.dtype[np.uint8]]:
    return np.random.default_rng(sum(shape)).integers(0, 256, shape, dtype=np.uint8)


def image(path: Path, number: int) -> str:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(noise(20 + number, 24, 3)).save(path)
    return path.name


def sound(path: Path, number: int) -> str:
    path.parent.mkdir(parents=True, exist_ok=True)
    with wave.open(str(path), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(16000)
        file.writeframes(noise(3200 + 2 * number).tobytes())
    return path.name


def names(count: int) -> list[tuple[str, int]]:
    """Class and number of each file."""
    return [(name, number) for name in CLASSES for number in range(count)]


def arrays(root: Path, count: int) -> Config:
    np.savez(root / "x.npz", x=noise(2 * count, 8, 8, 3), y=np.arange(2 * count) % 2)
    return {"path": str(root / "x.npz")}


def audio_benchmark(root: Path, count: int) -> Config:
    rows = ["filename,fold,target,category"]
    for name, number in names(count):
        file = sound(root / "audio" / f"{name}{number}.wav", number)
        rows.append(f"{file},{number % 2 + 1},0,{name}")
    (root / "meta").mkdir()
    (root / "meta" / "esc50.csv").write_text("\n".join(rows))
    return {"name": "esc50", "root": str(root), "seconds": 0.2}


def audio_folder(root: Path, count: int) -> Config:
    for name, number in names(count):
        sound(root / name / f"{number}.wav", number)
    return {"root": str(root), "seconds": 0.2}


def captioned_images(root: Path, count: int) -> Config:
    rows = ["path,caption"]
    rows += [f"{image(root / f'{c}{n}.png', n)},{c} number {n}" for c, n in names(count)]
    (root / "captions.csv").write_text("\n".join(rows))
    return {"root": str(root), "files": str(root / "captions.csv"), "size": 8}


def cifar(root: Path, count: int, files: list[str], label_bytes: int) -> Config:
    for file in files:
        labels = np.arange(count, dtype=np.uint8)[:, None] % 2
        rows = np.concatenate([labels] * label_bytes + [noise(count, 3072)], axis=1)
        (root / file).write_bytes(rows.tobytes())
    return {"root": str(root)}


def cifar10(root: Path, count: int) -> Config:
    (root / "batches.meta.txt").write_text("\n".join("abcdefghij"))
    files = [*(f"data_batch_{i}.bin" for i in range(1, 6)), "test_batch.bin"]
    return cifar(root, count, files, 1)


def cifar100(root: Path, count: int) -> Config:
    (root / "fine_label_names.txt").write_text("\n".join(f"class{i}" for i in range(100)))
    return cifar(root, count, ["train.bin", "test.bin"], 2)


def image_folder(root: Path, count: int) -> Config:
    for name, number in names(count):
        image(root / name / f"{number}.png", number)
    return {"root": str(root), "size": 16}


def native_images(root: Path, count: int) -> Config:
    """16 bits and two channels."""
    for name, number in names(count):
        (root / name).mkdir(exist_ok=True)
        values = (noise(20, 24, 2).astype(np.uint16) << 8) + number
        tifffile.imwrite(
            root / name / f"{number}.tif", values, photometric="minisblack", planarconfig="contig"
        )
    return {"root": str(root), "size": 16, "reader": {"kind": "native", "range": "percentiles"}}


def native_arrays(root: Path, count: int) -> Config:
    """Several images of floats in one file."""
    for name in CLASSES:
        (root / name).mkdir()
        for part in range(2):
            values = np.stack([noise(20, 24, 4) / 7.0 for _ in range(count)])
            np.save(root / name / f"{part}.npy", values.astype(np.float32))
    return {"root": str(root), "size": 16, "reader": {"kind": "native", "axes": "NHWC"}}


def image_tags(root: Path, count: int) -> Config:
    rows = ["Path,cat,dog"]
    rows += [f"{image(root / f'{c}{n}.png', n)},{n % 2},{int(c == 'a')}" for c, n in names(count)]
    (root / "tags.csv").write_text("\n".join(rows))
    files = str(root / "tags.csv")
    return {"root": str(root), "files": files, "labels": ["cat", "dog"], "size": 16}


def image_shards(root: Path, count: int) -> Config:
    (root / "photos").mkdir()
    folder = ImageFolder(**image_folder(root / "photos", count))
    shard(folder, root / "shards", samples=3)
    return {"root": str(root / "shards"), "size": 16}


def encoded(root: Path, count: int, write: Callable[[Path, int], str], suffix: str) -> pa.Table:
    """A column of files with their bytes, and the number of the class, as `datasets` writes it."""
    files = [root / f"{name}{number}{suffix}" for name, number in names(count)]
    for file, (_, number) in zip(files, names(count), strict=True):
        write(file, number)
    rows = [{"bytes": file.read_bytes(), "path": file.name} for file in files]
    kind = "Image" if suffix == ".png" else "Audio"
    table = pa.table({"sample": rows, "label": [CLASSES.index(name) for name, _ in names(count)]})
    label = {"names": list(CLASSES), "_type": "ClassLabel"}
    for file in files:
        file.unlink()
    return with_features(table, {"sample": {"_type": kind}, "label": label})


def image_parquet(root: Path, count: int) -> Config:
    parquet.write_table(encoded(root, count, image, ".png"), root / "x.parquet", row_group_size=3)
    return {"root": str(root), "size": 16}


def image_arrow(root: Path, count: int) -> Config:
    save_to_disk(encoded(root, count, image, ".png"), root / "train")
    return {"root": str(root), "size": 16}


def image_webdataset(root: Path, count: int) -> Config:
    with tarfile.open(root / "x-000000.tar", "w") as tar:
        for row in encoded(root, count, image, ".png").to_pylist():
            add(tar, row["sample"]["path"], row["sample"]["bytes"])
            label = json.dumps({"label": CLASSES[row["label"]]}).encode()
            add(tar, row["sample"]["path"].replace("png", "json"), label)
    return {"root": str(root / "x-000000.tar"), "size": 16}


def audio_parquet(root: Path, count: int) -> Config:
    parquet.write_table(encoded(root, count, sound, ".wav"), root / "x.parquet")
    return {"root": str(root / "x.parquet"), "seconds": 0.2}


def audio_shards(root: Path, count: int) -> Config:
    (root / "audio").mkdir()
    folder = AudioFolder(**audio_folder(root / "audio", count))
    shard(folder, root / "shards", samples=3)
    return {"root": str(root / "shards"), "seconds": 0.2}


def labeled(root: Path, count: int) -> Config:
    return {"source": {"kind": "image_folder", **image_folder(root, count)}}


def point_clouds(root: Path, count: int) -> Config:
    for name, number in names(count):
        (root / name).mkdir(exist_ok=True)
        np.save(root / name / f"{number}.npy", noise(30 + number, 3).astype(np.float32))
    return {"path": str(root), "points": 16}


def cloud_arrays(root: Path, count: int) -> Config:
    clouds = noise(2 * count, 20, 3).astype(np.float32)
    np.savez(root / "x.npz", x=clouds, y=np.arange(2 * count) % 2)
    return {"path": str(root / "x.npz"), "points": 16}


def series(root: Path, count: int) -> Config:
    x = noise(2 * count, 3, 40).astype(np.float32)
    np.savez(root / "x.npz", x=x, label=np.arange(2 * count) % 2)
    return {"path": str(root / "x.npz"), "window": 20}


def stl10(root: Path, count: int) -> Config:
    (root / "class_names.txt").write_text("\n".join("abcdefghij"))
    for part in ("unlabeled", "train", "test"):
        (root / f"{part}_X.bin").write_bytes(noise(count, 3 * 96 * 96).tobytes())
        (root / f"{part}_y.bin").write_bytes(bytes(1 + i % 2 for i in range(count)))
    return {"root": str(root)}


def svhn(root: Path, count: int) -> Config:
    scipy_io = pytest.importorskip("scipy.io")
    for part in ("train", "test"):
        content = {"X": noise(32, 32, 3, count), "y": 1 + np.arange(count)[:, None] % 10}
        scipy_io.savemat(root / f"{part}_32x32.mat", content)
    return {"root": str(root)}


def table(root: Path, count: int) -> Config:
    rows = ["height,color,label"]
    rows += [f"{n * n + ord(c)},{'red' if n % 3 else 'blue'},{c}" for c, n in names(count)]
    (root / "x.csv").write_text("\n".join(rows))
    return {"path": str(root / "x.csv")}


def table_arrow(root: Path, count: int) -> Config:
    heights = [number * number + ord(name) for name, number in names(count)]
    labels = [name for name, _ in names(count)]
    save_to_disk(pa.table({"height": heights, "label": labels}), root / "train")
    return {"path": str(root)}


def tokens_parquet(root: Path, count: int) -> Config:
    texts = [f"text {number} of {name}" for name, number in names(count)]
    labels = [name for name, _ in names(count)]
    parquet.write_table(pa.table({"text": texts, "label": labels}), root / "x.parquet")
    return {"path": str(root / "x.parquet"), "length": 8}


def tokens(root: Path, count: int) -> Config:
    for name, number in names(count):
        (root / name).mkdir(exist_ok=True)
        (root / name / f"{number}.txt").write_text(f"text {number} of {name}")
    return {"path": str(root), "length": 8}


def transfer_set(root: Path, count: int) -> Config:
    (root / "variants.txt").write_text("\n".join(CLASSES))
    for part in ("trainval", "test"):
        rows = [f"{part}{c}{n} {c}" for c, n in names(count)]
        (root / f"images_variant_{part}.txt").write_text("\n".join(rows))
        for row in rows:
            image(root / "images" / f"{row.split()[0]}.jpg", 0)
    return {"name": "aircraft", "root": str(root), "size": 16}


def video_folder(root: Path, count: int) -> Config:
    av = pytest.importorskip("av")
    for name, number in names(count):
        (root / name).mkdir(exist_ok=True)
        with av.open(str(root / name / f"{number}.mp4"), "w") as container:
            stream = container.add_stream("mpeg4", rate=10)
            stream.width, stream.height, stream.pix_fmt = 32, 32, "yuv420p"
            for step in range(12):
                pixels = np.roll(noise(32, 32, 3), number)
                frame = av.VideoFrame.from_ndarray(pixels, format="rgb24")
                frame.pts, frame.time_base = step, Fraction(1, 10)
                container.mux(stream.encode(frame))
            container.mux(stream.encode())
    return {"root": str(root), "frames": 4, "size": 16}


EXAMPLES: dict[str, Callable[[Path, int], Config]] = {
    "arrays": arrays, "audio_benchmark": audio_benchmark, "audio_folder": audio_folder,
    "audio_shards": audio_shards, "audio_shards/parquet": audio_parquet,
    "image_shards": image_shards, "image_shards/parquet": image_parquet,
    "image_shards/arrow": image_arrow, "image_shards/webdataset": image_webdataset,
    "captioned_images": captioned_images, "cifar10": cifar10, "cifar100": cifar100,
    "image_folder/native": native_images, "image_folder/arrays": native_arrays,
    "image_folder": image_folder, "image_tags": image_tags, "labeled": labeled,
    "point_clouds": point_clouds, "point_clouds/arrays": cloud_arrays, "series": series,
    "stl10": stl10, "svhn": svhn, "table": table, "table/arrow": table_arrow,
    "tokens": tokens, "tokens/parquet": tokens_parquet, "transfer_set": transfer_set,
    "video_folder": video_folder,
}  # fmt: skip
"""Writes `count` samples a class for a kind and returns its keys; or `kind/variant`."""

EMBEDDED = sorted(
    kind
    for kind, entry in index().members("Source").items()
    if not any(key.required for key in entry.keys.values())
)
EVERY = [*EXAMPLES, *EMBEDDED]


def build(kind: str, config: Config) -> Source:
    made: Source = construct(
        resolve({"kind": kind.partition("/")[0], **config}, "Source", "data"), "Source", {}
    )
    return made


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Source]:
    """Each source once, over four samples a class."""
    known: dict[str, Source] = {}

    def source(kind: str) -> Source:
        if kind not in known:
            root = tmp_path_factory.mktemp("source")
            known[kind] = build(kind, EXAMPLES[kind](root, 4) if kind in EXAMPLES else {})
        return known[kind]

    return source


def some(source: Source) -> list[int]:
    return sorted({0, len(source) // 2, len(source) - 1})


def test_every_source_of_the_index_has_an_example() -> None:
    assert {kind.partition("/")[0] for kind in EVERY} == set(index().members("Source"))
    assert len(sources()) == len(index().members("Source"))


@pytest.mark.parametrize("kind", EVERY)
def test_samples_are_as_the_input_says(kind: str, made: Callable[[str], Source]) -> None:
    source = made(kind)
    assert len(source) >= 4 and source.input.modality == source.modality or kind == "labeled"
    for position in some(source):
        x = source.read(position)["x"]
        assert tuple(x.shape) == source.input.shape or source.input.modality == "series"
        if source.modality == "tokens":
            assert x.dtype == torch.int64 and 0 <= int(x.min()) <= int(x.max())
            assert int(x.max()) < source.input.vocabulary
        else:
            assert x.dtype in (torch.uint8, torch.float16, torch.float32)
        assert torch.isfinite(source.input.normalize(source.input.as_float(x[None]))).all()


@pytest.mark.parametrize("kind", EVERY)
def test_ids_are_unique_stable_and_known_without_reading(
    kind: str, made: Callable[[str], Source]
) -> None:
    source = made(kind)
    ids = [source.id_of(position) for position in range(len(source))]
    assert len(set(ids)) == len(ids) and all(ids)
    assert [source.read(position)["id"] for position in some(source)] == [
        ids[position] for position in some(source)
    ]


@pytest.mark.parametrize("kind", EVERY)
def test_a_batch_is_its_samples(kind: str, made: Callable[[str], Source]) -> None:
    source = made(kind)
    positions = some(source)[::-1]
    batch = source.read_batch(torch.tensor(positions))
    assert torch.equal(batch, torch.stack([source.read(p)["x"] for p in positions]))
    targets = source.targets(torch.tensor(positions))
    assert targets is None or len(targets) == len(positions)


@pytest.mark.parametrize("kind", EVERY)
def test_crops_lie_where_they_are_asked_for(kind: str, made: Callable[[str], Source]) -> None:
    source = made(kind)
    if not source.croppable:
        with pytest.raises(NotImplementedError, match="reads whole samples only"):
            source.read_crops(0, lambda height, width: [])
        return
    crops = source.read_crops(
        0, lambda height, width: [Crop((0, 0, height, width), 8), Crop((0, 0, 4, 4), 4)]
    )
    channels = source.input.shape[0]
    assert [tuple(crop.shape) for crop in crops] == [(channels, 8, 8), (channels, 4, 4)]
    stored = torch.float32 if source.input.range else torch.uint8
    assert all(crop.dtype == stored for crop in crops)


@pytest.mark.parametrize("kind", EVERY)
def test_labels_and_tasks_agree(kind: str, made: Callable[[str], Source]) -> None:
    everything, tasks = made(kind).evaluation()
    assert isinstance(everything, Source) and len({task.name for task in tasks}) == len(tasks)
    for task in tasks:
        train, test = set(task.train.tolist()), set(task.test.tolist())
        assert train and test and not train & test and set(task.validation.tolist()) <= train
        assert len(task.labels) == len(everything) and max(train | test) < len(everything)
        if task.kind == "classify":
            used = task.labels[sorted(train | test)]
            assert used.min() >= 0 and used.max() < len(task.classes)
        elif task.kind == "tag":
            assert task.labels.shape[1] == len(task.classes) and task.labels.dtype == np.bool_
    if everything.labels is not None and everything.labels.ndim == 1:
        assert len(everything.labels) == len(everything)
        for position in some(everything):
            label, known = everything.read(position)["label"], int(everything.labels[position])
            assert isinstance(label, Tensor) or label == (known if known >= 0 else None)


@pytest.mark.parametrize("kind", EXAMPLES)
def test_the_fingerprint_is_stable_and_changes_with_the_data(kind: str, tmp_path: Path) -> None:
    first, second = tmp_path / "first", tmp_path / "second"
    first.mkdir()
    second.mkdir()
    config = EXAMPLES[kind](first, 4)
    print_of = build(kind, config).fingerprint()
    assert build(kind, config).fingerprint() == print_of and "\n" not in print_of
    assert build(kind, EXAMPLES[kind](second, 5)).fingerprint() != print_of


@pytest.mark.parametrize("kind", EMBEDDED)
def test_embedded_data_has_a_stable_fingerprint(kind: str, made: Callable[[str], Source]) -> None:
    assert build(kind, {}).fingerprint() == made(kind).fingerprint()


def read_in_worker(stored: bytes) -> list[Tensor]:
    source = pickle.loads(stored)
    return [source.read(position)["x"] for position in some(source)]


def test_every_source_reads_the_same_in_a_spawned_worker(made: Callable[[str], Source]) -> None:
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, mp_context=context) as workers:
        for kind in EVERY:
            source = made(kind)
            there = workers.submit(read_in_worker, pickle.dumps(source)).result()
            here = [source.read(position)["x"] for position in some(source)]
            assert all(map(torch.equal, there, here)), kind


@pytest.mark.parametrize("kind", EVERY)
def test_an_index_out_of_range_is_an_error(kind: str, made: Callable[[str], Source]) -> None:
    source = made(kind)
    for read in (source.read, source.id_of):
        with pytest.raises(IndexError):
            read(len(source))


@pytest.mark.parametrize("empty", ["empty", "missing"])
@pytest.mark.parametrize("kind", EXAMPLES)
def test_nothing_to_read_is_refused_in_plain_sentences(
    kind: str, empty: str, tmp_path: Path
) -> None:
    config = EXAMPLES[kind](tmp_path, 4)
    options = config["source"] if kind == "labeled" else config
    key = next(key for key in ("files", "path", "root") if key in options)
    nothing = tmp_path / f"{empty}-{Path(options[key]).suffix}"
    if empty == "empty" and Path(options[key]).is_dir():
        nothing.mkdir()
    elif empty == "empty":
        nothing.touch()
    options[key] = str(nothing)
    with pytest.raises(ValueError) as error:
        build(kind, config)
    message = str(error.value)
    assert str(nothing) in message and message.endswith(".") and "\n" not in message
    assert ". " in message and "allowed" not in message and "got a" not in message, message
