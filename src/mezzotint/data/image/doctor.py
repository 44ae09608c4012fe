"""Examine a folder of images before training on it: `mezzotint doctor PATH`.

Every file is decoded once, in parallel, and its pixels are hashed. This finds unreadable files with
the reason, duplicates, and images in both the training and the test split, even if a copy was
stored in another lossless format. Recompressed or resized copies have other pixels and are not
found.

This module needs no torch. If a decoder crashes its process, only that file is reported.
"""

import hashlib
import json
import multiprocessing
import os
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import asdict, dataclass, field
from itertools import chain
from typing import Any

import numpy as np

from mezzotint.data.image.decode import MAX_PIXELS, Undecodable, decode, open_image
from mezzotint.data.image.losses import BANDS, DEEP, Loss, lines_on, loss_of
from mezzotint.data.listing.folder import EXTENSIONS, extension_of, scan
from mezzotint.data.listing.groups import torn_files
from mezzotint.data.listing.layout import FolderLayout, empty_classes, layout_of, parts_of

_CHUNK = 128  # files per task of a worker
_SAMPLED = 16  # files that are looked into to choose a reader
_POINT = 16  # values of a point, at most
_SHOWN = 10  # examples of each kind of finding in `lines`
_LEVELS = np.stack([np.arange(256) / 255.0, (np.arange(256) / 255.0) ** 2], axis=1)


def only_native(root: str) -> bool:
    """Return whether a folder has images that only `data.reader=native` reads.

    They are DICOM, zarr and `.npy` arrays `[H, W, C]`, next to fewer other images. An array of two
    axes is an image where its rows are too long for points.
    """
    from mezzotint.data.image.native_files import NATIVE_EXTENSIONS, is_dicom

    listing = scan(root, NATIVE_EXTENSIONS)
    own = [path for path in listing.images if extension_of(path) not in EXTENSIONS]
    bare = [path for path in listing.others if not extension_of(path)]
    if not listing.images:
        return any(is_dicom(os.path.join(listing.root, path)) for path in _spread(bare))
    kinds = [_is_image(os.path.join(listing.root, path)) for path in _spread(own)]
    return 2 * len(own) > len(listing.images) and all(kinds)


def deep_images(root: str) -> bool:
    """Return whether most images of a folder lose bits or channels as 8-bit RGB; a few are read."""
    listing = scan(root)
    deep = 0
    for path in (chosen := _spread(listing.images)):
        try:
            with open_image(os.path.join(listing.root, path), MAX_PIXELS) as image:
                lost = {DEEP, BANDS} & {*loss_of(image, decode=False).kinds}
                deep += bool(lost) or image.mode in ("F", "I")
        except (Undecodable, OSError):  # such as TIFF of 16-bit colors
            deep += extension_of(path) in (".tif", ".tiff")
    return 2 * deep > len(chosen)


def _spread(paths: Sequence[str]) -> Sequence[str]:
    """Choose a few paths, spread evenly over all."""
    count = min(_SAMPLED, len(paths))
    return [paths[i * len(paths) // count] for i in range(count)]


def _is_image(path: str) -> bool:
    """Return whether a file that Pillow does not read is an image, arrays by their header."""
    if extension_of(path) != ".npy":
        return extension_of(path) in (".dcm", ".dicom", ".zarr")
    try:
        shape = np.load(path, mmap_mode="r", allow_pickle=False).shape
    except (ValueError, OSError, EOFError):
        return False
    return len(shape) == 3 or (len(shape) == 2 and shape[1] > _POINT)


@dataclass(frozen=True)
class _Facts:
    """Findings about one file; `fault` is set when it cannot be decoded."""

    path: str
    fault: str = ""
    kind: str = ""
    size: tuple[int, int] = (0, 0)
    digest: bytes = b""
    loss: Loss = Loss()
    mean: tuple[float, ...] = (0.0, 0.0, 0.0)
    square: tuple[float, ...] = (0.0, 0.0, 0.0)


@dataclass
class Report:
    """Findings about a folder. Paths are relative to `root`, with `/`, sorted.

    Attributes:
        root: path of the folder.
        images: number of files that are images by their extension.
        classes: images in each class folder, by split and class (`"train/cat"`, or `"cat"` without
            splits).
        unreadable: path and reason of each unreadable file; the reason begins with its kind,
            `truncated`, `empty`, `not an image`, `too large`, `broken`, `unsupported`,
            `missing` or `crash`.
        duplicates: groups of files with the same pixels, within one split.
        contradictions: groups of files with the same pixels, in more than one class.
        unknown_classes: classes of another split that the training split has not.
        constant: images of one color.
        lost: what is lost in reading the images, with counts.
        notes: what the layout leaves out, with the reason.
        leaks: groups of files with the same pixels, in more than one split.
        shared: other files that are scored, while one of the same person is trained on.
        empty_classes: class and split folders without an image.
        not_images: files that are not images by their extension.
        links: symbolic links, which are not followed.
        closed: folders without permission to list them.
        num_classes: number of classes, over all splits.
        formats: number of images by format and mode, `"PNG RGBA"`.
        sizes: smallest, median and largest height and width, `{"height": [1, 2, 3], "width": [1, 2,
            3]}`.
        mean: mean of each channel, for values in [0, 1]; each image has the same weight.
        std: standard deviation of each channel over all pixels, likewise.
    """

    root: str
    images: int = 0
    classes: dict[str, int] = field(default_factory=dict)
    unreadable: list[tuple[str, str]] = field(default_factory=list)
    duplicates: list[list[str]] = field(default_factory=list)
    leaks: list[list[str]] = field(default_factory=list)
    shared: list[str] = field(default_factory=list)
    contradictions: list[list[str]] = field(default_factory=list)
    unknown_classes: list[str] = field(default_factory=list)
    constant: list[str] = field(default_factory=list)
    lost: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    empty_classes: list[str] = field(default_factory=list)
    not_images: list[str] = field(default_factory=list)
    links: list[str] = field(default_factory=list)
    closed: list[str] = field(default_factory=list)
    num_classes: int = 0
    formats: dict[str, int] = field(default_factory=dict)
    sizes: dict[str, list[int]] = field(default_factory=dict)
    mean: list[float] = field(default_factory=list)
    std: list[float] = field(default_factory=list)

    @property
    def ok(self) -> bool:
        """Whether there are images, and no problem that harms training or evaluation.

        Duplicates within a split, other files and links are reported, but are no problem.
        """
        return self.images > 0 and not (
            self.unreadable
            or self.leaks
            or self.shared
            or self.contradictions
            or self.unknown_classes
            or self.empty_classes
            or self.closed
            or any(line.startswith("value range") for line in self.lost)
        )

    def to_json(self) -> str:
        """Return all findings, and `ok`, as one JSON object."""
        return json.dumps({**asdict(self), "ok": self.ok}, indent=2)

    def lines(self) -> Iterator[str]:
        """Yield the report for a terminal, with at most ten examples of each finding."""
        yield f"{self.root}: {self.images} images, {self.num_classes} classes"
        if self.sizes:
            low, median, high = zip(self.sizes["height"], self.sizes["width"], strict=True)
            sides = " … ".join(f"{h} x {w}" for h, w in (low, median, high))
            yield f"  height x width: {sides} (least, median, most)"
            yield f"  formats: {', '.join(f'{n} {kind}' for kind, n in self.formats.items())}"
            mean, std = (", ".join(f"{v:.4f}" for v in m) for m in (self.mean, self.std))
            yield f"  mean ({mean}), std ({std})"
        if len(self.classes) > 1:
            yield f"  in each class: {shown_counts(self.classes)}"
        yield from (f"  {note}" for note in self.notes)
        yield from (f"  {line}" for line in self.lost)
        yield from finding("unreadable", [f"{path}: {reason}" for path, reason in self.unreadable])
        yield from finding("in more than one split", self.leaks)
        yield from finding("scored, and of a source that is trained on", self.shared)
        yield from finding("the same in more than one class", self.contradictions)
        yield from finding("class without a training sample", self.unknown_classes)
        yield from finding("duplicate", self.duplicates)
        yield from finding("image of one color", self.constant)
        yield from finding("folder without an image", self.empty_classes)
        yield from finding("folder without permission to list it", self.closed)
        yield from finding("not an image", self.not_images)
        yield from finding("symbolic link, not followed", self.links)
        yield "ok" if self.ok else "not ok" if self.images else "not ok: there is no image"


def examine_folder(
    root: str | os.PathLike[str],
    *,
    workers: int | None = None,
    max_pixels: int = MAX_PIXELS,
    progress: Callable[[int, int], None] | None = None,
) -> Report:
    """Examine a folder of images.

    Args:
        root: path of the folder, laid out for `ImageFolder`.
        workers: processes; `None` takes one per core, 0 uses this process.
        max_pixels: images with more pixels are reported without decoding.
        progress: callback with the number of files done and of all files.

    Raises:
        ValueError: when the root is missing or not a folder.
    """
    root = os.fspath(root)
    listing = scan(root)
    if workers is None:
        usable = getattr(os, "sched_getaffinity", None)
        workers = os.cpu_count() or 1 if usable is None else len(usable(0))
    facts: list[_Facts] = []
    chunks = [listing.images[i : i + _CHUNK] for i in range(0, len(listing.images), _CHUNK)]
    for found in _examined(root, chunks, min(workers, len(chunks)), max_pixels):
        facts += found
        if progress is not None:
            progress(len(facts), len(listing.images))
    layout = layout_of(listing.images)
    good = [fact for fact in facts if not fact.fault]
    duplicates, leaks = _same(good, layout)
    report = Report(
        root,
        images=len(facts),
        classes=_class_sizes(listing.images, layout),
        num_classes=len({*map(layout.class_of, listing.images)} - {None}),
        unreadable=[(fact.path, fact.fault) for fact in facts if fact.fault],
        duplicates=duplicates,
        leaks=leaks,
        shared=sorted({*torn_files(listing.images, layout)} - {*chain(*leaks)}),
        contradictions=[
            group
            for group in (*duplicates, *leaks)
            if len({layout.class_of(path) for path in group} - {None}) > 1
        ],
        unknown_classes=_unknown_classes(listing.images, layout),
        constant=[fact.path for fact in good if _is_constant(fact)],
        lost=lines_on(fact.loss for fact in good),
        notes=[note for note in parts_of(listing).notes if not note.startswith("not ")],
        empty_classes=empty_classes(listing),
        not_images=listing.others,
        links=listing.links,
        closed=listing.closed,
        formats=dict(Counter(fact.kind for fact in good).most_common()),
    )
    if good:
        _describe(report, good)
    return report


def _examine(root: str, path: str, max_pixels: int) -> _Facts:
    try:
        with open_image(os.path.join(root, path), max_pixels) as image:
            kind = f"{image.format} {image.mode}"
            loss = loss_of(image)
            rgb = decode(image)
    except (Undecodable, MemoryError) as error:
        return _Facts(path, fault=str(error) or "too large: out of memory")
    shape = f"{rgb.height} {rgb.width} ".encode()
    digest = hashlib.blake2b(shape + rgb.tobytes(), digest_size=16).digest()
    counts = np.array(rgb.histogram(), np.float64).reshape(3, 256)
    mean, square = (counts @ _LEVELS / (rgb.height * rgb.width)).T.tolist()
    size = (rgb.height, rgb.width)
    return _Facts(path, "", kind, size, digest, loss, tuple(mean), tuple(square))


def _examine_all(root: str, paths: Sequence[str], max_pixels: int) -> list[_Facts]:
    return [_examine(root, path, max_pixels) for path in paths]


def _examined(
    root: str, chunks: list[list[str]], workers: int, max_pixels: int
) -> Iterator[list[_Facts]]:
    """Yield the facts in the order of files; after a crash, examine its chunk file by file."""
    if workers == 0:
        for chunk in chunks:
            yield _examine_all(root, chunk, max_pixels)
        return
    # Forking a process with threads, such as torch's, may hang.
    context = multiprocessing.get_context("spawn")
    done = 0
    while done < len(chunks):
        with ProcessPoolExecutor(workers, mp_context=context) as pool:
            pending = [pool.submit(_examine_all, root, c, max_pixels) for c in chunks[done:]]
            try:
                for future in pending:
                    yield future.result()
                    done += 1
            except BrokenProcessPool:
                pass
        if done < len(chunks):
            yield _examine_one_by_one(root, chunks[done], max_pixels, context)
            done += 1


def _examine_one_by_one(
    root: str, paths: Sequence[str], max_pixels: int, context: Any
) -> list[_Facts]:
    """Examine files one at a time in a process that is restarted after each crash."""
    found: list[_Facts] = []
    while len(found) < len(paths):
        with ProcessPoolExecutor(1, mp_context=context) as pool:
            try:
                pool.submit(os.getpid).result()
            except BrokenProcessPool:
                raise RuntimeError(
                    "Worker processes cannot start. Call this under `if __name__ == '__main__':` "
                    "in a script, or set workers=0."
                ) from None
            try:
                while len(found) < len(paths):
                    found.append(
                        pool.submit(_examine, root, paths[len(found)], max_pixels).result()
                    )
            except BrokenProcessPool:
                found.append(
                    _Facts(paths[len(found)], fault="crash: the decoder ended its process")
                )
    return found


def _same(facts: Iterable[_Facts], layout: FolderLayout) -> tuple[list[list[str]], list[list[str]]]:
    """Group files with the same pixels: within one split, and across splits."""
    by_digest: dict[bytes, list[str]] = defaultdict(list)
    for fact in facts:
        by_digest[fact.digest].append(fact.path)
    groups = [paths for paths in by_digest.values() if len(paths) > 1]
    across = [group for group in groups if len({layout.split_of(path) for path in group}) > 1]
    return [group for group in groups if group not in across], across


def _unknown_classes(paths: Sequence[str], layout: FolderLayout) -> list[str]:
    """Return the classes of other splits that the training split has not, `val/cat`."""
    train: set[tuple[str, str]] = set()
    others: set[tuple[str, str]] = set()
    for path in paths:
        split, name = layout.split_of(path), layout.class_of(path)
        if name is not None and split is not None:
            own = not split or layout.splits[split] == "train"
            (train if own else others).add((split, name))
    known = {name for _, name in train}
    return sorted(f"{split}/{name}" for split, name in others if known and name not in known)


def _class_sizes(paths: Iterable[str], layout: FolderLayout) -> dict[str, int]:
    sizes: Counter[str] = Counter()
    for path in paths:
        split, name = layout.split_of(path), layout.class_of(path)
        if name is not None and split is not None:
            sizes[f"{split}/{name}" if split else name] += 1
    return dict(sizes)


def _is_constant(fact: _Facts) -> bool:
    """Return whether all pixels of an image have one color."""
    return bool(np.allclose(np.square(fact.mean), fact.square, rtol=0.0, atol=1e-9))


def _describe(report: Report, good: Sequence[_Facts]) -> None:
    sizes = np.array([fact.size for fact in good])
    for name, column in zip(("height", "width"), sizes.T, strict=True):
        report.sizes[name] = [int(column.min()), int(np.median(column)), int(column.max())]
    mean = np.mean([fact.mean for fact in good], axis=0)
    square = np.mean([fact.square for fact in good], axis=0)
    report.mean, report.std = mean.tolist(), np.sqrt(np.maximum(0.0, square - mean**2)).tolist()


def shown_counts(classes: Mapping[str, int]) -> str:
    """Say how many samples classes have; of many, the smallest and the largest."""
    order = sorted(classes.items(), key=lambda item: item[1])
    if len(order) > _SHOWN:
        some = ", ".join(f"{name} {count:,}" for name, count in (*order[:3], *order[-3:]))
        return f"{some} (the three smallest and the three largest of {len(order):,})"
    return ", ".join(f"{name} {count:,}" for name, count in classes.items())


def finding(name: str, items: Sequence[str] | Sequence[list[str]]) -> Iterator[str]:
    """Yield the number of items, and ten of them; of equal ones, which are a list, ten as well."""
    if items:
        yield f"{name}: {len(items)}"
        for ids in ([one] if isinstance(one, str) else one for one in items[:_SHOWN]):
            more = f" and {len(ids) - _SHOWN:,} more" if len(ids) > _SHOWN else ""
            yield f"  {' = '.join(ids[:_SHOWN])}{more}"
        if len(items) > _SHOWN:
            yield f"  … and {len(items) - _SHOWN} more"
