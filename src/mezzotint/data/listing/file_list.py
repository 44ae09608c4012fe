"""Lists of files as sources take them: a path, or a path with settings of the list."""

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from mezzotint.data.listing.groups import overlap
from mezzotint.data.listing.lists import ListedFile, require_inside, split_of_list
from mezzotint.recipe.component import Component


class FileList(Component):
    """A list of files with settings of its own; a list without them is named by its path alone.

    Args:
        path: path of the list, a CSV or JSON.
        test_fold: fold of the list to score, any whole number in its column; pretraining never
            sees it.
        labels: table of classes such as AudioSet's (index, mid, display_name); null collects the
            classes from the list.
        allow_outside: whether its paths may lead outside of `root`, such as `../a`, absolute ones,
            and symbolic links; set it for lists that you trust.
    """

    def __init__(
        self,
        *,
        path: str,
        test_fold: int | None = None,
        labels: str | None = None,
        allow_outside: bool = False,
    ) -> None:
        self.path, self.test_fold, self.labels = os.fspath(path), test_fold, labels
        self.allow_outside = allow_outside

    def check(self, root: str, paths: Sequence[str]) -> None:
        """Refuse paths that lead outside of a folder, unless the list is trusted."""
        if not self.allow_outside:
            require_inside(root, paths, self.path)


@dataclass(frozen=True)
class ListParts:
    """The files of one or two lists, by their use.

    Attributes:
        train: entries to train on.
        scored: entries to score; empty where no list says which.
        name: name of the split of `scored`; `None` without one.
        notes: what a user should know, one clause each.
    """

    train: list[ListedFile]
    scored: list[ListedFile]
    name: str | None
    notes: tuple[str, ...] = ()


def as_list(files: str | FileList | None) -> FileList | None:
    """Return a list with its settings; a path has none."""
    return FileList(path=files) if isinstance(files, str | os.PathLike) else files


def parts_of_lists(
    root: str,
    files: str | FileList,
    test_files: str | FileList | None,
    read: Callable[[str], list[ListedFile]],
) -> ListParts:
    """Read the lists of a source, and say which entries are trained on and which scored.

    Args:
        root: folder to which paths in the lists are relative.
        files: the list.
        test_files: list of the files to score; else they are those of the list's test fold, or
            those that its column `split` names.
        read: reads the entries of a list by its path.

    Raises:
        ValueError: when a list cannot be read, leads outside of the folder, or has no such fold.
    """
    own, other = as_list(files), as_list(test_files)
    assert own is not None
    entries = read(own.path)
    own.check(root, [entry.path for entry in entries])
    if other is not None:
        scored = read(other.path)
        other.check(root, [entry.path for entry in scored])
        if own.test_fold is not None or other.test_fold is not None:
            raise ValueError(
                "`test_fold` must be null where `test_files` says what is scored, got "
                f"test_fold={own.test_fold or other.test_fold}. Keep one of them."
            )
        both = overlap([e.path for e in entries], [e.path for e in scored])
        return ListParts(entries, scored, "test", both)
    if own.test_fold is None:
        return ListParts(*split_of_list(entries))
    scored = [entry for entry in entries if entry.fold == own.test_fold]
    train = [entry for entry in entries if entry.fold != own.test_fold]
    if not scored or not train:
        folds = sorted({entry.fold for entry in entries if entry.fold is not None})
        raise ValueError(
            f"`test_fold` must be one of the folds of {own.path}, {folds}, and leave another for "
            f"training, got {own.test_fold}. Choose one."
        )
    return ListParts(train, scored, "test")


def cut_into_clips(
    entries: Sequence[ListedFile], seconds: float, length_of: Callable[[str], float]
) -> list[ListedFile]:
    """Cut each file into as many clips as fill it, one after the other.

    A file shorter than two clips, or one whose length cannot be read, stays one sample.

    Args:
        entries: the files.
        seconds: duration of a clip.
        length_of: duration of a file in seconds, by its path; raises `ValueError`.

    Returns:
        An entry for each clip, with its start.
    """
    clips: list[ListedFile] = []
    for entry in entries:
        try:
            count = int(length_of(entry.path) / seconds + 1e-6) if entry.start is None else 1
        except ValueError:  # reading it later says why
            count = 1
        if count < 2:
            clips.append(entry)
            continue
        clips += [replace(entry, start=number * seconds) for number in range(count)]
    return clips


def clip_name(path: str, start: float | None) -> str:
    """Return the id of a clip: its path, and where it starts, as in media fragments (`#t=8.5`)."""
    return path if start is None else f"{path}#t={start:g}"
