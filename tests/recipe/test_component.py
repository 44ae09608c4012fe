"""Objects remember the name and the arguments that a recipe needs to make them again."""

from pathlib import Path

import numpy as np
import pytest

from mezzotint.augment.randomized_quantization.transform import RandomizedQuantization
from mezzotint.data.points.clouds import point_clouds
from mezzotint.data.table.table import Table
from mezzotint.encoders.resnet import resnet8
from mezzotint.methods.simsiam import SimSiam
from mezzotint.recipe.component import Component, as_config, factory, kind_of
from mezzotint.recipe.schema import construct, resolve
from mezzotint.recipe.signatures import index
from mezzotint.types import Input


@pytest.mark.parametrize(
    ("name", "kind"), [("TwoViews", "two_views"), ("ImageFolder", "image_folder"), ("SGD", "sgd")]
)
def test_kind_of_a_class(name: str, kind: str) -> None:
    assert kind_of(name) == kind


def test_a_class_may_say_its_kind() -> None:
    assert SimSiam.kind == "simsiam" and index().classes["SimSiam"].kind == "simsiam"


def test_constructed_objects_remember_their_arguments() -> None:
    config = resolve({"epochs": 3, "log": {"every_steps": 2}}, "Run", "run")
    made = construct(config, "Run", {})
    assert made.epochs == 3 and made.log.every_steps == 2
    assert resolve(made.config, "Run", "run") == config


class Inner(Component, kind="inner_part"):
    def __init__(self, *, size: int = 3) -> None:
        self.size = size


class Outer(Component):
    def __init__(self, injected: object, *, inner: Inner, sizes: tuple[int, ...] = (1, 2)) -> None:
        self.inner = inner


class Further(Outer):
    def __init__(self, injected: object, *, more: Path) -> None:
        super().__init__(injected, inner=Inner(size=4))


def test_the_config_has_keywords_and_no_injected_argument() -> None:
    made = Outer("an encoder", inner=Inner(size=5), sizes=(7, 8))
    inner = {"kind": "inner_part", "size": 5}
    assert made.config == {"kind": "outer", "inner": inner, "sizes": [7, 8]}


def test_the_outermost_class_is_the_one_that_was_named() -> None:
    made = Further("an encoder", more=Path("a/b"))
    assert made.config == {"kind": "further", "more": "a/b"}
    assert made.inner.config == {"kind": "inner_part", "size": 4}


def test_a_factory_names_the_function_and_not_the_class() -> None:
    @factory
    def double(*, size: int) -> Inner:
        return Inner(size=2 * size)

    assert double(size=4).config == {"kind": "double", "size": 4} and double(size=4).size == 8
    encoder = resnet8(Input((3, 8, 8), (0.5,) * 3, (0.5,) * 3), width=2)
    assert encoder.config == {"kind": "resnet8", "width": 2}


def test_arguments_become_plain_data() -> None:
    value = {"a": (1, [Inner(size=1)]), 2: None}
    assert as_config(value) == {"a": [1, [{"kind": "inner_part", "size": 1}]], "2": None}


def test_one_key_may_be_given_by_position() -> None:
    """As RandQuant's README writes it: `RandomizedQuantization(8)`."""
    for made in (RandomizedQuantization(4), RandomizedQuantization(bins=4)):
        assert made.bins == 4 and made.config == {"kind": "randomized_quantization", "bins": 4}
    assert RandomizedQuantization().config == {"kind": "randomized_quantization"}
    entry = index().classes["RandomizedQuantization"]
    keys = list(entry.keys)
    assert keys[0] == "bins" and entry.keys["bins"].default == 8 and "spacing" in keys
    with pytest.raises(TypeError, match="positional"):
        RandomizedQuantization(4, "random")  # type: ignore[call-arg]
    with pytest.raises(TypeError):
        RandomizedQuantization(4, bins=5)  # type: ignore[misc]


def test_a_home_directory_is_expanded_in_python_as_in_recipes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "t.csv").write_text("a,label\n1,x\n2,y\n3,x\n4,y\n")
    for path in ("~/t.csv", Path("~/t.csv")):
        source = Table(path=path)  # type: ignore[arg-type]
        assert source.config["path"] == str(tmp_path / "t.csv")
    np.savez(tmp_path / "c.npz", x=np.random.default_rng(0).normal(size=(2, 8, 3)))
    assert point_clouds(path="~/c.npz", points=4).config["path"] == str(tmp_path / "c.npz")
    assert Table(path=str(tmp_path / "t.csv"), y="label").config["y"] == "label"
