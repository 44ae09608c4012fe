"""List a folder of images: which files are images, which folders are classes or splits.

- An image is a file with one of `EXTENSIONS`, in any case. Names that begin with a dot are skipped.
- Symbolic links below the root are not followed: a link could lead out of the root, or form a
cycle.
  The root itself may be one.
- The first folder below the root is the class; deeper ones do not matter. Files directly in the
  root have no class.
- When all folders below the root are splits (`train`, `val`, `valid`, `validation`, `test`) and
  `train` is among them, classes are one level deeper, as in ImageNet and Imagenette.

Like `decode`, this module needs no torch.
"""

import hashlib
import os
from collections.abc import Iterable
from dataclasses import dataclass, field

EXTENSIONS = frozenset(
    ".jpg .jpeg .jpe .jfif .png .gif .bmp .dib .webp .tif .tiff .ppm .pgm .pbm .pnm".split()
    + [".jp2", ".avif"]
)
SPLITS = ("train", "val", "valid", "validation", "test")


@dataclass
class Listing:
    """The contents of a folder; paths are relative to the root, with `/`, sorted by their bytes.

    Attributes:
        root: path of the folder.
        images: files that are images by their extension.
        others: all other files.
        links: symbolic links, which are not followed.
        folders: all folders.
        closed: folders without permission to list them.
    """

    root: str
    images: list[str] = field(default_factory=list)
    others: list[str] = field(default_factory=list)
    links: list[str] = field(default_factory=list)
    folders: list[str] = field(default_factory=list)
    closed: list[str] = field(default_factory=list)

    def splits(self) -> list[str]:
        """Return the splits, in the order of `SPLITS`; empty if the folders are not splits."""
        top = {path for path in self.folders if "/" not in path}
        return (
            [name for name in SPLITS if name in top]
            if "train" in top and top <= set(SPLITS)
            else []
        )

    def empty_classes(self) -> list[str]:
        """Return class and split folders without an image at any depth."""
        depth = 2 if self.splits() else 1
        full = {"/".join(path.split("/")[:d]) for path in self.images for d in range(1, depth + 1)}
        return [path for path in self.folders if path.count("/") < depth and path not in full]


def scan(root: str, extensions: frozenset[str] = EXTENSIONS, what: str = "images") -> Listing:
    """List a folder and everything below.

    Args:
        root: path of the folder.
        extensions: lower-case extensions of the files in `Listing.images`.
        what: the plural noun for these files, for messages.

    Raises:
        ValueError: when the root is missing or not a folder.
    """
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
            if entry.name.startswith("."):
                continue
            if entry.is_symlink():
                listing.links.append(path)
            elif entry.is_dir(follow_symlinks=False):
                listing.folders.append(path)
                waiting.append(f"{path}/")
            elif entry.is_file(follow_symlinks=False) and _extension(entry.name) in extensions:
                listing.images.append(path)
            else:
                listing.others.append(path)
    for paths in (listing.images, listing.others, listing.links, listing.folders, listing.closed):
        paths.sort(key=os.fsencode)
    return listing


def class_of(path: str, split: str | None) -> str | None:
    """Return the class of an image: the folder below the root or its split; `None` without one."""
    inner = path if split is None else path.partition("/")[2]
    return inner.partition("/")[0] if "/" in inner else None


def split_of(path: str, splits: list[str]) -> str | None:
    """Return the split of an image; `None` without splits, or for a file directly in the root."""
    top, slash, _ = path.partition("/")
    return top if slash and top in splits else None


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


def _extension(name: str) -> str:
    return os.path.splitext(name)[1].lower()
