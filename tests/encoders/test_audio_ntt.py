import pytest
import torch

from mezzotint.encoders.audio_ntt import AudioNTT, RunningNorm
from mezzotint.types import Input


def audio(mels: int = 64, frames: int = 96) -> Input:
    return Input((1, mels, frames), (0.0,), (1.0,), "audio")


def test_has_the_published_size_and_shapes() -> None:
    encoder = AudioNTT(audio()).eval()
    assert (
        sum(p.numel() for p in encoder.parameters()) == 5_321_856
    )  # spec: 5.3 M at 2,048 features
    assert encoder.frame_features(torch.randn(2, 1, 64, 96)).shape == (2, 12, 2048)
    assert encoder(torch.randn(2, 1, 64, 96)).shape == (2, encoder.dim) == (2, 2048)
    assert encoder.modality == "audio" and encoder.config == {"kind": "audio_ntt"}


def test_features_are_maximum_plus_mean_over_frames() -> None:
    torch.manual_seed(0)
    encoder = AudioNTT(audio(16, 24), dim=10, width=3).eval()
    x = torch.randn(2, 1, 16, 24)
    maps = encoder.features(x)  # [2, 3, 2, 3]
    assert maps.shape == (2, 3, 2, 3)
    frames = torch.stack(
        [torch.cat([maps[:, c, :, t] for c in range(3)], dim=1) for t in range(3)], dim=1
    )
    order = [c * 2 + f for f in range(2) for c in range(3)]  # a frame's numbers stand mel by mel
    h = encoder.fc(frames[:, :, order])
    torch.testing.assert_close(encoder(x), h.max(dim=1).values + h.mean(dim=1))


def test_takes_clips_of_any_length() -> None:
    encoder = AudioNTT(audio(), dim=8, width=4).eval()
    x = torch.randn(3, 1, 64, 96)
    assert encoder(torch.cat([x, x], dim=3)).shape == encoder(x).shape == (3, 8)


def test_short_clips_and_bad_sizes_are_refused() -> None:
    with pytest.raises(
        ValueError,
        match=r"must have at least 8 mels and 8 frames, got shape \(1, 64, 4\)",
    ):
        AudioNTT(audio(64, 4))
    with pytest.raises(ValueError, match="`dim` and `width` must be at least 1, got 0 and 64"):
        AudioNTT(audio(), dim=0)


def test_running_norm_has_the_mean_and_std_of_all_samples_so_far() -> None:
    norm = RunningNorm(100)
    x = torch.randn(11, 1, 8, 8, generator=torch.Generator().manual_seed(0)) * 3 + 7
    for part in (x[:1], x[1:5], x[5:]):
        norm(part)
    torch.testing.assert_close(norm.mean, x.double().mean())
    torch.testing.assert_close(norm.square, x.double().var(correction=0))
    found = norm.eval()(x)
    torch.testing.assert_close(found, (x - x.mean()) / x.std(correction=0), atol=1e-5, rtol=1e-5)
    assert norm.count == 11


def test_running_norm_is_frozen_after_its_samples_and_in_eval_mode() -> None:
    norm = RunningNorm(10)
    first = torch.randn(10, 4)
    norm(first)
    before = {name: value.clone() for name, value in norm.state_dict().items()}
    norm(torch.randn(10, 4) + 100)
    norm.eval()(torch.randn(10, 4) - 100)
    for name, value in norm.state_dict().items():
        torch.testing.assert_close(value, before[name], rtol=0, atol=0)
    other = RunningNorm(10).eval()
    x = torch.randn(3, 4)
    torch.testing.assert_close(other(x), x)  # before anything was seen
    other.load_state_dict(norm.state_dict())
    torch.testing.assert_close(other(x), norm(x))
    with pytest.raises(ValueError, match="`samples` must be at least 1, got 0"):
        RunningNorm(0)


def test_running_norm_is_saved_with_the_encoder() -> None:
    encoder = AudioNTT(audio(16, 16), dim=4, width=2, running_norm=1000)
    x = torch.randn(4, 1, 16, 16) * 5 - 20
    encoder.train()(x)
    assert encoder.state_dict()["norm.count"] == 4
    still = AudioNTT(audio(16, 16), dim=4, width=2, running_norm=1000)
    still.load_state_dict(encoder.state_dict())
    torch.testing.assert_close(still.eval()(x), encoder.eval()(x))
