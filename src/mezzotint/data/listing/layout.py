"""The layout rule: which folders of data are splits, classes, folds, or none of these.

The same rule holds for images, audio, video, point clouds and text:

- A folder around everything else is no class: the rule begins inside it.
- Folders named as splits (`ROLES`, in any case) are splits, never classes. With a training split
  and another one, all other folders around them are left out. Without a training split, the other
  folders are the training part. Without any other folder, the first split is trained on.
- Splits may be inside the classes, as in ModelNet40 (`chair/train`, `chair/test`).
- The first folder below the root, or below its split, is the class; deeper ones do not matter.
  Files directly in the root or in a split have no class. Folders `fold1`, `fold2`, … are folds,
  not classes: the class is one level deeper.
- Folders of annotations are left out (`ANNOTATIONS`; `PAIRED` next to a folder of `IMAGES`).
- A split is scored if it shares a class with the training part. Others are neither trained on nor
  scored.
- Names are compared in Unicode's NFC: a name with an accent has two spellings, and archives change
  one into the other.

Rows of tables follow it too: a column `split` with these names is the split.

Like `folder.py`, this module needs no torch.
"""

import os
import re
import unicodedata
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from mezzotint.data.listing.folder import Listing, extension_of

ROLES = {
    "train": "train",
    "training": "train",
    "val": "val",
    "valid": "val",
    "validation": "val",
    "dev": "val",
    "test": "test",
    "testing": "test",
}
"""Role of each name of a split, in lower case: `train`, `val` or `test`."""

SPLIT_COLUMN = "split"
"""The column or array that names the split of each row."""
ANNOTATIONS = frozenset(["annotation", "annotations", "metadata"])
"""Folders that are never classes, in lower case."""
PAIRED = frozenset(
    ["mask", "masks", "label", "labels", "segmentation", "segmentations", "trimaps", "gt"]
    + ["groundtruth", "ground_truth"]
)
"""Folders that hold annotations next to a folder of `IMAGES`."""
IMAGES = frozenset(["image", "images", "img", "imgs", "jpegimages"])

_FOLD = re.compile(r"fold[-_ ]?(\d+)", re.IGNORECASE)
_SHOWN = 4  # kinds of files, or folders, that a note names


def nfc(name: str) -> str:
    """Return a name in the one Unicode form in which names are compared."""
    return unicodedata.normalize("NFC", name)


def role_of(name: str) -> str | None:
    """Return the role of a name of a split: `train`, `val` or `test`; `None` for other names."""
    return ROLES.get(name.strip().lower())


def role_of_file(stem: str) -> str | None:
    """Return the role of a file that is named for its split, such as `ply_data_test0`."""
    roles = [ROLES[word] for word in re.split(r"[^a-z]+", stem.lower()) if word in ROLES]
    return roles[-1] if roles else None


def roles_of(values: Iterable[str]) -> list[str | None] | None:
    """Return the role of each entry of a column, if the column names splits.

    Args:
        values: entries of the column; an empty one has no role.

    Returns:
        `train`, `val`, `test` or `None` for each; `None` for a column with any other entry, or
        without a training row.
    """
    words = [value.strip() for value in values]
    roles = [role_of(word) for word in words]
    known = all(role is not None or not word for role, word in zip(roles, words, strict=True))
    return roles if known and "train" in roles else None


def rows_of_splits(
    roles: Sequence[str | None] | None, labeled: Sequence[bool]
) -> tuple[list[bool], list[bool], str | None]:
    """Choose the rows of a table by its column of splits.

    Args:
        roles: from `roles_of`; `None` without such a column.
        labeled: whether each row has a label.

    Returns:
        Which rows are used, which of all rows are scored, and the name of the scored split, `val`
        or `test`. Rows of other splits are neither trained on nor scored.
    """
    if roles is None:
        return [True] * len(labeled), [False] * len(labeled), None
    name = scored_role(roles, labeled)
    scored = [role is not None and role == name for role in roles]
    used = [role in (None, "train", name) for role in roles]
    return used, scored, name


def notes_on_splits(count: int, plural: str = "rows") -> list[str]:
    """Say how many rows of a table are in splits that take no part; nothing without any."""
    return [f"{count:,} {plural} of other splits are neither trained on nor scored"] * (count > 0)


def scored_role(
    roles: Sequence[str | None], labeled: Sequence[bool], first: str = "val"
) -> str | None:
    """Return `val` or `test`, whichever has a labeled row, by default `val` if both have."""
    found = {role for role, known in zip(roles, labeled, strict=True) if known}
    return next((role for role in (first, "val", "test") if role in found), None)


@dataclass(frozen=True)
class FolderLayout:
    """What the folders of a listing mean.

    Attributes:
        wrapper: the folder around everything, with a slash at the end; empty without one.
        splits: role of each split, by the name of its folder: training, validation, test.
        inside: whether the splits are inside the class folders.
        rest: whether the folders next to the splits are the training part.
        folds: whether the folders are folds.
        left_out: number of samples in each folder that is left out; `.` stands for files next to
            the splits.
    """

    wrapper: str = ""
    splits: Mapping[str, str] = field(default_factory=dict)
    inside: bool = False
    rest: bool = False
    folds: bool = False
    left_out: Mapping[str, int] = field(default_factory=dict)

    def split_of(self, path: str) -> str | None:
        """Return the split folder of a sample; empty without splits, `None` if it is left out."""
        if not path.startswith(self.wrapper):
            return None
        top, slash, rest = path.removeprefix(self.wrapper).partition("/")
        if self.inside:
            return rest.partition("/")[0]
        if not slash:
            return None if self.splits and not self.rest else ""
        if top in self.splits:
            return top
        if f"{self.wrapper}{top}" in self.left_out:
            return None
        return "" if self.rest or not self.splits else None

    def class_of(self, path: str) -> str | None:
        """Return the class of a sample, in NFC; `None` for a file outside of all class folders."""
        parts = path.removeprefix(self.wrapper).split("/")[:-1]
        if parts and parts[0] in self.splits and not self.inside:
            parts = parts[1:]
        if parts and self.folds:
            parts = parts[1:]
        return nfc(parts[0]) if parts else None

    def fold_of(self, path: str) -> int | None:
        """Return the number of a sample's fold; `None` without folds."""
        found = _FOLD.fullmatch(path.removeprefix(self.wrapper).partition("/")[0])
        return int(found[1]) if self.folds and found else None


@dataclass(frozen=True)
class Parts:
    """The samples of a folder by their use.

    Attributes:
        train: samples to train on.
        scored: labeled samples to score, of another split; empty without one.
        name: name of the split of `scored`, in lower case; `None` without one.
        unused: samples of the other splits, by the name of their folder.
        layout: what the folders mean.
        notes: what a user should know, one clause each.
        split: folder of the split to train on; `None` without splits.
    """

    train: list[str]
    scored: list[str]
    name: str | None
    unused: Mapping[str, list[str]]
    layout: FolderLayout
    notes: tuple[str, ...] = ()
    split: str | None = None


def parts_of(listing: Listing, plural: str = "images", split: str | None = None) -> Parts:
    """Choose the samples to train on and to score.

    Args:
        listing: contents of the folder.
        plural: what the samples are called, for the notes.
        split: folder to train on; by default the training split.

    Raises:
        ValueError: when there is no such split.
    """
    layout = layout_of(listing.images)
    by_split: dict[str, list[str]] = {name: [] for name in ("", *layout.splits)}
    for path in listing.images:
        found = layout.split_of(path)
        if found is not None:
            by_split[found].append(path)
    chosen = _trained_on(listing.root, layout, split)
    train = sorted((path for name in chosen for path in by_split.pop(name)), key=os.fsencode)
    known = _classes(layout, train)
    scored: str | None = None
    notes = []
    for name, role in layout.splits.items():
        if name not in by_split or not by_split[name] or role == "train":
            continue
        own = _classes(layout, by_split[name])
        if scored is None and own & known:
            scored = name
            extra = sorted(own - known)
            if extra:
                notes.append(f"`{name}` has {_some(extra)}, and `train` has no sample of it")
        elif known and not own & known:
            why = "none of the classes" if own else "no class folders"
            notes.append(
                f"`{name}` has {why}, so its {len(by_split[name]):,} {plural} are neither trained "
                "on nor scored"
            )
        elif scored is not None and name != scored:
            notes.append(
                f"`{name}` has {len(by_split[name]):,} {plural} that are neither trained on nor "
                f"scored, because `{scored}` is scored"
            )
    if layout.splits and not split and not layout.rest and "train" not in layout.splits.values():
        empty = [f for f in listing.folders if role_of(f.removeprefix(layout.wrapper)) == "train"]
        if empty:
            train = []
            notes.append(f"`{empty[0]}` is empty")
        else:
            notes.append(f"there is no training split, so `{chosen[0]}` is trained on")
    if layout.wrapper:
        notes.append(f"everything is in `{layout.wrapper.rstrip('/')}`")
    if layout.folds:
        notes.append("the folders are folds, not classes")
    other = by_split.pop(scored) if scored is not None else []
    return Parts(
        train,
        other,
        None if scored is None else scored.lower(),
        {name: paths for name, paths in by_split.items() if paths},
        layout,
        (*notes, *notes_on(listing, layout, plural)),
        chosen[0] or None,
    )


def _classes(layout: FolderLayout, paths: Iterable[str]) -> set[str]:
    return {name for name in map(layout.class_of, paths) if name is not None}


def _trained_on(root: str, layout: FolderLayout, split: str | None) -> list[str]:
    """Return the split folders to train on; an empty name is the rest of the folder."""
    if split is not None:
        found = [name for name in layout.splits if name == split]
        found = found or [name for name in layout.splits if name.lower() == split.lower()]
        if not found:
            raise ValueError(
                f"`split` must be one of the splits of {root}, "
                f"{', '.join(layout.splits) or 'which has none'}, got {split!r}. Name one of them, "
                "or leave the key out."
            )
        return found[:1]
    if not layout.splits or layout.rest:
        return [""]
    train = [name for name, role in layout.splits.items() if role == "train"]
    return train or [next(iter(layout.splits))]


def notes_on(listing: Listing, layout: FolderLayout, plural: str = "images") -> list[str]:
    """Say what of a folder is not read: folders, extensions, links."""
    notes = []
    aside = [
        f"`{name}` ({count:,} {plural})"
        if name != "."
        else f"{count:,} {plural} outside of the splits"
        for name, count in layout.left_out.items()
    ]
    aside += [f"`{name}`" for name in listing.leftovers]
    if aside:
        notes.append(f"left out: {_some(aside, quoted=False)}")
    kinds = Counter(extension_of(path) or "without extension" for path in listing.others)
    if kinds:
        counted = [f"{count:,} {kind}" for kind, count in kinds.most_common()]
        needed = [hint for kind, hint in READABLE_WITH.items() if kind in kinds]
        hint = f" ({needed[0]})" if needed else ""
        notes.append(f"not read: {_some(counted, quoted=False)}{hint}")
    if listing.links:
        noun = "symbolic link" if len(listing.links) == 1 else "symbolic links"
        notes.append(f"not followed: {len(listing.links):,} {noun}")
    return notes


READABLE_WITH = dict.fromkeys((".heic", ".heif"), "`pip install 'mezzotint[heic]'` reads .heic")
"""How to read files of an extension that needs a package."""


def _some(names: Sequence[str], quoted: bool = True) -> str:
    """Join names; of a long list the first few, and how many more there are."""
    shown = [f"`{name}`" if quoted else name for name in names[:_SHOWN]]
    more = len(names) - len(shown)
    return ", ".join(shown) + (f" and {more:,} more" if more > 0 else "")


def layout_of(paths: Sequence[str]) -> FolderLayout:
    """Find out what the folders of samples mean."""
    prefix, left_out = "", Counter[str]()
    while True:
        inner = [path.removeprefix(prefix) for path in paths if path.startswith(prefix)]
        tops = Counter(path.partition("/")[0] for path in inner if "/" in path)
        flat = len(inner) - tops.total()
        aside = _annotations(tops, flat)
        left_out.update({f"{prefix}{top}": tops.pop(top) for top in aside})
        only = next(iter(tops)) if len(tops) == 1 and not flat else None
        if (
            only is None
            or role_of(only)
            or any(path.count("/") == 1 for path in inner if path.startswith(f"{only}/"))
        ):
            break
        prefix += f"{only}/"
    second = {tuple(path.split("/")[:2]) for path in inner if path.count("/") > 1}
    nested = {top for top, _ in second}
    splits = _splits(tops, nested, flat)
    if not splits and all(path.count("/") > 1 for path in inner):
        below = _splits({name for _, name in second}, set(), 0)
        if "train" in below.values() and all(name in below for _, name in second):
            return FolderLayout(prefix, below, inside=True, left_out=dict(sorted(left_out.items())))
    rest = bool(splits) and "train" not in splits.values() and (len(splits) < len(tops) or flat > 0)
    if splits and not rest:
        left_out.update({f"{prefix}{top}": tops[top] for top in tops if top not in splits})
        if flat:
            left_out["."] = flat
    folds = not splits and len(tops) > 1 and all(_FOLD.fullmatch(top) for top in tops)
    return FolderLayout(prefix, splits, False, rest, folds, dict(sorted(left_out.items())))


def empty_classes(listing: Listing) -> list[str]:
    """Return class and split folders without a sample at any depth."""
    layout = layout_of(listing.images)
    base = layout.wrapper.count("/")
    depth = base + (2 if (layout.splits and not layout.inside) or layout.folds else 1)
    full = {"/".join(path.split("/")[:d]) for path in listing.images for d in range(1, depth + 1)}
    return [
        path
        for path in listing.folders
        if path.startswith(layout.wrapper)
        and path.count("/") < depth
        and path not in full
        and not _is_aside(path, layout)
    ]


def _is_aside(path: str, layout: FolderLayout) -> bool:
    """Return whether a folder is next to the splits, or is one of annotations."""
    top = path.removeprefix(layout.wrapper).partition("/")[0]
    if layout.splits and not layout.rest and not layout.inside:
        return role_of(top) is None
    return top.lower() in ANNOTATIONS | PAIRED


def _annotations(tops: Mapping[str, int], flat: int) -> list[str]:
    """Return the folders of annotations; never all folders, if there is nothing else."""
    paired = any(top.lower() in IMAGES for top in tops)
    found = [
        top for top in tops if top.lower() in ANNOTATIONS or (paired and top.lower() in PAIRED)
    ]
    return found if flat or len(found) < len(tops) else []


def _splits(tops: Iterable[str], nested: set[str], flat: int) -> dict[str, str]:
    """Return the role of each folder that is a split, in the order of `ROLES`."""
    order = list(ROLES)
    named = sorted((top for top in tops if role_of(top)), key=lambda t: order.index(t.lower()))
    roles = {top: str(role_of(top)) for top in named}
    others = [top for top in tops if top not in roles]
    # `train` alone, without class folders and next to others, is the class of railway trains.
    alone = set(roles.values()) == {"train"} and not nested & set(roles)
    return {} if alone and (others or flat) else roles
