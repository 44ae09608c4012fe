"""Starting from a run, an encoder, a file or a folder: what is loaded, and what is refused."""

import json
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from safetensors.torch import save_file

from mezzotint.data.image.embedded import EmbeddedImages
from mezzotint.data.table.table import Table
from mezzotint.data.tokens.tokens import Tokens
from mezzotint.encoders.domain_agnostic import DomainAgnostic
from mezzotint.encoders.encoder import Encoder
from mezzotint.encoders.resnet1d import ResNet1D
from mezzotint.encoders.rows import TableMLP
from mezzotint.encoders.saving import load_encoder, save_encoder
from mezzotint.encoders.vit import ViT
from mezzotint.methods.simclr import SimCLR
from mezzotint.recipe.recipe import Plan, Recipe, resolve_recipe
from mezzotint.recipe.schema import RecipeError
from mezzotint.train.init import Init
from mezzotint.train.loop import pretrain
from mezzotint.types import Input
from tests.tiny import config


def build(method: str = "simclr", init: dict[str, Any] | None = None, **changes: Any) -> Recipe:
    plain = config(method)
    for key, value in changes.items():
        plain[key] = value
    return Recipe.build(resolve_recipe(plain | ({"init": init} if init else {})))


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run of BYOL, whose heads and momentum copy can be loaded."""
    return pretrain(build("byol"), tmp_path_factory.mktemp("init") / "run", progress="quiet")


def test_heads_and_momentum_copy_come_from_a_run_of_the_method(run: Path) -> None:
    recipe = build("byol", {"path": str(run)})
    assert recipe.init is not None
    notes = recipe.init.load(recipe.method)
    assert "target_encoder" in notes[1] and "projector" in notes[1]
    trained = load_encoder(run)
    for name, tensor in recipe.encoder.state_dict().items():
        assert torch.equal(tensor, trained.state_dict()[name])
    target = recipe.method.branches()["target"].encoder.state_dict()
    assert not torch.equal(target["conv1.weight"], recipe.encoder.state_dict()["conv1.weight"])


@pytest.mark.parametrize("method", ["byol", "moco", "mocov3", "dino"])
def test_a_momentum_copy_starts_as_the_encoder(method: str, run: Path) -> None:
    init = {"path": str(run / "encoder"), "heads": "fresh"}
    recipe = build(method, init)
    assert recipe.init is not None
    assert recipe.init.load(recipe.method)[1] == "heads: fresh"
    branches = recipe.method.branches()
    for name, tensor in branches["target"].encoder.state_dict().items():
        assert torch.equal(tensor, recipe.encoder.state_dict()[name])
    online, target = branches["online"].projector, branches["target"].projector
    assert online is not None and target is not None
    for own, copied in zip(online.parameters(), target.parameters(), strict=True):
        assert torch.equal(own, copied)


def test_a_float_start_is_trained_at_low_bits(run: Path) -> None:
    recipe = build("ssql", {"path": str(run)})
    assert recipe.init is not None
    recipe.init.load(recipe.method)
    kernel = recipe.encoder.state_dict()["conv1.weight"]
    assert torch.equal(kernel, load_encoder(run).state_dict()["conv1.weight"])


def test_a_hub_folder_of_timm_is_a_start(tmp_path: Path) -> None:
    theirs = timm.create_model("resnet10t", num_classes=0, in_chans=1)
    save_file(theirs.state_dict(), tmp_path / "model.safetensors")
    recipe = build(init={"path": str(tmp_path)}, encoder={"kind": "timm", "name": "resnet10t"})
    assert recipe.init is not None
    assert "loaded" in recipe.init.load(recipe.method)[0]
    own = recipe.encoder.state_dict()
    assert all(torch.equal(own[f"model.{n}"], t) for n, t in theirs.state_dict().items())
    before = recipe.encoder.input
    for mean, used in (([0.25], (0.25,)), ([0.1, 0.2, 0.3], before.mean)):  # of other channels
        stated = {"mean": mean, "std": [0.125] * len(mean)}
        config = {"architecture": "resnet10t", "pretrained_cfg": stated}
        (tmp_path / "config.json").write_text(json.dumps(config))
        recipe = build(init={"path": str(tmp_path)}, encoder={"kind": "timm", "name": "resnet10t"})
        assert recipe.init is not None
        recipe.init.load(recipe.method)
        assert recipe.encoder.input.mean == used
    odd = ({"mean": "abc", "std": "abc"}, {"mean": [0.5], "std": [0.0]}, {"mean": 0.5})
    for other in (None, *odd):
        written = {"pretrained_cfg": None, **(other or {})}
        (tmp_path / "config.json").write_text(json.dumps(written))
        recipe = build(init={"path": str(tmp_path)}, encoder={"kind": "timm", "name": "resnet10t"})
        assert recipe.init is not None
        if other:
            with pytest.raises(RecipeError, match="config.json` must be lists of finite numbers"):
                recipe.init.load(recipe.method)
        else:
            recipe.init.load(recipe.method)
            assert recipe.encoder.input.mean == before.mean


def test_positions_and_channels_are_adapted_and_said(tmp_path: Path) -> None:
    sizes = {"width": 16, "depth": 2, "heads": 2, "patch": 4, "positions": "learned"}
    start = ViT(Input((3, 16, 16), (0.5,) * 3, (0.25,) * 3), **sizes)  # type: ignore[arg-type]
    save_encoder(start, tmp_path / "start")
    recipe = build(init={"path": str(tmp_path / "start")}, encoder={"kind": "vit", **sizes})
    assert recipe.init is not None
    said = recipe.init.load(recipe.method)[0]
    assert "patches.project.weight adapted from 3 to 1 channels" in said
    assert "positions resized from (4, 4) to (2, 2)" in said
    name = "patches.project.weight"
    kernel = start.state_dict()[name].view(16, 3, 16).sum(dim=1)
    assert torch.allclose(recipe.encoder.state_dict()[name], kernel)


def test_columns_and_tokens_of_another_meaning_are_refused(tmp_path: Path) -> None:
    """They have the shape of the start's."""

    def table(names: str, **keys: Any) -> Table:
        file = tmp_path / f"{names}.csv"
        rows = [",".join(f"{value + 0.5 * n}" for n in range(len(names))) for value in range(30)]
        file.write_text("\n".join([",".join(names), *rows]))
        return Table(path=str(file), y=None, **keys)

    ab = table("ab")
    save_encoder(TableMLP(ab.input, width=4, layers=3), tmp_path / "table", source=ab)
    init = Init(path=str(tmp_path / "table"))

    def load(source: Any, encoder: Encoder) -> list[str]:
        return init.load(SimCLR(encoder, hidden_dim=4, dim=4), source)

    assert "standardized" not in load(ab, TableMLP(ab.input, width=4, layers=3))[0]
    (tmp_path / "ab.csv").write_text("a,b\n" + "1,2\n5,4\n" * 15)
    moved = Table(path=str(tmp_path / "ab.csv"), y=None)
    assert (
        "columns are standardized by this data"
        in load(moved, TableMLP(moved.input, width=4, layers=3))[0]
    )
    for names in ("ba", "abc"):
        other = table(names)
        with pytest.raises(ValueError, match="takes the columns a, b, in this order.*data.fitted"):
            load(other, TableMLP(other.input, width=4, layers=3))
        fitted = table(names, fitted=str(tmp_path / "table"))
        assert load(fitted, TableMLP(fitted.input, width=4, layers=3))

    def tokens(*words: str) -> Tokens:
        (tmp_path / "words.txt").write_text("\n".join(words))
        (tmp_path / "text.txt").write_text("\n".join(" ".join(words) for _ in range(30)))
        path, tokenizer = str(tmp_path / "text.txt"), str(tmp_path / "words.txt")
        return Tokens(path=path, tokenizer=tokenizer, length=4)

    source = tokens("one", "two", "three")
    start = DomainAgnostic(source.input, width=8, depth=1, heads=2)
    save_encoder(start, tmp_path / "text", source=source)
    init = Init(path=str(tmp_path / "text"))
    assert load(source, load_encoder(tmp_path / "text"))
    other_words = tokens("uno", "due", "tre")
    with pytest.raises(ValueError, match="was trained with another tokenizer.*data.tokenizer="):
        load(other_words, load_encoder(tmp_path / "text"))


def test_other_channels_and_front_ends_are_said(tmp_path: Path) -> None:
    start = ResNet1D(Input((2, 64), (0.0,) * 2, (1.0,) * 2, modality="series"), width=4)
    start.preprocessing = {"channels": ["x", "y"], "front_end": {"hop": 160, "mels": 64}}
    save_encoder(start, tmp_path / "start")

    class Described(EmbeddedImages):
        def preprocessing(self) -> dict[str, Any]:
            return {"channels": ["y", "x"], "front_end": {"hop": 320, "mels": 64}}

    method = SimCLR(load_encoder(tmp_path / "start"), hidden_dim=4, dim=4)
    (said, _) = Init(path=str(tmp_path / "start")).load(method, Described(name="digits"))
    assert "another front-end (hop 320 instead of 160); channels y, x instead of x, y" in said


def test_what_cannot_be_a_start_is_refused(run: Path, tmp_path: Path) -> None:
    def load(path: Path | str, **changes: Any) -> None:
        recipe = build(init={"path": str(path)}, **changes)
        assert recipe.init is not None
        recipe.init.load(recipe.method)

    with pytest.raises(RecipeError, match="`init.path` must be a run, an encoder directory, a fil"):
        load(tmp_path / "nothing")
    with pytest.raises(RecipeError, match=r"has width 2, and the recipe's has 4"):
        load(run, encoder={"kind": "resnet18", "stem": "small", "width": 4})
    series = tmp_path / "series"
    save_encoder(_of_series(), series)
    with pytest.raises(RecipeError, match="is an encoder of time series, and `data` has images"):
        load(series)
    (tmp_path / "odd.safetensors").write_bytes(b"no tensors")
    with pytest.raises(ValueError, match="is not a readable safetensors file"):
        load(tmp_path / "odd.safetensors")


def _of_series() -> Any:
    return ResNet1D(Input((3, 64), (0.0,) * 3, (1.0,) * 3, modality="series"))


def test_init_starts_the_first_phase_alone() -> None:
    plain = config() | {"phases": [{}, {"init": {"path": "runs/first"}}]}
    with pytest.raises(RecipeError, match="`init` starts the first phase alone"):
        Plan.of(plain)
    with pytest.raises(RecipeError, match="`init` and `load.encoder` both say where"):
        Plan.of(config() | {"init": {"path": "a"}, "load": {"encoder": "b"}})
    with pytest.raises(RecipeError, match="`init.warmup_steps` must be at least 0"):
        Init(path="x", warmup_steps=-1)


def test_the_description_of_a_run_names_its_start(run: Path, tmp_path: Path) -> None:
    init = {"path": str(run), "keep": "last"}
    made = pretrain(build(init=init), tmp_path / "run", progress="quiet")
    made_by = json.loads((made / "encoder" / "encoder.json").read_text())["made_by"]
    assert made_by["recipe"]["init"]["path"] == str(run)
