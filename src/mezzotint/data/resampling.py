"""From one sample rate to another: band-limited interpolation by a windowed sinc (Smith 2002), in torch.

A sample of the result is a weighted sum of the input around it. The weights repeat after `rate_out / gcd` samples, so
neighbouring results share a small matrix that multiplies overlapping views of the waveform: a few matrix products,
nothing copied, and no more work than the filter has taps.

The Kaiser window has 32 zero crossings on either side and a stop band about 85 dB down; it passes what lies below 0.84
of half the lower rate, and lets nothing through from there on.
"""

import functools
import math

import torch
from torch import Tensor

_CROSSINGS = 32
_CUTOFF = 0.92  # of half the lower rate: the middle of the transition band
_BETA = 8.6
_GROUP = 32  # results that share a matrix


@torch.no_grad()
def resample(waves: Tensor, rate: int, wanted: int) -> Tensor:
    """Change the sample rate.

    Args:
        waves: float `[…, T]`; silence is assumed before and after.
        rate: of the waveform, in Hz.
        wanted: of the result, in Hz.

    Returns:
        `[…, ceil(T · wanted / rate)]`; sample `j` is at the time of sample `j · rate / wanted`.
    """
    if rate < 1 or wanted < 1:
        raise ValueError(f"got the sample rates {rate} and {wanted}; allowed are whole numbers from 1 on, in Hz")
    if rate == wanted:
        return waves
    samples = waves.shape[-1]
    count = -(-samples * wanted // rate)
    half, step, produced, groups = _plan(rate, wanted)
    rows = -(-count // produced)
    flat = waves.reshape(-1, samples)
    # Each row of the views takes `reach` samples from `row · step` on; what the last one lacks is silence.
    reach = max(start + len(matrix) for start, matrix in groups)
    padded = torch.nn.functional.pad(flat, (half, max(0, (rows - 1) * step + reach - half - samples)))
    out = waves.new_empty(len(flat), rows, produced)
    place = 0
    for start, matrix in groups:
        width, size = matrix.shape
        for wave, result in zip(padded, out, strict=True):
            views = wave.as_strided((rows, width), (step, 1), wave.storage_offset() + start)
            torch.matmul(views, matrix.to(waves), out=result[:, place : place + size])
        place += size
    return out.view(len(flat), -1)[:, :count].reshape(*waves.shape[:-1], count)


@functools.lru_cache(maxsize=8)
def _plan(rate: int, wanted: int) -> tuple[int, int, int, list[tuple[int, Tensor]]]:
    """Silence in front, input samples a row, results a row, and for each group of results its start and weights."""
    divisor = math.gcd(rate, wanted)
    down, up = rate // divisor, wanted // divisor
    # The sinc's zeros are 1 / (2 · cutoff) apart, in samples of the input.
    cutoff = 0.5 * _CUTOFF * min(1.0, wanted / rate)
    half = math.ceil(_CROSSINGS / (2.0 * cutoff))
    width = 2 * half + 1 + math.ceil(_GROUP * down / up)
    # Rows must not overlap with themselves in memory, or the views would be copied before they are multiplied.
    periods = max(1, math.ceil(width / down), math.ceil(_GROUP / up))
    groups = []
    for first in range(0, up * periods, _GROUP):
        size = min(_GROUP, up * periods - first)
        centre = torch.arange(first, first + size, dtype=torch.float64) * down / up
        start = math.floor(first * down / up)
        taps = 2 * half + 2 + math.ceil((size - 1) * down / up)
        distance = torch.arange(start - half, start - half + taps, dtype=torch.float64).unsqueeze(1) - centre
        groups.append((start, _kernel(distance, cutoff, half).float()))
    return half, down * periods, up * periods, groups


def _kernel(distance: Tensor, cutoff: float, half: int) -> Tensor:
    """Kaiser-windowed sinc at these distances, in samples of the input; float64."""
    inside = (1.0 - (distance / half).square()).clamp(min=0.0)
    window: Tensor = torch.special.i0(_BETA * inside.sqrt()) / torch.special.i0(
        torch.tensor(_BETA, dtype=torch.float64)
    )
    window = window.masked_fill(distance.abs() > half, 0.0)
    return torch.sinc(2.0 * cutoff * distance).mul_(window).mul_(2.0 * cutoff)
