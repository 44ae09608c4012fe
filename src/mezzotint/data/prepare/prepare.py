"""Data sets as they are downloaded, made ready: lists that the sources read, and copies of the size that is used.

| data set | what is looked for in the folder | what is written |
|---|---|---|
| ESC-50 | `esc50.csv` and its recordings | `esc50.csv` with folds, `audio/` |
| AudioSet | `*segments.csv`, `class_labels_indices.csv`, clips named by their video | a JSON a list, `audio/` |
| Kinetics | CSVs of label, youtube_id, start, end, split; `{id}_{start}_{end}.mp4` | a CSV a list, `videos/` |

Lists hold the files that are there in the end. What a list names and the folder lacks, and what
cannot be decoded, is counted, and named in `prepared.json`. Started again, only what is missing is
made.
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
from mezzotint.data.lists import ListedFile, read_label_table, read_list, read_video_list
from mezzotint.data.prepare import convert
from mezzotint.data.prepare.convert import ClipConversion, Convert, convert_all
from mezzotint.data.video.decode import VIDEO_EXTENSIONS
from mezzotint.files import write_json, write_text

Dataset = Literal["audioset", "esc50", "kinetics"]
_RATE = 16_000
_LABELS = "class_labels_indices.csv"


@dataclass
class Prepared:
    """What became of a data set.

    Attributes:
        lists: written, and how many files each names.
        made: files that were made now.
        kept: files that had been made before.
        missing: what a list names and the folder lacks.
        bad: what cannot be decoded, and why.
    """

    lists: dict[str, int] = field(default_factory=dict)
    made: int = 0
    kept: int = 0
    missing: list[str] = field(default_factory=list)
    bad: dict[str, str] = field(default_factory=dict)

    def lines(self) -> list[str]:
        """A summary for people."""
        lines = [f"{name}: {count:,} files" for name, count in self.lists.items()]
        lines.append(f"{self.made:,} made, {self.kept:,} were there already")
        for name, found in (
            ("missing", self.missing),
            ("unreadable", [f"{k} ({v})" for k, v in self.bad.items()]),
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
        dataset: which.
        folder: of the download; it is only read.
        out: another folder, to write to.
        workers: processes.
        format: of recordings, `flac` or `wav`.
        side: of videos, the shorter one, in pixels.

    Raises:
        ValueError: when nothing of the data set is found, or an option cannot be used.
    """
    folder, out = Path(folder), Path(out)
    if format not in ("flac", "wav") or side < 16 or side % 2:
        raise ValueError(
            f"got format={format}, side={side}; allowed are flac or wav, and an even side from 16 on"
        )
    if not folder.is_dir() or out.resolve() == folder.resolve():
        raise ValueError(
            f"got {folder} and --out {out}; allowed are the folder of a download, and another to write to"
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
    """What is to be made, by the name that the lists use."""
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
            result.bad[name] = reason
            del jobs[name]
    result.made = len(jobs) - result.kept


def _write(
    path: Path, entries: Sequence[ListedFile], paths: dict[str, str], result: Prepared
) -> None:
    """A list in the form of its extension, of the files that are there."""
    there = [(paths[entry.path], entry) for entry in entries if entry.path in paths]
    if path.suffix == ".json":
        write_json(path, [{"wav": file, "labels": ",".join(entry.labels)} for file, entry in there])
    else:
        text = io.StringIO()
        folds = any(entry.fold is not None for entry in entries)
        rows = csv.writer(text, lineterminator="\n")
        rows.writerow(["path", "label", *["fold"] * folds])
        rows.writerows(
            [file, ",".join(entry.labels), *[entry.fold] * folds] for file, entry in there
        )
        write_text(path, text.getvalue())
    result.lists[path.name] = len(there)


def _esc50(folder: Path) -> dict[str, list[ListedFile]]:
    found = next(
        (p for p in (folder / "meta" / "esc50.csv", folder / "esc50.csv") if p.is_file()), None
    )
    if found is None:
        raise ValueError(
            f"got {folder}, which has no meta/esc50.csv; allowed is ESC-50 as its repository has it"
        )
    return {
        "esc50.csv": [
            ListedFile(Path(e.path).stem, e.labels, e.fold) for e in read_list(str(found))
        ]
    }


def _audioset(folder: Path) -> dict[str, list[ListedFile]]:
    """Lists of YouTube id, start, end and labels in quotes; lines that start with # are comments."""
    found = sorted(folder.glob("*segments.csv"))
    if not found or not (folder / _LABELS).is_file():
        raise ValueError(
            f"got {folder}, which lacks {'*_segments.csv' if not found else _LABELS}; allowed is a folder with "
            f"balanced_train_segments.csv, unbalanced_…, eval_segments.csv, any of them, and {_LABELS}: put them there"
        )
    known = set(read_label_table(str(folder / _LABELS))[0])
    lists: dict[str, list[ListedFile]] = {}
    for path in found:
        lines = [
            line
            for line in path.read_text(encoding="utf-8-sig").splitlines()
            if line and line[0] != "#"
        ]
        entries = []
        for number, row in enumerate(csv.reader(lines, skipinitialspace=True), 1):
            labels = tuple(label.strip() for label in row[3].split(",")) if len(row) == 4 else ()
            if not labels or not set(labels) <= known:
                raise ValueError(
                    f"{path.name}, entry {number}: got {','.join(row)[:80]!r}; allowed is id, start, end and "
                    f'"labels" of {_LABELS}: correct the line'
                )
            entries.append(ListedFile(row[0], labels))
        lists[f"{path.name.removesuffix('_segments.csv')}.json"] = entries
    return lists


def _kinetics(folder: Path) -> dict[str, list[ListedFile]]:
    found = sorted(folder.glob("*.csv"))
    if not found:
        raise ValueError(
            f"got {folder}, which has no CSV; allowed is a folder with train.csv, val.csv or test.csv of label, "
            "youtube_id, time_start, time_end, split: put them there"
        )
    return {
        p.name: [ListedFile(Path(e.path).stem, e.labels) for e in read_video_list(str(p))]
        for p in found
    }


_LISTS = {"audioset": _audioset, "esc50": _esc50, "kinetics": _kinetics}
_YOUTUBE = re.compile(r"Y?([\w-]{11})(?:_[\d.]+)*$")


def _files(folder: Path, extensions: frozenset[str], dataset: str, out: Path) -> dict[str, str]:
    """Files below a folder by the name that lists use: without extension; of AudioSet the id of the video."""
    found: dict[str, str] = {}
    for place, folders, names in os.walk(folder):
        folders[:] = sorted(
            name for name in folders if (Path(place) / name).resolve() != out.resolve()
        )
        for name in sorted(names):
            stem, suffix = os.path.splitext(name)
            if suffix.lower() in extensions:
                if dataset == "audioset" and (match := _YOUTUBE.match(stem)):
                    stem = match[1]
                found.setdefault(stem, os.path.join(place, name))
    return found
