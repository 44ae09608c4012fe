"""Examine a detection set before training on it: `mezzotint doctor PATH`.

Every image is decoded once, with its annotations: unreadable images, images that are trained on and
scored, boxes outside of their image, images without an object, and the objects of each class.
"""

import hashlib
import json
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, field

from mezzotint.data.detection.source import PARTS, DetectionSample, DetectionSource
from mezzotint.data.image.doctor import finding, shown_counts
from mezzotint.types import Unreadable

_EDGE = 1.0  # pixels by which a box may lie outside: some tools count from 1


@dataclass
class DetectionReport:
    """Findings about a detection set.

    Attributes:
        root: path of the data.
        kind: source that read it.
        images: images of each part.
        objects: objects of each part and class, `train/car`; those that are ignored do not count.
        sizes: smallest and largest height and width.
        unreadable: id and reason of each image that cannot be read.
        leaks: groups of images with the same pixels, trained on and scored.
        duplicates: groups of images with the same pixels, in one part.
        outside: images with a box that leaves them, or has no area.
        without_objects: number of images of each part without an object.
        unknown_classes: classes that are scored, and have no training object.
    """

    root: str
    kind: str
    images: dict[str, int] = field(default_factory=dict)
    objects: dict[str, int] = field(default_factory=dict)
    sizes: dict[str, list[int]] = field(default_factory=dict)
    unreadable: list[tuple[str, str]] = field(default_factory=list)
    leaks: list[list[str]] = field(default_factory=list)
    duplicates: list[list[str]] = field(default_factory=list)
    outside: list[str] = field(default_factory=list)
    without_objects: dict[str, int] = field(default_factory=dict)
    unknown_classes: list[str] = field(default_factory=list)

    @property
    def ok(self) -> bool:
        """Whether there are images to train on, and no problem that harms training or scores."""
        wrong = self.unreadable or self.leaks or self.outside or self.unknown_classes
        return bool(self.images.get("train")) and not wrong

    def to_json(self) -> str:
        """Return all findings, and `ok`, as one JSON object."""
        return json.dumps({**asdict(self), "ok": self.ok}, indent=2)

    def lines(self) -> Iterator[str]:
        """Yield the report for a terminal, with at most ten examples of each finding."""
        counts = ", ".join(f"{part} {count:,}" for part, count in self.images.items())
        yield f"{self.root}: {self.kind}; {counts} images"
        if self.sizes:
            low, high = zip(self.sizes["height"], self.sizes["width"], strict=True)
            yield "  height x width: {} x {} … {} x {} (least, most)".format(*low, *high)
        if self.objects:
            yield f"  objects in each class: {shown_counts(self.objects)}"
        for part, count in self.without_objects.items():
            yield f"  {part}: {count:,} images without an object"
        yield from finding("unreadable", [f"{name}: {reason}" for name, reason in self.unreadable])
        yield from finding("trained on and scored", self.leaks)
        yield from finding("a box outside of its image, or without area", self.outside)
        yield from finding("class without a training object", self.unknown_classes)
        yield from finding("duplicate", self.duplicates)
        yield "ok" if self.ok else "not ok"


def examine_detection(
    source: DetectionSource,
    root: str,
    kind: str,
    progress: Callable[[int, int], None] | None = None,
) -> DetectionReport:
    """Read every image of a detection set, training and test, and report what is found.

    Args:
        source: the images.
        root: path of the data, for the report.
        kind: kind of the source, for the report.
        progress: callback with the number of images done and of all images.
    """
    report = DetectionReport(root, kind, {part: source.count(part) for part in PARTS})
    same: dict[bytes, list[tuple[str, str]]] = defaultdict(list)
    objects: Counter[str] = Counter()
    sizes: list[tuple[int, int]] = []
    total, done = sum(report.images.values()), 0
    for part in PARTS:
        empty = 0
        for index in range(source.count(part)):
            done += 1
            try:
                sample = source.read(part, index)
            except Unreadable as error:
                report.unreadable.append((f"{part}/{error.id}", error.reason))
                continue
            pixels = sample.image.contiguous().numpy().tobytes() + repr(sample.image.shape).encode()
            same[hashlib.blake2b(pixels, digest_size=16).digest()].append((part, sample.id))
            sizes.append((sample.image.shape[1], sample.image.shape[2]))
            known = sample.labels[~sample.ignored].tolist()
            objects.update(f"{part}/{source.classes[label]}" for label in known)
            empty += not known
            if _leaves(sample):
                report.outside.append(f"{part}/{sample.id}")
            if progress is not None:
                progress(done, total)
        if empty:
            report.without_objects[part] = empty
    _conclude(report, source, same, objects, sizes)
    return report


def _leaves(sample: DetectionSample) -> bool:
    """Return whether a box lies outside of its image by more than a pixel, or has no area."""
    if not len(sample.boxes):
        return False
    height, width = sample.image.shape[1:]
    left, top, right, bottom = sample.boxes.unbind(1)
    outside = (left < -_EDGE) | (top < -_EDGE) | (right > width + _EDGE) | (bottom > height + _EDGE)
    return bool((outside | (right <= left) | (bottom <= top)).any())


def _conclude(
    report: DetectionReport,
    source: DetectionSource,
    same: Mapping[bytes, list[tuple[str, str]]],
    objects: Counter[str],
    sizes: list[tuple[int, int]],
) -> None:
    for group in same.values():
        if len(group) > 1:
            torn = len({part for part, _ in group}) > 1
            names = [f"{part}/{name}" for part, name in group]
            (report.leaks if torn else report.duplicates).append(names)
    report.objects = dict(sorted(objects.items()))
    report.unknown_classes = [
        name for name in source.classes if objects[f"test/{name}"] and not objects[f"train/{name}"]
    ]
    for position, name in enumerate(("height", "width") if sizes else ()):
        values = [size[position] for size in sizes]
        report.sizes[name] = [min(values), max(values)]
