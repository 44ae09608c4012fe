"""Overrides are read by the type that is wanted: text stays text, everything else is YAML."""

from pathlib import Path
from typing import Any

import pytest

from mezzotint.recipe.override_values import wanted_type
from mezzotint.recipe.reading import apply_overrides, parse_yaml, read_raw
from mezzotint.recipe.recipe import read_recipe
from mezzotint.recipe.schema import RecipeError, resolve

NAMES = [
    "shots #2",
    "2024-01-05",
    "2024",
    "1e5",
    "no",
    "0x1f",
    "a: b",
    "[a]",
    "{a}",
    "C:\\data",
    "@x",
    "*",
    "- a",
    "!x",
    "%",
    "100%",
    "a=b",
    " spaced ",
]


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(
    ("recipe", "key"),
    [
        ("image/folder_simclr", "data.root"),
        ("audio/folder_simclr", "data.files"),
        ("table/csv_simclr", "data.y"),
        ("tokens/folder_simclr", "data.tokenizer"),
        ("supervised/esc50_vit", "data.source.root"),
    ],
)
def test_a_path_or_name_stays_text(recipe: str, key: str, name: str) -> None:
    config: Any = read_recipe(recipe, [f"{key}={name}"])
    for part in key.split("."):
        config = config[part]
    assert config == name


def test_a_list_of_files_takes_settings_in_braces() -> None:
    given = "data.files={path: 1 a.csv, allow_outside: true}"
    found = read_recipe("audio/folder_simclr", [given])["data"]["files"]
    assert found == {
        "path": "1 a.csv", "test_fold": None, "labels": None, "allow_outside": True,
    }  # fmt: skip
    more = ["data.files={path: a.csv}", "data.files.test_fold=2"]
    assert read_recipe("audio/folder_simclr", more)["data"]["files"]["test_fold"] == 2


def test_null_and_quotes_are_yaml() -> None:
    for text in ("null", "~", ""):
        assert read_recipe("table/csv_simclr", [f"data.y={text}"])["data"]["y"] is None
    for text in ('"null"', "'null'"):
        assert read_recipe("table/csv_simclr", [f"data.y={text}"])["data"]["y"] == "null"


def test_lists_of_text_choices_numbers_and_components() -> None:
    overrides = [
        "data.ignore=[no, 2024-01-05, 7]",
        "data.max_categories=7",
        "encoder.width=64",
        "run.compute={precision: bf16}",
        "run.log.every_steps=5",
        "evaluate.seeds=2",
    ]
    config = read_recipe("table/csv_simclr", overrides)
    assert config["data"]["ignore"] == ["no", "2024-01-05", "7"]
    assert config["data"]["max_categories"] == 7 and config["encoder"]["width"] == 64
    assert config["run"]["compute"]["precision"] == "bf16" and config["evaluate"]["seeds"] == 2
    tags = read_recipe("dabs/x_ray", ["data.uncertain=no"])
    assert tags["data"]["uncertain"] == "no"  # a choice, which YAML reads as false
    config = read_recipe("image/folder_simclr", ["data.kind=audio_folder", "data.root=1 #2"])
    assert config["data"]["root"] == "1 #2"  # by the new kind
    with pytest.raises(RecipeError, match="`data.size` must be a whole number, got 'large'"):
        read_recipe("image/folder_simclr", ["data.size=large"])


def test_types_in_lists_and_phases() -> None:
    raw = {"data": {"kind": "image_folder"}, "phases": [{}, {"data": {"kind": "table"}}]}
    assert wanted_type(raw, ["phases", "0", "data", "root"]) is str
    assert wanted_type(raw, ["phases", "1", "data", "path"]) is str
    assert wanted_type(raw, ["phases", "1", "data", "root"]) is None
    chain = {"views": {"kind": "transformed", "transforms": [{"kind": "gaussian_blur"}]}}
    assert wanted_type(chain, ["views", "transforms", "0", "kind"]) is str
    assert wanted_type(chain, ["views", "count"]) is int
    assert wanted_type({}, ["nothing", "here"]) is None
    assert apply_overrides({}, ["nothing.here=1"]) == {"nothing": {"here": 1}}


def test_the_home_directory_is_expanded(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    config = read_recipe("image/folder_simclr", ["data.root=~/my photos"])
    assert config["data"]["root"] == f"{tmp_path}/my photos"
    written = parse_yaml("{kind: table, path: ~/a.csv, y: ~}", "x")
    found = resolve(written, "Source", "data")
    assert found["path"] == f"{tmp_path}/a.csv" and found["y"] is None


def test_a_date_in_a_file_is_the_name_of_a_folder(tmp_path: Path) -> None:
    assert parse_yaml("{root: 2024-01-05, n: 7}", "x") == {"root": "2024-01-05", "n": 7}
    (tmp_path / "a.yaml").write_text("data: {kind: image_folder, root: 2024-01-05}\n")
    assert read_raw(tmp_path / "a.yaml")["data"]["root"] == "2024-01-05"
    with pytest.raises(
        RecipeError, match="`data.root` must be text, got False. Put it into quotes"
    ):
        resolve(parse_yaml("{kind: image_folder, root: no}", "x"), "Source", "data")
