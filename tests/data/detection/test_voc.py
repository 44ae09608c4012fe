"""Folders in VOC's format."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from mezzotint.data.detection.embedded import boxes_of
from mezzotint.data.detection.voc import VOCFolder, read_annotation

OBJECT = (
    "<object><name>{}</name><difficult>{}</difficult><bndbox>"
    "<xmin>{}</xmin><ymin>{}</ymin><xmax>{}</xmax>"
    "<ymax>{}</ymax></bndbox></object>"
)


def voc(root: Path, count: int = 3) -> Path:
    for folder in (
        "Annotations",
        "JPEGImages",
        "ImageSets/Main",
        "ImageSets/Segmentation",
        "SegmentationObject",
    ):
        (root / folder).mkdir(parents=True)
    for number in range(count):
        pixels = np.full((20, 30, 3), 40 * number, np.uint8)
        Image.fromarray(pixels).save(root / "JPEGImages" / f"{number}.jpg")
        things = OBJECT.format("dog", 0, 1, 1, 10, 20) + OBJECT.format("cat", 1, 11, 5, 12, 6)
        (root / "Annotations" / f"{number}.xml").write_text(f"<annotation>{things}</annotation>")
        numbers = np.zeros((20, 30), np.uint8)
        numbers[:, :10], numbers[4:6, 10:12] = 1, 2
        image = Image.fromarray(numbers)
        image.save(root / "SegmentationObject" / f"{number}.png")
    for lists in ("Main", "Segmentation"):
        (root / "ImageSets" / lists / "trainval.txt").write_text("0\n1\n")
        (root / "ImageSets" / lists / "test.txt").write_text("2\n")
    return root


def test_voc_boxes_start_at_zero_and_masks_are_numbered_as_objects(tmp_path: Path) -> None:
    data = VOCFolder(
        root=str(voc(tmp_path / "v")), train=["trainval"], test=["test"], segmentation="masks"
    )
    assert data.classes == ("cat", "dog") and (data.count("train"), data.count("test")) == (2, 1)
    sample = data.read("train", 1)
    assert sample.id == "1" and sample.boxes.tolist() == [[0, 0, 10, 20], [10, 4, 12, 6]]
    assert (
        sample.labels.tolist() == [1, 0]
        and sample.ignored.tolist() == [False, True]
        and not sample.crowd.any()
    )
    assert sample.masks is not None and torch.equal(boxes_of(sample.masks), sample.boxes)
    nested = VOCFolder(root=str(tmp_path), train=["v/trainval"], test=["v/test"])
    assert nested.count("train") == 2 and nested.read("test", 0).masks is None


@pytest.mark.parametrize("name", ["../../other/JPEGImages/0", "ABSOLUTE", "9"])
def test_ids_that_lead_outside_are_refused(name: str, tmp_path: Path) -> None:
    other, root = voc(tmp_path / "other"), voc(tmp_path / "v")
    if name == "9":
        (root / "JPEGImages" / "9.jpg").symlink_to(other / "JPEGImages" / "0.jpg")
    name = name.replace("ABSOLUTE", str(other / "JPEGImages" / "0"))
    for folder in (root, other):
        text = (root / "Annotations" / "0.xml").read_text()
        (folder / "JPEGImages" / "0.xml").write_text(text)
        (folder / "Annotations" / "9.xml").write_text(text)
    (root / "ImageSets" / "Main" / "trainval.txt").write_text(f"0\n{name}\n")
    with pytest.raises(ValueError, match="trainval.txt` names .*, which leads outside of `.*v`"):
        VOCFolder(root=str(root))
    assert VOCFolder(root=str(root), allow_outside=True).count("train") == 2


def test_voc_says_what_is_missing(tmp_path: Path) -> None:
    root = voc(tmp_path / "v")
    (root / "Annotations" / "1.xml").unlink()
    with pytest.raises(
        ValueError,
        match=r"trainval.txt`: 1 of 2 images have no annotation, the first is \['1'\]. Each needs",
    ):
        VOCFolder(root=str(root))
    with pytest.raises(
        ValueError,
        match="has no folder Annotations. It must be in VOC format. Name th",
    ):
        VOCFolder(root=str(tmp_path))
    with pytest.raises(
        ValueError,
        match="The list 'val' needs .*, which does not exist. Lists: test, trainval. Write the",
    ):
        VOCFolder(root=str(root), train=["val"])
    with pytest.raises(
        ValueError, match=r"have no label image.*Each needs SegmentationClass/ID\.png"
    ):
        VOCFolder(root=str(root), train=["test"], segmentation="classes")


@pytest.mark.parametrize(
    ("text", "why"),
    [
        (
            "<annotation><object><name>a</name></object></annotation>",
            "an object without bndbox/xmin",
        ),
        ("<annotation>", "no element found|is no VOC annotation"),
        (
            '<!DOCTYPE x [<!ENTITY a "aaaa">]><annotation>&a;</annotation>',
            "must be plain XML of up to .*, or a document type",
        ),
        (
            f"<annotation>{OBJECT.format('a', 0, 9, 1, 3, 4)}</annotation>",
            "a box from 9, 1 to 3, 4",
        ),
    ],
)
def test_bad_annotations_name_the_file(tmp_path: Path, text: str, why: str) -> None:
    (tmp_path / "x.xml").write_text(text)
    with pytest.raises(ValueError, match=why) as error:
        read_annotation(tmp_path / "x.xml")
    assert "x.xml" in str(error.value) and "\n" not in str(error.value)
