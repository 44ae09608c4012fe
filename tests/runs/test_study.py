"""Comparisons against naive arithmetic, and a study end to end that is resumed."""

import json
import math
import statistics
from html.parser import HTMLParser
from pathlib import Path

import pytest
import yaml
from typer.testing import CliRunner

from mezzotint.cli import app
from mezzotint.evaluation.probe import Row
from mezzotint.evaluation.protocol import Protocol
from mezzotint.evaluation.results import Baselines, Evaluation, write_evaluation
from mezzotint.recipe.recipe import Recipe, shipped
from mezzotint.recipe.schema import RecipeError
from mezzotint.report.study import write_study
from mezzotint.runs.compare import arms_of, as_markdown, compare, write_table
from mezzotint.runs.study import read_study, shipped_studies

TOP1 = "t/top1"


def run(folder: Path, seed: int, value: float, *, k: int = 10, lr: float = 0.06) -> Path:
    """A run as far as a comparison looks at it."""
    protocol = Protocol.of("knn", k=k)
    folder.mkdir(parents=True)
    recipe = Recipe.load(
        "image/emoji_simclr",
        [f"run.seed={seed}", f"optimizer.lr={lr}", "data.name=digits", "encoder.grid=1"],
    )
    (folder / "recipe.yaml").write_text(recipe.to_yaml())
    rows = [
        Row(probe="knn", metric=TOP1, value=value, protocol=protocol),
        Row(probe="knn", metric="t/penalty", value=9.0, protocol=protocol),
    ]
    write_evaluation(
        folder,
        Evaluation(rows, ""),
        Baselines([], [Row(probe="knn", metric=TOP1, value=0.1, protocol=protocol)]),
    )
    (folder / "environment.json").write_text(json.dumps({"seconds": 10.0 * (seed + 1)}))
    return folder


def test_differences_are_paired_by_seed(tmp_path: Path) -> None:
    first, second = [0.50, 0.60, 0.40], [0.53, 0.62, 0.44]
    arms = {
        "a": [run(tmp_path / f"a{s}", s, v) for s, v in enumerate(first)],
        "b": [run(tmp_path / f"b{s}", s, v, lr=0.1) for s, v in enumerate(second)],
    }
    table = compare(arms)
    (a,), (b,), (untrained,) = table.arms["a"], table.arms["b"], table.arms["untrained"]
    assert table.columns == ["knn t/top1"] and table.seconds["a"] == 20.0
    assert a is not None and b is not None and untrained is not None and untrained.mean == 0.1
    differences = [y - x for x, y in zip(first, second, strict=True)]
    half = (
        4.303 * statistics.stdev(differences) / math.sqrt(3)
    )  # Student's t, two degrees of freedom
    assert b.difference == pytest.approx(0.03) and math.isnan(a.difference)
    assert (b.difference_low, b.difference_high) == pytest.approx(
        (0.03 - half, 0.03 + half), abs=1e-6
    )
    assert (
        b.difference_low > 0 > b.low - a.high
    )  # told apart in pairs, and not by their own intervals
    text = as_markdown(table)
    assert "| b | 3 | 20 | 0.530" in text and "+0.030 (+0.005 – +0.055)" in text


def test_runs_that_differ_in_their_seed_are_one_arm(tmp_path: Path) -> None:
    runs = [
        run(tmp_path / "x0", 0, 0.5),
        run(tmp_path / "y0", 0, 0.6, lr=0.1),
        run(tmp_path / "x1", 1, 0.5),
    ]
    assert arms_of(runs) == {"x0": [runs[0], runs[2]], "y0": [runs[1]]}
    with pytest.raises(ValueError, match=r"x0: got 2 runs of 1 seeds"):
        compare({"x0": [runs[0], runs[0]]})
    with pytest.raises(ValueError, match="reference='z'; allowed: x0"):
        compare({"x0": [runs[0]]}, reference="z")


def test_other_protocols_are_left_out_and_named(tmp_path: Path) -> None:
    arms = {
        "a": [run(tmp_path / "a", 0, 0.5)],
        "b": [run(tmp_path / "b", 0, 0.6, k=3)],
    }
    table = compare(arms)
    assert (
        table.columns == []
        and table.left_out == ["knn t/top1"]
        and "protocols differ" in as_markdown(table)
    )
    (tmp_path / "a" / "evaluation.json").unlink()
    with pytest.raises(ValueError, match="has no evaluation.json; allowed is an evaluated run"):
        compare(arms)


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
        "script" not in tags.found and tags.found.count("svg") == 3 and "default-src 'none'" in page
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
            "method.hidden_dim=8", "method.dim=8", "evaluate.probes=[knn]", "evaluate.baselines=false",
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
    beside = CliRunner().invoke(app, ["compare", *runs, "--out", str(tmp_path / "c")])
    assert beside.exit_code == 0 and "paired by seed" in beside.output


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
        ({"factors": {}}, "got no arms"),
        ({"factors": {"method.temperature": 3}}, "a list of values for each key"),
        ({"factors": {"method.temprature": [1]}}, "Did you mean 'temperature'"),
        ({"seeds": ["a"]}, "allowed is a list of whole numbers"),
        ({"reference": "none"}, "got reference 'none'; allowed: temperature=0.1"),
        ({"color": 1}, "unknown key 'color'"),
        ({"overrides": "run.epochs=1"}, "allowed is a list of texts"),
    ],
)
def test_files_that_cannot_be(keys: dict[str, object], message: str, tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match=message):
        read_study(study_file(tmp_path / "s.yaml", **keys))
    with pytest.raises(
        RecipeError, match="got the study 'siamese_factor'.*Did you mean 'siamese_factors'"
    ):
        read_study("siamese_factor")


@pytest.mark.parametrize("override", ["method.temperature=0.3", "run.seed=4"])
def test_overrides_without_effect_are_refused(override: str, tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match=f"^got the override '{override}'.*; allowed are .*: "):
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
