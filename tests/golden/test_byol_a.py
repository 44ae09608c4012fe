"""BYOL for Audio equals its published code: views, statistics and network of both versions."""

import pytest
import torch

from mezzotint.augment.audio import RandomResizeCrop, log_mixup
from mezzotint.augment.byol_a import LinearFader, _normalized
from mezzotint.encoders.audio_ntt import AudioNTT, RunningNorm
from mezzotint.types import Input
from tests.golden.values import check, check_digest, draw, fill, stored

EXPECTED = stored("byol_a")


@pytest.mark.parametrize("number", range(5))
def test_crop_of_the_same_box(number: int) -> None:
    expected = EXPECTED[f"crop {number}"]
    crop = RandomResizeCrop(fill=0.0)
    y = crop.apply(draw(60 + number, 1, 16, 24)[None], {"box": torch.tensor([expected["box"]])})[0]
    check_digest([y], expected["digest"], 1e-6)
    check(y[0, :3, :3], expected["corner"], 1e-5)


def test_log_mixup() -> None:
    for fraction, expected in zip((0.0, 0.1, 0.37), EXPECTED["log_mixup"], strict=True):
        y = log_mixup(draw(1, 1, 1, 3, 4), draw(2, 1, 1, 3, 4), torch.tensor([fraction]))
        check(y[0], expected, 1e-6)


def test_both_views_are_normalized_by_their_batch() -> None:
    check(_normalized(draw(3, 4, 1, 3, 5) * 2 + 7), EXPECTED["post_norm"], 2e-6)


def test_fader_of_the_second_version() -> None:
    expected = EXPECTED["fader"]
    ends = dict(zip(("head", "tail"), torch.tensor(expected["ends"]).view(2, 1), strict=True))
    check(LinearFader().apply(draw(4, 1, 3, 7)[None], ends)[0], expected["y"], 1e-6)


def test_running_statistics() -> None:
    """Ours are those of all values so far; the published variance lags behind its mean."""
    norm = RunningNorm(samples=100).train()
    for index in range(12):
        norm(draw(200 + index, 1, 4, 6)[None] * 3 - 5)
    mean, std = EXPECTED["running_norm"]
    assert float(norm.mean) == pytest.approx(mean, rel=1e-5)
    assert float(norm.square.sqrt()) == pytest.approx(std, rel=0.02)


def network(frames: int) -> AudioNTT:
    encoder = AudioNTT(Input((1, 16, frames), (0.0,), (1.0,), modality="audio"), dim=24)
    fill(encoder.parameters(), 300, 0.2)
    buffers = [b for b in encoder.buffers() if b.is_floating_point()]
    for index, buffer in enumerate(buffers):
        buffer.copy_(draw(400 + index, *buffer.shape).abs() * 0.5 + 0.5)
    return encoder


def test_features() -> None:
    check(network(40).eval()(draw(5, 2, 1, 16, 40)), EXPECTED["audio_ntt"], 1e-6)


def test_a_training_pass() -> None:
    encoder = network(24).train()
    encoder.fc[2].eval()  # dropout
    y = encoder(draw(6, 4, 1, 16, 24))
    y.square().mean().backward()
    expected = EXPECTED["audio_ntt train"]
    check_digest([y], expected["y"], 1e-5)
    check_digest(
        [p.grad for p in encoder.parameters() if p.grad is not None], expected["gradients"], 1e-5
    )
    statistics = [b for b in encoder.buffers() if b.is_floating_point()]
    check_digest(statistics, expected["statistics"], 1e-5)
