"""The audio tasks on which BYOL-A and EVAR score frozen features, read from the published files.

Niizumi et al. (2021, arXiv 2103.06695; 2022, EVAR): each data set has a fixed split and clip
length, and is scored by the probe `evar`. Encoders are trained on other data.

| name | below `root` | split | clip |
|---|---|---|---|
| `nsynth` | `nsynth-train`, …: `examples.json`, `audio` | its folders; instrument family | 4 s |
| `us8k` | `metadata/UrbanSound8K.csv`, `audio/fold1` … | ten folds | 4 s |
| `voxceleb1` | `iden_split.txt`, `wav` | its identification split; speaker | 8.2 s |
| `voxforge` | `voxforge.csv` (path, label, split) | the list's; language | 5.8 s |
| `spcv2` | class folders, `validation_list.txt`, `testing_list.txt` | its lists; 35 words | 1 s |
| `spcv2_12` | the same, and the test archive in `test` | 10 words, unknown, silence | 1 s |
| `esc50` | `meta/esc50.csv`, `audio` | five folds | 5 s |

VoxForge has no split of its own; the list states EVAR's. Differs from the published code: a clip is
the middle of its file, not a random part.
"""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Literal

from mezzotint.data.audio.folder import AudioFolder, FrontEnd, check_clips
from mezzotint.data.audio.waveform import AUDIO_EXTENSIONS, read_seconds
from mezzotint.data.formats.delimited import lines_of, read_text
from mezzotint.data.listing.file_list import ListParts
from mezzotint.data.listing.lists import ListedFile, read_list, require_inside

BenchmarkName = Literal["nsynth", "us8k", "voxceleb1", "voxforge", "spcv2", "spcv2_12", "esc50"]

SECONDS: dict[str, float] = {
    "nsynth": 4.0,
    "us8k": 4.0,
    "voxceleb1": 8.2,
    "voxforge": 5.8,
    "spcv2": 1.0,
    "spcv2_12": 1.0,
    "esc50": 5.0,
}
WORDS = ("yes", "no", "up", "down", "left", "right", "on", "off", "stop", "go")
_NOISE, _VALIDATION_NOISE = "_background_noise_", "running_tap"
_SPLITS = {"1": "train", "2": "valid", "3": "test"}  # of VoxCeleb1's list


class AudioBenchmark(AudioFolder):
    """Use a published audio task by its name.

    The task is `label/test`; with folds it is one task for each, `label/fold-1` and so on, and the
    result is their mean. The validation part of a fixed split belongs to the training samples; a
    probe may stop or choose its settings on it.

    Args:
        name: name of the data set.
        root: its folder, as unpacked.
        front_end: front-end of the encoder to evaluate.
        seconds: duration of a clip; by default as in EVAR.
        mean: mean of the values, any number; by default measured. Encoders normalize with their
            own mean.
        std: standard deviation of the values; by default measured.
        allow_outside: whether the lists may lead outside of `root`, by `../a`, absolute paths, and
            symbolic links; set it for lists that you trust.

    Raises:
        ValueError: when a part of the data set is missing.
    """

    opens = frozenset()
    location = AudioFolder.location | {"seconds"}  # the duration of a clip is the task's

    def __init__(
        self,
        *,
        name: BenchmarkName,
        root: str,
        front_end: FrontEnd = "byol_a",
        seconds: float | None = None,
        mean: float | None = None,
        std: float | None = None,
        allow_outside: bool = False,
    ) -> None:
        if name not in SECONDS:
            raise ValueError(
                f"`name` must be one of {', '.join(SECONDS)}, got {name!r}. Choose one."
            )
        check_clips(seconds, std)
        entries = _READERS[name](Path(root))
        if any(entry.fold is not None for entry in entries):
            own, scored = entries, list[ListedFile]()
        else:
            own = [entry for entry in entries if entry.split != "test"]
            scored = [entry for entry in entries if entry.split == "test"]
            if not own or not scored:
                raise ValueError(
                    f"`{root}` must have training clips and test clips, got {len(own)} and "
                    f"{len(scored)}. Unpack all of {name}."
                )
        if not allow_outside:
            paths = [entry.path for entry in entries]
            require_inside(root, paths, f"the lists of {name}", has_key=True)
        parts = ListParts(own, scored, "test")
        length = SECONDS[name] if seconds is None else seconds
        self._open(root, parts, None, front_end, length, "middle", mean, std)


def _nsynth(root: Path) -> list[ListedFile]:
    entries = []
    for split in ("train", "valid", "test"):
        path = _need(root / f"nsynth-{split}" / "examples.json")
        for name, note in json.loads(path.read_text(encoding="utf-8")).items():
            label = note["instrument_family_str"]
            entries.append(ListedFile(f"nsynth-{split}/audio/{name}.wav", (label,), split=split))
    return entries


def _us8k(root: Path) -> list[ListedFile]:
    entries = read_list(str(_need(root / "metadata" / "UrbanSound8K.csv")))
    return [replace(entry, path=f"audio/fold{entry.fold}/{entry.path}") for entry in entries]


def _esc50(root: Path) -> list[ListedFile]:
    entries = read_list(str(_need(root / "meta" / "esc50.csv")))
    return [replace(entry, path=f"audio/{entry.path}") for entry in entries]


def _voxforge(root: Path) -> list[ListedFile]:
    entries = read_list(str(_need(root / "voxforge.csv")))
    if any(entry.split is None for entry in entries):
        raise ValueError(
            f"`{root / 'voxforge.csv'}` has clips without a split. Each must be in train, valid or "
            "test. Complete the list."
        )
    return entries


def _voxceleb1(root: Path) -> list[ListedFile]:
    path = _need(root / "iden_split.txt")
    entries = []
    for number, line in enumerate(lines_of(read_text(path)), start=1):
        parts = line.split()
        if not parts:
            continue
        if len(parts) != 2 or parts[0] not in _SPLITS:
            raise ValueError(
                f"`{path}`, line {number}, must be 1, 2 or 3 and a path, got {line!r}. Fetch the "
                "file again."
            )
        entries.append(
            ListedFile(f"wav/{parts[1]}", (parts[1].split("/")[0],), split=_SPLITS[parts[0]])
        )
    return entries


def _spcv2(root: Path) -> list[ListedFile]:
    split: dict[str, str] = {}
    for name, list_name in (("valid", "validation_list.txt"), ("test", "testing_list.txt")):
        listed = _need(root / list_name).read_text(encoding="utf-8").split()
        split |= dict.fromkeys(listed, name)
    folders = sorted(f for f in root.iterdir() if f.is_dir() and f.name not in (_NOISE, "test"))
    paths = [f"{folder.name}/{file.name}" for folder in folders for file in _sounds(folder)]
    return [
        ListedFile(path, (path.split("/")[0],), split=split.get(path, "train")) for path in paths
    ]


def _spcv2_12(root: Path) -> list[ListedFile]:
    """List ten words, others as unknown, and silence, as TensorFlow's data set does."""
    own = [
        replace(entry, labels=(entry.labels[0] if entry.labels[0] in WORDS else "_unknown_",))
        for entry in _spcv2(root)
        if entry.split != "test"
    ]
    for file in _sounds(_need(root / _NOISE)):
        halves = int(2 * (read_seconds(str(file)) - 1.0))
        split = "valid" if file.stem == _VALIDATION_NOISE else "train"
        own += [
            ListedFile(f"{_NOISE}/{file.name}", ("_silence_",), start=n / 2, split=split)
            for n in range(halves)
        ]
    scored = [
        ListedFile(f"test/{folder.name}/{file.name}", (folder.name,), split="test")
        for folder in sorted(_need(root / "test").iterdir())
        if folder.is_dir()
        for file in _sounds(folder)
    ]
    return own + scored


def _sounds(folder: Path) -> list[Path]:
    return sorted(file for file in folder.iterdir() if file.suffix.lower() in AUDIO_EXTENSIONS)


def _need(path: Path) -> Path:
    if not path.exists():
        raise ValueError(
            f"`{path}` is missing. The folder must have the data set as published. Check "
            "`data.root`."
        )
    return path


_READERS: dict[str, Callable[[Path], list[ListedFile]]] = {
    "nsynth": _nsynth,
    "us8k": _us8k,
    "voxceleb1": _voxceleb1,
    "voxforge": _voxforge,
    "spcv2": _spcv2,
    "spcv2_12": _spcv2_12,
    "esc50": _esc50,
}
