"""PointNet: the order of points does not matter, and its matrices start at the identity."""

import pytest
import torch

from mezzotint.encoders.encoder import Encoder
from mezzotint.encoders.pointnet import PointNet, TNet
from mezzotint.types import Input

INPUT = Input((3, 64), (0.0,) * 3, (1.0,) * 3, "points")


def small() -> PointNet:
    torch.manual_seed(0)
    return PointNet(INPUT, width=8)


def test_the_order_and_number_of_points_do_not_matter() -> None:
    encoder = small().eval()
    x = torch.randn(2, 3, 64)
    features = encoder(x)
    assert features.shape == (2, encoder.dim)
    torch.testing.assert_close(encoder(x[:, :, torch.randperm(64)]), features, atol=1e-5, rtol=1e-4)
    assert encoder(x[:, :, :10]).shape == features.shape
    # A maximum ignores repetitions.
    torch.testing.assert_close(encoder(torch.cat([x, x[:, :, :9]], dim=2)), features)


def test_every_weight_has_a_gradient() -> None:
    encoder = small()
    encoder(torch.randn(4, 3, 64)).square().sum().backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in encoder.parameters())


def test_pointnet_is_the_maximum_of_its_last_layer() -> None:
    encoder, x = small(), torch.randn(4, 3, 64)
    with torch.no_grad():
        encoder.get_submodule("rest")[-1].bias.sub_(2.5)  # type: ignore[index]
    points = encoder.get_submodule("rest")(encoder.get_submodule("local")(x))
    expected = torch.relu(points).amax(dim=2)
    assert torch.equal(encoder(x), expected) and bool((expected == 0).any())


def test_sizes_are_the_stated_ones() -> None:
    def millions(encoder: Encoder) -> float:
        return sum(p.numel() for p in encoder.parameters()) / 1e6

    assert PointNet(INPUT).dim == 1024 and 0.145 < millions(PointNet(INPUT)) < 0.155
    assert millions(PointNet(INPUT, transformers="both")) - millions(
        PointNet(INPUT)
    ) == pytest.approx(2.66, abs=0.05)


def test_transformers_start_at_the_identity() -> None:
    x = torch.randn(3, 8, 30)
    torch.testing.assert_close(TNet(8, 4)(x), x)
    torch.manual_seed(0)
    plain = PointNet(INPUT, width=8)
    torch.manual_seed(0)
    aligned = PointNet(INPUT, width=8, transformers="both")
    aligned.load_state_dict(plain.state_dict(), strict=False)
    points = torch.randn(3, 3, 64)
    torch.testing.assert_close(aligned(points), plain(points), atol=1e-5, rtol=1e-4)


def test_bad_settings_are_refused() -> None:
    with pytest.raises(ValueError, match="`width` must be at least 1, got 0"):
        PointNet(INPUT, width=0)
    with pytest.raises(ValueError, match="must be none, input or both, got 'all'"):
        PointNet(INPUT, transformers="all")  # type: ignore[arg-type]
