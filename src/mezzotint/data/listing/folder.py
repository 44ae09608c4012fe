"""List a folder: which files are samples by their extension, and what is not read.

- Names that begin with a dot, and folders that other programs leave behind (`LEFTOVERS`), are left
  out.
- Symbolic links below the root are not followed: a link could lead out of the root, or form a
  cycle. The root itself may be one.

`layout.py` says what the folders mean. Like `decode`, this module needs no torch.
"""

import hashlib
import os
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import Any

EXTENSIONS = frozenset(
    ".jpg .jpeg .jpe .jfif .png .gif .bmp .dib .webp .tif .tiff .ppm .pgm .pbm .pnm".split()
    + [".jp2", ".avif"]
    + [".heic", ".heif"] * (find_spec("pillow_heif") is not None)
)
LEFTOVERS = frozenset(
    ["__macosx", "__pycache__", "@eadir", "$recycle.bin", "#recycle", "lost+found"]
    + ["system volume information"]
)
"""Folders that archives, storage devices and operating systems leave behind, in lower case."""
ARRAY_FOLDERS = frozenset({".zarr"})
"""Extensions of folders that are one file to their reader."""

PACKED = (".tar", ".parquet", ".arrow")
"""Files that hold many samples, by priority: tar files often have a parquet file of facts each."""
_GLANCED, _DEEP = 2000, 3  # files and depth up to which a folder is looked at for them
_NOTES = ("", ".txt", ".md", ".json", ".jsonl", ".yaml", ".yml", ".csv", ".tsv", ".py", ".lock")
_FEW_NOTES = 10  # more text files are texts


@dataclass
class Listing:
    """The contents of a folder; paths are relative to the root, with `/`, sorted by their bytes.

    Attributes:
        root: path of the folder.
        images: files that are samples by their extension.
        others: all other files.
        links: symbolic links, which are not followed.
        folders: all folders.
        closed: folders without permission to list them.
        leftovers: folders that begin with a dot or are in `LEFTOVERS`; they are not listed.
    """

    root: str
    images: list[str] = field(default_factory=list)
    others: list[str] = field(default_factory=list)
    links: list[str] = field(default_factory=list)
    folders: list[str] = field(default_factory=list)
    closed: list[str] = field(default_factory=list)
    leftovers: list[str] = field(default_factory=list)


def scan(root: str, extensions: frozenset[str] = EXTENSIONS, what: str = "images") -> Listing:
    """List a folder and everything below.

    Args:
        root: path of the folder, or of one file; the listing then has this file of its folder.
        extensions: lower-case extensions of the files in `Listing.images`.
        what: the plural noun for these files, for messages.

    Raises:
        ValueError: when the root is missing or not a folder.
    """
    extension = extension_of(root.rstrip("/"))
    one = os.path.isfile(root) or extension in ARRAY_FOLDERS and os.path.isdir(root)
    if one and extension in extensions:
        folder, name = os.path.split(root.rstrip("/"))
        return Listing(folder or ".", images=[name])
    if not os.path.isdir(root):
        wrong = "is a file" if os.path.exists(root) else "does not exist"
        raise ValueError(
            f"`{root}` {wrong}. It must be a folder of {what}. Check the path (`data.root` in a "
            "recipe)."
        )
    listing = Listing(root)
    waiting = [""]
    while waiting:
        folder = waiting.pop()
        try:
            entries = list(os.scandir(os.path.join(root, folder)))
        except OSError:
            listing.closed.append(folder.rstrip("/") or ".")
            continue
        for entry in entries:
            path = folder + entry.name
            is_folder = entry.is_dir(follow_symlinks=False)
            if entry.name.startswith(".") or (is_folder and entry.name.lower() in LEFTOVERS):
                if is_folder:
                    listing.leftovers.append(path)
            elif entry.is_symlink():
                listing.links.append(path)
            elif is_folder and extension_of(entry.name) in ARRAY_FOLDERS & extensions:
                listing.images.append(path)
            elif is_folder:
                listing.folders.append(path)
                waiting.append(f"{path}/")
            elif entry.is_file(follow_symlinks=False) and extension_of(entry.name) in extensions:
                listing.images.append(path)
            else:
                listing.others.append(path)
    for paths in (
        listing.images, listing.others, listing.links, listing.folders, listing.closed,
        listing.leftovers,
    ):  # fmt: skip
        paths.sort(key=os.fsencode)
    return listing


def packed_suffix(root: str) -> str | None:
    """Return what a root of packed samples consists of: `.tar`, `.parquet` or `.arrow`.

    A folder is one if it has such files and otherwise a few notes; of a folder with more than some
    thousand files only the first ones are looked at. `None` for all other roots.
    """
    if os.path.isfile(root):
        return extension_of(root) if extension_of(root) in PACKED else None
    own = (os.path.join(root, name) for name in ("index.json", "index/offset.npy"))
    if all(map(os.path.isfile, own)):
        return ".tar"  # written by `mezzotint shard`
    found, waiting = Counter[str](), [(root, 0)]
    while waiting and found.total() < _GLANCED:
        folder, depth = waiting.pop(0)
        try:
            entries = sorted(os.scandir(folder), key=lambda entry: entry.name)
        except OSError:
            continue
        for entry in entries[:_GLANCED]:
            if entry.is_dir(follow_symlinks=False):
                hidden = entry.name.startswith(".") or entry.name.lower() in LEFTOVERS
                waiting += [(entry.path, depth + 1)] if depth < _DEEP and not hidden else []
            elif not entry.name.startswith("."):
                found[extension_of(entry.name)] += 1
    packed = sum(found[suffix] for suffix in PACKED)
    if not found.keys() <= {*PACKED, *_NOTES} or found[".txt"] > _FEW_NOTES + packed:
        return None
    return next((suffix for suffix in PACKED if found[suffix]), None)


def folder_of(root: str) -> str:
    """Return the folder of a file, and a folder itself."""
    return os.path.dirname(root) or "." if os.path.isfile(root) else root


def detection_set_at(path: str) -> dict[str, Any] | None:
    """Return the section `data` of a folder in COCO's or VOC's layout; `None` for other folders."""
    root = Path(path)
    instances = [root / f"annotations/instances_{part}2017.json" for part in ("train", "val")]
    if all(file.is_file() for file in instances):
        return {"kind": "coco_folder", "root": path}
    years = sorted(f"{folder.parent.name}/" for folder in root.glob("VOC*/Annotations"))
    for prefix in ("", *years):
        base = root / prefix
        lists = [base / "ImageSets" / "Main" / f"{part}.txt" for part in ("trainval", "test")]
        if (base / "Annotations").is_dir() and all(file.is_file() for file in lists):
            named = {"train": [f"{prefix}trainval"], "test": [f"{prefix}test"]}
            return {"kind": "voc_folder", "root": path, **named}
    return None


def files_fingerprint(root: str, paths: Iterable[bytes]) -> str:
    """Return a hash of relative paths and file sizes, 16 hexadecimal digits; no file is read."""
    digest = hashlib.blake2b(digest_size=8)
    for path in paths:
        try:
            size = os.stat(os.path.join(root, os.fsdecode(path))).st_size
        except OSError:
            size = -1
        digest.update(path + f"\0{size}\n".encode())
    return digest.hexdigest()


def extension_of(name: str) -> str:
    """Return the extension of a path in lower case, with its dot."""
    return os.path.splitext(name)[1].lower()
