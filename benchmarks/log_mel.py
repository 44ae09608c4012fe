"""Log-mel spectrograms and resampling against librosa and torchaudio: audio seconds per second.

    python benchmarks/log_mel.py [--minutes 10] [--threads 2] [--repeats 7]

One waveform of noise at 16 kHz, in memory, float32; the settings of BYOL-A, and Kaldi's of AudioSet
work. The sides take turns after a round for warming up. Wall time and processor time are both
given: on a machine that does other work, only the latter is the side's own. Sides whose package is
missing are left out; nothing but torch and NumPy is needed.
"""

import argparse
import importlib.util
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from mezzotint.data.audio.log_mel import AUDIOSET, BYOL_A, log_mel
from mezzotint.data.audio.waveform import resample

Side = Callable[[], object]


def sides(wave: torch.Tensor, other: torch.Tensor) -> dict[str, dict[str, Side]]:
    """The work, and for each who does it; `other` is the wave at 44.1 kHz."""
    found: dict[str, dict[str, Side]] = {
        "BYOL-A": {"mezzotint": lambda: log_mel(wave, BYOL_A)},
        "AudioSet": {"mezzotint": lambda: log_mel(wave, AUDIOSET)},
        "44.1 to 16 kHz": {"mezzotint": lambda: resample(other, 44100, 16000)},
    }
    if importlib.util.find_spec("librosa"):
        librosa: Any = __import__("librosa")
        samples, fast = wave.numpy(), other.numpy()

        def reference() -> object:
            power = librosa.feature.melspectrogram(
                y=samples,
                sr=16000,
                n_fft=1024,
                hop_length=160,
                n_mels=64,
                fmin=60,
                fmax=7800,
                pad_mode="reflect",
            )
            return np.log(power + np.finfo(np.float32).eps)

        found["BYOL-A"]["librosa"] = reference
        found["44.1 to 16 kHz"]["librosa"] = lambda: librosa.resample(
            fast, orig_sr=44100, target_sr=16000
        )
    if importlib.util.find_spec("torchaudio"):
        torchaudio: Any = __import__("torchaudio")
        mel = torchaudio.transforms.MelSpectrogram(
            16000,
            1024,
            hop_length=160,
            n_mels=64,
            f_min=60.0,
            f_max=7800.0,
            norm="slaney",
            mel_scale="slaney",
        )
        found["BYOL-A"]["torchaudio"] = lambda: (mel(wave) + 1.1920929e-07).log()
        found["AudioSet"]["torchaudio"] = lambda: torchaudio.compliance.kaldi.fbank(
            wave[None],
            htk_compat=True,
            sample_frequency=16000,
            window_type="hanning",
            num_mel_bins=128,
            dither=0.0,
        )
        found["44.1 to 16 kHz"]["torchaudio"] = lambda: torchaudio.functional.resample(
            other, 44100, 16000
        )
    return found


def measure(work: dict[str, Side], repeats: int) -> dict[str, list[tuple[float, float]]]:
    """Wall and processor seconds of each side, the sides taking turns."""
    times: dict[str, list[tuple[float, float]]] = {name: [] for name in work}
    for repeat in range(-1, repeats):
        for name, side in work.items():
            wall, own = time.perf_counter(), time.process_time()
            side()
            if repeat >= 0:
                times[name].append((time.perf_counter() - wall, time.process_time() - own))
    return times


def main() -> None:
    parser = argparse.ArgumentParser(description="Log-mel spectrograms, times real time.")
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=7)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    seconds = arguments.minutes * 60
    generator = torch.Generator().manual_seed(0)
    wave = torch.randn(round(seconds * 16000), generator=generator).mul_(0.1)
    other = torch.randn(round(seconds * 44100), generator=generator).mul_(0.1)
    where = Path(__file__).parent
    commit = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, cwd=where
    ).stdout
    names = [
        line
        for line in Path("/proc/cpuinfo").read_text().splitlines()
        if line.startswith("model name")
    ]
    print("# Log-mel spectrograms and resampling\n")
    print(f"`python {' '.join(sys.argv)}`, {commit.strip()}, {time.strftime('%Y-%m-%d')},")
    print(
        f"{names[0].split(':')[1].strip()}, {arguments.threads} threads, torch {torch.__version__},"
    )
    print(
        f"load {os.getloadavg()[0]:.1f} at the start. {arguments.minutes:g} minutes of audio, "
        "medians of repeats.\n"
    )
    print("| work | | times real time, by the wall (slowest to fastest) | by processor time |")
    print("|---|---|---|---|")
    for work, by_name in sides(wave, other).items():
        for name, times in measure(by_name, arguments.repeats).items():
            rates = [[seconds / value for value in column] for column in zip(*times, strict=True)]
            wall = (
                f"{statistics.median(rates[0]):,.0f} ({min(rates[0]):,.0f} to {max(rates[0]):,.0f})"
            )
            print(f"| {work} | {name} | {wall} | {statistics.median(rates[1]):,.0f} |")


if __name__ == "__main__":
    main()
