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
        match=r"must have at least 8 mels and frames for `blocks: 3`, got shape \(1, 64, 4\)",
    ):
        AudioNTT(audio(64, 4))
    with pytest.raises(ValueError, match="`encoder.dim` must be 1 or more, got 0"):
        AudioNTT(audio(), dim=0)
    with pytest.raises(ValueError, match="must be above the 1024 values of a frame, got 1024"):
        AudioNTT(audio(), dim=1024, blocks=2, join=True)
    with pytest.raises(ValueError, match="`encoder.blocks` must be 1 or more, got 0"):
        AudioNTT(audio(), blocks=0)


def test_second_version_joins_the_frames_of_two_convolutions_with_their_features() -> None:
    """AudioNTT2022: 64 × 64 / 4 values a frame, two layers of 2,048, 3,072 features in all."""
    encoder = AudioNTT(audio(), dim=3072, blocks=2, hidden=2048, join=True).eval()
    shapes = {name: tuple(p.shape) for name, p in encoder.named_parameters() if p.ndim > 1}
    assert shapes == {
        "features.0.weight": (64, 1, 3, 3),
        "features.4.weight": (64, 64, 3, 3),
        "fc.0.weight": (2048, 1024),
        "fc.3.weight": (2048, 2048),
    }
    x = torch.randn(2, 1, 64, 96)
    frames = encoder.frame_features(x)
    assert frames.shape == (2, 24, 3072) and encoder(x).shape == (2, 3072)
    maps = encoder.features(x)  # [2, 64 channels, 16 mels, 24 frames]
    assert torch.equal(frames[:, 5, :128], maps[:, :, :2, 5].transpose(1, 2).flatten(1))
    torch.testing.assert_close(frames[:, :, 1024:], encoder.fc(frames[:, :, :1024]))


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
