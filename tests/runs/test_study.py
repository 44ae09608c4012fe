"""Comparisons against naive arithmetic, and a study end to end that is resumed."""

import json
from html.parser import HTMLParser
from pathlib import Path

import pytest
import yaml
from typer.testing import CliRunner

from mezzotint.cli import app
from mezzotint.recipe.reading import shipped
from mezzotint.recipe.schema import RecipeError
from mezzotint.report.study import write_study
from mezzotint.runs.compare import compare, write_table
from mezzotint.runs.study import read_study, shipped_studies
from tests.runs.test_compare import run


class Tags(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append(tag)


def test_the_page_escapes_names_and_loads_nothing(tmp_path: Path) -> None:
    evil = '<script src="x">'
    arms = {evil: [run(tmp_path / "a", 0, 0.5)], "b": [run(tmp_path / "b", 0, 0.6)]}
    table = compare(arms, title=evil)
    write_table(table, tmp_path / "out")
    page = write_study(table, tmp_path / "out" / "index.html").read_text()
    tags = Tags()
    tags.feed(page)
    assert (
        tags.found.count("script") == 2
        and tags.found.count("svg") == 5
        and "default-src 'none'" in page
    )
    content = json.loads((tmp_path / "out" / "table.json").read_text())
    assert content["arms"]["b"][0]["difference"] == pytest.approx(0.1)
    assert content["arms"]["b"][0]["difference_low"] is None  # one seed says nothing about seeds


def study_file(path: Path, **keys: object) -> Path:
    content = {
        "recipe": "image/emoji_simclr",
        "overrides": [
            "data.name=digits", "encoder.width=4", "encoder.grid=1",
            "views.crop.size=8", "run.epochs=1", "run.log.knn_epochs=0",
            "method.hidden_dim=8", "method.dim=8",
            "evaluate.probes=[knn]", "evaluate.baselines=false",
        ],
        "seeds": [0, 1],
        "factors": {"method.temperature": [0.1, 0.5]},
    } | keys  # fmt: skip
    path.write_text(yaml.safe_dump(content))
    return path


def test_a_study_runs_and_goes_on_where_it_stopped(tmp_path: Path) -> None:
    file, out = study_file(tmp_path / "s.yaml", seeds=[0]), tmp_path / "out"
    arguments = ["study", str(file), "--out", str(out)]
    first = CliRunner().invoke(app, arguments)
    assert first.exit_code == 0, first.output
    assert first.output.count(": trained") == 2
    second = CliRunner().invoke(app, [*arguments, "--seeds", "2", "--json"])
    assert second.exit_code == 0, second.output
    table = json.loads(second.stdout.splitlines()[-1])
    assert (
        list(table["arms"]) == ["temperature=0.1", "temperature=0.5"]
        and Path(table["page"]).is_file()
    )
    assert set(table["arms"]["temperature=0.5"][0]["values"]) == {"0", "1"}
    stamps = {p: p.stat().st_mtime_ns for p in out.glob("runs/*/metrics.jsonl")}
    third = CliRunner().invoke(app, [*arguments, "--seeds", "2"])
    assert third.output.count(": used again") == 4
    assert {p: p.stat().st_mtime_ns for p in out.glob("runs/*/metrics.jsonl")} == stamps
    runs = sorted(map(str, out.glob("runs/*")))
    done = CliRunner().invoke(app, ["compare", *runs, "--out", str(tmp_path / "c")])
    assert done.exit_code == 0 and "paired by seed" in done.output


def test_arms_and_factors_multiply(tmp_path: Path) -> None:
    file = study_file(
        tmp_path / "s.yaml",
        arms={"plain": [], "wide": ["encoder.width=8"]},
        reference="wide temperature=0.5",
    )
    study = read_study(file)
    assert list(study.arms) == [
        f"{name} temperature={t}" for name in ("plain", "wide") for t in (0.1, 0.5)
    ]
    config = study.config("wide temperature=0.5", 7)
    assert (config["encoder"]["width"], config["method"]["temperature"], config["run"]["seed"]) == (
        8,
        0.5,
        7,
    )


@pytest.mark.parametrize(
    "keys, message",
    [
        ({"factors": {}}, "has no arms"),
        ({"factors": {"method.temperature": 3}}, "a list of values for each key"),
        ({"factors": {"method.temprature": [1]}}, "Did you mean 'temperature'"),
        ({"seeds": ["a"]}, "must be a list of whole numbers"),
        ({"reference": "none"}, "must be one of temperature=0.1, .*, got 'none'"),
        ({"color": 1}, "must have only the keys .*, got 'color'"),
        ({"overrides": "run.epochs=1"}, "must be a list of texts"),
    ],
)
def test_files_that_cannot_be(keys: dict[str, object], message: str, tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match=message):
        read_study(study_file(tmp_path / "s.yaml", **keys))
    with pytest.raises(
        RecipeError, match="There is no study 'siamese_factor'.*Did you mean 'siamese_factors'"
    ):
        read_study("siamese_factor")


@pytest.mark.parametrize("override", ["method.temperature=0.3", "run.seed=4"])
def test_overrides_without_effect_are_refused(override: str, tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match=f"^'{override}' has no effect, because "):
        read_study(study_file(tmp_path / "s.yaml"), [override])
    partly = study_file(
        tmp_path / "s.yaml", factors={}, arms={"cold": ["method.temperature=0.1"], "plain": []}
    )
    assert (
        read_study(partly, ["method.temperature=0.3"]).config("plain", 0)["method"]["temperature"]
        == 0.3
    )


def test_shipped_studies_are_read_and_are_no_recipes() -> None:
    assert "siamese_factors" in shipped_studies() and not any(
        name.startswith("studies") for name in shipped()
    )
    study = read_study("siamese_factors")
    plus, symmetric = study.config("MoCo v2+", 0), study.config("S-MoCo v2+", 0)
    assert {key for key in plus["method"] if plus["method"][key] != symmetric["method"][key]} == {
        "head"
    }
    assert {key for key in plus if plus[key] != symmetric[key]} == {"method"}
