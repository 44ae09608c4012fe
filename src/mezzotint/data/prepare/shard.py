"""Write a folder of images or audio, or shards of others, as shards: `mezzotint shard DATA OUT`.

The files are copied as they are, in a random order that is a function of the data alone. Labels,
class names, splits, samples that stay together, ids and a hash of each sample are kept, so that an
encoder is trained and evaluated on shards as on the folder. OUT appears whole or not at all.
"""

import os
import tarfile
from array import array
from collections.abc import Sequence
from dataclasses import dataclass, field
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from mezzotint.data.audio.folder import AudioFolder
from mezzotint.data.formats.parquet import suffix_of_content
from mezzotint.data.formats.shards import digest_of, write_index
from mezzotint.data.formats.tar import MAX_MEMBER
from mezzotint.data.image.folder import ImageFolder
from mezzotint.data.image_tags import ImageTags
from mezzotint.data.listing.sharded import Sharded
from mezzotint.data.source import Source
from mezzotint.files import replacing_folder
from mezzotint.seeding import sample_order
from mezzotint.types import Unreadable


@dataclass
class WrittenShards:
    """What was written.

    Attributes:
        shards: name and number of samples of each.
        splits: name and number of samples of each.
        classes: names of the classes.
        bytes: of all shards.
        missing: files that could not be read, with the reason.
    """

    shards: list[tuple[str, int]] = field(default_factory=list)
    splits: list[tuple[str, int]] = field(default_factory=list)
    classes: Sequence[str] = ()
    bytes: int = 0
    missing: dict[str, str] = field(default_factory=dict)

    def lines(self) -> list[str]:
        """Return a summary for the terminal."""
        count = sum(size for _, size in self.splits)
        splits = ", ".join(f"{name} {size:,}" for name, size in self.splits)
        lines = [
            f"{count:,} samples ({splits}), {len(self.classes)} classes, in {len(self.shards)} "
            f"shards of {self.bytes / 1e6:,.1f} MB together"
        ]
        if self.missing:
            name, reason = next(iter(self.missing.items()))
            lines.append(f"{len(self.missing):,} left out; the first is {name} ({reason})")
        return lines


def shard(source: Source, out: str | Path, *, samples: int = 10_000) -> WrittenShards:
    """Write the samples of a folder, training and test, as shards.

    Args:
        source: `image_folder`, `audio_folder`, or shards of others, such as parquet files.
        out: a new folder.
        samples: samples of a shard.

    Raises:
        ValueError: for other data, files with several labels or clips of files, an `out` that
            exists, or when no file can be read.
    """
    _require_files(source)
    if samples < 1:
        raise ValueError(f"`--samples` must be at least 1, got {samples}. Try 10000.")
    whole, split = source.everything()
    labels, classes = source.named_labels()
    done = WrittenShards(classes=list(classes))
    _require_new(Path(out))
    with replacing_folder(Path(out)) as folder:
        rows = _ordered(whole, split)
        kept, columns = _write(whole, rows, labels, folder, samples, done)
        if not len(kept):
            raise ValueError(f"None of the {len(rows)} files can be read. Check the data.")
        held = split[kept] == "holdout"
        names = np.where(held, "train", split[kept])
        done.splits = [(str(n), int((names == n).sum())) for n in dict.fromkeys(names.tolist())]
        columns |= {"group": _groups(whole, kept, columns["digest"]), "scored": held}
        facts = {
            "modality": source.input.modality,
            "classes": list(done.classes),
            "splits": done.splits,
            "shards": done.shards,
        }
        write_index(folder, facts, columns, [whole.id_of(i) for i in kept.tolist()])
    return done


def _require_files(source: Source) -> None:
    several, clips = isinstance(source, ImageTags), False
    if isinstance(source, AudioFolder) and not isinstance(source, Sharded):
        several = any(len(found) > 1 for found in source._found)
        clips = not np.isnan(source._starts).all()
    if not isinstance(source, ImageFolder | AudioFolder) or several or clips:
        what = "files with several labels" if several else "clips of files" if clips else "this"
        raise ValueError(
            f"Shards keep whole image or audio files with one label at most, not {what} "
            f"({source.config['kind']}). Train on the data itself."
        )


def _require_new(out: Path) -> None:
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise ValueError(f"`{out}` must be a new or empty folder, and it is not. Choose another.")


def _ordered(source: Source, split: npt.NDArray[np.str_]) -> npt.NDArray[np.int64]:
    """Shuffle samples within each split; the first is that of training."""
    names = dict.fromkeys(["train", *split.tolist()])
    number_of = {name: number for number, name in enumerate(names)} | {"holdout": 0}
    number = np.array([number_of[name] for name in split.tolist()])
    order = sample_order(len(source), 0, 0).numpy()
    return order[np.argsort(number[order], kind="stable")]


def _write(
    source: Any,
    rows: npt.NDArray[np.int64],
    labels: npt.NDArray[Any] | None,
    folder: Path,
    samples: int,
    done: WrittenShards,
) -> tuple[npt.NDArray[np.int64], dict[str, npt.NDArray[Any]]]:
    """Write the tar files; return the rows that were written, and columns of them."""
    kept = array("q")
    columns = {"offset": array("q"), "size": array("q"), "label": array("q"), "digest": array("Q")}
    archive: tarfile.TarFile | None = None
    for row in rows.tolist():
        try:
            found = source._file(row)
            content = found if isinstance(found, bytes) else Path(found).read_bytes()
            if len(content) > MAX_MEMBER:
                raise OSError(f"{len(content):,} bytes, more than {MAX_MEMBER:,}")
        except OSError as error:
            done.missing[source.id_of(row)] = error.strerror or str(error)
            continue
        except Unreadable as error:  # of shards
            done.missing[source.id_of(row)] = error.reason
            continue
        if archive is None:
            name = f"{len(done.shards):05d}.tar"
            archive = tarfile.open(folder / name, "w", format=tarfile.USTAR_FORMAT)
            done.shards.append((name, 0))
        label = -1 if labels is None else int(labels[row])
        key, suffix = f"{len(kept):08d}", os.path.splitext(source.id_of(row))[1].lower()
        suffix = suffix or suffix_of_content(content)  # rows of parquet have no name
        columns["offset"].append(_add(archive, key + suffix, content))
        if label >= 0:
            _add(archive, f"{key}.cls", str(label).encode())
        columns["size"].append(len(content))
        columns["label"].append(label)
        columns["digest"].append(digest_of(content))
        kept.append(row)
        name, count = done.shards[-1]
        done.shards[-1] = (name, count + 1)
        if count + 1 == samples:
            archive.close()
            archive = None
    if archive is not None:
        archive.close()
    done.bytes = sum(path.stat().st_size for path in folder.glob("*.tar"))
    return np.array(kept), {name: np.array(values) for name, values in columns.items()}


def _add(archive: tarfile.TarFile, name: str, content: bytes) -> int:
    """Add a member without owner, time or mode of its file; return where its content begins."""
    member = tarfile.TarInfo(name)
    member.size = len(content)
    archive.addfile(member, BytesIO(content))
    return archive.offset - -(-len(content) // tarfile.BLOCKSIZE) * tarfile.BLOCKSIZE


def _groups(
    source: Source, rows: npt.NDArray[np.int64], digests: npt.NDArray[Any]
) -> npt.NDArray[np.int64]:
    """Return the first sample of the group of each, by what the source knows or by content."""
    known = source.groups
    names = digests if known is None or len(known) != len(source) else known[rows]
    _, first, member = np.unique(names, return_index=True, return_inverse=True)
    return first.astype(np.int64)[member.reshape(-1)]
