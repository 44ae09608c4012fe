"""Roles are found by comparing two models, kept as plain data, and errors name the parameter."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from mezzotint.optim.mup import (
    BaseShapes,
    get_base_shapes,
    load_base_shapes,
    make_base_shapes,
    save_base_shapes,
    set_base_shapes,
)
from mezzotint.optim.mup.shapes import bare, compare, growth
from tests.optim.mup.models import CNN, MLP, Transformer


def on_meta(architecture: type[nn.Module], width: int) -> nn.Module:
    with torch.device("meta"):
        return architecture(width)


def test_widths_are_the_dimensions_that_differ_and_meta_models_will_do() -> None:
    found = make_base_shapes(on_meta(CNN, 8), on_meta(CNN, 24))
    assert found["conv1.weight"] == (8, None, None, None)
    assert found["conv2.weight"] == (16, 8, None, None)
    assert found["readout.weight"] == (None, 8)
    assert found["norm.weight"] == (8,)
    assert found == make_base_shapes(CNN(8), CNN(24))


def test_roles_and_multipliers_of_a_transformer() -> None:
    model = set_base_shapes(
        Transformer(96), on_meta(Transformer, 32), delta=on_meta(Transformer, 64)
    )
    grown = growth(model)
    roles = {name: g.role for name, g in grown.items()}
    assert roles["table.weight"] == roles["positions"] == "input"
    assert roles["layers.0.q.weight"] == roles["layers.1.down.weight"] == "hidden"
    assert roles["readout.weight"] == "output" and roles["readout.bias"] == "scalar"
    assert roles["layers.0.norm1.weight"] == roles["layers.0.q.bias"] == "vector"
    assert {g.width for g in grown.values() if g.role != "scalar"} == {3.0}
    assert grown["layers.0.up.weight"].fan_in == grown["layers.0.up.weight"].fan_out == 3.0


def test_dimensions_may_grow_at_different_rates() -> None:
    base, delta = nn.Linear(4, 8), nn.Linear(8, 32)
    model = set_base_shapes(nn.Linear(16, 16), base, delta=delta)
    grown = growth(model)["weight"]
    assert (grown.fan_in, grown.fan_out, grown.width) == (4.0, 2.0, 4.0)


class Odd(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.up = nn.ConvTranspose2d(3, width, 2)
        self.depthwise = nn.Conv2d(width, width, 3, groups=width)
        self.depthwise_up = nn.ConvTranspose2d(width, width, 4, groups=width)
        self.grouped_up = nn.ConvTranspose2d(width, width, 4, groups=2)
        self.attention = nn.MultiheadAttention(width, 2)
        self.scale = nn.Parameter(torch.zeros(()))


def test_transposed_depthwise_and_packed_weights_have_the_right_roles() -> None:
    grown = growth(set_base_shapes(Odd(16), Odd(4), delta=Odd(8)))
    assert grown["up.weight"].role == "input"
    assert grown["depthwise.weight"].role == grown["depthwise_up.weight"].role == "input"
    assert grown["depthwise_up.weight"].width == 4.0 and grown["grouped_up.weight"].role == "hidden"
    packed = grown["attention.in_proj_weight"]
    assert (packed.role, packed.fan_in, packed.fan_out) == ("hidden", 4.0, 4.0)
    assert grown["attention.in_proj_bias"].role == "vector"
    assert grown["scale"].role == "scalar"


@pytest.mark.parametrize("kind", [str, Path])
def test_a_file_of_base_shapes_goes_round(tmp_path: Path, kind: type[Any]) -> None:
    file = kind(tmp_path / "base.json")
    found = make_base_shapes(MLP(8), MLP(16), savefile=file)
    assert load_base_shapes(file) == found
    assert json.loads(Path(file).read_text())["readout.weight"] == [None, 8]
    model = set_base_shapes(MLP(32), file, savefile=str(tmp_path / "again.json"))
    assert get_base_shapes(model) == found == load_base_shapes(tmp_path / "again.json")


def test_a_dictionary_of_shapes_or_of_base_shapes_will_do() -> None:
    shapes = {name: tuple(p.shape) for name, p in MLP(8).named_parameters()}
    known: dict[str, Any] = dict(make_base_shapes(MLP(8), MLP(16)))
    expected = get_base_shapes(set_base_shapes(MLP(32), MLP(8)))
    assert get_base_shapes(set_base_shapes(MLP(32), shapes)) == expected
    assert get_base_shapes(set_base_shapes(MLP(32), known)) == expected


def test_names_lose_what_wrappers_put_before_them_and_nothing_else() -> None:
    assert bare(["module.embed.w"]) == {"module.embed.w": "embed.w"}
    assert bare(["_orig_mod.module.x"]) == {"_orig_mod.module.x": "x"}
    for names in (["modules.x"], ["module.x", "x"], ["x", "module.x"], []):  # parts of one's own
        assert bare(names) == {name: name for name in names}
    shapes = {f"module.{name}": tuple(p.shape) for name, p in MLP(8).named_parameters()}
    assert compare(shapes, MLP(16)) == make_base_shapes(MLP(8), MLP(16))


def test_another_architecture_is_refused_by_the_name_of_a_parameter() -> None:
    with pytest.raises(ValueError, match="`conv1.bias` is in the model alone"):
        compare(MLP(8), CNN(16))
    with pytest.raises(ValueError, match="`weight` has 4 dimensions, and 2 in the base shapes"):
        compare(nn.Linear(3, 4, bias=False), nn.Conv2d(3, 4, 1, bias=False))


class Cube(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.cube = nn.Parameter(torch.zeros(width, width, width))


def test_a_lazy_module_is_refused_until_it_has_sizes() -> None:
    lazy = nn.LazyLinear(8)
    with pytest.raises(ValueError, match="`weight` has no size yet: its module is lazy"):
        make_base_shapes(nn.Linear(3, 4), lazy)
    lazy(torch.zeros(1, 3))
    assert make_base_shapes(nn.Linear(3, 4), lazy)["weight"] == (4, None)


def test_three_widths_in_one_parameter_are_refused_by_its_name() -> None:
    with pytest.raises(ValueError, match=r"`cube` of shape \(8, 8, 8\) grows in .*\[0, 1, 2\]"):
        set_base_shapes(Cube(8), Cube(2), delta=Cube(4))


class Own(nn.Module):
    """Parameters that belong to no layer of torch."""

    def __init__(self, width: int, *sizes: int) -> None:
        super().__init__()
        self.own = nn.Parameter(
            torch.zeros([width * -size if size < 0 else size for size in sizes])
        )


@pytest.mark.parametrize(
    ("sizes", "role"),
    [((4, -1, -2), "hidden"), ((4, -2, -1), "hidden"), ((-1, -1, 3, 3), "hidden"),
     ((1, 7, -1), "input"), ((1, -1, 8, 8), "input"), ((-1, 3, 3, 3), "input"), ((-1,), "vector")],
)  # fmt: skip
def test_roles_of_parameters_of_ones_own(sizes: tuple[int, ...], role: str) -> None:
    """Stacked experts, raw kernels, positions of sequences and of images."""
    (grown,) = growth(
        set_base_shapes(Own(16, *sizes), Own(4, *sizes), delta=Own(8, *sizes))
    ).values()
    assert (grown.role, grown.width) == (role, 4.0)


def test_a_width_between_fixed_sizes_is_refused_by_the_name() -> None:
    sizes = (4, -1, 10)  # readouts of four experts, or four maps of ten positions
    with pytest.raises(
        ValueError, match=r"`own` .* dimension 1 alone.*Put a width of outputs last"
    ):
        set_base_shapes(Own(16, *sizes), Own(4, *sizes), delta=Own(8, *sizes))


@pytest.mark.parametrize("text", ["[1, 2]", "a: {b: 1}", "a: [x]", "\t: ["])
def test_a_file_of_something_else_is_refused(tmp_path: Path, text: str) -> None:
    file = tmp_path / "base.json"
    file.write_text(text)
    with pytest.raises(ValueError, match="holds no base shapes"):
        load_base_shapes(file)
    with pytest.raises(ValueError, match="is no file"):
        load_base_shapes(tmp_path / "nowhere.json")


def test_shapes_without_a_known_width_cannot_be_saved(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no base shapes"):
        save_base_shapes(MLP(8), tmp_path / "x.json")
    with pytest.raises(TypeError, match="no width is known"):
        save_base_shapes({"a": (1,)}, tmp_path / "x.json")  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="got int"):
        compare(3, MLP(8))  # type: ignore[arg-type]


def test_base_shapes_survive_as_a_mapping_of_their_own_type() -> None:
    assert isinstance(make_base_shapes(MLP(8), MLP(16)), BaseShapes)
