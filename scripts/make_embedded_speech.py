"""Make the embedded spoken prompts, as log-mel spectrograms, from Debian packages.

    python scripts/make_embedded_speech.py  # fetch, and write src/mezzotint/data/embedded/speech.*
    python scripts/make_embedded_speech.py --cache DIR  # keep fetched packages in DIR
    python scripts/make_embedded_speech.py --check  # only compare with the embedded data

Fetches with `apt-get download`; a package whose SHA-256 differs from the one written here is
refused. Packages are read, never installed or unpacked.

Of each language all prompts of `digits/`, `letters/` and `phonetic/` are taken, and 120 others at
equal distances in the order of their names. An audio file is trimmed to what is louder than 30 dB
below its peak (in 20 ms), and 50 ms around; its first 1.28 s become a log-mel spectrogram of 64
mels and 64 frames. Values are stored in steps of 0.2 from -10 on: 0 is -10 or less, and fills up
what is shorter.
"""

import argparse
import hashlib
import io
import json
import subprocess
import tarfile
import tempfile
import wave
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch

from mezzotint.data.audio.embedded import FLOOR, FRAMES, MEL, STEP
from mezzotint.data.audio.log_mel import log_mel

EMBEDDED = Path(__file__).resolve().parent.parent / "src" / "mezzotint" / "data" / "embedded"
VERSION = "1.6.1-1"
PACKAGES = {
    "en": "2be3ea287d83299d143815fa804f11179a75b7affd4a758b98b55f5afc18a35d",
    "es": "9283a09a6d56fccdcc2bcfe86c48f0f844289cfbd46a3184d8785a6f7f569903",
    "fr": "8d4e1bc32ed5ba7fbda40841ca1825ed20cc6232724a473c90f8bb0e53e6073e",
    "it": "5a26638089e134b8ac39363fe249c5c93c50cd8bfdc9b2499ae61ec4a35e2fcb",
    "ru": "ccbfaebfa450b7a9ddf644ae0f3d1e9017d5df7c0aebe816e946345589d38201",
}
PHRASES = 120
SHORTEST = 800  # a tenth of a second; the packages hold a few empty files
WORDS = ("digits/", "letters/", "phonetic/")
Wave = npt.NDArray[np.float32]


def fetch(language: str, folder: Path) -> Path:
    """Fetch a package unless it is there, and verify it."""
    name = f"asterisk-core-sounds-{language}-wav"
    path = folder / f"{name}_{VERSION}_all.deb"
    if not path.exists():
        subprocess.run(
            ["apt-get", "download", f"{name}={VERSION}"],
            check=True,
            cwd=folder,
            stdout=subprocess.DEVNULL,
        )
    found = hashlib.sha256(path.read_bytes()).hexdigest()
    if found != PACKAGES[language]:
        raise SystemExit(
            f"{path} has SHA-256 {found}, but must have {PACKAGES[language]}. Delete it and "
            "fetch it again."
        )
    return path


def members(package: bytes) -> dict[str, bytes]:
    """Read the members of a Debian package, an `ar` archive: 60-byte headers, even offsets."""
    if not package.startswith(b"!<arch>\n"):
        raise SystemExit("this is no Debian package: fetch it again")
    found, position = {}, 8
    while position + 60 <= len(package):
        header = package[position : position + 60]
        size = int(header[48:58])
        found[header[:16].decode().strip().rstrip("/")] = package[
            position + 60 : position + 60 + size
        ]
        position += 60 + size + size % 2
    return found


def prompts(package: bytes) -> dict[str, Wave]:
    """Read all prompts of a package, by their name below the voice's folder."""
    found = {}
    with tarfile.open(fileobj=io.BytesIO(members(package)["data.tar.xz"])) as archive:
        for member in archive:
            _, sounds, path = member.name.partition("/sounds/")
            if sounds and path.endswith(".wav") and (content := archive.extractfile(member)):
                found[path.partition("/")[2].removesuffix(".wav")] = read_wave(content.read())
    return found


def read_wave(content: bytes) -> Wave:
    """A mono, 16-bit wave file at the rate of `MEL`, in [-1, 1]."""
    with wave.open(io.BytesIO(content)) as file:
        if (file.getnchannels(), file.getsampwidth(), file.getframerate()) != (
            1,
            2,
            MEL.sample_rate,
        ):
            raise SystemExit(
                f"A prompt is not a mono wave of 16 bits at {MEL.sample_rate} Hz. The package has "
                "changed."
            )
        return np.frombuffer(file.readframes(file.getnframes()), "<i2").astype(
            np.float32
        ) / np.float32(32768)


def chosen(names: list[str]) -> list[str]:
    """The names to take, sorted: all words, and some of the phrases; no silence and no tones."""
    words = [name for name in names if name.startswith(WORDS)]
    rest = [
        n
        for n in names
        if not n.startswith(WORDS) and not any(s in n for s in ("silence", "beep", "tone"))
    ]
    positions = np.linspace(0, len(rest) - 1, min(PHRASES, len(rest))).round().astype(int)
    return sorted(words) + [sorted(rest)[position] for position in positions]


def spectrogram(samples: Wave) -> npt.NDArray[np.uint8]:
    """Trim, cut, and store in steps: uint8 `[64, 64]`, mels by frames."""
    energy = np.convolve(samples**2, np.ones(160) / 160, "same")
    loud = (energy > energy.max() * 1e-3).nonzero()[0]
    samples = samples[max(0, loud[0] - 400) : loud[-1] + 400][: MEL.samples(FRAMES)]
    samples = np.pad(samples, (0, max(0, MEL.window - len(samples))))
    values = log_mel(torch.from_numpy(samples.astype(np.float64)), MEL).numpy()
    stored = np.zeros((MEL.mels, FRAMES), np.uint8)
    stored[:, : values.shape[1]] = np.clip(np.rint((values - FLOOR) / STEP), 0, 255)
    return stored


def make(packages: dict[str, bytes]) -> tuple[npt.NDArray[np.uint8], list[str]]:
    """Make spectrograms, time before mel (which compresses better), and names `language/path`."""
    rows, names = [], []
    for language, package in packages.items():
        waves = {
            name: samples for name, samples in prompts(package).items() if len(samples) >= SHORTEST
        }
        for name in chosen(list(waves)):
            rows.append(spectrogram(waves[name]).T)
            names.append(f"{language}/{name}")
    return np.stack(rows), names


def main() -> None:
    """Make the files, or compare with them."""
    from make_embedded_data import differences, save

    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--cache", type=Path, help="folder to keep the fetched packages in")
    parser.add_argument(
        "--check", action="store_true", help="write nothing, compare with what is embedded"
    )
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = options.cache or Path(temporary)
        folder.mkdir(parents=True, exist_ok=True)
        values, names = make(
            {language: fetch(language, folder).read_bytes() for language in PACKAGES}
        )
    text = json.dumps(names, ensure_ascii=False, separators=(",", ":")) + "\n"
    if options.check:
        wrong = [
            f"speech.npz: {n}" for n in differences({"log_mel": values}, EMBEDDED / "speech.npz")
        ]
        wrong += (
            ["speech.json"]
            if (EMBEDDED / "speech.json").read_text(encoding="utf-8") != text
            else []
        )
        raise SystemExit(
            "\n".join(["differs from what the packages give:", *wrong]) if wrong else 0
        )
    save(EMBEDDED / "speech.npz", {"log_mel": values})
    (EMBEDDED / "speech.json").write_text(text, encoding="utf-8")
    sums = [
        f"{hashlib.sha256(p.read_bytes()).hexdigest()}  {p.name}\n"
        for p in sorted(EMBEDDED.glob("*.[nj]*"))
    ]
    (EMBEDDED / "CHECKSUMS").write_text("".join(sums), encoding="utf-8")


if __name__ == "__main__":
    main()
