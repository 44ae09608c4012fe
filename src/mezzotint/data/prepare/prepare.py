"""Prepare downloaded data sets: write lists that the sources read, and copies of the size in use.

| data set | expected in the folder | written |
|---|---|---|
| ESC-50 | `esc50.csv` and its clips | `esc50.csv` with folds, `audio/` |
| AudioSet | `*segments.csv`, `class_labels_indices.csv`, clips | JSON lists, `audio/` |
| Kinetics | CSVs of label, youtube_id, …; `{id}_{start}_{end}.mp4` | CSV lists, `videos/` |

Lists name the files that exist in the end. Missing and unreadable files are counted, and named in
`prepared.json`. A second start makes only what is missing.
"""

import csv
import io
import os
import re
import shutil
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from mezzotint.data.audio.waveform import AUDIO_EXTENSIONS
from mezzotint.data.formats.delimited import read_text, split_rows
from mezzotint.data.listing.lists import ListedFile, read_label_table, read_list, read_video_list
from mezzotint.data.prepare import convert
from mezzotint.data.prepare.convert import ClipConversion, Convert, convert_all
from mezzotint.data.video.decode import VIDEO_EXTENSIONS
from mezzotint.files import write_json, write_text

Dataset = Literal["audioset", "esc50", "kinetics"]
_RATE = 16_000
_LABELS = "class_labels_indices.csv"


@dataclass
class Prepared:
    """The result of preparing a data set.

    Attributes:
        lists: lists written, with the number of files in each.
        named: files that each list names, whether they exist or not.
        made: files made now.
        kept: files made before.
        missing: files that a list names and the folder lacks.
        unreadable: files that cannot be decoded, with the reason.
    """

    lists: dict[str, int] = field(default_factory=dict)
    named: dict[str, int] = field(default_factory=dict)
    made: int = 0
    kept: int = 0
    missing: list[str] = field(default_factory=list)
    unreadable: dict[str, str] = field(default_factory=dict)

    def lines(self) -> list[str]:
        """Return a summary for the terminal."""
        lines = []
        for name, count in self.lists.items():
            ratio = f" ({100 * count / self.named[name]:.1f} %)" if self.named[name] else ""
            lines.append(f"{name}: {count:,} of {self.named[name]:,} files{ratio}")
        lines.append(f"{self.made:,} made, {self.kept:,} existed already")
        for name, found in (
            ("missing", self.missing),
            ("unreadable", [f"{k} ({v})" for k, v in self.unreadable.items()]),
        ):
            if found:
                more = " …" if len(found) > 5 else ""
                lines.append(f"{len(found):,} {name}: {', '.join(found[:5])}{more}")
        return lines


def prepare(
    dataset: Dataset,
    folder: str | Path,
    out: str | Path,
    *,
    workers: int = 1,
    format: str = "flac",
    side: int = 288,
) -> Prepared:
    """Write lists and copies of a local download.

    Args:
        dataset: name of the data set.
        folder: folder of the download; it is only read.
        out: another folder to write to.
        workers: number of processes.
        format: format of audio, `flac` or `wav`.
        side: shorter side of videos, in pixels.

    Raises:
        ValueError: when the data set is not found, or an option is out of range.
    """
    folder, out = Path(folder), Path(out)
    if format not in ("flac", "wav") or side < 16 or side % 2:
        raise ValueError(
            f"`format` must be flac or wav, and `side` even and 16 or more, got format={format} "
            f"and side={side}. flac and 288 are the defaults."
        )
    if not folder.is_dir() or out.resolve() == folder.resolve():
        raise ValueError(
            f"`folder` must be the folder of a download, and --out another folder, got {folder} "
            f"and {out}. Check both paths."
        )
    lists = _LISTS[dataset](folder)
    videos = dataset == "kinetics"
    kind, suffix, measure = ("videos", "mp4", side) if videos else ("audio", format, _RATE)
    (out / kind).mkdir(parents=True, exist_ok=True)
    sources = _files(folder, VIDEO_EXTENSIONS if videos else AUDIO_EXTENSIONS, dataset, out)
    result = Prepared()
    jobs = _jobs(lists, sources, f"{out}/{kind}", suffix, measure, result)
    _convert(convert.video if videos else convert.audio, jobs, workers, result)
    for name, entries in lists.items():
        _write(
            out / name,
            entries,
            {key: f"{kind}/{Path(job.target).name}" for key, job in jobs.items()},
            result,
        )
    if (folder / _LABELS).is_file():
        shutil.copyfile(folder / _LABELS, out / _LABELS)
    write_json(out / "prepared.json", {"dataset": dataset, **vars(result)})
    return result


def _jobs(
    lists: dict[str, list[ListedFile]],
    sources: dict[str, str],
    out: str,
    suffix: str,
    measure: int,
    result: Prepared,
) -> dict[str, ClipConversion]:
    """Return the conversions to do, by the name in the lists."""
    jobs: dict[str, ClipConversion] = {}
    for entry in (entry for entries in lists.values() for entry in entries):
        source = sources.get(entry.path)
        if source is None:
            result.missing.append(entry.path)
        elif entry.path not in jobs:
            jobs[entry.path] = ClipConversion(
                source, os.path.join(out, f"{Path(entry.path).name}.{suffix}"), measure
            )
    return jobs


def _convert(how: Convert, jobs: dict[str, ClipConversion], workers: int, result: Prepared) -> None:
    result.kept = sum(os.path.isfile(job.target) for job in jobs.values())
    for name, (_, reason) in zip(
        list(jobs), convert_all(how, list(jobs.values()), workers), strict=True
    ):
        if reason:
            result.unreadable[name] = reason
            del jobs[name]
    result.made = len(jobs) - result.kept


def _write(
    path: Path, entries: Sequence[ListedFile], paths: dict[str, str], result: Prepared
) -> None:
    """Write a list of the files that exist, in the format of its suffix."""
    present = [(paths[entry.path], entry) for entry in entries if entry.path in paths]
    if path.suffix == ".json":
        write_json(
            path, [{"wav": file, "labels": ",".join(entry.labels)} for file, entry in present]
        )
    else:
        text = io.StringIO()
        folds = any(entry.fold is not None for entry in entries)
        rows = csv.writer(text, lineterminator="\n")
        rows.writerow(["path", "label", *["fold"] * folds])
        rows.writerows(
            [file, *(entry.labels or ("",))[:1], *[entry.fold] * folds] for file, entry in present
        )
        write_text(path, text.getvalue())
    result.lists[path.name], result.named[path.name] = len(present), len(entries)


def _esc50(folder: Path) -> dict[str, list[ListedFile]]:
    found = next(
        (p for p in (folder / "meta" / "esc50.csv", folder / "esc50.csv") if p.is_file()), None
    )
    if found is None:
        raise ValueError(
            f"`{folder}` has no meta/esc50.csv. It must be ESC-50 as in its repository. Check the "
            "path."
        )
    return {
        "esc50.csv": [
            ListedFile(Path(e.path).stem, e.labels, e.fold) for e in read_list(str(found))
        ]
    }


def _audioset(folder: Path) -> dict[str, list[ListedFile]]:
    """Read lists of YouTube id, start, end and quoted labels; `#` starts a comment line."""
    found = sorted(folder.glob("*segments.csv"))
    if not found or not (folder / _LABELS).is_file():
        raise ValueError(
            f"`{folder}` has no {'*_segments.csv' if not found else _LABELS}. It needs any of "
            f"balanced_train_segments.csv, unbalanced_… and eval_segments.csv, and {_LABELS}. Put "
            "them there."
        )
    known = set(read_label_table(str(folder / _LABELS))[0])
    lists: dict[str, list[ListedFile]] = {}
    for path in found:
        entries = []
        for number, row in split_rows(read_text(path), str(path)):
            if row[0].startswith("#"):
                continue
            text = ",".join(row)[:80]
            labels = tuple(label.strip() for label in row[3].split(",")) if len(row) == 4 else ()
            if not labels or not set(labels) <= known:
                raise ValueError(
                    f'`{path.name}`, line {number}, must be id, start, end and "labels" of '
                    f"{_LABELS}, got {text!r}. Correct the line."
                )
            entries.append(ListedFile(row[0], labels))
        lists[f"{path.name.removesuffix('_segments.csv')}.json"] = entries
    return lists


def _kinetics(folder: Path) -> dict[str, list[ListedFile]]:
    found = sorted(folder.glob("*.csv"))
    if not found:
        raise ValueError(
            f"`{folder}` has no CSV. It needs train.csv, val.csv or test.csv of label, youtube_id, "
            "time_start, time_end, split. Put them there."
        )
    return {
        p.name: [ListedFile(Path(e.path).stem, e.labels) for e in read_video_list(str(p))]
        for p in found
    }


_LISTS = {"audioset": _audioset, "esc50": _esc50, "kinetics": _kinetics}
_YOUTUBE = re.compile(r"Y?([\w-]{11})(?:_[\d.]+)*$")


def _files(folder: Path, extensions: frozenset[str], dataset: str, out: Path) -> dict[str, str]:
    """Find files by their name in lists: without suffix, for AudioSet the id of the video."""
    found: dict[str, str] = {}
    for parent, folders, names in os.walk(folder):
        folders[:] = sorted(
            name for name in folders if (Path(parent) / name).resolve() != out.resolve()
        )
        for name in sorted(names):
            stem, suffix = os.path.splitext(name)
            if suffix.lower() in extensions:
                if dataset == "audioset" and (match := _YOUTUBE.match(stem)):
                    stem = match[1]
                found.setdefault(stem, os.path.join(parent, name))
    return found
