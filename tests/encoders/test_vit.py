"""The ViT against timm's, its positions against loops, its patches against slices, for every modality."""

import math
from typing import Any

import pytest
import timm
import torch
from torch import Tensor

from mezzotint import quant
from mezzotint.encoders.patches import SinCos, grid_places, take
from mezzotint.encoders.point_patches import farthest_points
from mezzotint.encoders.saving import load_encoder, save_encoder
from mezzotint.encoders.vit import DropPath, ViT
from mezzotint.types import Input

SHAPES: dict[str, tuple[tuple[int, ...], dict[str, Any], tuple[int, ...]]] = {
    "image": ((3, 16, 24), {"patch": 8}, (2, 3)),
    "audio": ((1, 8, 32), {"patch": [4, 8]}, (2, 4)),
    "video": ((3, 4, 8, 16), {"patch": [2, 4, 4]}, (2, 2, 4)),
    "series": ((3, 40), {"patch": 8}, (5,)),
    "points": ((3, 50), {"groups": 6, "group_size": 5}, (6,)),
    "tokens": ((12,), {}, (12,)),
    "table": ((7,), {}, (7,)),
}
each_modality = pytest.mark.parametrize("modality", SHAPES)


def made(modality: str, **keywords: Any) -> ViT:
    torch.manual_seed(0)
    shape, own, _ = SHAPES[modality]
    count = 0 if modality == "tokens" else shape[0]
    words = keywords.pop("vocabulary", 9) if modality == "tokens" else 0
    input = Input(shape, (0.0,) * count, (1.0,) * count, modality, words)  # type: ignore[arg-type]
    return ViT(input, **{"width": 24, "depth": 2, "heads": 3, **own, **keywords}).eval()


def sample(modality: str, batch: int = 2) -> Tensor:
    shape = SHAPES[modality][0]
    generator = torch.Generator().manual_seed(1)
    if modality == "tokens":
        return torch.randint(1, 9, (batch, *shape), generator=generator)
    return torch.randn(batch, *shape, generator=generator)


@each_modality
@pytest.mark.parametrize("pool", ["mean", "cls"])
def test_shapes_and_gradients(modality: str, pool: str) -> None:
    encoder, x = made(modality, pool=pool), sample(modality)
    assert encoder.patches.grid == SHAPES[modality][2] and encoder.patches.count == math.prod(
        SHAPES[modality][2]
    )
    tokens = encoder.tokens(x)
    assert tokens.shape == (2, encoder.patches.count, 24)
    values, where = encoder.patches.split(x)
    assert encoder.patches.vectors(values).shape == (
        2,
        encoder.patches.count,
        encoder.patches.num_values,
    )
    assert (
        where.shape[1:] == (encoder.patches.count, where.shape[2]) and where.dtype == torch.float32
    )
    features = encoder(x)
    assert features.shape == (2, encoder.dim)
    if pool == "mean":
        torch.testing.assert_close(features, tokens.mean(dim=1))
    features.square().sum().backward()
    assert all(p.grad is not None for p in encoder.parameters())


@each_modality
@pytest.mark.parametrize("pool", ["mean", "cls"])
def test_kept_patches_are_a_sequence_without_the_others(modality: str, pool: str) -> None:
    encoder, x = made(modality, pool=pool), sample(modality)
    keep = torch.stack([torch.randperm(encoder.patches.count)[:3] for _ in range(2)])
    values, where = encoder.patches.split(x)
    for row in range(2):
        one = where[0 if len(where) == 1 else row]
        tokens = encoder.patches.embed(values[row, keep[row]][None]) + encoder.places(
            one[keep[row]][None]
        )
        if encoder.cls is not None:
            tokens = torch.cat([encoder.cls, tokens], dim=1)
        expected = encoder.norm(encoder.blocks(tokens))[0, -3:]
        torch.testing.assert_close(encoder.tokens(x, keep)[row], expected, atol=1e-5, rtol=1e-4)


@each_modality
def test_the_order_of_kept_patches_does_not_matter(modality: str) -> None:
    encoder, x = made(modality), sample(modality)
    order = torch.randperm(encoder.patches.count)
    found = encoder.tokens(x, order.expand(2, -1))
    torch.testing.assert_close(found, encoder.tokens(x)[:, order], atol=1e-5, rtol=1e-4)


def test_patches_are_slices_in_row_order() -> None:
    x = sample("video")
    values, where = made("video").patches.split(x)
    number = 0
    for t in range(2):
        for i in range(2):
            for j in range(4):
                tube = x[:, :, 2 * t : 2 * t + 2, 4 * i : 4 * i + 4, 4 * j : 4 * j + 4]
                assert torch.equal(values[:, number], tube.flatten(1))
                assert where[0, number].tolist() == [t, i, j]
                number += 1


@pytest.mark.parametrize(("grid", "width"), [((5,), 10), ((2, 3), 24), ((2, 2, 3), 26)])
def test_positions_are_those_of_the_definition(grid: tuple[int, ...], width: int) -> None:
    found = SinCos(len(grid), width)(grid_places(grid, torch.device("cpu")))[0]
    share = 2 * (width // (2 * len(grid)))
    widths = [width - share * (len(grid) - 1)] + [share] * (len(grid) - 1)
    for number, row in enumerate(found.tolist()):
        rest = number
        place: list[int] = []
        for size in reversed(grid):
            place.insert(0, rest % size)
            rest //= size
        expected: list[float] = []
        for at, own in zip(place, widths, strict=True):
            angles = [at / 10000 ** (i / (own // 2)) for i in range(own // 2)]
            expected += [math.sin(a) for a in angles] + [math.cos(a) for a in angles]
        assert row == pytest.approx(expected, abs=1e-5)
    assert len(found.unique(dim=0)) == math.prod(grid)


def test_features_are_those_of_timm() -> None:
    """The same weights in timm's network: patch order, attention, GELU, norms."""
    encoder = made("image", width=32, heads=4, depth=3)
    other = timm.models.VisionTransformer(
        img_size=(16, 24), patch_size=8, embed_dim=32, depth=3, num_heads=4, num_classes=0, class_token=False,
        global_pool="avg", fc_norm=False,
    ).eval()  # fmt: skip
    own = encoder.state_dict()
    with torch.no_grad():
        for parameter in encoder.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
        own = encoder.state_dict()
        theirs = {
            k.replace("mlp.0", "mlp.fc1").replace("mlp.2", "mlp.fc2"): v for k, v in own.items()
        }
        theirs["patch_embed.proj.weight"] = theirs.pop("patches.project.weight").view(32, 3, 8, 8)
        theirs["patch_embed.proj.bias"] = theirs.pop("patches.project.bias")
        theirs["pos_embed"] = encoder.places(grid_places((2, 3), torch.device("cpu")))
        other.load_state_dict(theirs)
    x = sample("image")
    torch.testing.assert_close(encoder(x), other(x), atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize(("width", "heads", "published"), [(384, 6, 21.67), (768, 12, 85.80)])
def test_parameter_counts_are_the_published_ones_without_positions_and_class_token(
    width: int, heads: int, published: float
) -> None:
    with torch.device("meta"):
        encoder = ViT(Input((3, 224, 224), (0.0,) * 3, (1.0,) * 3), width=width, heads=heads)
    found = sum(p.numel() for p in encoder.parameters()) + 197 * width + width
    assert found / 1e6 == pytest.approx(
        published, abs=0.01
    )  # timm's vit_small and vit_base without a head


def test_points_do_not_depend_on_their_order_and_groups_are_the_nearest() -> None:
    encoder, x = made("points"), sample("points")
    torch.testing.assert_close(
        encoder(x[:, :, torch.randperm(50)]), encoder(x), atol=1e-5, rtol=1e-4
    )
    values, centers = encoder.patches.split(x)
    for row in range(2):
        cloud = x[row].T
        for group in range(6):
            distance = (cloud - centers[row, group]).norm(dim=1).sort().values[:5]
            torch.testing.assert_close(values[row, group].norm(dim=1), distance)
    chosen = farthest_points(x.transpose(1, 2), 6)
    for row in range(2):
        cloud = x[row].T
        for place in range(1, 6):
            apart = torch.cdist(cloud, cloud[chosen[row, :place]]).amin(dim=1)
            assert apart.argmax() == chosen[row, place]


def test_table_tokens_are_value_times_vector_plus_vector() -> None:
    encoder, x = made("table"), sample("table")
    values, where = encoder.patches.split(x)
    times, plus = (
        encoder.get_parameter("patches.table.weight"),
        encoder.get_parameter("places.table.weight"),
    )
    found = encoder.patches.embed(values) + encoder.places(where)
    torch.testing.assert_close(found, x[:, :, None] * times + plus)


def test_other_sizes_have_positions_of_their_own_grid() -> None:
    encoder = made("audio")
    assert encoder(torch.randn(2, 1, 8, 48)).shape == (2, 24)
    with pytest.raises(
        ValueError, match=r"size \(8, 30\) and patches of \(4, 8\); allowed .*; *|divides"
    ):
        encoder(torch.randn(2, 1, 8, 30))


def test_initialization_is_xavier_uniform() -> None:
    encoder = made("image", width=96, heads=3)
    for name, parameter in encoder.named_parameters():
        if parameter.ndim == 2:
            reach = (6.0 / sum(parameter.shape)) ** 0.5
            assert parameter.abs().max() <= reach and float(
                parameter.detach().std()
            ) == pytest.approx(reach / 3**0.5, rel=0.05), name
        else:
            assert torch.equal(
                parameter, torch.full_like(parameter, float(name.endswith("weight")))
            ), name


@pytest.mark.parametrize("width", [64, 384])
def test_tokens_are_not_drowned_by_their_positions(width: int) -> None:
    encoder = ViT(Input((128,), (), (), "tokens", 258), width=width, depth=1, heads=2)
    values, where = encoder.patches.split(
        torch.randint(2, 258, (8, 128), generator=torch.Generator().manual_seed(0))
    )
    says, stands = encoder.patches.embed(values), encoder.places(where)
    assert 0.5 < float(says.detach().var() / stands.var()) < 5.0


def test_drop_path_keeps_the_mean_and_is_off_in_eval() -> None:
    torch.manual_seed(0)
    layer, x = DropPath(0.25), torch.ones(4000, 2, 3)
    out = layer(x)
    assert out.unique().tolist() == pytest.approx([0.0, 4 / 3]) and out.mean() == pytest.approx(
        1.0, abs=0.05
    )
    assert torch.equal(out, out[:, :1, :1].expand_as(out))
    assert torch.equal(layer.eval()(x), x)
    rates = [block.drop_path.p for block in made("image", depth=3, drop_path=0.2).blocks]  # type: ignore[union-attr]
    assert rates == pytest.approx([0.0, 0.1, 0.2])


@each_modality
def test_exports_with_any_batch_size(modality: str) -> None:
    encoder = made(modality)
    batch = torch.export.Dim("batch", min=1, max=64)
    graph = torch.export.export(
        encoder, (sample(modality),), dynamic_shapes=({0: batch},), strict=False
    )
    x = sample(modality, 5)
    torch.testing.assert_close(graph.module()(x), encoder(x), atol=1e-5, rtol=1e-4)


def test_compiled_quantized_and_saved(tmp_path: Any) -> None:
    encoder, x = made("image"), sample("image")
    expected = encoder(x)
    torch.testing.assert_close(
        torch.compile(encoder, backend="aot_eager")(x), expected, atol=1e-5, rtol=1e-4
    )
    save_encoder(encoder, tmp_path)
    assert torch.equal(load_encoder(tmp_path)(x), expected)
    quant.quantize_(encoder, "all")
    quant.calibrate(encoder, [x])
    torch.testing.assert_close(encoder(x), expected)
    with quant.bits(encoder, weight=8, activation=8):
        near = encoder(x)
    with quant.bits(encoder, weight=2, activation=2):
        far = encoder(x)
    assert 0 < (near - expected).norm() < 0.2 * (far - expected).norm()


@pytest.mark.parametrize(
    ("modality", "keywords", "message"),
    [
        (
            "image",
            {"patch": 7},
            r"got samples of size \(16, 24\) and patches of \(7, 7\); allowed .*choose",
        ),
        ("image", {"patch": [8]}, r"got samples of size"),
        ("image", {"patch": 0}, r"got patch=0; allowed"),
        ("image", {"heads": 5}, r"got width=24 and heads=5; allowed"),
        ("image", {"depth": 0}, r"got depth=0"),
        ("image", {"pool": "max"}, r"got pool='max'; allowed"),
        ("image", {"width": 3, "heads": 3}, r"got width 3 for positions of 2 axes; allowed"),
        ("points", {"groups": 51}, r"got clouds of 50 points, groups=51 .*; allowed"),
        ("tokens", {"vocabulary": 0}, r"got tokens of a vocabulary of 0; allowed"),
    ],
)
def test_bad_sizes_are_refused(modality: str, keywords: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        made(modality, **keywords)


def test_take_gathers_rows() -> None:
    x, rows = torch.arange(24).view(2, 4, 3), torch.tensor([[3, 0], [1, 1]])
    assert torch.equal(take(x, rows), torch.stack([x[0, [3, 0]], x[1, [1, 1]]]))
