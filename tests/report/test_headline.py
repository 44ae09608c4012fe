"""The headline: the best probe of each side, and first of all what the encoder is not ahead of."""

import math
from pathlib import Path

import pytest

from mezzotint.evaluation.probe import Row
from mezzotint.evaluation.results import (
    Baselines,
    Evaluation,
    difference,
    interval,
    signed,
    write_evaluation,
)
from mezzotint.report.headline import (
    collapse_words,
    headline,
    lead,
    sides,
    sides_words,
    standing_words,
)
from mezzotint.report.results import Comparison, compare_with_baselines
from tests.report.test_results import BASELINES, ROWS, TOP1, row


def words(comparisons: list[Comparison]) -> str:
    return "".join(text for text, _ in lead(comparisons)[0])


def gap(own: list[Row], other: list[Row]) -> str:
    """The difference of two values with its interval, as a page writes it."""
    found = difference(interval(own), interval(other))
    words = f"{signed(found.mean)}, 95 % {signed(found.low)} to {signed(found.high)}"
    return words.replace(" ", "\N{NO-BREAK SPACE}")


def test_an_encoder_that_is_ahead_of_all_baselines_leads_with_its_score() -> None:
    comparisons = compare_with_baselines(ROWS, BASELINES)
    assert words(comparisons) == (
        "This encoder scores 0.610 on category, across styles, ahead of raw input, hand-made "
        "features and the untrained encoder."
    )
    pieces, warns = lead(comparisons)
    assert not warns and [text for text, strong in pieces if strong] == ["0.610"]
    assert sides_words(comparisons) == (
        "Best probe of each side: this encoder 0.610 (linear probe); raw input 0.155 (linear "
        "probe); hand-made features 0.300 (linear probe); untrained encoder 0.380 (linear probe). "
        f"Gain over the untrained encoder: {gap(ROWS[1:4], BASELINES.untrained)}.",
        False,
    )


def test_the_terminal_has_the_same_sentence(tmp_path: Path) -> None:
    write_evaluation(tmp_path, Evaluation(ROWS, ""), BASELINES)
    assert headline(tmp_path) == words(compare_with_baselines(ROWS, BASELINES))


def test_what_the_encoder_is_not_ahead_of_comes_first() -> None:
    """Each side has its best probe: no flattering pair."""
    rows = [row("linear", TOP1, 0.60), row("knn", TOP1, 0.62), row("sgd", "other/top1", 0.9)]
    baselines = Baselines(
        raw=[row("linear", TOP1, 0.2), row("knn", TOP1, 0.61)],
        untrained=[row("linear", TOP1, 0.70), row("knn", TOP1, 0.3)],
        handmade=[row("linear", TOP1, 0.4), row("knn", TOP1, 0.3)],
    )
    comparisons = compare_with_baselines(rows, baselines)
    level, behind = gap(rows[1:2], baselines.raw[1:]), gap(rows[1:2], baselines.untrained[:1])
    assert words(comparisons) == (
        f"This encoder is behind the untrained encoder ({behind}) and not ahead of raw input "
        f"({level}): it scores 0.620 on category, across styles."
    )
    assert lead(comparisons)[1]
    assert sides_words(comparisons) == (
        "Best probe of each side: this encoder 0.620 (kNN); raw input 0.610 (kNN); hand-made "
        "features 0.400 (linear probe); untrained encoder 0.700 (linear probe).",
        False,
    )


@pytest.mark.parametrize(
    ("other", "expected"),
    [(0.500, "not ahead of"), (0.590, "not ahead of"), (0.550, "ahead of"), (0.640, "behind")],
)
def test_ahead_and_behind_are_beyond_the_interval(other: float, expected: str) -> None:
    """Of 1,911 samples, 0.032 is about the interval of a difference of two values near 0.6."""
    own = 0.5 if other == 0.5 else 0.6
    made = [row("knn", TOP1, other)]
    comparisons = compare_with_baselines([row("knn", TOP1, own)], Baselines(handmade=made))
    text = words(comparisons)
    assert f" {expected} hand-made features" in text
    assert ("not" in text) == (expected == "not ahead of")
    assert lead(comparisons)[1] == (expected != "ahead of")


def test_without_intervals_the_values_decide() -> None:
    """Mean average precision of one seed has none."""
    for raw, expected in ((0.3, "ahead of raw input."), (0.5, "behind raw input (−0.100): it ")):
        rows = [row("linear", "tag/map", 0.4), row("linear", "tag/auc", 0.8)]
        baselines = Baselines(raw=[row("linear", "tag/map", raw), row("linear", "tag/auc", 0.9)])
        assert expected in words(compare_with_baselines(rows, baselines))


def test_the_headline_is_of_the_first_task_that_a_probe_answers() -> None:
    rows = [row("retrieval", "identity/top1", 0.9), row("knn", TOP1, 0.5)]
    assert words(compare_with_baselines(rows, Baselines())) == (
        "This encoder scores 0.500 on category, across styles."
    )
    only = compare_with_baselines(rows[:1], Baselines())
    assert words(only) == "This encoder scores 0.900 on identity."
    assert sides_words(only) == ("Retrieval: this encoder 0.900.", False)


def test_a_score_that_is_not_a_number_is_no_side() -> None:
    rows = [row("knn", TOP1, math.nan), row("linear", TOP1, 0.5)]
    raw = [row("knn", TOP1, math.nan), row("linear", TOP1, math.nan)]
    found = sides(compare_with_baselines(rows, Baselines(raw)))
    assert [(side.name, side.result.mean) for side in found] == [("this encoder", 0.5)]
    diverged = compare_with_baselines(rows[:1], Baselines([row("knn", TOP1, 0.3)]))
    assert words(diverged) == "This encoder scores NaN on category, across styles."


@pytest.mark.parametrize(
    ("values", "expected", "warns"),
    [
        ([0.5, 0.6], "It scores above every baseline in all 2 main metrics below.", False),
        ([0.5, 0.1, 0.1], "It scores above every baseline in 1 of 3 main metrics below.", True),
        ([0.1, 0.1], "It scores above every baseline in 0 of 2 main metrics below.", True),
    ],
)
def test_the_headline_does_not_hide_the_other_tasks(
    values: list[float], expected: str, warns: bool
) -> None:
    rows = [row("knn", f"task{i}/top1", value) for i, value in enumerate(values)]
    baselines = Baselines(handmade=[row("knn", f"task{i}/top1", 0.3) for i in range(len(values))])
    assert standing_words(compare_with_baselines(rows, baselines)) == (expected, warns)
    assert standing_words(compare_with_baselines(rows, Baselines())) is None


@pytest.mark.parametrize(
    ("rows", "expected"),
    [([], "Not evaluated yet."), ([row("rank", "all/rankme", 3.0)], "Evaluated without labels.")],
)
def test_without_scores_the_headline_says_so(rows: list[Row], expected: str) -> None:
    comparisons = compare_with_baselines(rows, Baselines())
    assert words(comparisons) == expected and not lead(comparisons)[1]
    assert sides_words(comparisons) is None


@pytest.mark.parametrize(
    ("spread", "ratio", "begins", "warns"),
    [
        (0.9, 0.32, "Healthy:", False),
        (0.001, 0.9, "Complete collapse:", True),
        (0.9, 0.01, "Dimensional collapse:", True),
    ],
)
def test_collapse(spread: float, ratio: float, begins: str, warns: bool) -> None:
    rows = [row("rank", "all/spread", spread), row("rank", "all/rank_ratio", ratio)]
    verdict = collapse_words(compare_with_baselines(rows, Baselines()))
    assert (
        verdict is not None
        and verdict[0].startswith(begins)
        and verdict[0].endswith(".")
        and verdict[1] == warns
    )
    assert collapse_words(compare_with_baselines(ROWS[:3], Baselines())) is None
