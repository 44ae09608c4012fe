"""`mezzotint pretrain` and `mezzotint evaluate` from the command line."""

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner, Result

from mezzotint.cli import app, evaluation, training
from mezzotint.evaluation.results import read_baselines, read_evaluation
from mezzotint.recipe import reading as reading_module
from mezzotint.recipe.reading import parse_yaml
from mezzotint.recipe.recipe import Recipe, read_plan
from mezzotint.recipe.schema import RecipeError
from mezzotint.train.loop import pretrain

QUICK = ["evaluate.probes=[knn]", "evaluate.seeds=1", "evaluate.baselines=false"]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("evaluate")
    rng = np.random.default_rng(0)
    for number in range(16):
        subfolder = folder / "images" / "ab"[number % 2]
        subfolder.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 255, (16, 40, 3), dtype=np.uint8)).save(
            subfolder / f"{number}.png"
        )
    overrides = [
        f"data.root={folder / 'images'}", "data.size=16", "encoder.width=2", "encoder.grid=1",
        "method.hidden_dim=8", "method.dim=8", "run.epochs=1", "run.batch_size=8",
        "run.log.knn_epochs=0", "run.loader.workers=0",
    ]  # fmt: skip
    return pretrain(Recipe.load("image/folder_simclr", overrides), folder / "run", progress="quiet")


def test_a_run_goes_on_with_the_words_that_started_it(run: Path, tmp_path: Path) -> None:
    images = str(run.parent / "images")
    plan = training._resumed_plan(run, [images, "run.log.every_steps=3"])
    assert plan.phases[-1].config["data"]["root"] == images
    assert plan.phases[-1].config["run"]["log"]["every_steps"] == 3
    assert training._resumed_plan(run, [str(run)]).phases == training._resumed_plan(run, []).phases
    with pytest.raises(RecipeError, match="is not a run of the data"):
        training._resumed_plan(run, [str(tmp_path)])
    with pytest.raises(RecipeError, match="must stay"):
        training._resumed_plan(run, ["image/emoji_simclr"])
    with pytest.raises(RecipeError, match="`run.epochs` must stay 1"):
        training._resumed_plan(run, [images, "run.epochs=2"])


def evaluate(*arguments: str | Path) -> Result:
    return CliRunner().invoke(app, ["evaluate", *map(str, arguments)])


def test_crops_reach_the_figures_and_the_report(run: Path) -> None:
    done = evaluate(run, "--crops", "3", *QUICK)
    assert done.exit_code == 0 and "report: " in done.stdout
    assert {row.protocol.crops for row in read_evaluation(run)} == {3}
    assert (run / "report.html").is_file()
    assert evaluate(run, "--quiet", *QUICK).stdout == ""
    assert {row.protocol.crops for row in read_evaluation(run)} == {3, 1}, "both are kept apart"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--clips", "2"], "`clips` must be 1 and `crops` 1 or more for images"),
        (["--crops", "0"], "got clips=1 and crops=0. Images have no time"),
        (
            ["--crops", "2", "evaluate.bits=[8/8]"],
            "got clips=1 and crops=2 at W8A8",
        ),
    ],
)
def test_clips_and_crops_that_mean_nothing_are_refused(
    run: Path, arguments: list[str], message: str
) -> None:
    done = evaluate(run, *arguments, *QUICK)
    assert isinstance(done.exception, ValueError) and message in str(done.exception)


class Counted:
    """Counts how often recipes are read from text and built into objects."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.reads = self.builds = 0
        read, build = parse_yaml, Recipe.build

        def reading(text: str, name: str, **options: Any) -> Any:
            self.reads += name.endswith(".yaml")  # and not an override
            return read(text, name, **options)

        def building(config: Mapping[str, Any]) -> Recipe:
            self.builds += 1
            return build(config)

        monkeypatch.setattr(reading_module, "parse_yaml", reading)
        monkeypatch.setattr(Recipe, "build", building)


SMALL = [
    "data.name=digits", "encoder.width=2", "encoder.grid=1", "method.hidden_dim=8", "method.dim=8",
    "views.crop.size=8", "run.epochs=1", "run.log.knn_epochs=0",
]  # fmt: skip
PHASES = """
data: {kind: embedded_images, name: digits}
views: {kind: transformed, transforms: [], count: 1}
encoder: {kind: vit, width: 8, depth: 1, heads: 2, patch: 2}
method: {kind: mae, decoder: {width: 8, depth: 1, heads: 2}}
optimizer: {kind: adamw, lr: 1e-3}
run: {epochs: 1, log: {knn_epochs: 0}}
phases: [{name: first}, {name: second, load: {encoder: encoder}}]
"""


def test_a_recipe_is_read_once_and_built_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    counted = Counted(monkeypatch)
    arguments = ["pretrain", *SMALL, "--train-only", "--quiet", "--out", str(tmp_path / "run")]
    assert CliRunner().invoke(app, [*arguments[:-2], "--dry-run"]).exit_code == 0
    assert (counted.reads, counted.builds) == (1, 0)  # a process of its own builds and times it
    assert CliRunner().invoke(app, arguments).exit_code == 0
    assert (counted.reads, counted.builds) == (2, 1)
    again = ["pretrain", "run.log.every_steps=5", *arguments[-4:], "--resume"]
    assert CliRunner().invoke(app, again).exit_code == 0
    assert (counted.reads, counted.builds) == (3, 2)


def test_train_only_says_where_the_run_is(tmp_path: Path) -> None:
    out = str(tmp_path / "run")
    done = CliRunner().invoke(app, ["pretrain", *SMALL, "--train-only", "--out", out])
    assert done.exit_code == 0, done.output
    assert done.stdout.splitlines()[-1] == f"run: {out}; encoder: {out}/encoder"


def test_a_recipe_with_phases_is_read_once_and_each_phase_built_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "phases.yaml").write_text(PHASES, encoding="utf-8")
    counted = Counted(monkeypatch)
    arguments = ["pretrain", str(tmp_path / "phases.yaml"), "--train-only", "--quiet", "--out"]
    done = CliRunner().invoke(app, [*arguments, str(tmp_path / "run")])
    assert done.exit_code == 0, done.output
    assert (counted.reads, counted.builds) == (1, 2)


def test_parts_of_an_evaluation_that_no_longer_fit_are_named_and_measured_later(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    copied = tmp_path / "run"
    shutil.copytree(run, copied)
    for name in ("evaluation.json", "baselines.json", "evaluated_on.json", "seals.json"):
        (copied / name).unlink(missing_ok=True)
    evaluation.evaluate_run(copied, "bar", QUICK[:2], limit_s=0.0)
    said = capsys.readouterr().out
    left = "untrained encoder 0, hand-made features, raw input"
    assert f"within the time of an evaluation: {left}; measure them with mezzotint evaluate" in said
    assert read_evaluation(copied) and not read_baselines(copied).untrained
    evaluation.evaluate_run(copied, "json", QUICK[:2])
    assert "left_out" not in capsys.readouterr().out
    assert read_baselines(copied).untrained and read_baselines(copied).raw


def test_the_time_of_an_evaluation_is_that_of_the_training(tmp_path: Path) -> None:
    (tmp_path / "environment.json").write_text('{"seconds": 900.0}')
    for overrides, seconds in (([], 300.0), (["budget.evaluation=0.5"], 900.0)):
        assert training._limit(tmp_path, read_plan("image/emoji_simclr", overrides)) == seconds
