"""Audio: log-mel spectrograms, float32 `[1, mels, frames]`."""

import base64
import io
import math
import wave
from collections.abc import Sequence
from typing import TYPE_CHECKING, Protocol, runtime_checkable

import numpy as np
import torch
from torch import Tensor

from mezzotint.modality.image import pooled_pixels
from mezzotint.modality.modality import Example, Modality
from mezzotint.modality.patches import GridPatches, Patches, PatchSize

if TYPE_CHECKING:
    from mezzotint.data.audio.log_mel import Mel
    from mezzotint.types import Input

_SECONDS = 2.0
_VOLUME = 0.5
_PAUSE = 6  # frames of silence around each patch that is played


@runtime_checkable
class Audible(Protocol):
    """A source that says how it makes its spectrograms.

    Attributes:
        mel: settings of the front-end.
    """

    mel: "Mel"


def playable(log_mel: Tensor, mel: "Mel") -> str:
    """Return the first seconds of a spectrogram as a WAV file of 8 bits, in a data URI."""
    frames = math.ceil(_SECONDS * mel.sample_rate / mel.hop)
    # The report is one file: a sample's sound in full would make it many times larger.
    samples = mel.invert(log_mel[..., :frames])
    file = io.BytesIO()
    with wave.open(file, "wb") as out:
        out.setnchannels(1)
        out.setsampwidth(1)
        out.setframerate(mel.sample_rate)
        out.writeframes((samples * (127 * _VOLUME) + 128.5).to(torch.uint8).numpy().tobytes())
    return "data:audio/wav;base64," + base64.b64encode(file.getvalue()).decode("ascii")


def std_over_time(x: Tensor) -> Tensor:
    """Standard deviation over the last axis, 0 where it is empty: `[..., T]` → `[...]`."""
    return x.std(dim=-1, correction=0) if x.shape[-1] else x.new_zeros(x.shape[:-1])


class AudioModality(Modality):
    """Spectrograms; encoders take any number of frames."""

    plural = "audio clips"
    axes = ("channels", "mels", "frames")
    free_axes = 1
    handmade = "mean, maximum, spread and changes of each mel band"
    recipe = "audio/folder_simclr"
    large_recipe = "audio/folder_simclr_large"
    sizes = ((), ("encoder.width=16",))
    example = Example(
        data={"kind": "speech"},
        encoder={"kind": "audio_ntt", "width": 4, "dim": 32},
        patches={"patch": 16},
        transforms=[{"kind": "randomized_quantization", "bins": 4, "p": 0.5}],
    )

    def patches(self, input: "Input", dim: int, size: PatchSize) -> Patches:
        return GridPatches(input.shape, size.sides((16, 16)), dim)

    def raw_features(self, x: Tensor, input: "Input") -> Tensor:
        return pooled_pixels(x)

    def handmade_features(self, x: Tensor, input: "Input") -> Tensor:
        """Give mean, maximum and std of each band, and std of its first and second differences."""
        first = x.diff(dim=-1)
        spreads = [std_over_time(part) for part in (x, first, first.diff(dim=-1))]
        parts = torch.stack([x.mean(dim=-1), x.amax(dim=-1), *spreads], dim=-1)
        return parts.flatten(1) / math.sqrt(parts[0].numel() / parts.shape[-1])

    def picture(self, x: Tensor, input: "Input") -> Tensor:
        """Color a spectrogram `[1, mels, frames]`, low tones below: uint8 `[3, mels, frames]`."""
        from matplotlib import colormaps  # slow to import

        values = x.detach().float().nan_to_num(0.0).cpu().numpy()
        # Percentiles instead of extremes, so that one click does not darken the rest.
        low, high = np.percentile(values, [1.0, 99.5])
        scaled = np.clip((values[0, ::-1] - low) / max(high - low, 1e-6), 0.0, 1.0)
        colors = np.rint(colormaps["magma"](scaled)[..., :3] * 255.0).astype(np.uint8)
        return torch.from_numpy(np.ascontiguousarray(colors.transpose(2, 0, 1)))

    def sound(self, x: Tensor, source: object) -> str:
        return playable(x, source.mel) if isinstance(source, Audible) else ""

    def sound_of_patches(
        self, values: Sequence[Tensor], positions: Sequence[int], patches: Patches, source: object
    ) -> str:
        """Play patches one after another, each in its own band with silence around it."""
        if not isinstance(source, Audible):
            return ""
        assert isinstance(patches, GridPatches)
        (_, across), (mels, frames) = patches.grid, patches.side
        length = len(values) * (frames + _PAUSE) + _PAUSE
        # Silence is a value of the front-end, not zero, which is loud in log-mel.
        sheet = torch.full((source.mel.mels, length), source.mel.silence)
        for number, (patch, position) in enumerate(zip(values, positions, strict=True)):
            low, begin = position // across * mels, _PAUSE + number * (frames + _PAUSE)
            sheet[low : low + mels, begin : begin + frames] = patch.view(mels, frames)
        return playable(sheet, source.mel)
