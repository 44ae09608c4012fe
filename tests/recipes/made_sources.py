"""Sources over small made files, in which every key can act: `contexts(root)` by kind."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from mezzotint.data.table.table import Table
from mezzotint.encoders.rows import TableMLP
from mezzotint.encoders.saving import save_encoder
from tests.recipes.observe import build
from tests.test_contract_sources import EXAMPLES, image, names, noise, sound

Config = dict[str, Any]


def example(kind: str, root: Path, count: int = 4) -> Config:
    """The files of the sources' contract."""
    root.mkdir(parents=True)
    return {"kind": kind, **EXAMPLES[kind](root, count)}


def arrays(root: Path) -> list[Config]:
    y = np.arange(12) % 2
    x: Config = {"x": noise(12, 4, 4, 4), "x2": noise(12, 4, 4, 4)[::-1], "y": y, "y2": y[::-1] * 2}
    np.savez(root / "x.npz", **x, people=np.arange(12) // 4)
    np.savez(root / "z.npz", x=x["x2"], y=y)
    return [{"kind": "arrays", "path": str(root / "x.npz"), "layout": "NHWC"}]


def audio_folder(root: Path) -> list[Config]:
    files = [sound(root / f"{name}{n}.wav", 3 * n + len(name)) for name, n in names(4)]
    rows = [f"{file},{n % 3 + 1},{file[0]}" for n, file in enumerate(files)]
    (root / "esc.csv").write_text("\n".join(["filename,fold,category", *rows]))
    (root / "fewer.csv").write_text("\n".join(["filename,fold,category", *rows[2:]]))
    for name, part in (("train", files[:5]), ("eval", files[5:]), ("other", files[4:])):
        labels = ["/m/a,/m/b" if n % 3 == 0 else "/m/b" for n in range(len(part))]
        items = [{"wav": f, "labels": label} for f, label in zip(part, labels, strict=True)]
        (root / f"{name}.json").write_text(json.dumps(items))
    (root / "labels.csv").write_text("index,mid,display_name\n0,/m/b,bee\n1,/m/a,ape\n2,/m/c,cat\n")
    source = {"kind": "audio_folder", "root": str(root), "seconds": 0.2}
    tags = {"files": str(root / "train.json"), "test_files": str(root / "eval.json")}
    for name, n in names(2):
        sound(root / "long" / name / f"{n}.wav", 4000 + n)  # three clips of 0.1 seconds
    folders = example("audio_folder", root / "folders")
    example("audio_folder", root / "others", 5)
    return [
        folders,
        {**source, "root": str(root / "long"), "seconds": 0.1},
        {**source, **tags},
        {**source, "files": {"path": str(root / "esc.csv"), "test_fold": 1}},
        {**source, **tags, "files": {"path": tags["files"], "labels": str(root / "labels.csv")}},
    ]


def captioned_images(root: Path) -> list[Config]:
    rows = ["path,caption,path2,caption2"]
    for name, n in names(6):
        file = image(root / f"{name}{n}.png", n)
        rows.append(f"{file},{name} number {n},{name}{5 - n}.png,number {n} of {name}")
    (root / "captions.csv").write_text("\n".join(rows))
    (root / "fewer.csv").write_text("\n".join(rows[:-3]))
    (root / "vocabulary.txt").write_text("\n".join(["number", "of", "a", "b", *"0123456789"]))
    config = {"root": str(root), "files": str(root / "captions.csv"), "size": 8}
    example("captioned_images", root / "others", 5)
    return [{"kind": "captioned_images", **config}]


def cifar100(root: Path) -> list[Config]:
    config = example("cifar100", root / "own")
    example("cifar100", root / "others", 6)
    coarse = "\n".join(f"group{n}" for n in range(20))
    (root / "own" / "coarse_label_names.txt").write_text(coarse)
    return [config]


def image_folder(root: Path) -> list[Config]:
    for split in ("train", "val", "test"):
        for name, number in names(3):
            path = root / "splits" / split / name / f"{number}.jpg"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(noise(40 + number, 50, 3)).save(path)
    example("image_folder", root / "others", 5)
    splits = {"kind": "image_folder", "root": str(root / "splits"), "size": 16}
    return [splits, example("image_folder", root / "plain")]


def native(root: Path) -> list[Config]:
    """Two arrays of four channels in a file, deeper than 8 bits but in one file."""
    for name, n in names(8):
        path = root / "arrays" / name / f"{n}.npz"
        path.parent.mkdir(parents=True, exist_ok=True)
        x, x2 = (noise(4, 20, 24 + i)[..., :24].astype(np.uint16) * 200 + 7 * n for i in range(2))
        np.savez(path, x=(x // 256).astype(np.uint8) if (name, n) == ("a", 1) else x, x2=x2)
    folder = {"kind": "image_folder", "root": str(root / "arrays"), "size": 16}
    reader = {"kind": "native", "array": "x"}
    return [
        {**folder, "reader": reader},
        {**folder, "reader": {**reader, "range": "percentiles"}},
    ]


def image_tags(root: Path) -> list[Config]:
    rows = ["Path,Path2,cat,dog"]
    for name, n in names(4):
        file = image(root / f"{name}{n}.png", n)
        rows.append(f"{file},b{n}.png,{n % 2},{-int(name == 'a')}")
    (root / "tags.csv").write_text("\n".join(rows))
    (root / "fewer.csv").write_text("\n".join(rows[:1] + rows[3:]))
    (root / "test.csv").write_text("\n".join([rows[0], *rows[2:4]]))
    config = {"root": str(root), "files": str(root / "tags.csv"), "labels": ["cat", "dog"]}
    tags = {"kind": "image_tags", **config, "size": 16}
    for name, n in names(4):
        image(root / "others" / f"{name}{n}.png", n + 9)
    return [tags, {**tags, "test_files": str(root / "test.csv")}]


def labeled(root: Path) -> list[Config]:
    emoji: Config = {"kind": "labeled", "source": {"kind": "embedded_images", "name": "emoji"}}
    folder: Config = {"kind": "labeled", "source": example("image_folder", root / "images", 8)}
    _, (task,) = build("data", folder["source"]).evaluation()
    listed = [f"{'ab'[row // 8]}/{row % 8}.png" for row in task.train[[0, -1]].tolist()]
    (root / "some.txt").write_text("\n".join(listed))
    rare = {"samples": 4, "replacement": True}
    return [folder, {**folder, "fraction": 0.5}, {**folder, "balance": rare}, emoji]


def point_clouds(root: Path) -> list[Config]:
    clouds: Config = {name: noise(8, 20 + len(name), 3).astype(np.float32) for name in ("x", "x2")}
    y = np.arange(8) % 2
    np.savez(root / "x.npz", **clouds, y=y, y2=np.arange(8) // 4)
    np.savez(root / "z.npz", x=clouds["x2"], y=y)
    arrays = {"kind": "point_clouds", "path": str(root / "x.npz"), "points": 16}
    return [arrays, example("point_clouds", root / "clouds", 8)]


def series(root: Path) -> list[Config]:
    x = noise(12, 24, 24).astype(np.float32)
    x[:, 5:7, 5:7] = np.nan
    people: Config = {"subject": np.arange(12) // 3, "subject2": np.arange(12) % 4}
    y: Config = {"label": np.arange(12) % 2, "label2": np.arange(12) % 3}
    np.savez(root / "x.npz", x=x, x2=x[::-1], **y, **people)
    np.savez(root / "z.npz", x=x[::-1], **y, **people)
    rows = [f"{n // 10},{n % 7},{n * n % 11},{n // 20 % 2}" for n in range(200)]
    (root / "x.csv").write_text("\n".join(["subject,a,b,label", *rows]))
    arrays = {"kind": "series", "path": str(root / "x.npz"), "window": 12}
    return [arrays, {"kind": "series", "path": str(root / "x.csv"), "window": 5}]


def table(root: Path) -> list[Config]:
    rows = ["height,color,code,label,label2"]
    colors = ("red", "blue", "green")
    rows += [f"{n * n},{colors[n % 3]},{n % 4},{c},{n % 3}" for c, n in names(10)]
    (root / "x.csv").write_text("\n".join(rows))
    (root / "z.csv").write_text("\n".join(rows[:-3]))
    fewer = Table(path=str(root / "z.csv"))
    save_encoder(TableMLP(fewer.input, width=4), root / "fitted", source=fewer)
    return [{"kind": "table", "path": str(root / "x.csv")}]


def tokens(root: Path) -> list[Config]:
    rows = ["text,text2,label,label2,people"]
    rows += [f"text {n} of {c} is a long one,{c} {n},{c},{n % 2},p{n // 2}" for c, n in names(6)]
    (root / "x.csv").write_text("\n".join(rows))
    (root / "z.csv").write_text("\n".join(rows[:-3]))
    (root / "vocabulary.txt").write_text("\n".join(["[UNK]", "text", "of", *"ab01"]))
    x = np.arange(96).reshape(12, 8) % 7
    np.savez(root / "x.npz", x=x, x2=x[::-1], label=np.arange(12) % 2)
    (root / "lines.txt").write_text("\n".join(f"line {n} of the text" for n in range(12)))
    common = {"kind": "tokens", "length": 8}
    return [{**common, "path": str(root / name)} for name in ("x.csv", "x.npz", "lines.txt")]


def transfer_set(root: Path) -> list[Config]:
    """FGVC-Aircraft and Pets in one folder; Caltech-101, whose split is drawn, in another."""
    both = example("transfer_set", root / "own")
    (root / "own" / "annotations").mkdir()
    for part in ("trainval", "test"):
        rows = [f"{name}_{part}{n}" for name, n in names(3)]
        text = "\n".join(f"{row} 1 1 1" for row in rows)
        (root / "own" / "annotations" / f"{part}.txt").write_text(text)
        for n, row in enumerate(rows):
            image(root / "own" / "images" / f"{row}.jpg", n + 20)
    for name, n in names(32):
        image(root / "caltech" / "101_ObjectCategories" / name / f"{n}.jpg", n)
    example("transfer_set", root / "others", 5)
    return [both, {**both, "name": "caltech101", "root": str(root / "caltech")}]


def clip(path: Path, number: int) -> None:
    """Twelve frames at 10 a second, each of its own brightness."""
    av = pytest.importorskip("av")
    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mpeg4", rate=10)
        stream.width, stream.height, stream.pix_fmt = 32, 32, "yuv420p"
        for step in range(12):
            pixels = np.full((32, 32, 3), 10 + 18 * step + number, np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24")))
        container.mux(stream.encode())


def video_folder(root: Path) -> list[Config]:
    files = [f"{name}/{n}.mp4" for name, n in names(4)]
    for number, file in enumerate(files):
        clip(root / "clips" / file, number)
        clip(root / "others" / file, number + 30)
    clips = {"kind": "video_folder", "root": str(root / "clips"), "frames": 4, "size": 16}
    for name, part in (("train", files[::2]), ("val", files[1::2]), ("other", files[:5])):
        rows = [f"{file},{file[0]}" for file in part]
        (root / f"{name}.csv").write_text("\n".join(["path,label", *rows]))
    lists = {"files": str(root / "train.csv"), "test_files": str(root / "val.csv")}
    return [clips, {**clips, **lists}]


MAKERS: dict[str, Callable[[Path], list[Config]]] = {
    function.__name__: function
    for function in (
        arrays, audio_folder, captioned_images, cifar100, image_folder, image_tags, labeled, native,
        point_clouds, series, table, tokens, transfer_set, video_folder,
    )
}  # fmt: skip


def contexts(kind: str, root: Path) -> list[Config]:
    """Settings of a source, over files that this writes into an empty folder."""
    root.mkdir(parents=True, exist_ok=True)
    if kind in MAKERS:
        return MAKERS[kind](root)
    if kind not in EXAMPLES:
        return [{"kind": kind}]
    example(kind, root / "others", 6)
    own = example(kind, root / "own")
    return [own, {**own, "enlarge": {"size": 36}}] if kind == "cifar10" else [own]


def other_files(kind: str, key: str, root: Path, config: Config) -> list[Any]:
    """Other values of a key that names a file, a column or an array of `contexts`."""
    path = str(config.get("path") or "")
    beside = {
        "root": str(root / "others"),
        "path": f"{root}/z{Path(path).suffix}" if path else "",
        "tokenizer": str(root / "vocabulary.txt"),
        "labels": str(root / "labels.csv"),
        "fitted": str(root / "fitted"),
    }
    if kind in ("captioned_images", "image_tags") and key == "path":
        return ["path2", "Path2"]
    if key in ("files", "test_files") or (kind, key) == ("file_list", "path"):
        names = ("fewer.csv", "esc.csv", "other.json", "other.csv", "test.csv", "some.txt")
        return [str(root / name) for name in names if (root / name).is_file()]
    if key in ("x", "y", "subject", "caption", "text", "label"):
        return [f"{key}2", "label2", "no"]
    if (kind, key) == ("smartwatch", "context"):
        return [256]
    if (kind, key) == ("image_folder", "split"):
        return ["val"]
    if (kind, key) in (("arrays", "group"), ("table", "group"), ("tokens", "group")):
        return ["people", "code"]
    if key == "group":
        return [r"(\d)\.", "([ab])"]
    if kind == "native":
        own: dict[str, list[Any]] = {
            "channels": [[0, 2]], "names": [list("rgbn")], "axes": ["NHW"], "array": ["x2"],
            "dtype": ["uint8"], "mean": [[0.5] * 4], "std": [[0.5] * 4],
        }  # fmt: skip
        return own.get(key, [])
    if key == "task":
        return ["category/within-style"]
    lists: dict[str, list[Any]] = {
        "channels": [["a"]], "subjects": [[1, 2, 8, 9, 10]], "test_subjects": [[8]],
        "categorical": [["code"]], "ignore": [["height"]], "mean": [[0.5] * 4], "std": [[0.5] * 4],
    }  # fmt: skip
    if key in lists and (kind, key) not in (("audio_folder", "mean"), ("audio_folder", "std")):
        return lists[key]
    return [beside[key]] if beside.get(key) else []
