"""The results of a fine-tuning: compared with the same training from other starts.

Its baselines are not those of frozen features. The same network is trained from scratch with the
same labels and budget, a classifier is trained on the frozen untrained network, and a linear probe
is fitted to hand-made features.
"""

import math
from collections.abc import Sequence
from pathlib import Path

from mezzotint.evaluation.probe import Row
from mezzotint.evaluation.results import (
    HANDMADE,
    Baselines,
    Interval,
    difference,
    interval,
    interval_words,
    main_metrics,
    read_baselines,
    read_evaluation,
    signed,
)
from mezzotint.evaluation.summary import MEASURES, ResultKey, grouped
from mezzotint.report.results import Comparison, score, task_words, unquantized

SCRATCH, FROZEN = "from scratch", "untrained and frozen"
"""The baselines that are trained as the fine-tuned network is."""


def is_finetuning(folder: Path) -> bool:
    """Return whether a directory holds the runs of `mezzotint finetune`."""
    return (folder / "finetune.json").is_file()


def compare_finetuned(rows: Sequence[Row], baselines: Baselines) -> list[Comparison]:
    """Compare metrics with the network from scratch, the frozen untrained one, and hand-made.

    Returns:
        Comparisons with these baselines; and the largest class, without any.
    """
    main = main_metrics(rows)

    parts = (
        (SCRATCH, rows, "finetune_scratch"),
        (FROZEN, baselines.untrained, "finetune"),
        (HANDMADE, baselines.handmade, "finetune"),
    )

    def found(key: ResultKey) -> dict[str, Interval]:
        """Return the baselines that were measured."""
        own = {
            name: [
                row
                for row in among
                if (row.probe, row.metric, row.bits) == (probe, key.metric, key.bits)
            ]
            for name, among, probe in parts
        }
        return {name: interval(others) for name, others in own.items() if others}

    return [
        Comparison(
            own,
            interval(own),
            found(key) if key.probe == "finetune" else {},
            (key.probe, key.metric) in main and key.probe == "finetune",
        )
        for key, own in grouped(rows).items()
        if key.probe != "finetune_scratch"
    ]


def headline(comparisons: Sequence[Comparison], *, frozen: bool) -> list[tuple[str, bool]]:
    """Write the headline: pieces of text, and whether each is emphasized.

    Args:
        comparisons: from `compare_finetuned`.
        frozen: whether the classifier alone was trained.
    """
    main = next((c for c in unquantized(comparisons) if c.main), None)
    if main is None:
        return [("Nothing is scored yet", False)]
    known = [f"{name} {score(value.mean)}" for name, value in main.baselines.items()]
    pieces = [
        ("A classifier on the frozen encoder scores " if frozen else "Fine-tuning scores ", False),
        (score(main.result.mean), True),
        (f" on {task_words(main.task)}{_measured(main)}", False),
    ]
    starts = [main.baselines[name].mean for name in (SCRATCH, FROZEN) if name in main.baselines]
    own, by_hand = main.result.mean, main.baselines.get(HANDMADE)
    lost = ": pretraining did not help here" if any(start >= own for start in starts) else ""
    if by_hand is not None and by_hand.mean >= own:
        lost += f"{', and' if lost else ':'} {HANDMADE} are as good or better"
    return [*pieces, (f"; {'; '.join(known)}{lost}." if known else ".", False)]


def verdict(comparisons: Sequence[Comparison]) -> tuple[str, bool] | None:
    """Say what pretraining gains over the better start, and whether that is a warning."""
    main = next((c for c in unquantized(comparisons) if c.main), None)
    if main is None or not math.isfinite(main.gain):
        return None
    name = main.best_baseline
    gap = difference(main.result, main.baselines[name])
    bounds = interval_words(gap, signed)
    tail = f" (95 % {bounds})" if bounds else ""
    if main.gain <= 0:
        return f"No gain over {name}: {signed(main.gain)}{tail}.", True
    return f"Pretraining gains {signed(main.gain)} over {name}{tail}.", gap.low <= 0


def largest_class(comparisons: Sequence[Comparison]) -> float:
    """Return the score of always predicting the largest training class; NaN if not measured."""
    values = [c.result.mean for c in comparisons if c.rows[0].probe == "majority"]
    return values[0] if values else math.nan


def terminal_table(folder: Path) -> tuple[list[tuple[str, ...]], str]:
    """Return the lines of the terminal's table, and the headline as one sentence.

    A line has task, metric, fine-tuned, from scratch, untrained and frozen, hand-made features, and
    largest class.
    """
    rows = read_evaluation(folder)
    comparisons = compare_finetuned(rows, read_baselines(folder))
    lines: list[tuple[str, ...]] = []
    for c in comparisons:
        if c.main:
            bounds = interval_words(c.result)
            own = f"{c.result.mean:.3f} ({bounds})" if bounds else f"{c.result.mean:.3f}"
            metric = MEASURES[c.measure] or "top-1"
            low = "" if c.bits.is_float else f" {c.bits} {c.rows[0].protocol.ptq_method}"
            known = (c.baselines.get(name) for name in (SCRATCH, FROZEN, HANDMADE))
            others = [math.nan if one is None else one.mean for one in known]
            others.append(largest_class(comparisons))
            lines.append((c.task, f"{metric}{low}", own, *(_or_dash(v) for v in others)))
    words = headline(comparisons, frozen=is_frozen(rows))
    return lines, "".join(text for text, _ in words)


def is_frozen(rows: Sequence[Row]) -> bool:
    """Return whether the classifier alone was trained."""
    own = [row for row in rows if row.probe == "finetune"]
    return bool(own) and dict(own[0].protocol.settings).get("frozen") is True


def how(*, frozen: bool) -> str:
    """Say what was trained and compared."""
    trained = (
        "The encoder is frozen and a classifier is trained on it. Baselines: a classifier on the "
        "same network with untrained weights, frozen too, and a linear probe on hand-made "
        "features, where the modality has some. "
        if frozen
        else "The encoder and its classifier are trained on the labels. Baselines with the same "
        "labels and seeds: the same network from scratch, a classifier on the frozen untrained "
        "network, and a linear probe on hand-made features, where the modality has some. "
    )
    return trained + (
        "The last weights are scored, never the best epoch on the test samples. Intervals are "
        "95 %: Wilson's over test samples, plus Student's over seeds if there are several."
    )


def _measured(main: Comparison) -> str:
    return f" ({MEASURES[main.measure]})" if MEASURES.get(main.measure) else ""


def _or_dash(value: float) -> str:
    return f"{value:.3f}" if math.isfinite(value) else "–"
