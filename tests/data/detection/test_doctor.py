"""The doctor on detection sets: what is wrong is named, and a sound set is ok."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from mezzotint.cli import app
from mezzotint.data.detection.doctor import DetectionReport
from mezzotint.data.detection.voc import VOCFolder
from mezzotint.data.doctor import examine
from mezzotint.data.image.doctor import Report
from mezzotint.data.listing.folder import detection_set_at
from mezzotint.types import Unreadable
from tests.data.detection.test_coco import coco, write

BOX = "<object><name>{}</name><bndbox>{}</bndbox></object>"
SIDES = "<xmin>{}</xmin><ymin>{}</ymin><xmax>{}</xmax><ymax>{}</ymax>"


def voc(root: Path, images: dict[str, list[tuple[str, tuple[int, int, int, int]]]]) -> None:
    """Images of 12 x 16 pixels; those whose name begins with t are test images."""
    for folder in ("Annotations", "JPEGImages", "ImageSets/Main"):
        (root / folder).mkdir(parents=True)
    for number, (name, objects) in enumerate(images.items()):
        pixels = np.random.default_rng(number).integers(0, 255, (12, 16, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(root / "JPEGImages" / f"{name}.png")
        text = "".join(BOX.format(title, SIDES.format(*box)) for title, box in objects)
        (root / "Annotations" / f"{name}.xml").write_text(f"<annotation>{text}</annotation>")
    for part, test in (("trainval", False), ("test", True)):
        names = [name for name in images if name.startswith("t") == test]
        (root / "ImageSets" / "Main" / f"{part}.txt").write_text("\n".join(names))


def test_a_voc_folder_with_every_problem(tmp_path: Path) -> None:
    root = tmp_path / "VOC2007"
    voc(
        root,
        {
            "a": [("cat", (1, 1, 8, 8)), ("dog", (2, 2, 16, 12))],
            "b": [("cat", (4, 4, 40, 8))],
            "c": [],
            "d": [("cat", (1, 1, 4, 4))],
            "t1": [("bird", (1, 1, 4, 4)), ("cat", (1, 1, 4, 4))],
            "t2": [("dog", (1, 1, 4, 4))],
        },
    )
    images = root / "JPEGImages"
    (images / "t2.png").write_bytes((images / "a.png").read_bytes())
    (images / "d.png").write_bytes((images / "d.png").read_bytes()[:120])
    assert detection_set_at(str(tmp_path)) == {
        "kind": "voc_folder", "root": str(tmp_path), "train": ["VOC2007/trainval"],
        "test": ["VOC2007/test"],
    }  # fmt: skip
    report = examine(tmp_path)
    assert isinstance(report, DetectionReport) and not report.ok
    assert report.images == {"train": 4, "test": 2}
    assert report.objects == {
        "test/bird": 1, "test/cat": 1, "test/dog": 1, "train/cat": 2, "train/dog": 1,
    }  # fmt: skip
    assert [name for name, _ in report.unreadable] == ["train/d"]
    assert report.unreadable[0][1].startswith("truncated")
    assert report.leaks == [["train/a", "test/t2"]] and not report.duplicates
    assert report.outside == ["train/b"] and report.without_objects == {"train": 1}
    assert report.unknown_classes == ["bird"] and report.sizes == {
        "height": [12, 12],
        "width": [16, 16],
    }
    done = CliRunner().invoke(app, ["doctor", str(root)])
    assert done.exit_code == 1 and "trained on and scored: 1\n  train/a = test/t2" in done.stdout
    assert isinstance(examine(tmp_path, overrides=["kind=image_folder"], workers=0), Report)


def test_a_sound_coco_folder(tmp_path: Path) -> None:
    content = coco(tmp_path)
    for number, file in enumerate(sorted(tmp_path.glob("*2017/*.png"))):
        Image.fromarray(np.full((12, 16, 3), 40 * number, np.uint8)).save(file)
    content["annotations"][1]["iscrowd"] = 0
    write(tmp_path, content)
    report = examine(tmp_path)
    assert isinstance(report, DetectionReport) and report.ok, list(report.lines())
    assert json.loads(report.to_json())["objects"] == {
        "test/brush": 1, "test/car": 1, "train/brush": 1, "train/car": 1,
    }  # fmt: skip
    assert report.without_objects == {"test": 1}


def test_an_unreadable_image_is_named(tmp_path: Path) -> None:
    voc(tmp_path, {"a": [("cat", (1, 1, 8, 8))], "t": [("cat", (1, 1, 8, 8))]})
    (tmp_path / "JPEGImages" / "a.png").write_bytes(b"")
    source = VOCFolder(root=str(tmp_path))
    with pytest.raises(Unreadable, match="a: empty: 0 bytes"):
        source.read("train", 0)
