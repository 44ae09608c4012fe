import pytest
import torch
import torchvision

from mezzotint.encoders import resnet
from mezzotint.types import Input

RGB = Input((3, 32, 32), (0.5,) * 3, (0.5,) * 3)


@pytest.mark.parametrize("name", ["resnet18", "resnet34", "resnet50"])
def test_equals_torchvision(name: str) -> None:
    ours = getattr(resnet, name)(RGB)
    theirs = getattr(torchvision.models, name)()
    state = {key: value for key, value in theirs.state_dict().items() if not key.startswith("fc.")}
    ours.load_state_dict(state)
    theirs.fc = torch.nn.Identity()
    x = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(ours.eval()(x), theirs.eval()(x))


@pytest.mark.parametrize(
    ("name", "million", "dim"),
    [
        ("resnet8", 1.233, 256),
        ("resnet10", 4.906, 512),
        ("resnet18", 11.177, 512),
        ("resnet34", 21.285, 512),
        ("resnet50", 23.508, 2048),
    ],
)
def test_sizes(name: str, million: float, dim: int) -> None:
    encoder = getattr(resnet, name)(RGB)
    assert sum(p.numel() for p in encoder.parameters()) / 1e6 == pytest.approx(million, abs=5e-4)
    assert encoder.dim == dim


@pytest.mark.parametrize(("stem", "side"), [("imagenet", 1), ("small", 4), ("patch", 1)])
@pytest.mark.parametrize("width", [3, 8])
def test_stems_and_widths(stem: resnet.Stem, side: int, width: int) -> None:
    encoder = resnet.resnet18(RGB, stem=stem, width=width)
    x = torch.randn(2, 3, 32, 32)
    assert encoder.feature_map(x).shape == (2, 8 * width, side, side)
    assert encoder(x).shape == (2, encoder.dim) == (2, 8 * width)


@pytest.mark.parametrize("name", ["resnet18", "resnet50"])
def test_zero_init_residual_starts_each_branch_at_zero(name: str) -> None:
    encoder = getattr(resnet, name)(RGB, width=4, zero_init_residual=True)
    norms = [m.last_norm.weight.detach() for m in encoder.modules() if hasattr(m, "last_norm")]
    assert norms and all(float(w.abs().sum()) == 0 for w in norms)


def test_a_width_of_zero_is_refused() -> None:
    with pytest.raises(ValueError, match="`width` must be at least 1, got 0. The paper uses 64."):
        resnet.resnet18(RGB, width=0)


@pytest.mark.parametrize("stem", ["imagenet", "patch"])
def test_a_grid_is_the_average_of_each_part(stem: resnet.Stem) -> None:
    encoder = resnet.resnet8(
        Input((3, 64, 64), (0.5,) * 3, (0.5,) * 3), stem=stem, width=4, grid=2
    ).eval()
    assert encoder.dim == 4 * 4 * 4
    x = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    features = encoder.feature_map(x)  # [B, 16, 4, 4]
    parts = [features[:, :, h : h + 2, w : w + 2].mean((2, 3)) for h in (0, 2) for w in (0, 2)]
    torch.testing.assert_close(encoder(x).view(2, 16, 4), torch.stack(parts, dim=2))
    whole = resnet.resnet8(encoder.input, stem=stem, width=4).eval()
    whole.load_state_dict(encoder.state_dict())
    torch.testing.assert_close(encoder(x).view(2, 16, 4).mean(2), whole(x))


@pytest.mark.parametrize("grid", [0, 3])
def test_a_grid_finer_than_the_last_stage_is_refused(grid: int) -> None:
    with pytest.raises(ValueError, match=f"`grid` must be 1 to 2, .* got {grid}"):
        resnet.resnet8(RGB, stem="patch", grid=grid)


@pytest.mark.parametrize("grid", [1, 2])
def test_features_of_several_stages_are_their_averages_in_order(grid: int) -> None:
    encoder = resnet.resnet8(RGB, stem="patch", width=4, grid=grid, feature_stages=3).eval()
    last = resnet.resnet8(RGB, stem="patch", width=4, grid=grid).eval()
    last.load_state_dict(encoder.state_dict())
    x = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    features = encoder(x)
    assert features.shape == (2, encoder.dim) and encoder.dim == (4 + 8 + 16) * grid**2
    torch.testing.assert_close(features[:, -last.dim :], last(x))
    first = encoder.get_submodule("layer1")(encoder.act1(encoder.bn1(encoder.conv1(x))))
    pooled = torch.nn.functional.adaptive_avg_pool2d(first, grid).flatten(1)
    torch.testing.assert_close(features[:, : pooled.shape[1]], pooled)


@pytest.mark.parametrize("stages", [0, 4])
def test_features_of_stages_that_there_are_not_are_refused(stages: int) -> None:
    with pytest.raises(ValueError, match=f"`feature_stages` must be 1 to 3, .* got {stages}"):
        resnet.resnet8(RGB, stem="patch", feature_stages=stages)
