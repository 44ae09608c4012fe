"""Read folders in the format of COCO (Lin et al. 2014, arXiv 1405.0312).

    ROOT/annotations/instances_train2017.json   ROOT/train2017/000000000009.jpg

Masks are polygons, or run lengths column by column, as numbers or as COCO's text. Crowds are
neither learned nor scored. Training skips images without an object to learn, as detectron2 does.
"""

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageDraw
from torch import Tensor

from mezzotint.data.detection.source import (
    DetectionSample,
    DetectionSource,
    Part,
    paint,
    read_image,
)
from mezzotint.data.listing.lists import require_inside


class COCOFolder(DetectionSource, kind="coco_folder"):
    """Read images with annotations in COCO's JSON.

    Args:
        root: path of the folder.
        train: JSON file of the training samples, below `root`.
        test: JSON file of the test samples, below `root`.
        train_images: folder of the training images, below `root`.
        test_images: folder of the test images, below `root`.
        allow_outside: whether names of images may lead outside of these folders, such as `../a`,
            absolute ones, and symbolic links; set it for lists that you trust.

    Raises:
        ValueError: when a file, an image or an annotation is missing, or the JSON is not COCO's.
    """

    def __init__(
        self,
        *,
        root: str,
        train: str = "annotations/instances_train2017.json",
        test: str = "annotations/instances_val2017.json",
        train_images: str = "train2017",
        test_images: str = "val2017",
        allow_outside: bool = False,
    ) -> None:
        self.name = Path(root).name
        parts = {"train": (train, train_images), "test": (test, test_images)}
        contents = {part: _read_json(Path(root) / file) for part, (file, _) in parts.items()}
        for part, (file, folder) in parts.items() if not allow_outside else ():
            names = [str(image["file_name"]) for image in contents[part]["images"]]
            require_inside(Path(root) / folder, names, Path(root) / file, has_key=True)
        categories = sorted(contents["train"]["categories"], key=lambda c: c["id"])
        self.classes = tuple(str(c["name"]) for c in categories)
        self._labels = {c["id"]: label for label, c in enumerate(categories)}
        self._entries = {
            part: _entries(
                contents[part],
                Path(root) / folder,
                Path(root) / file,
                self._labels,
                part == "train",
            )
            for part, (file, folder) in parts.items()
        }
        everything = [a for entries in self._entries.values() for _, _, own in entries for a in own]
        self.has_masks = self.has_classes = bool(everything) and all(
            a.get("segmentation") for a in everything
        )

    def count(self, part: Part) -> int:
        return len(self._entries[part])

    def read(self, part: Part, index: int) -> DetectionSample:
        name, path, annotations = self._entries[part][index]
        image = read_image(path, name)
        height, width = image.shape[1:]
        corners = [(x, y, x + w, y + h) for x, y, w, h in (a["bbox"] for a in annotations)]
        boxes = torch.tensor(corners, dtype=torch.float32).view(-1, 4)
        labels = torch.tensor(
            [self._labels[a["category_id"]] for a in annotations], dtype=torch.int64
        )
        crowd = torch.tensor([bool(a.get("iscrowd", 0)) for a in annotations], dtype=torch.bool)
        masks = classes = None
        if self.has_masks:
            drawn = [mask_of(a["segmentation"], height, width) for a in annotations]
            masks = torch.stack(drawn) if drawn else torch.zeros(0, height, width, dtype=torch.bool)
            classes = paint(masks, labels, crowd)
        return DetectionSample(name, image, boxes, labels, crowd, crowd, masks, classes)


def mask_of(segmentation: Any, height: int, width: int) -> Tensor:
    """Return the mask of COCO's polygons or run lengths, bool `[H, W]`.

    Raises:
        ValueError: when it is neither, or of another size.
    """
    try:
        if isinstance(segmentation, list):
            canvas = Image.new("1", (width, height))
            for polygon in segmentation:
                if len(polygon) >= 6:
                    # PIL fills the pixels that a line touches; COCO's pixel centers lie at halves.
                    ImageDraw.Draw(canvas).polygon([v - 0.5 for v in polygon], fill=1)
            return torch.from_numpy(np.array(canvas, dtype=np.bool_))
        size, counts = list(segmentation["size"]), segmentation["counts"]
        runs = _runs(counts) if isinstance(counts, str) else [int(c) for c in counts]
    except (TypeError, KeyError, ValueError, OverflowError) as error:
        raise ValueError(
            f"A segmentation must be polygons, or size and counts, got {error}. Correct the "
            "annotation."
        ) from None
    if size != [height, width] or sum(runs) != height * width or min(runs) < 0:
        raise ValueError(
            f"The run lengths of a mask must cover the image's [{height}, {width}], got "
            f"{sum(runs)} pixels and size {size}. Correct the annotation."
        )
    values = np.repeat(np.arange(len(runs)) % 2 == 1, runs)
    return torch.from_numpy(values.reshape(width, height).T.copy())


def _runs(text: str) -> list[int]:
    """Decode COCO's text of run lengths.

    A number is groups of five bits, least significant first, in two's complement; a sixth bit marks
    that more groups follow. From the fourth number on it is the difference to the run two before.
    """
    found: list[int] = []
    value = shift = 0
    for letter in text:
        bits = ord(letter) - 48
        if not 0 <= bits < 64:
            raise ValueError(f"the letter {letter!r} in counts")
        value |= (bits & 31) << shift
        shift += 5
        if bits & 32:
            continue
        if bits & 16:
            value -= 1 << shift
        found.append(value + (found[-2] if len(found) > 2 else 0))
        value = shift = 0
    return found


def _read_json(path: Path) -> dict[str, Any]:
    if not path.is_file():
        known = sorted(p.name for p in path.parent.glob("*.json"))
        raise ValueError(
            f"`{path}` is not a file. JSON files in its folder: {', '.join(known[:4]) or 'none'}. "
            "Set `data.train` and `data.test`."
        )
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        kinds = {name: all(isinstance(x, dict) for x in content[name]) for name in _NEEDED}
        sound = all(kinds.values()) and all(
            set(_NEEDED[name]) <= set(x) for name in _NEEDED for x in content[name]
        )
        sound = sound and _has_ids(content) and all(map(_has_box, content["annotations"]))
    except (ValueError, KeyError, TypeError, RecursionError):
        sound = False
    if not sound:
        needed = "; ".join(f"{name} with {', '.join(keys)}" for name, keys in _NEEDED.items())
        raise ValueError(
            f"`{path}` is not COCO's JSON of instances. It must be a mapping of {needed}. Write "
            "these, with numbers as ids and boxes of four numbers."
        )
    return dict(content)


def _has_ids(content: dict[str, Any]) -> bool:
    """Whether images, and categories, have ids that can be compared: numbers, or texts."""
    return all(
        {type(x["id"]) for x in content[name]} in ({int}, {str}, set())
        for name in ("images", "categories")
    )


def _has_box(annotation: dict[str, Any]) -> bool:
    """Whether an annotation names an image and a category, and has a box of four finite numbers."""
    box = annotation["bbox"]
    ids = annotation["image_id"], annotation["category_id"]
    return (
        all(isinstance(value, (int, str)) for value in ids)
        and isinstance(box, list)
        and len(box) == 4
        and all(type(v) in (int, float) and abs(v) < _LARGEST for v in box)
    )


_LARGEST = 1e9
_NEEDED = {
    "images": ("id", "file_name"),
    "annotations": ("image_id", "category_id", "bbox"),
    "categories": ("id", "name"),
}


def _entries(
    content: dict[str, Any], folder: Path, file: Path, labels: dict[int, int], learn: bool
) -> list[tuple[str, Path, list[dict[str, Any]]]]:
    own: dict[Any, list[dict[str, Any]]] = {image["id"]: [] for image in content["images"]}
    for annotation in content["annotations"]:
        box = annotation["bbox"]
        if annotation["image_id"] not in own or annotation["category_id"] not in labels:
            raise ValueError(
                f"`{file}`: the annotation {annotation.get('id', '?')} names a missing image or "
                "category. Correct it."
            )
        if box[2] > 0 and box[3] > 0:
            own[annotation["image_id"]].append(annotation)
    found = []
    for image in sorted(content["images"], key=lambda i: i["id"]):
        path = folder / str(image["file_name"])
        if not path.is_file():
            raise ValueError(
                f"`{file}` lists {path}, which does not exist. Add the image, or set the folder."
            )
        objects = own[image["id"]]
        if not learn or any(not a.get("iscrowd", 0) for a in objects):
            found.append((str(image["file_name"]), path, objects))
    if not found:
        raise ValueError(f"`{file}` has no image with annotations. Annotate at least one.")
    return found
