"""Which parameters land in which group."""

import pytest
import torch
from torch import nn

from mezzotint.optim.groups import named_groups


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3)
        self.norm = nn.BatchNorm2d(4)
        self.token = nn.Parameter(torch.zeros(1, 1, 4))  # more than one dimension: decays
        self.scale = nn.Parameter(torch.ones(()))
        self.frozen = nn.Linear(4, 4).requires_grad_(False)
        self.head = nn.ModuleDict({"bias": nn.Linear(4, 2)})  # a module of that name is no bias
        self.register_parameter(
            "bias", nn.Parameter(torch.zeros(2, 2))
        )  # a bias with two dimensions is one


def test_norms_and_biases_are_excluded_by_name_and_shape() -> None:
    decayed, excluded = named_groups(Net(), lr=0.3, weight_decay=0.1, exclude="norm_and_bias")
    assert [name for name, _ in decayed["params"]] == ["token", "conv.weight", "head.bias.weight"]
    assert [name for name, _ in excluded["params"]] == [
        *("scale", "bias", "conv.bias", "norm.weight", "norm.bias", "head.bias.bias"),
    ]
    assert (decayed["weight_decay"], excluded["weight_decay"]) == (0.1, 0.0)
    assert (decayed["excluded"], excluded["excluded"]) == (False, True)
    assert decayed["base_lr"] == excluded["base_lr"] == decayed["lr"] == 0.3


def test_none_excluded_is_one_group_of_all_that_takes_gradients() -> None:
    (group,) = named_groups(Net(), lr=0.3, weight_decay=0.1, exclude="none")
    names = [name for name, _ in group["params"]]
    assert names == [name for name, _ in Net().named_parameters() if not name.startswith("frozen")]


def test_torch_keeps_names_in_order_of_parameters() -> None:
    net = Net()
    optimizer = torch.optim.SGD(
        named_groups(net, lr=0.3, weight_decay=0.1, exclude="norm_and_bias")
    )
    for group in optimizer.param_groups:
        assert [
            net.get_parameter(name) is p
            for name, p in zip(group["param_names"], group["params"], strict=True)
        ]
    assert optimizer.state_dict()["param_groups"][0]["param_names"] == [
        "token",
        "conv.weight",
        "head.bias.weight",
    ]


def test_nothing_to_train_is_refused() -> None:
    with pytest.raises(ValueError, match="no parameter to train. Set `requires_grad`"):
        named_groups(
            nn.Linear(2, 2).requires_grad_(False), lr=0.1, weight_decay=0.0, exclude="none"
        )
