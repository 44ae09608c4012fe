"""The page and the table of a fine-tuning: its own headline, baselines and words."""

import json
import math
from pathlib import Path

import pytest

from mezzotint.evaluation.probe import Row
from mezzotint.evaluation.protocol import Protocol
from mezzotint.evaluation.results import (
    Baselines,
    Evaluation,
    difference,
    interval,
    signed,
    write_evaluation,
)
from mezzotint.report.finetuning import (
    compare_finetuned,
    headline,
    largest_class,
    terminal_table,
    verdict,
)
from mezzotint.report.page import write_report


def row(probe: str, value: float, *, metric: str = "t/top1", frozen: bool = False) -> Row:
    protocol = Protocol.of("finetune", epochs=5, frozen=frozen)
    protocol = Protocol(probe="finetune", settings=protocol.settings, train=50, test=400)
    return Row(probe=probe, metric=metric, value=value, protocol=protocol)


OWN = [
    row("finetune", 0.72),
    row("finetune", 0.7, metric="t/mean_per_class"),
    row("finetune_scratch", 0.725),
    row("majority", 0.25),
]
BASELINES = Baselines([], [row("finetune", 0.758, frozen=True)])


def test_the_headline_says_that_pretraining_did_not_help() -> None:
    comparisons = compare_finetuned(OWN, BASELINES)
    assert "".join(text for text, _ in headline(comparisons, frozen=False)) == (
        "Fine-tuning scores 0.720 on t; from scratch 0.725; untrained and frozen 0.758: "
        "pretraining did not help here."
    )
    gap = difference(interval(OWN[:1]), interval(BASELINES.untrained))
    told = f"−0.038 (95 % {signed(gap.low)} – {signed(gap.high)})"
    assert verdict(comparisons) == (f"No gain over untrained and frozen: {told}.", True)
    assert largest_class(comparisons) == 0.25


@pytest.mark.parametrize(
    ("value", "gain", "warns"), [(0.77, "+0.012", True), (0.95, "+0.192", False)]
)
def test_a_gain_is_given_with_its_interval(value: float, gain: str, warns: bool) -> None:
    own = row("finetune", value)
    comparisons = compare_finetuned([own, *OWN[2:]], BASELINES)
    gap = difference(interval([own]), interval(BASELINES.untrained))
    told = f"{gain} over untrained and frozen (95 % {signed(gap.low)} – {signed(gap.high)})"
    assert verdict(comparisons) == (f"Pretraining gains {told}.", warns) and (gap.low <= 0) == warns
    words = "".join(text for text, _ in headline(comparisons, frozen=False))
    assert words.endswith("untrained and frozen 0.758.")


@pytest.mark.parametrize(
    ("value", "words"),
    [
        (0.74, "hand-made features 0.740: hand-made features are as good or better."),
        (0.65, "hand-made features 0.650."),
    ],
)
def test_hand_made_features_are_a_baseline_of_their_own(value: float, words: str) -> None:
    """They are no other start of the network: where they win, pretraining may have helped."""
    low = [row("finetune", 0.72), row("finetune_scratch", 0.6)]
    comparisons = compare_finetuned(low, Baselines([], [], [row("finetune", value)]))
    told = "".join(text for text, _ in headline(comparisons, frozen=False))
    assert told == f"Fine-tuning scores 0.720 on t; from scratch 0.600; {words}"
    said = verdict(comparisons)
    assert said is not None and said[0].startswith(
        "No gain over hand-made" if value > 0.72 else "Pretraining gains +0.070 over hand-made"
    )


def test_without_baselines_nothing_is_claimed() -> None:
    comparisons = compare_finetuned(OWN[:1], Baselines())
    assert verdict(comparisons) is None and math.isnan(largest_class(comparisons))
    words = "".join(text for text, _ in headline(comparisons, frozen=True))
    assert words == "A classifier on the frozen encoder scores 0.720 on t."


def test_the_terminal_has_a_row_for_tags_by_mean_average_precision(tmp_path: Path) -> None:
    tags = [row("finetune", v, metric=f"tag/{m}") for m, v in (("map", 0.24), ("auc", 0.12))]
    scratch = row("finetune_scratch", 0.3, metric="tag/map")
    write_evaluation(tmp_path, Evaluation([*tags, scratch], ""), Baselines())
    lines, words = terminal_table(tmp_path)
    assert lines == [("tag", "mAP", "0.240", "0.300", "–", "–", "–")]
    assert words.startswith("Fine-tuning scores 0.240 on tag (mAP); from scratch 0.300: pre")


def test_the_page_has_its_own_words_and_no_empty_parts(tmp_path: Path) -> None:
    write_evaluation(tmp_path, Evaluation(OWN, ""), BASELINES)
    (tmp_path / "finetune.json").write_text("{}")
    run = tmp_path / "finetuned-0"
    run.mkdir()
    (run / "recipe.yaml").write_text("method: {kind: supervised}\n")
    environment = {"command": "mezzotint finetune runs/demo", "torch": "2.14", "seconds": 4.0}
    (run / "environment.json").write_text(json.dumps(environment))
    page = write_report(tmp_path).read_text(encoding="utf-8")
    assert "pretraining did not help here." in page
    assert "Results of fine-tuning" in page and "frozen features" not in page
    assert "<th>Fine-tuned</th><th>From scratch</th><th>Untrained and frozen</th>" in page
    assert "Features are frozen" not in page and "Raw" not in page
    assert "mezzotint finetune runs/demo" in page and "<dd>4 s</dd>" in page
    assert "method: {kind: supervised}" in page
    assert "<td>0.725</td><td>0.758</td>" in page and "Largest class" in page
    assert '<dl class="ledger"></dl>' not in page and '<dl class="facts"></dl>' not in page
    assert "unreadable files" in page
