"""The ViT against timm's, for every modality; visible patches, padding, export, compilation."""

import math
from typing import Any, Literal

import pytest
import timm
import torch
from torch import Tensor

from mezzotint import quant
from mezzotint.encoders.saving import load_encoder, save_encoder
from mezzotint.encoders.vit import DropPath, ViT
from mezzotint.modality.patches import grid_positions
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
    input = Input(shape, (0.0,) * count, (1.0,) * count, modality, words)
    return ViT(input, **{"width": 24, "depth": 2, "heads": 3, **own, **keywords}).eval()


def sample(modality: str, batch: int = 2) -> Tensor:
    shape = SHAPES[modality][0]
    generator = torch.Generator().manual_seed(1)
    if modality == "tokens":
        return torch.randint(1, 9, (batch, *shape), generator=generator)
    return torch.randn(batch, *shape, generator=generator)


@each_modality
@pytest.mark.parametrize("pool", ["mean", "cls", "patches"])
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
    if pool != "cls":
        torch.testing.assert_close(features, tokens.mean(dim=1))
    features.square().sum().backward()
    assert all(p.grad is not None for p in encoder.parameters())


@each_modality
@pytest.mark.parametrize("pool", ["mean", "cls", "patches"])
def test_visible_patches_are_a_sequence_of_their_own(modality: str, pool: str) -> None:
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
def test_the_order_of_visible_patches_does_not_matter(modality: str) -> None:
    encoder, x = made(modality), sample(modality)
    order = torch.randperm(encoder.patches.count)
    found = encoder.tokens(x, order.expand(2, -1))
    torch.testing.assert_close(found, encoder.tokens(x)[:, order], atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("pool", ["mean", "cls", "patches"])
@pytest.mark.parametrize("positions", ["fixed", "learned"])
def test_features_equal_timms(pool: str, positions: str) -> None:
    """The same weights in timm's network: patch order, attention, GELU, norms, class token."""
    encoder = made("image", width=32, heads=4, depth=3, pool=pool, positions=positions)
    with_cls = pool != "mean"
    average: Literal["token", "avg"] = "token" if pool == "cls" else "avg"
    other = timm.models.VisionTransformer(
        img_size=(16, 24), patch_size=8, embed_dim=32, depth=3, num_heads=4, num_classes=0,
        class_token=with_cls, global_pool=average, fc_norm=False, no_embed_class=True,
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
        if with_cls:
            theirs["cls_token"] = theirs.pop("cls")
        theirs.pop("places.table.weight", None)
        theirs["pos_embed"] = encoder.places(grid_positions((2, 3), torch.device("cpu")))
        other.load_state_dict(theirs)
    x = sample("image")
    torch.testing.assert_close(encoder(x), other(x), atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize(("width", "heads", "published"), [(384, 6, 21.67), (768, 12, 85.80)])
def test_parameter_counts_are_as_published_without_positions_and_class_token(
    width: int, heads: int, published: float
) -> None:
    with torch.device("meta"):
        encoder = ViT(Input((3, 224, 224), (0.0,) * 3, (1.0,) * 3), width=width, heads=heads)
    found = sum(p.numel() for p in encoder.parameters()) + 197 * width + width
    assert found / 1e6 == pytest.approx(
        published, abs=0.01
    )  # timm's vit_small and vit_base without a head


def test_other_sizes_have_positions_of_their_own_grid() -> None:
    encoder = made("audio")
    assert encoder(torch.randn(2, 1, 8, 48)).shape == (2, 24)
    with pytest.raises(
        ValueError, match=r"`patch` must divide the sizes \(8, 30\) .* got \(4, 8\)"
    ):
        encoder(torch.randn(2, 1, 8, 30))


def test_learned_positions_start_as_the_fixed_ones_and_take_one_size() -> None:
    fixed, learned = made("audio"), made("audio", positions="learned")
    x = sample("audio")
    assert torch.equal(fixed(x), learned(x))
    learned(x).sum().backward()
    assert learned.places.table.weight.grad is not None  # type: ignore[union-attr]
    with pytest.raises(ValueError, match="at most 8 patches, the number of learned positions"):
        learned(torch.randn(2, 1, 8, 48))


def test_padding_is_left_out_of_a_mean_with_a_class_token() -> None:
    encoder = made("tokens", pool="patches")
    x = sample("tokens")
    x[0, 5:] = 0
    tokens, valid = encoder.tokens(x), encoder.valid_mask(x)
    assert valid is not None and valid[0].sum() == 5
    torch.testing.assert_close(encoder(x)[0], tokens[0, :5].mean(0))
    torch.testing.assert_close(encoder(x)[1], tokens[1].mean(0))


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
    token, position = encoder.patches.embed(values), encoder.places(where)
    assert 0.5 < float(token.detach().var() / position.var()) < 5.0


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
            r"`patch` must divide the sizes \(16, 24\) .* got \(7, 7\)\. Change",
        ),
        ("image", {"patch": [8]}, r"`patch` must divide the sizes"),
        ("image", {"patch": 0}, r"`patch` must be 1 or more, got 0"),
        ("image", {"heads": 5}, r"`heads` must divide the width 24, got 5"),
        ("image", {"depth": 0}, r"`depth` must be at least 1, got 0"),
        ("image", {"pool": "max"}, r"`pool` must be mean, cls or patches, got 'max'"),
        ("image", {"width": 3, "heads": 3}, r"`width` must be even and at least 4 .* got 3"),
        ("points", {"groups": 51}, r"`groups` and `group_size` must be 1 to 50 .* got 51"),
        ("image", {"positions": "sine"}, r"`positions` must be fixed or learned, got 'sine'"),
        ("points", {"positions": "learned"}, r"needs patches of a grid, got points. Leave it out"),
        ("tokens", {"vocabulary": 0}, r"vocabulary must have at least 2 ids, got 0"),
    ],
)
def test_bad_sizes_are_refused(modality: str, keywords: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        made(modality, **keywords)


def test_mocov3s_initialization() -> None:
    """Std of the authors' ViT-S: q, k, v sqrt(2 / 2D) = .0510 (MAE's .0361), class token 1e-6."""
    image = Input((3, 16, 16), (0.5,) * 3, (0.5,) * 3)
    stds = {}
    starts: tuple[Literal["mae", "mocov3"], ...] = ("mae", "mocov3")
    for start in starts:
        torch.manual_seed(0)
        vit: Any = ViT(image, width=384, depth=1, heads=12, pool="cls", initialization=start)
        attention = vit.blocks[0].attn
        assert vit.cls is not None and not attention.qkv.bias.any()
        stds[start] = [
            float(part.detach().std())
            for part in (*attention.qkv.weight.chunk(3), vit.cls, attention.proj.weight)
        ]
        bound = (6 / (3 * 16 * 16 + 384)) ** 0.5  # of the patch embedding, in both
        assert 0.99 * bound < float(vit.patches.project.weight.detach().abs().max()) <= bound
    assert stds["mocov3"][:3] == pytest.approx([384**-0.5] * 3, rel=0.01)
    assert stds["mae"][:3] == pytest.approx([(2 * 384) ** -0.5] * 3, rel=0.01)
    assert stds["mocov3"][3] == pytest.approx(1e-6, rel=0.15)
    assert stds["mae"][3] == pytest.approx(0.02, rel=0.15)
    assert stds["mocov3"][4] == pytest.approx(stds["mae"][4], rel=0.02)
