import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from mezzotint.recipe.reading import DEMO, shipped
from mezzotint.recipe.recipe import Recipe, read_recipe, resolve_recipe
from mezzotint.recipe.schema import RecipeError

GOOD = """
data: {kind: embedded_images, name: digits}
encoder: {kind: resnet18, stem: small, width: 4}
method: {kind: simclr, hidden_dim: 16, dim: 8}
optimizer: {kind: sgd, lr: 5e-2}
"""


def written(folder: Path, text: str) -> Path:
    path = folder / "r.yaml"
    path.write_text(text, encoding="utf-8")
    return path


def test_defaults_are_filled_in_and_exponents_are_numbers(tmp_path: Path) -> None:
    config = read_recipe(written(tmp_path, GOOD))
    assert config["optimizer"]["lr"] == 0.05
    assert config["views"]["kind"] == "two_views" and config["schedule"]["kind"] == "cosine"
    assert config["run"]["epochs"] == 100


def test_overrides(tmp_path: Path) -> None:
    path = written(tmp_path, GOOD)
    config = read_recipe(
        path,
        [
            "method.dim=12",
            "run.compute.precision=bf16",
            "optimizer.kind=adamw",
            "optimizer.lr=1e-3",
        ],
    )
    assert config["method"]["dim"] == 12 and config["run"]["compute"]["precision"] == "bf16"
    assert config["optimizer"]["kind"] == "adamw" and "momentum" not in config["optimizer"]


@pytest.mark.parametrize(
    ("text", "override", "message"),
    [
        (
            GOOD + "metod: {}",
            "",
            "`metod` is not a section of a recipe, which has data.*Did you mean 'method'",
        ),
        (
            GOOD.replace("lr: 5e-2", "lrr: 5e-2"),
            "",
            "`optimizer.lrr` is not a key of sgd, which takes .*Did you mean 'lr'",
        ),
        (
            GOOD.replace("lr: 5e-2", "lr: high"),
            "",
            "`optimizer.lr` must be a number, got 'high'. See `mezzotint recipes sgd`",
        ),
        (
            GOOD.replace("simclr", "simcrl"),
            "",
            "`method.kind` must be one of .*, got 'simcrl'.*Did you mean 'simclr'",
        ),
        (
            GOOD.replace("stem: small", "stem: tiny"),
            "",
            "`encoder.stem` must be one of imagenet, small, patch, got 'tiny'",
        ),
        (
            "data: {kind: embedded_images}",
            "",
            "`encoder` is missing. A recipe needs the sections data, encoder, method, optimizer",
        ),
        ("- 1\n- 2", "", "must be a mapping with the sections .*, got a list"),
        ("", "", "must be a mapping with the sections .*, got nothing"),
        ("data: [", "", "not plain YAML"),
        ("a: 1\na: 2", "", "has the key 'a' twice in the mapping of line 1. Keep one"),
        ("a: &x 1\nb: *x", "", "YAML alias"),
        ("a: !!python/object/apply:os.system [touch hacked]", "", "not plain YAML"),
        ("[" * 50 + "]" * 50, "", "nested deeper than 20"),
        ("x: " + "a" * (1 << 21), "", "characters, and such a file has at most"),
        (GOOD, "run.epochs", "'run.epochs' is not an override. Write section.key=value"),
        (GOOD, "run.epoch=3", "`run.epoch` is not a key of run.*Did you mean 'epochs'"),
        (GOOD, "run..epochs=3", "is not an override. Write section.key=value"),
        (GOOD, "run.epochs=[", "not plain YAML"),
        (
            GOOD,
            "encoder.kind=${oc.env:HOME}",
            "`encoder.kind` must be one of .*, got '\\$\\{oc.env:HOME\\}'",
        ),
        (GOOD, "encoder._target_=torch.nn.Linear", "`encoder._target_` is not a key of"),
        (GOOD, "encoder.kind=os.system", "`encoder.kind` must be one of .*, got 'os.system'"),
    ],
)
def test_bad_recipes_are_refused_in_one_line(
    tmp_path: Path, text: str, override: str, message: str
) -> None:
    with pytest.raises(RecipeError) as caught:
        read_recipe(written(tmp_path, text), [override] if override else [])
    assert re.search(message, str(caught.value)), str(caught.value)
    assert "\n" not in str(caught.value)
    assert not Path("hacked").exists()


def test_an_unknown_recipe_names_the_nearest() -> None:
    with pytest.raises(RecipeError, match="Did you mean 'image/emoji_simclr'"):
        read_recipe("image/emoji_simcrl")


def test_refusal_comes_before_torch() -> None:
    code = (
        "import sys\nfrom mezzotint.recipe.recipe import read_recipe\n"
        "try: read_recipe('image/emoji_simclr', ['method.kind=nothing'])\n"
        "except ValueError as e: print('torch' in sys.modules, e)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True
    )
    assert done.stdout.startswith("False `method.kind` must be one of")


@pytest.mark.parametrize("name", shipped())
def test_shipped_recipes_have_a_header_and_resolve(name: str) -> None:
    text = shipped()[name].read_text(encoding="utf-8")
    assert len(text.splitlines()) <= 60
    header = [line for line in text.splitlines() if line.startswith("#")]
    verb = "mezzotint finetune" if name.startswith("supervised/") else f"mezzotint pretrain {name}"
    assert verb in "\n".join(header) or f"mezzotint pretrain {name}" in "\n".join(header)
    assert "cost" in "\n".join(header).lower() and "expected" in "\n".join(header).lower()
    config = read_recipe(name)
    assert resolve_recipe(config) == config


def test_yaml_round_trip_gives_the_same_objects(tmp_path: Path) -> None:
    recipe = Recipe.load(DEMO)
    path = written(tmp_path, recipe.to_yaml())
    again = Recipe.load(path)
    assert again.config() == recipe.config() == read_recipe(DEMO)
    for (name, first), second in zip(
        recipe.method.state_dict().items(), again.method.state_dict().values(), strict=True
    ):
        assert torch.equal(first, second), name


def test_the_seed_decides_the_weights(tmp_path: Path) -> None:
    path = written(tmp_path, GOOD)
    first, other = Recipe.load(path), Recipe.load(path, ["run.seed=1"])
    assert not torch.equal(first.encoder.conv1.weight, other.encoder.conv1.weight)  # type: ignore[union-attr, arg-type]
    untrained = first.untrained_encoder(1)
    assert not torch.equal(first.encoder.conv1.weight, untrained.conv1.weight)  # type: ignore[union-attr, arg-type]
