"""Time series: patches of steps, and a picture with one strip a channel."""

import numpy as np
import pytest
import torch
from scipy import stats

from mezzotint.modality.modality import modality_of
from mezzotint.modality.patches import PatchSize
from mezzotint.modality.series import series_statistics
from mezzotint.types import Input

INPUT = Input((2, 50), (0.0,) * 2, (1.0,) * 2, "series")


def test_a_patch_is_some_steps_of_all_channels() -> None:
    patches, x = modality_of(INPUT).patches(INPUT, 12, PatchSize(10)), torch.randn(3, 2, 50)
    values, positions = patches.split(x)
    for number in range(5):
        assert torch.equal(values[:, number], x[:, :, 10 * number : 10 * number + 10].flatten(1))
    assert positions[0, :, 0].tolist() == list(range(5))


def test_raw_features_are_all_values() -> None:
    x = torch.randn(3, 2, 50)
    assert torch.equal(modality_of(INPUT).raw_features(x, INPUT), x.flatten(1))


def test_the_picture_has_a_strip_for_each_channel() -> None:
    t = torch.linspace(0, 1, 50)
    x = torch.stack([t, 1 - t])
    ink = 255.0 - modality_of(INPUT).picture(x, INPUT).float().mean(dim=0)
    assert ink.shape == (96, 192)
    left, right = ink[:, 2:8].sum(dim=1), ink[:, -8:-2].sum(dim=1)
    assert left[:48].argmax() > 30 and right[:48].argmax() < 15  # rises in the upper strip
    assert left[48:].argmax() < 15 and right[48:].argmax() > 30  # falls in the lower one


def test_handmade_features_are_summary_statistics_spectrum_and_correlations() -> None:
    x = torch.randn(2, 3, 64, generator=torch.Generator().manual_seed(1)).cumsum(dim=2)
    found = series_statistics(x)
    assert found.shape == (2, 3 * 11 + 3 * 16 + 3)
    for row, series in zip(found.numpy(), x.double().numpy(), strict=True):
        expected = []
        for values in series:
            ranks = np.sort(values)[[0, 16, 32, 47, 63]]  # the nearest to the quartiles
            centered = values - values.mean()
            crossings = int((np.sign(centered[1:]) != np.sign(centered[:-1])).sum())
            moments = [values.mean(), values.std(), stats.skew(values)]
            moments += [stats.kurtosis(values, fisher=False), *ranks]
            moments += [np.sqrt((np.diff(values) ** 2).mean()), crossings / 64]
            expected += [np.sign(m) * np.log1p(abs(m)) for m in moments]
        np.testing.assert_allclose(row[:33], np.array(expected) / np.sqrt(33), atol=1e-5)
        power = np.abs(np.fft.rfft(series - series.mean(axis=1, keepdims=True)))[:, 1:] ** 2
        bands = power.reshape(3, 16, 2).mean(axis=2)
        fractions = np.sqrt(bands / bands.sum(axis=1, keepdims=True) / 3)
        np.testing.assert_allclose(row[33:81], fractions.ravel(), atol=1e-5)
        correlation = np.corrcoef(series)[[0, 0, 1], [1, 2, 2]]
        np.testing.assert_allclose(row[81:], correlation / np.sqrt(3), atol=1e-5)


@pytest.mark.parametrize(("channels", "steps"), [(1, 1), (1, 2), (3, 5), (2, 1000)])
def test_series_of_any_length_have_features_of_one_number(channels: int, steps: int) -> None:
    pairs = channels * (channels - 1) // 2
    for x in (torch.randn(2, channels, steps), torch.full((2, channels, steps), 3.0)):
        found = series_statistics(x)
        assert found.shape == (2, channels * 27 + pairs) and found.isfinite().all()
