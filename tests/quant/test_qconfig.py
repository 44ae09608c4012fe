"""Policies by name, and what each of them quantizes in one network."""

import pytest
from torch import nn

from mezzotint import quant
from mezzotint.quant.convert import quantized_layers
from mezzotint.quant.qconfig import POLICIES, QuantizationPolicy, policy_of


def network() -> nn.Sequential:
    return nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 2))


def test_a_policy_is_found_by_name_or_passed_through() -> None:
    for name, policy in POLICIES.items():
        assert policy_of(name) is policy and policy.name == name
    own = QuantizationPolicy("own", placement="none")
    assert policy_of(own) is own
    with pytest.raises(
        ValueError,
        match="`policy` must be ssql, all, first_last_8 or a QuantizationPolicy, got 'most'",
    ):
        policy_of("most")


@pytest.mark.parametrize(
    ("name", "fixed", "inputs"),
    [
        ("ssql", [8, None, None], [False, True, True]),
        ("all", [None, None, None], [True, True, True]),
        ("first_last_8", [8, None, 8], [True, True, True]),
    ],
)
def test_fixed_bits_and_quantized_inputs_of_each_policy(
    name: str, fixed: list[int | None], inputs: list[bool]
) -> None:
    net = network()
    quant.quantize_(net, name)
    layers = [layer for _, layer in quantized_layers(net)]
    assert [layer.weight_quantizer.fixed_bits for layer in layers] == fixed
    assert [layer.input_quantizer is not None for layer in layers] == inputs


def test_skipped_layers_stay_fp32() -> None:
    net = network()
    done = quant.quantize_(net, QuantizationPolicy("skip", placement="none", skip=("2",)))
    assert [name for name, _ in quantized_layers(net)] == ["0", "4"]
    assert done.skipped == {"2": "named in the policy's skip"} and "fp32       2: " in str(done)
