"""Files with labels, as a list or a folder names them: what sources of sound and of video have in common."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from mezzotint.data.folder import SPLITS, class_of, scan, split_of


@dataclass(frozen=True)
class Entry:
    """One line of a list.

    Attributes:
        path: of the file, as written.
        labels: names or machine ids; none for a file without.
        fold: number of its fold, where there are folds.
        split: `train`, `valid` or `test`, where the list says it.
        start: second at which the clip begins; by default it is the middle of the recording.
    """

    path: str
    labels: tuple[str, ...]
    fold: int | None = None
    split: str | None = None
    start: float | None = None


def classes_of(entries: Sequence[Entry]) -> list[str]:
    """All labels, sorted; numbers by their value."""
    names = {label for entry in entries for label in entry.labels}
    numbers = all(name.isdecimal() for name in names)
    return sorted(names, key=lambda name: (int(name) if numbers else 0, name))


def entries_of_folder(
    root: str, extensions: frozenset[str], kind: str, allowed: str
) -> tuple[list[Entry], list[Entry], str | None]:
    """The files below a folder, in class folders or not, in folders of splits or not.

    Args:
        root: of the folder.
        extensions: of the files that count.
        kind: of them, in messages: `audio` or `video`.
        allowed: formats, in messages.

    Returns:
        What is learnt from, what is scored on, and the name of that split; none is scored on without splits.

    Raises:
        ValueError: when there is no such folder, or nothing to learn from in it.
    """
    listing = scan(root, extensions, f"{kind} files")
    splits = listing.splits()
    own = "train" if splits else None
    scored = next((name for name in SPLITS[1:] if name in splits), None)
    parts: dict[str | None, list[Entry]] = {own: [], scored: []}
    for path in listing.images:
        split = split_of(path, splits)
        label = class_of(path, split)
        parts.setdefault(split, []).append(Entry(path, () if label is None else (label,)))
    if not parts[own]:
        raise ValueError(
            f"{root} holds no {kind} file{' in train' if own else ''}; allowed is a folder of {allowed}, in class "
            "folders or not: check the path"
        )
    return parts[own], parts[scored] if scored else [], scored


def list_text(path: str) -> str:
    """A list as text.

    Raises:
        ValueError: when it cannot be read.
    """
    try:
        return Path(path).read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "no UTF-8 text"
        raise ValueError(f"{path} cannot be read ({reason}); allowed is a CSV or JSON list: check the path") from None
