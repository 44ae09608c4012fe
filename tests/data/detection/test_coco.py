"""Folders in COCO's format, compared with pycocotools."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from mezzotint.data.detection.coco import COCOFolder, mask_of
from mezzotint.data.detection.source import VOID


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
    sample = data.read("train", 0)
    assert sample.boxes.tolist() == [[2, 2, 6, 6], [0, 0, 1, 12]] and sample.labels.tolist() == [
        1,
        0,
    ]
    assert sample.ignored.tolist() == sample.crowd.tolist() == [False, True]
    assert sample.masks is not None and sample.classes is not None
    assert set(sample.masks[1].nonzero()[:, 1].tolist()) == {0}
    assert sample.classes[3, 3] == 2 and sample.classes[0, 0] == VOID and sample.classes[0, 5] == 0
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


@pytest.mark.parametrize("name", ["../val2017/1.png", "ABSOLUTE", "3.png"])
def test_coco_images_stay_in_their_folder(name: str, tmp_path: Path) -> None:
    content = coco(tmp_path)
    (tmp_path / "train2017" / "3.png").symlink_to(tmp_path / "val2017" / "1.png")
    name = name.replace("ABSOLUTE", str(tmp_path / "val2017" / "1.png"))
    content["images"][0]["file_name"] = name
    path = tmp_path / "annotations" / "instances_train2017.json"
    path.write_text(json.dumps(content))
    with pytest.raises(ValueError, match="train2017.json` names .*, which leads outside of `.*n20"):
        COCOFolder(root=str(tmp_path))
    assert COCOFolder(root=str(tmp_path), allow_outside=True).read("train", 0).id == name


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
