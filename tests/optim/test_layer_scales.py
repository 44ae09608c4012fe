"""Learning rates of layers: by depth, and for what is not the encoder."""

import pytest
import torch
from torch import nn

from mezzotint.encoders.resnet import resnet8
from mezzotint.methods.simsiam import SimSiam
from mezzotint.methods.ssql import SSQL
from mezzotint.methods.supervised import Supervised
from mezzotint.optim.groups import LayerScales
from mezzotint.optim.optimizer import SGD
from mezzotint.types import Input

INPUT = Input((3, 16, 16), (0.5,) * 3, (0.5,) * 3)


def test_names_of_three_families() -> None:
    names: list[str | None] = [
        "conv1.weight", "layer1.0.conv1.weight", "layer1.0.bn1.bias",
        "layer1.1.conv2.weight", "layer2.0.downsample.0.weight", None,
    ]  # fmt: skip
    assert LayerScales(decay=0.5, head=10.0).of(names) == [0.125, 0.25, 0.25, 0.5, 1.0, 10.0]
    vit = [
        "model.pos_embed",
        "model.blocks.0.mlp.fc1.weight",
        "model.blocks.1.norm1.bias",
    ]
    assert LayerScales(decay=0.5).of([*vit, "model.norm.weight"]) == [0.25, 0.5, 1.0, 1.0]
    convnext = [
        "model.stem.0.weight",
        "model.stages.0.blocks.0.gamma",
        "model.stages.0.blocks.1.gamma",
    ]
    assert LayerScales(decay=0.5).of(convnext) == [0.25, 0.5, 1.0]


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
    assert rate["encoder.layer3.0.conv1.weight"] == pytest.approx(0.1)
    assert rate["encoder.conv1.weight"] == pytest.approx(0.1 / 8)
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
