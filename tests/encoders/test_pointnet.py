"""PointNet and DGCNN: sets are sets, neighbors are nearest, and the split edge convolution is the published one."""

import pytest
import torch
from torch import nn

from mezzotint.encoders.dgcnn import DGCNN, EdgeConv, nearest_points
from mezzotint.encoders.encoder import Encoder
from mezzotint.encoders.pointnet import PointNet, TNet
from mezzotint.types import Input

INPUT = Input((3, 64), (0.0,) * 3, (1.0,) * 3, "points")


def made(kind: str) -> Encoder:
    torch.manual_seed(0)
    return PointNet(INPUT, width=8) if kind == "pointnet" else DGCNN(INPUT, width=4, neighbors=6)


def test_nearest_points_are_those_of_the_full_distance_matrix() -> None:
    x = torch.randn(4, 3, 50, dtype=torch.float64) + 5.0
    distance = torch.cdist(x.transpose(1, 2), x.transpose(1, 2))
    expected = distance.sort(dim=2).indices[:, :, :7]
    found = nearest_points(x, 7)
    assert torch.equal(found.sort(dim=2).values, expected.sort(dim=2).values)
    assert torch.equal(found[:, :, 0], torch.arange(50).expand(4, 50))
    assert nearest_points(x[:, :, :5], 20).shape == (4, 5, 5)


@pytest.mark.parametrize("training", [True, False])
def test_edge_convolution_is_that_of_the_concatenated_edges(training: bool) -> None:
    torch.manual_seed(0)
    layer = EdgeConv(5, 8, 4).train(training)
    with torch.no_grad():
        layer.norm.get_buffer("running_mean").normal_()
        layer.norm.weight.normal_()  # negative scales too: the maximum is taken after the norm
    x = torch.randn(3, 5, 20)
    neighbors = nearest_points(x, 4)
    edges = torch.empty(3, 10, 20, 4)
    for b in range(3):
        for i in range(20):
            for place, j in enumerate(neighbors[b, i].tolist()):
                edges[b, :, i, place] = torch.cat([x[b, :, i], x[b, :, j] - x[b, :, i]])
    weight = layer.linear.weight[:, :, 0]
    out = torch.einsum("oc,bcnk->bonk", weight, edges)
    norm = nn.BatchNorm2d(8).train(training)
    norm.load_state_dict(layer.norm.state_dict())
    expected = nn.functional.leaky_relu(norm(out), 0.2).amax(dim=3)
    torch.testing.assert_close(layer(x), expected, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("kind", ["pointnet", "dgcnn"])
def test_the_order_and_number_of_points_do_not_matter(kind: str) -> None:
    encoder = made(kind).eval()
    x = torch.randn(2, 3, 64)
    features = encoder(x)
    assert features.shape == (2, encoder.dim)
    torch.testing.assert_close(encoder(x[:, :, torch.randperm(64)]), features, atol=1e-5, rtol=1e-4)
    assert encoder(x[:, :, :10]).shape == features.shape
    if kind == "pointnet":  # a maximum does not see repetitions
        torch.testing.assert_close(encoder(torch.cat([x, x[:, :, :9]], dim=2)), features)


@pytest.mark.parametrize("kind", ["pointnet", "dgcnn"])
def test_every_weight_has_a_gradient(kind: str) -> None:
    encoder = made(kind)
    encoder(torch.randn(4, 3, 64)).square().sum().backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in encoder.parameters())


def test_pointnet_is_the_maximum_of_its_last_layer() -> None:
    encoder, x = made("pointnet"), torch.randn(4, 3, 64)
    with torch.no_grad():
        encoder.get_submodule("rest")[-1].bias.sub_(2.5)  # type: ignore[index]
    points = encoder.get_submodule("rest")(encoder.get_submodule("local")(x))
    expected = torch.relu(points).amax(dim=2)
    assert torch.equal(encoder(x), expected) and bool((expected == 0).any())


def test_sizes_are_the_stated_ones() -> None:
    def millions(encoder: Encoder) -> float:
        return sum(p.numel() for p in encoder.parameters()) / 1e6

    assert PointNet(INPUT).dim == 1024 and 0.145 < millions(PointNet(INPUT)) < 0.155
    assert DGCNN(INPUT).dim == 2048 and 0.61 < millions(DGCNN(INPUT)) < 0.63
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


def test_settings_that_mean_nothing_are_refused() -> None:
    for make in (
        lambda: PointNet(INPUT, width=0),
        lambda: PointNet(INPUT, transformers="all"),  # type: ignore[arg-type]
        lambda: DGCNN(INPUT, neighbors=0),
    ):
        with pytest.raises(ValueError, match="must be"):
            make()
