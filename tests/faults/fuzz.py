"""Damaged and hostile files for every reader: refused in words, or read, and nothing else.

A file is made from a good one by a few random changes. A reader may return a value or refuse it
with a `ValueError`, an `OSError` or `Unreadable`; any other error, a crash, more than ten seconds
of processor time and more than 400 MB are faults.
"""

import functools
import hashlib
import io
import json
import random
import shutil
import struct
import tempfile
import wave
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from safetensors.torch import save

from mezzotint.recipe.schema import construct, resolve

Make = Callable[[Path], Any]


@dataclass(frozen=True)
class Reader:
    """A reader, and a good file for it.

    Attributes:
        name: of the reader and the format.
        file: path of the file in its folder.
        good: content of the good file.
        read: reads the file, given the folder.
        prepare: writes what else the folder needs.
        text: whether the changes are those of text.
    """

    name: str
    file: str
    good: bytes
    read: Callable[[Path], Any]
    prepare: Callable[[Path], None] = lambda folder: None
    text: bool = False


def _source(family: str = "Source", **config: Any) -> Callable[[Path], Any]:
    """Open a source of the folder, and read two samples."""

    def read(folder: Path) -> Any:
        own = {k: str(folder / v) if k in ("path", "root", "files") else v
               for k, v in config.items()}  # fmt: skip
        source = construct(resolve(own, family, "data"), family, {})
        if family == "DetectionSource":
            return [source.read("train", index) for index in range(source.count("train"))]
        return [source.read(index) for index in range(min(2, len(source)))]

    return read


def _rng() -> np.random.Generator:
    return np.random.default_rng(0)


def _image(kind: str, mode: str = "RGB") -> bytes:
    pixels = _rng().integers(0, 255, (20, 24, len(mode)), dtype=np.uint8).squeeze()
    file = io.BytesIO()
    Image.fromarray(pixels, mode if mode != "P" else None).save(file, kind)
    return file.getvalue()


def _wave() -> bytes:
    file = io.BytesIO()
    with wave.open(file, "wb") as out:
        out.setparams((1, 2, 16_000, 0, "NONE", ""))
        out.writeframes(_rng().integers(-9000, 9000, 16_000, dtype=np.int16).tobytes())
    return file.getvalue()


def _sound(kind: str) -> bytes:
    import soundfile

    file = io.BytesIO()
    soundfile.write(file, _rng().normal(size=16_000) / 9, 16_000, format=kind)
    return file.getvalue()


def _film(kind: str = "mp4") -> bytes:
    import av

    with tempfile.TemporaryDirectory() as folder:
        path = f"{folder}/a.{kind}"
        with av.open(path, "w") as container:
            stream: Any = container.add_stream("mpeg4", rate=8)
            stream.width, stream.height, stream.pix_fmt = 32, 32, "yuv420p"
            for number in range(12):
                pixels = np.full((32, 32, 3), 10 * number, np.uint8)
                container.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24")))
            container.mux(stream.encode())
        return Path(path).read_bytes()


def _npz(**arrays: Any) -> bytes:
    file = io.BytesIO()
    np.savez(file, **arrays)
    return file.getvalue()


def _npy(array: Any) -> bytes:
    file = io.BytesIO()
    np.save(file, array)
    return file.getvalue()


_OFF = b"OFF\n4 4 0\n0 0 0\n1 0 0\n0 1 0\n0 0 1\n3 0 1 2\n3 0 1 3\n3 0 2 3\n3 1 2 3\n"
_PLY = (
    b"ply\nformat ascii 1.0\nelement vertex 4\nproperty float x\nproperty float y\n"
    b"property float z\nelement face 2\nproperty list uchar int vertex_indices\nend_header\n"
    b"0 0 0\n1 0 0\n0 1 0\n0 0 1\n3 0 1 2\n3 0 1 3\n"
)
_OBJ = b"v 0 0 0\nv 1 0 0\nv 0 1 0\nv 0 0 1\nf 1 2 3\nf 1 2 4\n"
_TS = (
    b"@problemName a\n@timeStamps false\n@univariate true\n@classLabel true a b\n@data\n"
    + b"".join(b"%d,%d,3,4,5,6,7,8:%s\n" % (n, n + 1, b"ab"[n % 2 : n % 2 + 1]) for n in range(12))
)
_CSV = b"a,b,c,label\n" + b"".join(
    b"%d,%.2f,%s,%s\n" % (n, n / 3, b"xyz"[n % 3 : n % 3 + 1], b"pq"[n % 2 : n % 2 + 1])
    for n in range(40)
)
_ARFF = (
    b"@relation t\n@attribute a numeric\n@attribute c {x,y}\n@attribute label {p,q}\n@data\n"
    + b"".join(b"%d,%s,%s\n" % (n, b"xy"[n % 2 : n % 2 + 1], b"pq"[n % 2 : n % 2 + 1])
               for n in range(30))
)  # fmt: skip
_COCO = {
    "images": [{"id": n, "file_name": f"{n}.png", "width": 24, "height": 20} for n in range(3)],
    "categories": [{"id": 1, "name": "cat"}, {"id": 2, "name": "dog"}],
    "annotations": [
        {"id": n, "image_id": n, "category_id": 1 + n % 2, "bbox": [2, 3, 8, 9], "area": 72,
         "iscrowd": n % 2, "segmentation": [[2, 3, 10, 3, 10, 12]] if n != 1 else
         {"size": [20, 24], "counts": [100, 200, 180]}} for n in range(3)
    ],
}  # fmt: skip
_VOC = (
    b"<annotation><size><width>24</width><height>20</height></size><object><name>cat</name>"
    b"<difficult>0</difficult><bndbox><xmin>2</xmin><ymin>3</ymin><xmax>10</xmax>"
    b"<ymax>12</ymax></bndbox></object></annotation>"
)


def _photos(folder: Path) -> None:
    folder.mkdir(exist_ok=True)
    for number in range(3):
        (folder / f"{number}.png").write_bytes(_image("PNG"))


def _coco(folder: Path) -> None:
    for name in ("train2017", "val2017", "annotations"):
        (folder / name).mkdir()
    for name in ("train2017", "val2017"):
        _photos(folder / name)
    (folder / "annotations/instances_val2017.json").write_text(json.dumps(_COCO), "utf-8")


def _voc(folder: Path) -> None:
    for name in ("JPEGImages", "Annotations", "ImageSets/Main"):
        (folder / name).mkdir(parents=True)
    for name in ("a", "b"):
        (folder / f"JPEGImages/{name}.jpg").write_bytes(_image("JPEG"))
        (folder / f"Annotations/{name}.xml").write_bytes(_VOC)
    for name, line in (("trainval", "a"), ("test", "b")):
        (folder / f"ImageSets/Main/{name}.txt").write_text(f"{line}\n", encoding="utf-8")


def _media() -> list[Reader]:
    images = [
        Reader(f"image {kind}", f"cat/a.{kind.lower()}", _image(kind, mode),
               _source(kind="image_folder", root=".", size=16), lambda f: _photos(f / "cat"))
        for kind, mode in (("PNG", "RGB"), ("JPEG", "RGB"), ("GIF", "L"), ("BMP", "RGB"),
                           ("TIFF", "RGB"), ("WEBP", "RGB"), ("PNG", "RGBA"), ("JPEG", "CMYK"))
    ]  # fmt: skip
    sounds = [
        Reader(f"audio {kind}", f"a.{kind}", good, _source(kind="audio_folder", root="."))
        for kind, good in (("wav", _wave()), ("flac", _sound("FLAC")), ("ogg", _sound("OGG")))
    ]
    films = [
        Reader(f"video {kind}", f"a.{kind}", _film(kind),
               _source(kind="video_folder", root=".", frames=2, size=16))
        for kind in ("mp4", "avi", "mkv")
    ]  # fmt: skip
    clouds = [
        Reader(f"points {kind}", f"c/a.{kind}", good,
               _source(kind="point_clouds", path=".", points=8), text=kind != "npy")
        for kind, good in (("off", _OFF), ("ply", _PLY), ("obj", _OBJ),
                           ("npy", _npy(_rng().normal(size=(30, 3)).astype(np.float32))))
    ]  # fmt: skip
    return [*images, *sounds, *films, *clouds]


_TEXTS = (".csv", ".ts", ".arff", ".txt")


def _tables() -> list[Reader]:
    waves = _rng().normal(size=(12, 2, 16)).astype(np.float32)
    pixels = _rng().integers(0, 255, (8, 12, 12, 3), dtype=np.uint8)
    labels = np.arange(8) % 2
    rows: list[tuple[str, str, bytes, dict[str, Any]]] = [
        ("series ts", "a_TRAIN.ts", _TS, {"kind": "series", "path": "a_TRAIN.ts"}),
        ("series csv", "a.csv", b"x,y\n" + b"".join(b"%d,%.3f\n" % (n, n / 7) for n in range(64)),
         {"kind": "series", "path": "a.csv", "window": 8}),
        ("series npz", "a.npz", _npz(x=waves, label=np.arange(12) % 2),
         {"kind": "series", "path": "a.npz"}),
        ("table csv", "a.csv", _CSV, {"kind": "table", "path": "a.csv"}),
        ("table arff", "a.arff", _ARFF, {"kind": "table", "path": "a.arff"}),
        ("table npz", "a.npz", _npz(x=waves[:, 0], label=np.arange(12) % 2),
         {"kind": "table", "path": "a.npz"}),
        ("tokens txt", "a.txt", "Ein Text.\nЕщё один\n日本語\n".encode() * 5,
         {"kind": "tokens", "path": "a.txt", "length": 16}),
        ("tokens csv", "a.csv", b"text,label\n" + b"some words,a\nother words,b\n" * 9,
         {"kind": "tokens", "path": "a.csv", "length": 16}),
        ("tokens npz", "a.npz", _npz(x=_rng().integers(0, 50, (20, 16)), label=np.arange(20) % 2),
         {"kind": "tokens", "path": "a.npz", "length": 16, "vocabulary": 60}),
        ("arrays npz", "a.npz", _npz(x=pixels, y=labels), {"kind": "arrays", "path": "a.npz"}),
        ("arrays npy", "a.npy", _npy(pixels), {"kind": "arrays", "path": "a.npy"}),
        ("points npz", "a.npz", _npz(x=_rng().normal(size=(8, 30, 3)), y=labels),
         {"kind": "point_clouds", "path": "a.npz", "points": 8}),
    ]  # fmt: skip
    return [
        Reader(
            name, file, good, _source(**config), text=file.endswith(("csv", "ts", "arff", "txt"))
        )
        for name, file, good, config in rows
    ]


def _lists() -> list[Reader]:
    from mezzotint.augment.image.auto_augment import read_sub_policies
    from mezzotint.data.listing.lists import read_label_table, read_list, read_video_list
    from mezzotint.recipe.reading import read_raw, shipped
    from mezzotint.recipe.recipe import Plan
    from mezzotint.runs.study import read_study, shipped_studies

    captions = b"path,caption\n" + b"".join(b"%d.png,a cat %d\n" % (n, n) for n in range(3))
    steps = [[["rotate", 0.5, 0.3], ["solarize", 0.2, 0.5]], [["color", 1.0, 0.1]]]
    policy = json.dumps({"name": "a", "sub_policies": steps}).encode()
    recipe = shipped()["image/emoji_bridle"].read_bytes()
    study = shipped_studies()["siamese_factors"].read_bytes()
    films = b"label,youtube_id,time_start,time_end,split\ncat,abc,0,9,train\n"
    table = b"index,mid,display_name\n0,/m/1,cat\n1,/m/2,dog\n"

    def read_plan(folder: Path) -> Any:
        return Plan.of(read_raw(str(folder / "a.yaml")))

    return [
        Reader("recipe", "a.yaml", recipe, read_plan, text=True),
        Reader("study", "a.yaml", study, lambda f: read_study(f / "a.yaml"), text=True),
        Reader("policy yaml", "a.yaml", policy, lambda f: read_sub_policies(f / "a.yaml"),
               text=True),
        Reader("policy json", "a.json", policy,
               lambda f: read_sub_policies(f / "a.json"), text=True),
        Reader("list csv", "a.csv", b"path,label\na.wav,cat\nb.wav,dog;cat\n",
               lambda f: read_list(str(f / "a.csv")), text=True),
        Reader("list json", "a.json",
               json.dumps({"data": [{"wav": "a.wav", "labels": "/m/1,/m/2"}] * 3}).encode(),
               lambda f: read_list(str(f / "a.json")), text=True),
        Reader("list of videos", "a.csv", films,
               lambda f: read_video_list(str(f / "a.csv")), text=True),
        Reader("labels", "a.csv", table, lambda f: read_label_table(str(f / "a.csv")), text=True),
        Reader("captions csv", "a.csv", captions,
               _source(kind="captioned_images", root=".", files="a.csv", size=16), _photos,
               text=True),
        Reader("coco", "annotations/instances_train2017.json", json.dumps(_COCO).encode(),
               _source("DetectionSource", kind="coco_folder", root="."), _coco, text=True),
        Reader("voc", "Annotations/a.xml", _VOC,
               _source("DetectionSource", kind="voc_folder", root="."), _voc, text=True),
    ]  # fmt: skip


def example_tensors() -> dict[str, torch.Tensor]:
    """Make the tensors of a small checkpoint."""
    draws = torch.Generator().manual_seed(0)
    return {"a.weight": torch.randn(4, 3, generator=draws), "a.steps": torch.arange(3)}


def _checkpoint(folder: Path) -> Any:
    """Read a checkpoint whose manifest fits the damaged file: a hostile one, not a broken disk."""
    from mezzotint.train import checkpoint

    store = checkpoint.CheckpointStore(folder / "checkpoints")
    damaged = {path.name: path.read_bytes() for path in folder.glob("*.*") if path.is_file()}
    target = store.save(4, example_tensors(), example_tensors(), {"seconds": 1.0})
    for name, content in damaged.items():
        (target / name).write_bytes(content)
    files = {
        path.name: {"bytes": path.stat().st_size,
                    "sha256": hashlib.sha256(path.read_bytes()).hexdigest()}
        for path in target.iterdir() if path.name != "manifest.json"
    }  # fmt: skip
    manifest = {"format": checkpoint.FORMAT, "step": 4, "files": files}
    manifest["sha256"] = checkpoint._digest_of(manifest)
    (target / "manifest.json").write_text(json.dumps(manifest), encoding="utf-8")
    return store.latest()


def encoder_files(*, sealed: bool = False) -> tuple[dict[str, bytes], dict[str, bytes], bytes]:
    """Make the files of a saved encoder and of its packed and ONNX exports.

    Args:
        sealed: whether their seals are among them.
    """
    from mezzotint.encoders.resnet import resnet8
    from mezzotint.encoders.saving import save_encoder
    from mezzotint.export.float_formats import write_onnx
    from mezzotint.export.packed import save_packed
    from mezzotint.quant import quantize_
    from mezzotint.quant.bitwidth import Bits
    from mezzotint.quant.convert import policy_of
    from mezzotint.types import Input

    torch.manual_seed(0)
    encoder = resnet8(Input((3, 16, 16), (0.5,) * 3, (0.5,) * 3), stem="small", width=2).eval()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        save_encoder(encoder, folder / "encoder")
        write_onnx(encoder, folder / "a.onnx")
        quantize_(encoder, policy_of("ssql"))
        save_packed(encoder, folder, Bits(4))
        read = [
            {p.name: p.read_bytes() for p in sorted(f.iterdir())
             if p.is_file() and (sealed or p.name != "seals.json")}
            for f in (folder / "encoder", folder)
        ]  # fmt: skip
        return read[0], read[1], read[1].pop("a.onnx")


def _loading(description: str, weights: str) -> Callable[[Path], Any]:
    """Load an encoder whose description names the hash of the weights as they are."""

    def read(folder: Path) -> Any:
        from mezzotint.encoders.saving import load_encoder

        try:
            content = json.loads((folder / description).read_bytes())
            digest = hashlib.sha256((folder / weights).read_bytes()).hexdigest()
            if isinstance(content, dict) and "sha256" in content:
                (folder / description).write_text(
                    json.dumps({**content, "sha256": digest}), encoding="utf-8"
                )
        except (ValueError, RecursionError):
            pass  # the reader meets it as it is
        encoder = load_encoder(folder)
        return encoder(torch.zeros(2, *encoder.input.shape))

    return read


def _stored() -> list[Reader]:
    from mezzotint.encoders.onnx import load_exported
    from mezzotint.evaluation.probe import Row
    from mezzotint.evaluation.protocol import Protocol
    from mezzotint.evaluation.results import read_baselines, read_evaluation
    from mezzotint.interop.load import read_tensors
    from mezzotint.train.log import checked_line, read_metrics

    encoder, packed, onnx = encoder_files()
    file = io.BytesIO()
    torch.save({"state_dict": example_tensors(), "epoch": 3}, file)
    row = Row(probe="knn", metric="a/top1", value=0.5, protocol=Protocol(probe="knn")).as_json()
    rows = json.dumps([row] * 3).encode()

    def beside(files: dict[str, bytes]) -> Callable[[Path], None]:
        return lambda folder: [  # type: ignore[return-value]
            (folder / name).write_bytes(content) for name, content in files.items()
        ]

    found = [
        Reader("checkpoint safetensors", "model.safetensors", save(example_tensors()), _checkpoint),
        Reader("checkpoint state", "state.json", b'{"step": 4, "seconds": 1.0}', _checkpoint,
               text=True),
        Reader("third-party pth", "a.pth", file.getvalue(), lambda f: read_tensors(f / "a.pth")),
        Reader("third-party safetensors", "a.safetensors", save(example_tensors()),
               lambda f: read_tensors(f / "a.safetensors")),
        Reader("evaluation", "evaluation.json", rows, read_evaluation, text=True),
        Reader("baselines", "baselines.json",
               json.dumps({"raw": [row], "untrained": [row]}).encode(), read_baselines, text=True),
        Reader("metrics", "metrics.jsonl", checked_line({"step": 1, "loss": 2.0}).encode() * 3,
               lambda f: read_metrics(f / "metrics.jsonl"), text=True),
        Reader("onnx", "a.onnx", onnx, lambda f: load_exported(f / "a.onnx")),
    ]  # fmt: skip
    for files, names in ((encoder, ("encoder.json", "encoder.safetensors")),
                         (packed, ("packed.json", "packed.safetensors"))):  # fmt: skip
        read = _loading(*names)
        found += [
            Reader(name, name, files[name], read, beside(files), text=name.endswith("json"))
            for name in names
        ]
    return found


@functools.cache
def readers() -> tuple[Reader, ...]:
    """List all readers with a good file each."""
    return (*_media(), *_tables(), *_lists(), *_stored())


def good_value(reader: Reader, folder: Path) -> Any:
    """Read the good file of a reader, which must not be refused."""
    reader.prepare(folder)
    path = folder / reader.file
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(reader.good)
    return reader.read(folder)


_NUMBERS = (0, 1, 0x7F, 0xFF, 0x7FFF, 0xFFFF, 0x7FFFFFFF, 0xFFFFFFFF, 0x80000000, 2**63 - 1)
_WORDS = (
    b"nan", b"inf", b"-inf", b"1e999", b"-1", b"0", b"9" * 400, b"null", b"true", b"[]", b"{}",
    b'""', b"../../etc/passwd", b"/etc/passwd", b"\x00", b"\xff\xfe", b"\xef\xbb\xbf", b"\r\n",
    b"[" * 2000, b"{" * 2000, b"&a *a", b"!!python/object/apply:os.system [ls]", b"<<: *a",
    b"<!DOCTYPE a [<!ENTITY b 'c'>]>", b"1" + b"0" * 30, b"\xd8\x00", b"=cmd()", b",,,,", b"\t",
)  # fmt: skip


def changed(good: bytes, text: bool, draws: random.Random) -> bytes:
    """Change a file a few times, each time in one of a dozen ways."""
    content = bytearray(good)
    for _ in range(draws.choice((1, 1, 2, 3, 8))):
        at = draws.randrange(len(content) + 1)
        if text and draws.random() < 0.6:
            end = at + draws.choice((0, 1, 4, 16))
            content[at:end] = draws.choice(_WORDS)
            continue
        way = draws.randrange(8)
        if way == 0:
            del content[at:]
        elif way == 1 and at < len(content):
            content[at] ^= 1 << draws.randrange(8)
        elif way == 2:
            content[at : at + draws.randrange(1, 64)] = b""
        elif way == 3:
            content[at:at] = content[at : at + draws.randrange(1, 4096)]
        elif way == 4:
            size = draws.choice("BHIQ")
            number = draws.choice(_NUMBERS) % 2 ** (8 * struct.calcsize(f"<{size}"))
            packed = struct.pack(draws.choice("<>") + size, number)
            content[at : at + len(packed)] = packed
        elif way == 5:
            content[at : at + 16] = draws.randbytes(16)
        elif way == 6 and len(content) > 64:  # headers are at the beginning
            content[draws.randrange(64)] = draws.randrange(256)
        elif way == 7:
            content += draws.randbytes(draws.randrange(1, 2048))
    return bytes(content)


def try_file(all_readers: Sequence[Reader], folder: Path, seed: int, number: int) -> dict[str, Any]:
    """Make one damaged file, and let its reader read it."""
    reader = all_readers[number % len(all_readers)]
    draws = random.Random(f"fuzz {seed} {number}")
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    reader.prepare(folder)
    path = folder / reader.file
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(reader.good if draws.random() < 0.01 else
                     changed(reader.good, reader.text, draws))  # fmt: skip
    from tests.faults.isolated import refusal

    try:
        reader.read(folder)
    except Exception as error:
        return {"reader": reader.name, **refusal(error)}
    return {"reader": reader.name, "outcome": "read"}
