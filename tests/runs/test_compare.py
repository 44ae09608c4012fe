"""Comparison of runs: paired differences, arms, and protocols."""

import json
import math
import statistics
from dataclasses import asdict, replace
from pathlib import Path

import pytest

from mezzotint.evaluation.before_after import StartComparison
from mezzotint.evaluation.probe import Row
from mezzotint.evaluation.protocol import Protocol
from mezzotint.evaluation.results import Baselines, Evaluation, write_evaluation
from mezzotint.files import write_json
from mezzotint.recipe.recipe import Recipe
from mezzotint.report.study import write_study
from mezzotint.runs.compare import (
    Cell,
    ComparisonTable,
    arms_of,
    as_markdown,
    compare,
    require_common_task,
)
from mezzotint.train.continued import StartOutcome

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
        Baselines(
            *(
                [Row(probe="knn", metric=TOP1, value=value, protocol=protocol)]
                for value in (0.3, 0.1, 0.2)
            )
        ),
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
    assert [*table.arms] == ["a", "b", "untrained", "hand-made features", "raw input"]
    (handmade,), (raw,) = table.arms["hand-made features"], table.arms["raw input"]
    assert handmade is not None and raw is not None and (handmade.mean, raw.mean) == (0.2, 0.3)
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
    )  # the paired interval excludes 0, the single ones overlap
    text = as_markdown(table)
    assert "| b | 3 | 20 | 0.530" in text and "+0.030 (+0.005 – +0.055)" in text


def test_a_run_that_kept_its_start_is_named(tmp_path: Path) -> None:
    arms = {name: [run(tmp_path / name, 0, 0.5)] for name in ("a", "b")}
    for name, kept in (("a", "trained"), ("b", "start")):
        worse = StartComparison(10, 90, 0.8, 0.7, -0.2, -0.01 if kept == "start" else 0.01)
        outcome = StartOutcome(kept, "t", (replace(worse, labels=None, high=0.01), worse))
        write_json(tmp_path / name / "start.json", asdict(outcome), sealed=True)
    table = compare(arms)
    note = "b is compared by its start, because training made it worse with 10 labels per class."
    assert table.notes == [note] and as_markdown(table).endswith(f"\n\n{note}\n")
    page = write_study(table, tmp_path / "study.html").read_text(encoding="utf-8")
    assert f"<p>{note}</p>" in page


def test_runs_that_differ_in_their_seed_are_one_arm(tmp_path: Path) -> None:
    runs = [
        run(tmp_path / "x0", 0, 0.5),
        run(tmp_path / "y0", 0, 0.6, lr=0.1),
        run(tmp_path / "x1", 1, 0.5),
    ]
    assert arms_of(runs) == {"x0": [runs[0], runs[2]], "y0": [runs[1]]}
    with pytest.raises(
        ValueError, match=r"Arm 'x0' must have one run per seed, got 2 runs of 1 seeds"
    ):
        compare({"x0": [runs[0], runs[0]]})
    with pytest.raises(ValueError, match=r"`reference` must be an arm \(x0\), got 'z'"):
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
    with pytest.raises(ValueError, match="has no evaluation.json. Run `mezzotint evaluate"):
        compare(arms)


def test_settings_of_a_probe_are_columns_and_never_averaged(tmp_path: Path) -> None:
    runs = {}
    for name, shift in (("a", 0.0), ("b", 0.05)):
        runs[name] = [run(tmp_path / name, 0, 0.5, lr=0.1 + shift)]
        rows = [
            Row(probe="knn", metric=TOP1, value=value + shift, protocol=Protocol.of("knn", k=k))
            for k, value in ((10, 0.5), (200, 0.7))
        ]
        if name == "b":
            rows.append(replace(rows[0], value=0.9, protocol=Protocol.of("knn", k=3)))
        write_evaluation(tmp_path / name, Evaluation(rows, ""), Baselines())
    table = compare(runs)
    assert table.columns == ["knn k=10 t/top1", "knn k=200 t/top1"]
    assert table.left_out == ["knn t/top1"], "k=3 was measured for one run alone"
    assert [c and round(c.difference, 3) for c in table.arms["b"]] == [0.05, 0.05]


def test_the_main_metric_of_tags_is_compared_and_retrieval_has_one(tmp_path: Path) -> None:
    folder = run(tmp_path / "a", 0, 0.5)
    metrics = (("linear", "tag/map"), ("linear", "tag/auc"), ("retrieval", "p/top1"))
    rows = [
        Row(probe=probe, metric=metric, value=0.5, protocol=Protocol.of(probe))
        for probe, metric in (*metrics, ("retrieval", "p/map"))
    ]
    write_evaluation(folder, Evaluation(rows, ""), Baselines())
    assert compare({"a": [folder]}).columns == ["linear tag/map", "retrieval p/top1"]


def test_runs_without_a_common_task_are_refused(tmp_path: Path) -> None:
    first, second = run(tmp_path / "a", 0, 0.5), run(tmp_path / "b", 0, 0.5, lr=0.1)
    other = Row(probe="knn", metric="speaker/top1", value=0.5, protocol=Protocol.of("knn", k=10))
    write_evaluation(second, Evaluation([other], ""), Baselines())
    with pytest.raises(ValueError, match=r"must share a task .*: b has speaker, and a has t\."):
        require_common_task(compare({"a": [first], "b": [second]}))
    require_common_task(compare({"a": [first]}))


def test_more_metrics_than_arms_are_rows(tmp_path: Path) -> None:
    cell = Cell({0: 0.5}, 0.5, math.nan, math.nan)
    table = ComparisonTable("T", "a", ["m1", "m2", "m3"], {"a": [cell, None, cell]}, [], {"a": 3.0})
    lines = as_markdown(table).splitlines()[4:]
    assert lines == [
        "| arm | a |", "| --- | --- |", "| seeds | 1 |", "| seconds | 3 |",
        "| m1 | 0.500 |", "| m2 | – |", "| m3 | 0.500 |",
    ]  # fmt: skip
