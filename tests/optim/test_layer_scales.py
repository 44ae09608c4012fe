"""Learning rates of layers: by depth, and for what is not the encoder."""

from typing import Any

import pytest
import torch
from torch import nn

from mezzotint.encoders.resnet import resnet8
from mezzotint.methods.simsiam import SimSiam
from mezzotint.methods.ssql import SSQL
from mezzotint.methods.supervised import Supervised
from mezzotint.optim.groups import LayerScales
from mezzotint.optim.optimizer import SGD, AdamW
from mezzotint.recipe.schema import construct, resolve
from mezzotint.types import Input

INPUT = Input((3, 16, 16), (0.5,) * 3, (0.5,) * 3)


def test_names_of_three_families() -> None:
    names: list[str | None] = [
        "conv1.weight", "layer1.0.conv1.weight", "layer1.0.bn1.bias",
        "layer1.1.conv2.weight", "layer2.0.downsample.0.weight", None,
    ]  # fmt: skip
    assert LayerScales(decay=0.5, head=10.0).of(names) == [
        0.0625, 0.125, 0.125, 0.25, 0.5, 10.0,
    ]  # fmt: skip
    vit = [
        "model.pos_embed",
        "model.blocks.0.mlp.fc1.weight",
        "model.blocks.1.norm1.bias",
    ]
    assert LayerScales(decay=0.5).of([*vit, "model.norm.weight"]) == [0.125, 0.25, 0.5, 1.0]
    convnext = [
        "model.stem.0.weight",
        "model.stages.0.blocks.0.gamma",
        "model.stages.0.blocks.1.gamma",
    ]
    assert LayerScales(decay=0.5).of(convnext) == [0.125, 0.25, 0.5]
    assert LayerScales(decay=0.5).of(["conv1.weight", "fc.weight", None]) == [0.5, 0.5, 1.0]


def published(decay: float) -> dict[str, float]:
    """Factors of a transformer of 12 blocks, by what a parameter belongs to.

    BEiT's optim_factory.py, and MAE's and BRIDLE's util/lr_decay.py: block i of d has layer i + 1,
    class token, positions and patches have layer 0, all the rest layer d + 1; a layer's factor is
    decay to the power of d + 1 minus its number.
    """
    factors = {f"blocks.{index}": decay ** (12 - index) for index in range(12)}
    return {"stem": decay**13, **factors, "top": 1.0}


def part_of(name: str) -> str:
    """What a parameter of a method belongs to, in the words of `published`."""
    name = name.removeprefix("encoder.").removeprefix("model.")
    if name.startswith("blocks."):
        return ".".join(name.split(".")[:2])
    return "top" if name.startswith(("norm", "fc_norm", "head")) else "stem"


@pytest.mark.parametrize(
    ("encoder", "decay"),
    [
        # BRIDLE fine-tunes ViT-B with 0.75, MAE with 0.65 for ViT-B.
        ({"kind": "vit", "width": 24, "depth": 12, "heads": 2, "patch": 8}, 0.75),
        ({"kind": "vit", "width": 24, "depth": 12, "heads": 2, "patch": 8, "pool": "cls"}, 0.65),
        ({"kind": "timm", "name": "vit_small_patch16_224"}, 0.65),
        ({"kind": "timm", "name": "vit_small_patch16_224"}, 0.75),
    ],
)
def test_rates_of_a_vit_are_the_published_ones(encoder: dict[str, Any], decay: float) -> None:
    if encoder["kind"] == "timm":
        pytest.importorskip("timm")
    size = 224 if encoder["kind"] == "timm" else 16
    input = Input((3, size, size), (0.5,) * 3, (0.5,) * 3)
    network = construct(resolve(encoder, "Encoder", "encoder"), "Encoder", {"Encoder": (input,)})
    method = Supervised(network, num_classes=3)
    groups = AdamW(lr=2.0, scales=LayerScales(decay=decay)).groups(method, 256)
    rate = {name: group["base_lr"] for group in groups for name, _ in group["params"]}
    expected = published(decay)
    assert {part_of(name) for name in rate} == set(expected)
    for name, value in rate.items():
        assert value == pytest.approx(2.0 * expected[part_of(name)], rel=1e-12), name
    if decay == 0.75:  # in figures, so that the formula above is not its own witness
        assert expected["stem"] == pytest.approx(0.02375726401805878)
        assert expected["blocks.0"] == pytest.approx(0.03167635202407837)
        assert expected["blocks.6"] == pytest.approx(0.177978515625)
        assert expected["blocks.11"] == 0.75


def test_groups_carry_their_own_base_rate_and_no_parameter_is_lost() -> None:
    torch.manual_seed(0)
    method = Supervised(resnet8(INPUT, stem="small", width=4), num_classes=3)
    settings = SGD(
        lr=0.1, weight_decay=1e-4, exclude="norm_and_bias", scales=LayerScales(decay=0.5, head=10.0)
    )
    built = settings.build(method, 256)
    rate = {name: g["base_lr"] for g in built.param_groups for name in g["param_names"]}
    assert set(rate) == {name for name, _ in method.named_parameters()}
    assert rate["head.weight"] == rate["head.bias"] == pytest.approx(1.0)
    assert rate["encoder.layer3.0.conv1.weight"] == pytest.approx(0.1 / 2)
    assert rate["encoder.conv1.weight"] == pytest.approx(0.1 / 16)
    decay = {name: g["weight_decay"] for g in built.param_groups for name in g["param_names"]}
    assert decay["encoder.bn1.weight"] == decay["head.bias"] == 0.0 and decay["head.weight"] == 1e-4


def test_a_wrapped_encoder_gets_the_factors_of_a_bare_one() -> None:
    torch.manual_seed(0)
    encoder = resnet8(INPUT, stem="small", width=4)
    settings = SGD(lr=0.1, scales=LayerScales(decay=0.5, head=10.0))
    base = SimSiam(encoder, hidden_dim=4, dim=4)
    rates = [
        {id(p): group["base_lr"] for group in groups for p in group["params"]}
        for groups in (
            settings.build(base, 256).param_groups,
            settings.build(SSQL(encoder, base=base), 256).param_groups,
        )
    ]
    assert rates[0] == rates[1] and len(set(rates[0].values())) == 5


def test_without_scales_the_groups_are_as_before() -> None:
    model = nn.Sequential(nn.Linear(3, 3), nn.BatchNorm1d(3))
    plain, neutral = (
        SGD(lr=0.1).groups(model, 1),
        SGD(lr=0.1, scales=LayerScales()).groups(model, 1),
    )
    assert [g["lr"] for g in plain] == [g["lr"] for g in neutral] == [0.1] and len(
        plain[0]["params"]
    ) == 4


@pytest.mark.parametrize("keys", [{"decay": 0.0}, {"decay": 1.1}, {"head": 0.0}])
def test_out_of_range_is_refused(keys: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=r"must be in \(0, 1\] and `head` positive"):
        LayerScales(**keys)
