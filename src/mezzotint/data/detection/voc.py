"""Read folders in the format of PASCAL VOC (Everingham et al. 2010).

    ROOT/VOC2007/Annotations/ID.xml   JPEGImages/ID.jpg   ImageSets/Main/trainval.txt
                 SegmentationObject/ID.png   SegmentationClass/ID.png

All files of the lists must exist before training starts. VOC counts pixels from 1 and includes the
last one; boxes here start at 0 and end after it. The XML is read without document types or
entities, with which a small file could grow without bound.
"""

import os
import xml.etree.ElementTree as ElementTree
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from mezzotint.data.detection.source import DetectionSample, DetectionSource, Part, read_image
from mezzotint.data.formats.delimited import lines_of, read_text
from mezzotint.data.listing.lists import require_inside
from mezzotint.types import Unreadable

_MAX_BYTES = 1 << 20
_SUFFIXES = (".jpg", ".jpeg", ".png")


@dataclass(frozen=True)
class _Entry:
    """The files and the objects of one image."""

    id: str
    image: Path
    objects: list[tuple[str, tuple[float, float, float, float], bool]]


class VOCFolder(DetectionSource, kind="voc_folder"):
    """Read images with annotations in VOC's XML.

    Args:
        root: folder of `VOC2007` and so on, or of `Annotations`.
        train: lists of training samples, `VOC2007/trainval`, or `trainval` if `root` has
            `Annotations`.
        test: lists of test samples.
        segmentation: what to read besides boxes: `masks` of objects, `classes` of pixels, or
            nothing.
        allow_outside: whether ids of a list may lead outside of `VOC2007`, such as `../a`, absolute
            ones, and symbolic links; set it for lists that you trust.

    Raises:
        ValueError: when a list, an annotation or an image is missing, or an annotation is not
            VOC's.
    """

    def __init__(
        self,
        *,
        root: str,
        train: list[str] = ["trainval"],  # noqa: B006 - is not changed
        test: list[str] = ["test"],  # noqa: B006
        segmentation: str | None = None,
        allow_outside: bool = False,
    ) -> None:
        if segmentation not in (None, "masks", "classes"):
            raise ValueError(
                f"`data.segmentation` must be masks or classes, got {segmentation!r}. "
                "Leave it out to read boxes alone."
            )
        self.name = Path(root).name
        self.has_masks, self.has_classes = segmentation == "masks", segmentation == "classes"
        folder = (
            "SegmentationObject"
            if segmentation == "masks"
            else "SegmentationClass"
            if segmentation == "classes"
            else None
        )
        lists = "Main" if folder is None else "Segmentation"
        self._entries: dict[str, list[_Entry]] = {
            part: [
                entry
                for name in names
                for entry in _listed(Path(root), name, lists, folder, allow_outside)
            ]
            for part, names in (("train", train), ("test", test))
        }
        found = {
            name for entries in self._entries.values() for e in entries for name, _, _ in e.objects
        }
        self.classes = tuple(sorted(found))
        if not self.classes:
            raise ValueError(f"`{root}` has no annotated objects. Annotate at least one.")

    def count(self, part: Part) -> int:
        return len(self._entries[part])

    def read(self, part: Part, index: int) -> DetectionSample:
        entry = self._entries[part][index]
        image = read_image(entry.image, entry.id)
        count = len(entry.objects)
        boxes = torch.tensor([box for _, box, _ in entry.objects], dtype=torch.float32).view(-1, 4)
        labels = torch.tensor(
            [self.classes.index(name) for name, _, _ in entry.objects], dtype=torch.int64
        )
        ignored = torch.tensor([difficult for _, _, difficult in entry.objects], dtype=torch.bool)
        crowd, masks, classes = torch.zeros(count, dtype=torch.bool), None, None
        if self.has_masks:
            numbers = _label_image(entry, "SegmentationObject", image)
            masks = numbers == torch.arange(1, count + 1, dtype=torch.uint8).view(-1, 1, 1)
        if self.has_classes:
            classes = _label_image(entry, "SegmentationClass", image)
        return DetectionSample(entry.id, image, boxes, labels, ignored, crowd, masks, classes)


def _listed(
    root: Path, name: str, lists: str, folder: str | None, allow_outside: bool
) -> list[_Entry]:
    """Read the entries of a list."""
    year, _, split = name.rpartition("/")
    base = root / year
    if not (base / "Annotations").is_dir():
        inner = sorted(p.parent.name for p in root.glob("*/Annotations")) if root.is_dir() else []
        hint = (
            f"Name the list as {inner[0]}/{split}."
            if inner
            else "Add the XML files, or set another folder."
        )
        raise ValueError(f"`{base}` has no folder Annotations. It must be in VOC format. {hint}")
    file = base / "ImageSets" / lists / f"{split}.txt"
    if not file.is_file():
        known = sorted(p.stem for p in file.parent.glob("*.txt") if "_" not in p.stem)
        raise ValueError(
            f"The list {name!r} needs {file}, which does not exist. Lists: "
            f"{', '.join(known) or 'none yet'}. Write the ids one a line, or name another list."
        )
    ids = [line.split()[0] for line in lines_of(read_text(file)) if line.strip()]
    if not allow_outside:
        named = [os.path.join("Annotations", f"{i}.xml") for i in ids]
        named += [os.path.join("JPEGImages", f"{i}{s}") for i in ids for s in _SUFFIXES]
        named += [] if folder is None else [os.path.join(folder, f"{i}.png") for i in ids]
        require_inside(base, named, file, has_key=True)
    wanted = [("annotation", "Annotations", (".xml",)), ("image", "JPEGImages", _SUFFIXES)]
    wanted += [] if folder is None else [("label image", folder, (".png",))]
    for what, where, suffixes in wanted:
        missing = [i for i in ids if _first(base / where, i, suffixes) is None]
        if missing or not ids:
            raise ValueError(
                f"`{file}`: {len(missing)} of {len(ids)} images have no {what}, the first is "
                f"{missing[:1]}. Each needs {where}/ID{suffixes[0]}. Add them, or remove the ids "
                "from the list."
            )
    return [_entry(base, name) for name in ids]


def _first(folder: Path, name: str, suffixes: tuple[str, ...]) -> Path | None:
    return next((path for s in suffixes if (path := folder / f"{name}{s}").is_file()), None)


def _entry(base: Path, name: str) -> _Entry:
    image = _first(base / "JPEGImages", name, _SUFFIXES)
    assert image is not None
    return _Entry(name, image, read_annotation(base / "Annotations" / f"{name}.xml"))


def read_annotation(path: Path) -> list[tuple[str, tuple[float, float, float, float], bool]]:
    """Read the objects of a VOC annotation: name, box (end exclusive, from 0), difficult.

    Raises:
        ValueError: when it is not VOC's XML.
    """
    data = path.read_bytes()
    if len(data) > _MAX_BYTES or b"<!DOCTYPE" in data or b"<!ENTITY" in data:
        raise ValueError(
            f"`{path}` must be plain XML of up to {_MAX_BYTES} bytes, got {len(data)} bytes, or a "
            "document type. Write the annotation alone."
        )
    found = []
    try:
        for thing in ElementTree.fromstring(data).iter("object"):
            left, top, right, bottom = (
                float(_text(thing, f"bndbox/{k}")) for k in ("xmin", "ymin", "xmax", "ymax")
            )
            if not (right >= left and bottom >= top):
                raise ValueError(f"a box from {left:g}, {top:g} to {right:g}, {bottom:g}")
            box = (left - 1.0, top - 1.0, right, bottom)
            found.append(
                (_text(thing, "name"), box, (thing.findtext("difficult") or "0").strip() == "1")
            )
    except (ElementTree.ParseError, ValueError) as error:
        raise ValueError(
            f"`{path}` is not a VOC annotation ({error}). Each object needs name and bndbox. "
            "Correct it."
        ) from None
    return found


def _text(thing: ElementTree.Element, path: str) -> str:
    text = thing.findtext(path)
    if text is None or not text.strip():
        raise ValueError(f"an object without {path}")
    return text.strip()


def _label_image(entry: _Entry, folder: str, image: Tensor) -> Tensor:
    """Read a palette image of label numbers, uint8 `[H, W]`."""
    path = entry.image.parent.parent / folder / f"{entry.id}.png"
    try:
        with Image.open(path) as file:
            numbers = torch.from_numpy(np.array(file))
    except Exception as error:  # a damaged file can raise nearly any exception
        detail = " ".join(str(error).split())[:120] or type(error).__name__
        raise Unreadable(entry.id, f"{folder}/{path.name} is broken: {detail}") from None
    if numbers.dtype != torch.uint8 or numbers.shape != image.shape[1:]:
        raise ValueError(
            f"`{path}` must be a palette image of {list(image.shape[1:])}, the size of its "
            f"photograph, got {list(numbers.shape)}. Save it with a palette."
        )
    return numbers
