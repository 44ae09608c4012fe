"""Scenes that are pasted together here, and folders in VOC and COCO format."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from mezzotint.data.detection.coco import COCOFolder, mask_of
from mezzotint.data.detection.embedded import Pasted, boxes_of
from mezzotint.data.detection.source import VOID, paint
from mezzotint.data.detection.voc import VOCFolder, read_annotation

OBJECT = (
    "<object><name>{}</name><difficult>{}</difficult><bndbox><xmin>{}</xmin><ymin>{}</ymin><xmax>{}</xmax>"
    "<ymax>{}</ymax></bndbox></object>"
)


def test_pasted_scenes_are_a_function_of_seed_part_and_index() -> None:
    data, again, other = (
        Pasted(images=4, test_images=3),
        Pasted(images=9, test_images=3),
        Pasted(seed=1),
    )
    for part, index in (("train", 3), ("test", 2)):
        a, b, c = (source.read(part, index) for source in (data, again, other))  # type: ignore[arg-type]
        assert torch.equal(a.image, b.image) and torch.equal(a.boxes, b.boxes) and a.id == b.id
        assert not torch.equal(a.image, c.image)
    assert (data.count("train"), data.count("test")) == (4, 3) and len(data.classes) == 10
    assert Pasted(one_class=True).classes == ("emoji",)


def test_pasted_boxes_masks_and_classes_agree() -> None:
    data = Pasted(images=12, objects=(2, 3))
    for index in range(12):
        scene = data.read("train", index)
        assert scene.image.shape == (3, 96, 96) and scene.image.dtype == torch.uint8
        assert scene.masks is not None and scene.classes is not None and 1 <= len(scene.labels) <= 3
        assert (
            torch.equal(scene.boxes, boxes_of(scene.masks)) and int(scene.masks.sum(0).max()) == 1
        )
        sides = scene.boxes[:, 2:] - scene.boxes[:, :2]
        assert float(sides.max()) <= 48 and float(sides.min()) >= 2
        for mask, label in zip(scene.masks, scene.labels, strict=True):
            assert set(scene.classes[mask].tolist()) == {int(label) + 1}
        assert not scene.classes[~scene.masks.any(0)].any()


def test_emoji_of_scored_scenes_are_never_learned() -> None:
    data = Pasted()
    train, test = (set(data._pools[part].tolist()) for part in ("train", "test"))
    assert not train & test and len(train | test) == 3822
    assert {i % 1911 for i in train}.isdisjoint(i % 1911 for i in test)  # in neither style
    with pytest.raises(
        ValueError, match=r"must satisfy 8 ≤ minimum ≤ .*, got scale=\[24, 200\] and size=96"
    ):
        Pasted(scale=(24, 200))


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
    scene = data.read("train", 1)
    assert scene.id == "1" and scene.boxes.tolist() == [[0, 0, 10, 20], [10, 4, 12, 6]]
    assert (
        scene.labels.tolist() == [1, 0]
        and scene.ignored.tolist() == [False, True]
        and not scene.crowd.any()
    )
    assert scene.masks is not None and torch.equal(boxes_of(scene.masks), scene.boxes)
    nested = VOCFolder(root=str(tmp_path), train=["v/trainval"], test=["v/test"])
    assert nested.count("train") == 2 and nested.read("test", 0).masks is None


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


def coco(root: Path) -> dict[str, Any]:
    (root / "annotations").mkdir(parents=True)
    for folder in ("train2017", "val2017"):
        (root / folder).mkdir()
        for number in (1, 2):
            Image.fromarray(np.zeros((12, 16, 3), np.uint8)).save(root / folder / f"{number}.png")
    square = [2, 2, 6, 2, 6, 6, 2, 6]
    runs = {"size": [12, 16], "counts": [0, 12, 180]}
    content = {
        "images": [{"id": 7, "file_name": "1.png"}, {"id": 8, "file_name": "2.png"}],
        "categories": [{"id": 90, "name": "brush"}, {"id": 3, "name": "car"}],
        "annotations": [
            {
                "id": 1,
                "image_id": 7,
                "category_id": 90,
                "bbox": [2, 2, 4, 4],
                "segmentation": [square],
                "iscrowd": 0,
            },
            {
                "id": 2,
                "image_id": 7,
                "category_id": 3,
                "bbox": [0, 0, 1, 12],
                "segmentation": runs,
                "iscrowd": 1,
            },
        ],
    }
    write(root, content)
    return content


def write(root: Path, content: dict[str, Any]) -> None:
    for part in ("train", "val"):
        (root / "annotations" / f"instances_{part}2017.json").write_text(json.dumps(content))


def test_coco_boxes_masks_and_crowds(tmp_path: Path) -> None:
    coco(tmp_path)
    data = COCOFolder(root=str(tmp_path))
    assert data.classes == ("car", "brush") and data.has_masks
    assert (data.count("train"), data.count("test")) == (
        1,
        2,
    )  # the image without objects is scored, not learned
    scene = data.read("train", 0)
    assert scene.boxes.tolist() == [[2, 2, 6, 6], [0, 0, 1, 12]] and scene.labels.tolist() == [1, 0]
    assert scene.ignored.tolist() == scene.crowd.tolist() == [False, True]
    assert scene.masks is not None and scene.classes is not None
    assert set(scene.masks[1].nonzero()[:, 1].tolist()) == {0}
    assert scene.classes[3, 3] == 2 and scene.classes[0, 0] == VOID and scene.classes[0, 5] == 0
    assert data.read("test", 1).boxes.shape == (0, 4)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of pycocotools, about numpy
def test_coco_masks_are_those_of_pycocotools() -> None:
    coco_mask = pytest.importorskip("pycocotools.mask")
    rng = np.random.default_rng(0)
    for _ in range(20):
        mask = rng.random((13, 17)) < rng.random()
        text = coco_mask.encode(np.asfortranarray(mask.astype(np.uint8)))
        found = mask_of({"size": text["size"], "counts": text["counts"].decode()}, 13, 17)
        assert np.array_equal(found.numpy(), mask)
    # Ours and theirs fill polygons by different rules at the edge; inside they are the same.
    polygon = [5.3, 4.1, 60.7, 10.2, 50.4, 55.9, 12.0, 40.5]
    theirs = coco_mask.decode(coco_mask.merge(coco_mask.frPyObjects([polygon], 64, 64))).astype(
        bool
    )
    ours = mask_of([polygon], 64, 64).numpy()
    assert (theirs & ours).sum() / (theirs | ours).sum() > 0.95


def test_coco_says_what_is_wrong(tmp_path: Path) -> None:
    content = coco(tmp_path)
    with pytest.raises(
        ValueError,
        match="nowhere.json` is not a file. JSON files in its folder: instances",
    ):
        COCOFolder(root=str(tmp_path), train="annotations/nowhere.json")
    write(tmp_path, {"images": content["images"], "categories": content["categories"]})
    with pytest.raises(
        ValueError, match="is not COCO's JSON of instances. It must be a mapping of images with id"
    ):
        COCOFolder(root=str(tmp_path))
    write(tmp_path, {**content, "annotations": [{**content["annotations"][0], "image_id": 99}]})
    with pytest.raises(ValueError, match="the annotation 1 names a missing image or category"):
        COCOFolder(root=str(tmp_path))
    write(tmp_path, content)
    (tmp_path / "train2017" / "1.png").unlink()
    with pytest.raises(ValueError, match=r"lists .*1\.png, which does not exist. Add the image"):
        COCOFolder(root=str(tmp_path))
    with pytest.raises(ValueError, match=r"must cover the image's \[2, 2\], got 3 pixels"):
        mask_of({"size": [2, 2], "counts": [1, 2]}, 2, 2)


def test_later_objects_cover_earlier_ones() -> None:
    masks = torch.ones(2, 2, 2, dtype=torch.bool)
    masks[1, 0] = False
    assert paint(masks, torch.tensor([4, 1]), torch.tensor([False, False])).tolist() == [
        [5, 5],
        [2, 2],
    ]
