"""Which samples belong together, so that a held-out part is independent of the training part.

Samples with the same content, several rows of one file, and samples of one person, patient,
session or other source stay on one side of a split. Who a sample is of is read from

- a column or array with one of the names in `COLUMNS`,
- or a folder or file name that data sets use by convention: `patient00012/` (CheXpert), `sub-01/`
  (BIDS), `session3/`, `0a7c2a8d_nohash_0.wav` (Speech Commands), `v_Archery_g08_c01.avi`
  (UCF-101), `--_cP4W5kNI_000012_000022.mp4` (Kinetics), `drive_frame0012.png`.

A folder that is the class of its samples is no person: it is what the task asks for.
"""

import hashlib
import os
import re
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from mezzotint.data.listing.layout import FolderLayout, nfc

if TYPE_CHECKING:
    from torch import Tensor

Index = npt.NDArray[np.int64]

PEOPLE = ("patient", "subject", "person", "participant", "speaker", "userid")
"""Columns that say which person a sample is of, by priority."""
COLUMNS = ("group", *PEOPLE, "recording", "source")
"""Columns that say who or what a sample is of, by priority; `patient_id` counts as `patient`."""

_PEOPLE = r"(?:patient|subject|subj|sub|person|participant|speaker)s?[-_ ]?"
_PERSON = re.compile(rf"{_PEOPLE}[0-9a-z]*\d[0-9a-z]*", re.IGNORECASE)
_PLACE = re.compile(
    r"(?:rec|record[a-z]*|session|video|sequence|seq|clip|slide)s?[-_ ]?\d+", re.IGNORECASE
)
_FILES = (
    re.compile(rf"(?P<source>{_PEOPLE}\d+)(?![0-9a-z]).*", re.IGNORECASE),
    re.compile(r"(?P<source>[0-9a-f]{6,10})_nohash_\d+"),
    re.compile(r"(?P<source>v_.+_g\d+)_c\d+"),
    re.compile(r"(?P<source>[\w-]{11})_\d{6}_\d{6}"),
    re.compile(r"(?P<source>.+?)[-_ ]?frame[-_ ]?\d+", re.IGNORECASE),
)
_EDGE = 4096  # bytes at both ends of files that are compared before whole files are


def column_of_groups(
    names: Iterable[str], *, people: bool = False, arrays: bool = False
) -> str | None:
    """Return the column that says who or what a sample is of; `None` if there is none.

    Args:
        names: names of columns or arrays.
        people: whether only a column of people counts, not one of sessions or other sources.
        arrays: whether these are arrays, where `subjects` has an entry for each sample; a column
            of that name is a count.
    """
    given = list(reversed(list(names)))
    known = {_plain(name.removesuffix("s")): name for name in given} if arrays else {}
    known |= {_plain(name): name for name in given}
    return next((known[name] for name in (PEOPLE if people else COLUMNS) if name in known), None)


def _plain(name: str) -> str:
    """Return `patient` for `Patient ID`, `patient_id` and `PatientID`."""
    plain = re.sub(r"[-_ ]", "", name.strip().lower())
    return plain if plain in PEOPLE else plain.removesuffix("id")


def source_of(path: str, label: str | None, pattern: str | None = None) -> str | None:
    """Return who or what a file is of, from its path.

    Args:
        path: path of the file, with `/`.
        label: class of the file; a folder of this name is not looked at.
        pattern: regular expression to search for instead of the conventions; what it finds is the
            source, or its first group. An empty one finds nothing.
    """
    if pattern is not None:
        found = re.search(pattern, path) if pattern else None
        return None if found is None else (found[1] if found.re.groups else found[0])
    *folders, file = path.split("/")
    own = [folder for folder in folders if nfc(folder) != label]
    for rule in (_PERSON, _PLACE):
        for position, folder in enumerate(own):
            if rule.fullmatch(folder):
                # A person has one name everywhere; sessions are numbered in each folder.
                return folder if rule is _PERSON else "/".join(own[: position + 1] + [label or ""])
    stem = os.path.splitext(file)[0]
    for number, rule in enumerate(_FILES):
        match = rule.fullmatch(stem)
        if match is not None:
            # Only frames of a video are numbered in each folder.
            last = number == len(_FILES) - 1
            return "/".join([*folders, match["source"]]) if last else match["source"]
    return None


def torn_files(paths: Sequence[str], layout: FolderLayout) -> list[str]:
    """Return the files to score whose person or other source has files to train on, too."""
    trained = [layout.splits.get(layout.split_of(p) or "", "train") == "train" for p in paths]
    names = [source_of(path, layout.class_of(path)) for path in paths]
    known = {name for name, own in zip(names, trained, strict=True) if own and name is not None}
    found = zip(paths, names, trained, strict=True)
    return [path for path, name, own in found if not own and name in known]


def check_pattern(pattern: str | None) -> None:
    """Refuse a `group` that is not a regular expression; raise `ValueError`."""
    try:
        re.compile(pattern or "")
    except re.error as error:
        raise ValueError(
            f"`group` must be a regular expression, such as 'patient[0-9]+', got {pattern!r} "
            f"({error}). Correct it."
        ) from None


def overlap(train: Sequence[str], test: Sequence[str]) -> tuple[str, ...]:
    """Say how many files two lists share; nothing if they share none."""
    both = sorted({os.path.normpath(path) for path in train} & set(map(os.path.normpath, test)))
    if not both:
        return ()
    return (f"{len(both):,} files are in both lists, trained on and scored, such as `{both[0]}`",)


def grouped(names: Sequence[str | None]) -> Index:
    """Number samples by name: each group by its first sample; `None` is a group of its own.

    Returns:
        int64 `[N]`, the index of the first sample of the group.
    """
    first: dict[str, int] = {}
    return np.array(
        [i if name is None else first.setdefault(name, i) for i, name in enumerate(names)], np.int64
    )


def merged(*groupings: Index) -> Index:
    """Join groups that share a sample, in any of the groupings.

    Args:
        groupings: int64 `[N]` each, the index of the first sample of the group.

    Returns:
        int64 `[N]`, likewise.
    """
    parent = np.arange(len(groupings[0]), dtype=np.int64)

    def root(i: int) -> int:
        while parent[i] != i:
            parent[i] = parent[parent[i]]
            i = int(parent[i])
        return i

    for groups in groupings:
        for i in np.flatnonzero(groups != np.arange(len(groups))).tolist():
            a, b = root(i), root(int(groups[i]))
            parent[max(a, b)] = min(a, b)
    return np.array([root(i) for i in range(len(parent))], np.int64)


def independent(
    labels: Index, content: Index, names: Sequence[str | None], *, required: bool = False
) -> Index:
    """Return the groups whose samples stay on one side of a split.

    Args:
        labels: int64 `[N]`, negative where a sample has none.
        content: int64 `[N]`, groups of samples with the same content.
        names: who or what each sample is of, `None` where nobody knows.
        required: whether the user named the groups; else they are left out where a class would
            have a single group, so that none of it could be scored.
    """
    whole = merged(content, grouped(names))
    if not required:
        for label in np.unique(labels[labels >= 0]):
            own = labels == label
            if len(np.unique(whole[own])) < 2 <= len(np.unique(content[own])):
                return content
    return whole


def independent_files(
    root: str,
    paths: Sequence[str],
    labels: Index,
    classes: Sequence[str],
    pattern: str | None,
    listed: Sequence[str | None] = (),
) -> Index:
    """Compare files, and return the groups of them that stay on one side of a split.

    Args:
        root: folder of the paths.
        paths: relative paths of the files.
        labels: int64 `[N]`, negative where a file has none.
        classes: names of the classes, by label.
        pattern: as `source_of` takes it.
        listed: who or what each file is of by a list, `None` or empty where it does not say.
    """
    names = [
        source or source_of(path, classes[label] if label >= 0 else None, pattern)
        for path, label, source in zip(
            paths, labels.tolist(), listed or [None] * len(paths), strict=True
        )
    ]
    required = bool(pattern) or any(listed)
    return independent(labels, same_files(root, paths), names, required=required)


def same_rows(rows: "Tensor | npt.NDArray[np.generic]") -> Index:
    """Group samples in memory `[N, …]` that have the same values."""
    values = rows if isinstance(rows, np.ndarray) else rows.numpy()
    return grouped(
        [
            hashlib.blake2b(np.ascontiguousarray(row).tobytes(), digest_size=16).hexdigest()
            for row in values
        ]
    )


def same_files(root: str, paths: Sequence[str]) -> Index:
    """Group files that have the same bytes; of files with one size, both ends are read first.

    Args:
        root: folder of the paths.
        paths: relative paths; a file named twice is the same, a missing one is its own group.
    """
    names = grouped([os.path.normpath(path) for path in paths])
    waiting: list[list[int]] = [np.unique(names).tolist()]
    for describe in (_size, _edges, _digest):
        finer: list[list[int]] = []
        for members in waiting:
            found: dict[object, list[int]] = defaultdict(list)
            for i in members:
                found[_of_file(describe, os.path.join(root, paths[i]), i)].append(i)
            finer += [group for group in found.values() if len(group) > 1]
        waiting = finer
    groups = np.arange(len(paths), dtype=np.int64)
    for members in waiting:
        groups[members] = min(members)
    return merged(names, groups)


def _of_file(describe: Callable[[str], object], path: str, index: int) -> object:
    try:
        return describe(path)
    except OSError:
        return ("missing", index)


def _size(path: str) -> int:
    return os.stat(path).st_size


def _edges(path: str) -> bytes:
    with open(path, "rb") as file:
        start = file.read(_EDGE)
        file.seek(max(0, os.fstat(file.fileno()).st_size - _EDGE))
        return start + file.read(_EDGE)


def _digest(path: str) -> bytes:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "blake2b").digest()
