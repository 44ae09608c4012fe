"""Examine data of any modality before training on it: `mezzotint doctor PATH`.

Folders of images are examined by `image/doctor.py`, in parallel and without torch; folders in the
layout of COCO or VOC by `detection/doctor.py`, with their annotations. All other data
is opened as for training, and every sample is read once: unreadable samples, samples with the same
values on both sides of a split or in two classes, classes that are scored and never trained on,
class counts, and what was left out.
"""

import hashlib
import json
import os
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mezzotint.data.image.decode import MAX_PIXELS
from mezzotint.data.image.doctor import Report, examine_folder, finding, only_native, shown_counts
from mezzotint.data.listing.folder import (
    EXTENSIONS,
    PACKED,
    detection_set_at,
    extension_of,
    packed_suffix,
    scan,
)

if TYPE_CHECKING:
    from mezzotint.data.detection.doctor import DetectionReport
    from mezzotint.data.source import Source, Task

_FOLDERS = {
    "image_folder": EXTENSIONS,
    "audio_folder": frozenset(".wav .flac .ogg .opus .mp3 .aiff .aif .au .w64 .caf".split()),
    "video_folder": frozenset(".mp4 .m4v .avi .mkv .webm .mov .mpg .mpeg .flv .wmv .3gp".split()),
    "point_clouds": frozenset(".npy .npz .off .obj .ply .stl .h5 .hdf5".split()),
    "tokens": frozenset(".txt .text .md".split()),
}
"""Source of a folder by the extension that most of its files have; texts come last."""
_MINOR = 0.1  # files of another kind, as a fraction of the first, that may lie in between
_FILES = {
    ".h5": "point_clouds", ".hdf5": "point_clouds", ".ts": "series", ".arff": "table",
    ".txt": "tokens", ".md": "tokens", ".json": "captioned_images",
}  # fmt: skip


@dataclass
class SourceReport:
    """Findings about data of any modality.

    Attributes:
        root: path of the data.
        kind: source that read it.
        outcome: classes, samples, and what is left out, in one line.
        columns: what each column or array is used for, a line each.
        samples: number of samples, training and test.
        shape: shape of a sample.
        values: least, mean and largest value of all samples; `None` without any.
        classes: samples of each class, by split and class.
        unreadable: id and reason of each sample that cannot be read.
        duplicates: groups of samples with the same values, on one side of the split.
        leaks: groups of samples with the same values, trained on and scored.
        shared: other samples that are scored, while one of the same source is trained on.
        contradictions: groups of samples with the same values, in more than one class.
        unknown_classes: classes that are scored, and have no training sample.
        constant: samples whose values are all equal, such as silence.
        channels: values and bits of each channel of native images, a line each.
        problems: channels that are constant or the same, and ranges that images do not fill.
    """

    root: str
    kind: str
    outcome: str = ""
    columns: list[str] = field(default_factory=list)
    samples: int = 0
    shape: list[int] = field(default_factory=list)
    values: list[float] | None = None
    classes: dict[str, int] = field(default_factory=dict)
    unreadable: list[tuple[str, str]] = field(default_factory=list)
    duplicates: list[list[str]] = field(default_factory=list)
    leaks: list[list[str]] = field(default_factory=list)
    shared: list[str] = field(default_factory=list)
    contradictions: list[list[str]] = field(default_factory=list)
    unknown_classes: list[str] = field(default_factory=list)
    constant: list[str] = field(default_factory=list)
    channels: list[str] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)

    @property
    def ok(self) -> bool:
        """Whether there are samples, and no problem that harms training or evaluation."""
        return self.samples > 0 and not (
            self.unreadable
            or self.leaks
            or self.shared
            or self.contradictions
            or self.unknown_classes
            or self.says_nothing
            or any(line.startswith("value range") for line in self.problems)
        )

    @property
    def says_nothing(self) -> bool:
        """Whether all values of all samples are equal, so that there is nothing to learn."""
        return self.values is not None and self.values[0] == self.values[2]

    def to_json(self) -> str:
        """Return all findings, and `ok`, as one JSON object."""
        return json.dumps({**asdict(self), "ok": self.ok}, indent=2)

    def lines(self) -> Iterator[str]:
        """Yield the report for a terminal, with at most ten examples of each finding."""
        yield f"{self.root}: {self.kind}; {self.outcome}"
        shape = " x ".join(map(str, self.shape))
        if self.values is not None:
            low, mean, high = (f"{value:.4g}" for value in self.values)
            yield f"  samples of {shape}; values {low} … {mean} … {high} (least, mean, most)"
        yield from (f"  {line}" for line in (*self.columns, *self.channels, *self.problems))
        if len(self.classes) > 1:
            yield f"  in each class: {shown_counts(self.classes)}"
        yield from finding("unreadable", [f"{name}: {reason}" for name, reason in self.unreadable])
        yield from finding("trained on and scored", self.leaks)
        yield from finding("scored, and of a source that is trained on", self.shared)
        yield from finding("the same in more than one class", self.contradictions)
        yield from finding("class without a training sample", self.unknown_classes)
        yield from finding("duplicate", self.duplicates)
        if self.says_nothing:
            yield "all values of all samples are equal: there is nothing to learn"
        else:
            yield from finding("sample of equal values", self.constant)
        yield "ok" if self.ok else "not ok"


def examine(
    root: str | os.PathLike[str],
    *,
    overrides: Sequence[str] = (),
    workers: int | None = None,
    max_pixels: int = MAX_PIXELS,
    progress: Callable[[int, int], None] | None = None,
) -> "Report | SourceReport | DetectionReport":
    """Examine data of any modality.

    Args:
        root: a folder or a file.
        overrides: keys of the source, `kind=series` or `y=target`; by default the kind is that of
            most files, or of the columns and arrays of a file.
        workers: processes for a folder of images; `None` takes one per core, 0 uses this process.
        max_pixels: images with more pixels are reported without decoding.
        progress: callback with the number of samples done and of all samples.

    Raises:
        ValueError: when there is no such data, or nobody can tell what it is.
    """
    from mezzotint.recipe.signatures import index

    root = os.fspath(root)
    named = any(text.removeprefix("data.").startswith("kind=") for text in overrides)
    detection = None if named else detection_set_at(root)
    if detection is not None:
        overrides = [f"kind={detection['kind']}", *overrides]
    kind, given = _given(root, overrides)
    if kind in index().members("DetectionSource"):
        return _examined_detection(root, kind, given, progress)
    if kind == "image_folder" and all(text.startswith("data.kind=") for text in given):
        return examine_folder(root, workers=workers, max_pixels=max_pixels, progress=progress)
    return examine_source(opened(root, overrides), root, kind, progress)


def _given(root: str, overrides: Sequence[str]) -> tuple[str, list[str]]:
    """Return the kind of source that reads a path, and its keys as overrides of a recipe."""
    given = [text if text.startswith("data.") else f"data.{text}" for text in overrides]
    kinds = [text.partition("=")[2] for text in given if text.startswith("data.kind=")]
    if not kinds and _names_reader(given):
        kinds = ["image_folder"]
    kind = kinds[-1] if kinds else kind_of(root)
    if kind == "image_folder" and not _names_reader(given) and only_native(root):
        given = ["data.reader=native", *given]
    return kind, given


def _names_reader(given: Sequence[str]) -> bool:
    return any(text.startswith("data.reader") for text in given)


def _examined_detection(
    root: str,
    kind: str,
    overrides: Sequence[str],
    progress: Callable[[int, int], None] | None,
) -> "DetectionReport":
    """Examine a folder of images with annotations."""
    from mezzotint.data.detection.doctor import examine_detection
    from mezzotint.recipe.reading import apply_overrides
    from mezzotint.recipe.schema import construct, resolve

    found = detection_set_at(root) or {}
    section = found if found.get("kind") == kind else {"kind": kind, "root": root}
    data = apply_overrides({"data": section}, overrides)["data"]
    source = construct(resolve(data, "DetectionSource", "data"), "DetectionSource", {})
    return examine_detection(source, root, kind, progress)


def kind_of(path: str) -> str:
    """Return the kind of source that reads a path.

    Raises:
        ValueError: when nobody can tell.
    """
    if not os.path.exists(path):
        raise ValueError(f"`{path}` does not exist. Give a folder or a file of data.")
    if (packed := packed_suffix(path)) is not None:
        from mezzotint.data.listing.sharded import kind_of_packed

        return kind_of_packed(path, packed)
    if os.path.isdir(path):
        return _kind_of_folder(path)
    from mezzotint.data.formats.numpy_files import kind_of_arrays

    suffix = Path(path).suffix.lower()
    tables = dict.fromkeys((".csv", ".tsv"), _kind_of_table)
    readers = tables | dict.fromkeys((".npz", ".npy"), kind_of_arrays)
    if suffix in readers:
        return readers[suffix](path)
    if suffix not in _FILES:
        known = ", ".join((".csv", ".tsv", ".npz", ".npy", *_FILES, *PACKED))
        raise ValueError(
            f"`{path}` has the suffix {suffix!r}. Supported: a folder, {known}. Say what it is "
            "with kind=table, series and so on."
        )
    return _FILES[suffix]


def _kind_of_folder(path: str) -> str:
    """Return what most files are; texts count where nothing else is, since notes go with all data.

    Raises:
        ValueError: when there is nothing to read, or much of two kinds, with what was counted.
    """
    listing = scan(path, frozenset().union(*_FOLDERS.values()))
    found = Counter(map(extension_of, listing.images))
    counts = {kind: sum(found[e] for e in known) for kind, known in _FOLDERS.items()}
    *rest, texts = _FOLDERS
    first, *others = sorted(filter(counts.get, rest), key=lambda kind: -counts[kind]) or [texts]
    if (first == "point_clouds" or not counts[first]) and only_native(path):
        return "image_folder"
    if not counts[first]:
        files = Counter(extension_of(name) or "no suffix" for name in listing.others)
        seen = ", ".join(f"{n} {suffix}" for suffix, n in files.most_common(3)) or "no files"
        raise ValueError(
            f"`{path}` has no images, sounds, videos, point clouds or texts (found: {seen}). Check "
            "the path, or name one file, such as a .csv or .npz; join several into one."
        )
    if others and counts[others[0]] > _MINOR * counts[first]:
        from mezzotint.modality.modality import modality_of
        from mezzotint.recipe.schema import class_of

        shown = " and ".join(
            f"{counts[kind]} {modality_of(class_of(kind, 'Source').modality).plural}"
            for kind in (first, others[0])
        )
        raise ValueError(
            f"`{path}` has {shown}, so its modality is unclear. Name a folder of one modality, or "
            f"say which with data.kind={first}."
        )
    return first


def _kind_of_table(path: str) -> str:
    from mezzotint.data.formats.delimited import read_text_table

    header = set(read_text_table(Path(path)).header)
    if {"path", "caption"} <= header:
        return "captioned_images"
    if "text" in header:
        return "tokens"
    return "series" if header & {"recording", "subject"} else "table"


def location_of(path: str, kind: str) -> dict[str, Any]:
    """Return a section `data` that reads a path with a kind of source."""
    from mezzotint.recipe.signatures import index

    entry = index().members("Source").get(kind)
    if kind == "captioned_images":
        return {"kind": kind, "root": str(Path(path).parent), "files": path}
    where = {} if entry is None else {"root" if "root" in entry.keys else "path": path}
    return {"kind": kind, **where}


def opened(root: str, overrides: Sequence[str] = ()) -> "Source":
    """Open a path with the source that most of its files, or its columns, ask for.

    Args:
        root: a folder or a file.
        overrides: keys of the source, `kind=series` or `y=target`.

    Raises:
        ValueError: when there is no such data, or nobody can tell what it is.
    """
    from mezzotint.recipe.reading import apply_overrides
    from mezzotint.recipe.schema import construct, resolve

    kind, given = _given(root, overrides)
    data = apply_overrides({"data": location_of(root, kind)}, given)["data"]
    source: Source = construct(resolve(data, "Source", "data"), "Source", {})
    return source


def examine_source(
    source: "Source",
    root: str,
    kind: str,
    progress: Callable[[int, int], None] | None = None,
) -> SourceReport:
    """Read every sample of a source, training and test, and report what is found."""
    from mezzotint.data.image.folder import ImageFolder
    from mezzotint.data.image.losses import examine_channels
    from mezzotint.data.source import first_classification, shared
    from mezzotint.types import Unreadable

    samples, tasks = source.evaluation()
    left_out = list(source.unreadable)
    described = source.described()
    report = SourceReport(root, kind, described[0], list(described[1:]), len(samples))
    report.shape, report.unreadable = list(source.input.shape), left_out
    same: dict[bytes, list[int]] = defaultdict(list)
    low, high, total, count = float("inf"), float("-inf"), 0.0, 0
    for index in range(len(samples)):
        try:
            x = samples.read(index)["x"].contiguous()
        except Unreadable as error:
            report.unreadable.append((error.id, error.reason))
            continue
        content = x.numpy().tobytes()
        same[hashlib.blake2b(content, digest_size=16).digest()].append(index)
        values = x.double()
        if values.numel() > 1 and float(values.min()) == float(values.max()):
            report.constant.append(samples.id_of(index))
        low, high = min(low, float(values.min())), max(high, float(values.max()))
        total, count = total + float(values.sum()), count + values.numel()
        if progress is not None:
            progress(index + 1, len(samples))
    report.values = [low, total / count, high] if count else None
    if isinstance(samples, ImageFolder) and samples.reader is not None:
        where = (samples.root, list(map(samples.id_of, range(len(samples)))), samples.max_pixels)
        report.channels, report.problems = examine_channels(samples.reader, samples.input, *where)
    groups = _groups(samples, root, list(same.values()))
    _compare(report, samples, task := first_classification(tasks), groups)
    both = () if task is None else shared(samples, task, files=os.path.isdir(root)).tolist()
    torn = {samples.id_of(i) for i in both}
    report.shared = sorted(torn - {name for ids in report.leaks for name in ids})
    return report


def _groups(samples: "Source", root: str, same: list[list[int]]) -> list[list[int]]:
    """Join samples of the same values with those of the same file: groups of two or more."""
    from mezzotint.data.listing.groups import grouped, merged, same_files

    names: list[str | None] = [None] * len(samples)
    for number, members in enumerate(same):
        for i in members:
            names[i] = str(number)
    groups = grouped(names)
    if os.path.isdir(root):
        ids = [samples.id_of(i) for i in range(len(samples))]
        if len(set(ids)) == len(ids):  # several samples of one file are no copies
            groups = merged(groups, same_files(root, ids))
    found: dict[int, list[int]] = defaultdict(list)
    for i, first in enumerate(groups.tolist()):
        found[first].append(i)
    return [members for members in found.values() if len(members) > 1]


def _compare(
    report: SourceReport, samples: "Source", task: "Task | None", groups: list[list[int]]
) -> None:
    """Find copies on both sides of a task and in two classes, and count its classes."""
    sides: dict[int, str] = {}
    labels: dict[int, int] = {}
    if task is not None:
        name = task.name.rpartition("/")[2]
        sides |= dict.fromkeys(task.train.tolist(), "train")
        sides |= dict.fromkeys(task.test.tolist(), name)
        labels = {i: int(task.labels[i]) for i in sides}
        counts = Counter((sides[i], task.classes[labels[i]]) for i in sides if task.classes)
        report.classes = {f"{side}/{title}": n for (side, title), n in sorted(counts.items())}
        known = {label for i, label in labels.items() if sides[i] == "train"}
        scored = {label for i, label in labels.items() if sides[i] != "train"}
        report.unknown_classes = [f"{name}/{task.classes[i]}" for i in sorted(scored - known)]
    elif samples.labels is not None and samples.labels.ndim == 1:
        labels = {i: label for i, label in enumerate(samples.labels.tolist()) if label >= 0}
    for members in groups:
        ids = [samples.id_of(i) for i in members]
        torn = len({sides[i] for i in members if i in sides}) > 1
        (report.leaks if torn else report.duplicates).append(ids)
        if len({labels[i] for i in members if i in labels}) > 1:
            report.contradictions.append(ids)
