"""From a run to a policy file to a run that trains with it, and what is refused on the way."""

import json
from pathlib import Path

import pytest
from PIL import Image
from typer.testing import CliRunner, Result

from mezzotint.augment.image.auto_augment import FastAutoAugment, read_sub_policies
from mezzotint.cli import app
from mezzotint.encoders.saving import save_encoder
from mezzotint.recipe.recipe import Recipe
from mezzotint.train.log import read_metrics
from mezzotint.train.loop import pretrain

TINY = [
    "data.name=digits", "views.crop.size=8", "encoder.width=2", "encoder.grid=1",
    "method.hidden_dim=8", "method.dim=8", "run.epochs=1", "run.log.knn_epochs=0",
]  # fmt: skip
FEW = ["--trials", "6", "--keep", "3", "--samples", "64"]


def run_of(folder: Path, recipe: str = "image/emoji_simclr", overrides: list[str] = TINY) -> Path:
    """A directory as a run leaves it, with an encoder that was not trained."""
    made = Recipe.load(recipe, overrides)
    folder.mkdir()
    (folder / "recipe.yaml").write_text(made.to_yaml())
    save_encoder(made.encoder, folder / "encoder")
    return folder


def search(*arguments: str | Path) -> Result:
    return CliRunner().invoke(app, ["search-policy", *map(str, arguments)])


def test_from_search_to_file_to_training(tmp_path: Path) -> None:
    run, file = run_of(tmp_path / "run"), tmp_path / "found.yaml"
    done = search(run, "--out", file, "--seed", "3", *FEW)
    assert done.exit_code == 0, done.output
    assert "the 3 best of 6 random candidates on digit/holdout, 64 images, seed 3" in done.stdout
    [hint] = [line for line in done.stdout.splitlines() if "views.policy=" in line]
    recipe = Recipe.load("image/emoji_simclr", [*TINY, hint.partition(": ")[2]])
    assert recipe.config()["views"]["policy"]["sub_policies"] == read_sub_policies(file).as_lists()
    assert FastAutoAugment(file=str(file)).policies.steps == read_sub_policies(file).steps
    assert len(read_sub_policies(file).steps) == 3
    lines = read_metrics(pretrain(recipe, tmp_path / "trained", progress="quiet") / "metrics.jsonl")
    assert lines[-1]["loss"] > 0.0
    assert Recipe.load(tmp_path / "trained").config() == recipe.config()


def test_for_scripts_and_on_a_folder_of_images(tmp_path: Path) -> None:
    for name, shade in (("dark", 40), ("light", 200)):
        (tmp_path / "photos" / name).mkdir(parents=True)
        for number in range(12):
            Image.new("RGB", (20, 16), (shade, shade + number, 90)).save(
                tmp_path / "photos" / name / f"{number}.png"
            )
    file, data = (
        tmp_path / "found.yaml",
        f"data={{kind: image_folder, root: {tmp_path / 'photos'}, size: 8}}",
    )
    run = run_of(tmp_path / "run", overrides=[data, *TINY[1:]])
    done = search(run, "--out", file, "--json", *FEW)
    assert done.exit_code == 0, done.output
    said = json.loads(done.stdout)
    assert said["file"] == str(file) and said["cross_entropy"] == sorted(said["cross_entropy"])
    assert read_sub_policies(file).source == said["source"]
    done = search(run, "data={kind: embedded_images, name: digits}", "--out", file)
    with pytest.raises(
        ValueError,
        match=r"takes images of shape \(3, 8, 8\), but the data has images of shape \(1, 8, 8\)",
    ):
        raise done.exception or AssertionError(done.output)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ["--out", "found.txt"],
            r"--out must be a .yaml file in a directory that exists, got found.txt",
        ),
        (["--out", "nowhere/found.yaml"], r"--out must be a .yaml file .*, got nowhere/found.yaml"),
        (
            ["--task", "digits"],
            r"must be a classification task of the data \(digit/holdout.*\), got 'digits'",
        ),
        (
            ["--keep", "9", "--trials", "4"],
            r"`keep` 1 to `trials`, got .* keep=9 and trials=4",
        ),
        (["--samples", "0"], r"`samples` must be 1 or more .* samples=0"),
    ],
)
def test_what_cannot_be_searched_is_refused_before_anything_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: list[str], message: str
) -> None:
    monkeypatch.chdir(tmp_path)
    done = search(run_of(tmp_path / "run"), *arguments)
    assert isinstance(done.exception, ValueError)
    assert "\n" not in str(done.exception)
    assert [p.name for p in tmp_path.iterdir()] == ["run"]
    with pytest.raises(ValueError, match=message):
        raise done.exception


def test_an_encoder_of_something_else_is_refused(tmp_path: Path) -> None:
    done = search(
        run_of(tmp_path / "run", "series/smartwatch_simclr", []), "--out", tmp_path / "found.yaml"
    )
    with pytest.raises(ValueError, match="needs an encoder of images, .* takes time series"):
        raise done.exception or AssertionError(done.output)
