"""`set_base_shapes`: nothing changes at the base width, and mistakes are named."""

import copy
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from mezzotint.optim.mup import MuAdam, MuReadout, MuSGD, MuSharedReadout, set_base_shapes
from tests.optim.mup.models import ARCHITECTURES, MLP, batch


def standard(model: nn.Module) -> nn.Module:
    """The same model with plain linears for readouts."""
    twin = copy.deepcopy(model)
    for name, module in list(twin.named_modules()):
        if isinstance(module, MuReadout):
            plain = nn.Linear(module.in_features, module.out_features)
            plain.load_state_dict(module.state_dict())
            parent = twin.get_submodule(name.rpartition(".")[0])
            setattr(parent, name.rpartition(".")[2], plain)
    return twin


@pytest.mark.parametrize("name", list(ARCHITECTURES))
@pytest.mark.parametrize("kind", ["sgd", "adam"])
def test_at_the_base_width_all_is_bit_equal_to_the_standard_parametrization(
    name: str, kind: str
) -> None:
    architecture = ARCHITECTURES[name]
    torch.manual_seed(0)
    model = architecture(16)
    plain = standard(model)
    set_base_shapes(model, architecture(16), delta=architecture(32))
    ours = {"sgd": MuSGD, "adam": MuAdam}[kind](model.parameters(), lr=0.01)
    theirs = {"sgd": torch.optim.SGD, "adam": torch.optim.Adam}[kind](plain.parameters(), lr=0.01)
    assert [(g["lr"], len(g["params"])) for g in ours.param_groups] == [
        (g["lr"], len(g["params"])) for g in theirs.param_groups
    ]
    for seed in range(2):
        x, y = batch(name, seed)
        for one, optimizer in ((model, ours), (plain, theirs)):
            optimizer.zero_grad()
            torch.autograd.backward(F.cross_entropy(one(x), y))
            optimizer.step()
    for own, other in zip(model.parameters(), plain.parameters(), strict=True):
        assert torch.equal(own, other)


def test_readouts_and_biases_start_with_a_width_free_deviation() -> None:
    torch.manual_seed(0)
    narrow, wide = (set_base_shapes(MLP(w), MLP(64), delta=MLP(128)) for w in (64, 1024))
    for name in ("readout.weight", "second.bias", "first.weight"):
        ratio = wide.get_parameter(name).std() / narrow.get_parameter(name).std()
        assert float(ratio.detach()) == pytest.approx(1.0, abs=0.2), name
    hidden = wide.second.weight.std() / narrow.second.weight.std()
    assert float(hidden.detach()) == pytest.approx(0.25, abs=0.02)


def test_without_a_base_the_parametrization_is_standard() -> None:
    torch.manual_seed(0)
    model = MLP(32)
    before = copy.deepcopy(model.state_dict())
    set_base_shapes(model, None)
    assert all(torch.equal(before[k], v) for k, v in model.state_dict().items())
    assert model.readout.width_mult() == 1.0
    assert len(MuAdam(model, lr=1.0).param_groups) == 1


def test_a_base_as_wide_as_the_model_is_refused_without_a_second_width() -> None:
    with pytest.raises(ValueError, match="as wide as the model.*Pass `delta`"):
        set_base_shapes(MLP(16), MLP(16))
    set_base_shapes(MLP(16), MLP(16), delta=MLP(32))


class Fixed(nn.Module):
    def __init__(self, width: int, kind: str) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, width, 1)
        self.head: nn.Module = nn.Identity()
        if kind == "linear":
            self.head = nn.Linear(width, 5)
        elif kind == "conv":
            self.head = nn.Conv2d(width, 5, 1)
        elif kind == "transposed":
            self.head = nn.ConvTranspose2d(width, 5, 1)
        else:
            self.head = nn.GRU(width, 5)


@pytest.mark.parametrize("kind", ["linear", "conv", "transposed", "recurrent"])
def test_a_plain_layer_from_a_width_to_a_fixed_size_is_refused_by_name(kind: str) -> None:
    with pytest.raises(ValueError, match=r"`head.weight\w*` leads from a width to a fixed size"):
        set_base_shapes(Fixed(16, kind), Fixed(4, kind), delta=Fixed(8, kind))
    set_base_shapes(Fixed(16, kind), Fixed(4, kind), delta=Fixed(8, kind), do_assert=False)


def test_a_readout_whose_output_differs_is_refused_without_a_second_width() -> None:
    """A network for other classes than the base's: their number would be taken for a width."""

    def made(width: int, classes: int) -> nn.Module:
        return nn.Sequential(nn.Linear(5, width), MuReadout(width, classes))

    with pytest.raises(ValueError, match="`1` is a readout, and its output differs.*pass `delta`"):
        set_base_shapes(made(32, 10), made(8, 3))
    set_base_shapes(made(32, 10), made(8, 3), delta=made(16, 3))


def test_a_second_call_would_rescale_again_and_is_refused() -> None:
    model = set_base_shapes(MLP(32), MLP(8))
    weight = model.readout.weight.detach().clone()
    with pytest.raises(ValueError, match="`rescale_params=False`"):
        set_base_shapes(model, MLP(8))
    set_base_shapes(model, MLP(16), rescale_params=False)
    assert torch.equal(weight, model.readout.weight)
    assert model.readout.width_mult() == 2.0


class Tied(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.table = nn.Embedding(10, width)
        self.inner = nn.Linear(width, width)
        self.out = MuSharedReadout(self.table.weight)

    def forward(self, x: torch.Tensor) -> Any:
        return self.out(self.inner(self.table(x)))


def test_a_shared_readout_keeps_the_weight_of_its_embedding() -> None:
    torch.manual_seed(0)
    model = Tied(64)
    table = model.table.weight.detach().clone()
    set_base_shapes(model, Tied(16), delta=Tied(32))
    assert model.out.weight is model.table.weight and torch.equal(table, model.table.weight)
    assert model.out.width_mult() == 4.0
    x = torch.arange(10)
    expected = model.inner(model.table(x)) / 4.0 @ table.T + model.out.bias
    torch.testing.assert_close(model(x), expected)
    rates = {p: g["lr"] for g in MuAdam(model, lr=1.0).param_groups for p in g["param_names"]}
    assert rates["table.weight"] == 1.0 and rates["inner.weight"] == 0.25


@pytest.mark.parametrize("first", ["table", "out"])
def test_a_plain_linear_with_the_weight_of_an_embedding_is_refused_by_its_name(first: str) -> None:
    """Language models tie their last layer, and named_parameters names the first owner alone."""

    def made(width: int) -> nn.Module:
        table, out = nn.Embedding(10, width), nn.Linear(width, 10, bias=False)
        out.weight = table.weight
        parts = {"table": table, "out": out}
        return nn.ModuleDict({name: parts[name] for name in sorted(parts, key=first.__ne__)})

    with pytest.raises(ValueError, match=r"`out.weight` leads from a width.*a MuSharedReadout"):
        set_base_shapes(made(32), made(8), delta=made(16))


def test_shared_parameters_are_rescaled_once_and_those_of_an_embedding_never() -> None:
    def made(width: int) -> Any:
        torch.manual_seed(0)
        parts = nn.ModuleList([nn.Embedding(5, width), *(MuReadout(width, 5) for _ in range(3))])
        parts[1].weight = parts[0].weight
        parts[3].weight, parts[3].bias = parts[2].weight, parts[2].bias
        return parts

    drawn, model = made(64), set_base_shapes(made(64), made(16), delta=made(32))
    assert torch.equal(model[1].weight, drawn[0].weight)
    assert torch.equal(model[3].weight, 2 * drawn[2].weight)
    assert torch.equal(model[3].bias, 2 * drawn[2].bias)


def test_biases_of_packed_attention_are_rescaled_too() -> None:
    def attention(width: int) -> nn.MultiheadAttention:
        made = nn.MultiheadAttention(width, 2)
        nn.init.ones_(made.in_proj_bias)
        return made

    model = set_base_shapes(attention(16), attention(4), delta=attention(8))
    assert torch.equal(model.in_proj_bias, torch.full((48,), 2.0))


@pytest.mark.parametrize(
    ("layer", "std"),
    [
        (lambda w: nn.GRU(5, w, num_layers=2), {"weight_ih_l0": 1.0, "weight_ih_l1": 0.5,
                                                "weight_hh_l0": 0.5, "bias_ih_l1": 1.0}),
        (lambda w: nn.LSTM(w, w, proj_size=w // 4), {"weight_ih_l0": 0.5, "weight_hr_l0": 0.5}),
        (lambda w: nn.RNNCell(5, w), {"weight_ih": 1.0, "weight_hh": 0.5, "bias_hh": 1.0}),
        (lambda w: nn.ConvTranspose2d(3, w, 2), {"weight": 1.0, "bias": 1.0}),
        (lambda w: nn.ConvTranspose2d(w, 2 * w, 2), {"weight": 0.5, "bias": 1.0}),
        (lambda w: nn.MultiheadAttention(w, w // 16, kdim=40, vdim=w, add_bias_kv=True),
         {"k_proj_weight": 1.0, "v_proj_weight": 0.5, "q_proj_weight": 0.5, "bias_k": 1.0}),
        (lambda w: nn.Bilinear(2, w, w), {"weight": 0.5}),
        (lambda w: nn.Bilinear(w, 2, w), {"weight": 0.5, "bias": 1.0}),
    ],
    ids=["gru", "lstm", "cell", "transposed stem", "transposed", "attention", "second", "first"],
)  # fmt: skip
def test_weights_that_torch_draws_by_another_size_than_their_inputs(
    layer: Any, std: dict[str, float]
) -> None:
    """Four times the width: hidden weights shrink by 2, and everything else stays."""
    torch.manual_seed(0)
    narrow, wide = (set_base_shapes(layer(w), layer(64), delta=layer(128)) for w in (64, 256))
    for name, expected in std.items():
        ratio = wide.get_parameter(name).std() / narrow.get_parameter(name).std()
        assert float(ratio.detach()) == pytest.approx(expected, rel=0.15), name


@pytest.mark.parametrize("rescale", [True, False])
@pytest.mark.parametrize(
    "layer",
    [
        lambda w: nn.utils.parametrizations.weight_norm(nn.Linear(3, w)),
        lambda w: nn.utils.parametrizations.weight_norm(nn.LSTM(3, w), "weight_hh_l0"),
        lambda w: nn.utils.parametrizations.spectral_norm(nn.Embedding(3, w)),
        lambda w: nn.utils.spectral_norm(nn.Conv1d(3, w, 1)),
    ],
    ids=["linear", "lstm", "embedding", "hook"],
)
def test_a_parametrization_is_refused(layer: Any, rescale: bool) -> None:
    def made(width: int) -> nn.Module:
        return nn.Sequential(nn.Linear(2, width), layer(width))

    with pytest.raises(ValueError, match="Weights of `1` are computed by a parametrization"):
        set_base_shapes(made(16), made(4), rescale_params=rescale, delta=made(8))
    set_base_shapes(made(16), None)  # the standard parametrization takes any layer
