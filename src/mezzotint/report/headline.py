"""The headline of a report: what the encoder scores, and which baselines it is not ahead of.

Each side is shown by its best probe, so that no baseline is shown by one that suits it badly. The
encoder is ahead of a baseline if the interval of the difference lies above zero. Where it is not,
the page begins with that.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from mezzotint.evaluation.before_after import read_changes
from mezzotint.evaluation.label_free import verdict
from mezzotint.evaluation.results import (
    Interval,
    difference,
    read_baselines,
    read_evaluation,
    signed,
)
from mezzotint.report.results import (
    SCORES,
    Comparison,
    compare_with_baselines,
    score,
    task_words,
    unquantized,
)
from mezzotint.train.continued import read_outcome

_Pieces = list[tuple[str, bool]]


@dataclass(frozen=True)
class Side:
    """The best probe of the encoder, or of a baseline, on the task of the headline.

    Attributes:
        name: `this encoder`, or the baseline.
        result: its value with the 95 % interval.
        comparison: the probe and its metric.
    """

    name: str
    result: Interval
    comparison: Comparison

    def words(self, *, several: bool) -> str:
        """Write name and value, and the probe if there are several."""
        probe = f" ({_in_sentence(self.comparison.name)})" if several else ""
        return f"{self.name} {score(self.result.mean)}{probe}"


def sides(comparisons: Sequence[Comparison]) -> list[Side]:
    """Return the encoder and its measured baselines, each by its best probe; empty without labels.

    Of the first task that a linear probe or kNN answers, else of the first score. The same probes
    compete on each side.
    """
    competing = _competing(comparisons)
    names = list(dict.fromkeys(name for c in competing for name in c.baselines))
    own = [Side("this encoder", c.result, c) for c in competing]
    others = [
        [Side(name, c.baselines[name], c) for c in competing if name in c.baselines]
        for name in names
    ]
    best = [max(every, key=_value) for every in (own, *others) if every]
    return best[:1] + [side for side in best[1:] if math.isfinite(side.result.mean)]


def _value(side: Side) -> float:
    return side.result.mean if math.isfinite(side.result.mean) else -math.inf


def _competing(comparisons: Sequence[Comparison]) -> list[Comparison]:
    """Return the main metric of every probe on the headline's task."""
    scores = [c for c in unquantized(comparisons) if c.measure in SCORES]
    main = [c for c in scores if c.main]
    usual = [c for probe in ("linear", "knn") for c in main if c.rows[0].probe == probe]
    first = next(iter(usual or main or scores), None)
    return [c for c in main or scores if first and c.rows[0].metric == first.rows[0].metric]


def lead(comparisons: Sequence[Comparison]) -> tuple[_Pieces, bool]:
    """Write the headline: pieces of text with their emphasis, and whether it is a warning.

    It begins with the baselines that the encoder is not ahead of, with the differences.
    """
    found = sides(comparisons)
    if not found:
        words = "Evaluated without labels." if comparisons else "Not evaluated yet."
        return [(words, False)], False
    own = found[0]
    others = found[1:] if math.isfinite(own.result.mean) else []
    where = f" on {task_words(own.comparison.task)}"
    behind = [side for side in others if not _ahead(own, side)]
    if behind:
        return [
            (f"This encoder is {_not_ahead(own, behind)}: it scores ", False),
            (score(own.result.mean), True),
            (f"{where}.", False),
        ], True
    ahead = f", ahead of {_listed([_article(side.name) for side in others])}" if others else ""
    return [
        ("This encoder scores ", False),
        (score(own.result.mean), True),
        (f"{where}{ahead}.", False),
    ], False


def headline(folder: Path) -> str:
    """Return the headline of an evaluated run as one sentence, for the terminal."""
    comparisons = compare_with_baselines(read_evaluation(folder), read_baselines(folder))
    return "".join(text for text, _ in lead(comparisons)[0])


def _ahead(own: Side, other: Side) -> bool:
    gap = difference(own.result, other.result)
    # Without an interval the values alone decide.
    return gap.low > 0 if math.isfinite(gap.low) else gap.mean > 0


def _not_ahead(own: Side, others: Sequence[Side]) -> str:
    """Name the baselines that are better beyond the interval, then those within it."""
    parts: dict[str, list[str]] = {"behind": [], "not ahead of": []}
    for side in others:
        gap = difference(own.result, side.result)
        worse = gap.high < 0 if math.isfinite(gap.high) else gap.mean < 0
        words = f"{_article(side.name)} ({_gap_words(gap)})"
        parts["behind" if worse else "not ahead of"].append(words)
    joints = {"behind": " and ", "not ahead of": " or "}
    named = (f"{how} {_listed(side, joints[how])}" for how, side in parts.items() if side)
    return " and ".join(named)


def _gap_words(gap: Interval) -> str:
    words = signed(gap.mean)
    if math.isfinite(gap.low):
        words += f", 95 % {signed(gap.low)} to {signed(gap.high)}"
    return words.replace(" ", "\N{NO-BREAK SPACE}")  # a sign stays with its number


def _article(name: str) -> str:
    return f"the {name}" if name.endswith("encoder") else name


def _listed(names: Sequence[str], joint: str = " and ") -> str:
    return joint.join(filter(None, (", ".join(names[:-1]), names[-1])))


def _in_sentence(name: str) -> str:
    """Write the name of a probe inside a sentence."""
    return name if name.startswith("kNN") else f"{name[:1].lower()}{name[1:]}"


def sides_words(comparisons: Sequence[Comparison]) -> tuple[str, bool] | None:
    """Write the value of each side, and the smallest gain where the encoder is ahead of all."""
    found = sides(comparisons)
    if not found:
        return None
    own, others = found[0], found[1:]
    several = len(_competing(comparisons)) > 1
    listed = "; ".join(side.words(several=several) for side in found)
    text = f"{'Best probe of each side' if several else own.comparison.name}: {listed}."
    if others and all(_ahead(own, side) for side in others):
        nearest = max(others, key=lambda side: side.result.mean)
        gap = difference(own.result, nearest.result)
        text += f" Gain over {_article(nearest.name)}: {_gap_words(gap)}."
    return text, False


def standing_words(comparisons: Sequence[Comparison]) -> tuple[str, bool] | None:
    """Count the main metrics in which the encoder scores above every baseline; less is a warning.

    Returns `None` with fewer than two such metrics, which the headline has.
    """
    gains = [c.gain for c in comparisons if c.main and math.isfinite(c.gain)]
    if len(gains) < 2:
        return None
    ahead = sum(gain > 0 for gain in gains)
    many = f"all {len(gains)}" if ahead == len(gains) else f"{ahead} of {len(gains)}"
    text = f"It scores above every baseline in {many} main metrics below."
    return text, ahead < len(gains)


def collapse_words(comparisons: Sequence[Comparison]) -> tuple[str, bool] | None:
    """State the verdict on collapse, and whether it is a warning; `None` if it was not measured."""
    value = {c.rows[0].metric: c.result.mean for c in comparisons if c.bits.is_float}
    if "all/spread" not in value or "all/rank_ratio" not in value:
        return None
    words = verdict(value["all/spread"], value["all/rank_ratio"])
    return f"{words[0].upper()}{words[1:]}.", not words.startswith("healthy")


def start_words(folder: Path) -> list[tuple[str, bool]]:
    """Say what training changed of the start of a run, and which encoder was kept.

    Args:
        folder: directory of a run; without `init` nothing is said.

    Returns:
        Sentences, and whether each is a warning.
    """
    outcome = read_outcome(folder)
    if outcome is None:
        return []
    text = str(outcome).removeprefix("encoder: ")
    said = [(f"{text[:1].upper()}{text[1:]}.", outcome.worse or not outcome.task)]
    for one in read_changes(folder):
        worse = one.high < 0.0
        helped = "helped" if one.low > 0.0 else "made it worse" if worse else "changed nothing sure"
        known = not math.isnan(one.low)
        said.append((f"Training {helped} on {one}." if known else f"No interval: {one}.", worse))
    return said if outcome.kept == "start" else [*said[1:], said[0]]


def after_start(
    folder: Path, leading: list[tuple[str, bool]], warns: bool
) -> tuple[list[tuple[str, bool]], bool, list[tuple[str, bool]]]:
    """Put what training changed of a start before what the encoder is worth.

    Args:
        folder: directory of a run; without `init` nothing changes.
        leading: pieces of the headline, and whether each is emphasized.
        warns: whether the headline is a warning.

    Returns:
        The pieces of the new headline, whether it is a warning, and the sentences below it.
    """
    started = start_words(folder)
    if not started:
        return leading, warns, []
    (words, worse), *rest = started
    return [(words, False)], worse, [*rest, ("".join(text for text, _ in leading), warns)]
