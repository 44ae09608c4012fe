"""DGCNN: neighbors against the distance matrix, the edge convolution against the published one."""

import pytest
import torch
from torch import nn

from mezzotint.encoders.dgcnn import DGCNN, EdgeConv, nearest_points
from mezzotint.types import Input

INPUT = Input((3, 64), (0.0,) * 3, (1.0,) * 3, "points")


def small() -> DGCNN:
    torch.manual_seed(0)
    return DGCNN(INPUT, width=4, neighbors=6)


def test_nearest_points_agree_with_the_full_distance_matrix() -> None:
    x = torch.randn(4, 3, 50, dtype=torch.float64) + 5.0
    distance = torch.cdist(x.transpose(1, 2), x.transpose(1, 2))
    expected = distance.sort(dim=2).indices[:, :, :7]
    found = nearest_points(x, 7)
    assert torch.equal(found.sort(dim=2).values, expected.sort(dim=2).values)
    assert torch.equal(found[:, :, 0], torch.arange(50).expand(4, 50))
    assert nearest_points(x[:, :, :5], 20).shape == (4, 5, 5)


@pytest.mark.parametrize("training", [True, False])
def test_edge_convolution_equals_a_linear_on_concatenated_edges(training: bool) -> None:
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
            for slot, j in enumerate(neighbors[b, i].tolist()):
                edges[b, :, i, slot] = torch.cat([x[b, :, i], x[b, :, j] - x[b, :, i]])
    weight = layer.linear.weight[:, :, 0]
    out = torch.einsum("oc,bcnk->bonk", weight, edges)
    norm = nn.BatchNorm2d(8).train(training)
    norm.load_state_dict(layer.norm.state_dict())
    expected = nn.functional.leaky_relu(norm(out), 0.2).amax(dim=3)
    torch.testing.assert_close(layer(x), expected, atol=1e-4, rtol=1e-4)


def test_the_order_and_number_of_points_do_not_matter() -> None:
    encoder = small().eval()
    x = torch.randn(2, 3, 64)
    features = encoder(x)
    assert features.shape == (2, encoder.dim)
    torch.testing.assert_close(encoder(x[:, :, torch.randperm(64)]), features, atol=1e-5, rtol=1e-4)
    assert encoder(x[:, :, :10]).shape == features.shape


def test_every_weight_has_a_gradient() -> None:
    encoder = small()
    encoder(torch.randn(4, 3, 64)).square().sum().backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in encoder.parameters())


def test_the_published_network_has_the_stated_size() -> None:
    encoder = DGCNN(INPUT)
    assert encoder.dim == 2048
    assert 0.61e6 < sum(p.numel() for p in encoder.parameters()) < 0.63e6


def test_bad_sizes_are_refused() -> None:
    for keywords in ({"neighbors": 0}, {"width": 0}):
        with pytest.raises(ValueError, match="`width` and `neighbors` must be at least 1, got"):
            DGCNN(INPUT, **keywords)
