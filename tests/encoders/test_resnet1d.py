"""The residual network over time: sizes, pooling, and little change under a shift in time."""

import pytest
import torch

from mezzotint.encoders.resnet1d import ResNet1D
from mezzotint.types import Input

SERIES = Input((6, 128), (0.0,) * 6, (1.0,) * 6, "series")


@pytest.mark.parametrize(("depths", "dim"), [((1, 1), 32), ((1, 1, 1, 1), 128), ((2, 2, 2), 64)])
def test_width_and_depth_give_the_features(depths: tuple[int, ...], dim: int) -> None:
    encoder = ResNet1D(SERIES, width=16, depths=depths)
    assert encoder.dim == dim and encoder(torch.randn(4, 6, 128)).shape == (4, dim)
    assert encoder(torch.randn(4, 6, 37)).shape == (4, dim)


def test_time_is_halved_by_the_stem_and_each_later_stage() -> None:
    encoder = ResNet1D(SERIES, width=4, depths=(1, 1, 1))
    assert encoder.blocks(encoder.stem(torch.randn(2, 6, 128))).shape == (2, 16, 16)
    still = ResNet1D(SERIES, width=4, depths=(1, 1, 1), stem_stride=1)
    assert still.blocks(still.stem(torch.randn(2, 6, 128))).shape == (2, 16, 32)


def test_mean_max_concatenates_mean_and_maximum() -> None:
    torch.manual_seed(0)
    encoder = ResNet1D(SERIES, width=4, depths=(1, 1), pool="mean_max").eval()
    x = torch.randn(3, 6, 128)
    steps = encoder.blocks(encoder.stem(x))
    y = encoder(x)
    assert y.shape == (3, encoder.dim) == (3, 16)
    assert torch.equal(y[:, :8], steps.mean(dim=2)) and torch.equal(y[:, 8:], steps.amax(dim=2))


def test_a_shift_in_time_hardly_changes_the_features() -> None:
    torch.manual_seed(0)
    encoder = ResNet1D(SERIES, width=16).eval()
    wave = torch.sin(torch.arange(256) / 5.0).expand(1, 6, 256)
    a, b = encoder(wave[:, :, :128]), encoder(wave[:, :, 32:160])
    other = encoder(torch.sin(torch.arange(128) / 2.0).expand(1, 6, 128))
    assert (a - b).norm() < 0.5 * (a - other).norm()


def test_every_weight_has_a_gradient() -> None:
    encoder = ResNet1D(SERIES, width=4)
    encoder(torch.randn(8, 6, 64)).square().sum().backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in encoder.parameters())


def test_bad_settings_are_refused() -> None:
    with pytest.raises(ValueError, match="`kernel` must be odd and positive, got 4"):
        ResNet1D(SERIES, kernel=4)
    with pytest.raises(
        ValueError, match=r"`depths` and `stem_stride` must be at least 1, got 64, \[\]"
    ):
        ResNet1D(SERIES, depths=())
    with pytest.raises(ValueError, match="`pool` must be mean or mean_max, got 'max'"):
        ResNet1D(SERIES, pool="max")  # type: ignore[arg-type]
