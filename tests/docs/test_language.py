"""The words of the field: private words that once stood for them do not come back."""

import re
from pathlib import Path

import pytest

from tests import ROOT

# Word of the field → the private words it replaces, as regular expressions over lines.
REPLACED = {
    "accepted (in errors: what was wrong, what is accepted, what to do)": r"\ballowed (?:is|are)\b",
    "bits, bit-width, bit config": r"\bwidths? of (?:the |its |all )*(?:weights?|activations?)\b"
    r"|\bat (?:every|each|all|these|other|its) widths?\b|\bbits wide\b",
    "index, position": r"(?<!in )(?<!in-)(?<!take )(?<!takes )(?<!took )(?<!taking )(?<!decimal )"
    r"\bplaces?\b|\bplaces?_|_places?\b",
    "fraction, ratio": r"\bshares? of\b|\b(?:a|the|same) share\b",
    "codebook": r"(?<![a-z])books?\b",
    "kNN overlap": r"\bneighbors kept\b|\bkept neighbors\b|\ball/kept\b",
    "value, metric, result": r"\bfigures?\b(?! ?\d)(?!\.)(?!\()(?!size)",
    "forward passes": r"\bencoder[_ ]passes\b",
    "BatchNorm re-estimation": r"\bputs? right\b|\brenorm\b",
    "asymmetric / symmetric loss": r"one_way|both_ways|one-way\b|\bboth ways\b",
    "labeled / unlabeled": r"\btaught\b|\bteaches\b",
    "in-memory": r"\bHeld\w*\b",
    "emails, rotating objects, detection samples, audio file": r"\bmails?\b|\bspins\b|\bSpins\b"
    r"|\bscenes?\b|\bScenes?\b|\brecordings?\b",
    "point cloud": r"(?<!point )(?<!Point )(?<!point_)(?<!point-)\bclouds?\b",
    "detector, segmenter": r"\blocalizers?\b|\bLocalizers?\b",
    "std, standard deviation": r"(?<!standard )(?<!absolute )\bdeviations?\b",
    "baselines, compared with": r"\bbeside\b|\bBeside\b",
    "attribution": r"\bCredited\b",
    "augmentation policy": r"\bstrateg(?:y|ies)\b",
    "fp32, full precision": r"\bfloat (?:level|head|mode)s?\b|\bfp32 level\b",
    "masked / visible": r"\bhidden patch|\bpatch(?:es)?\b[^.:]{0,40}\b(?:is|are) hidden\b",
    "min-max PTQ, BatchNorm re-estimation, AdaRound": r"`(?:strong|corrected)`",
    "plain words": r"\blest\b|\banew\b|\bso many\b|\bof which\b|\bof whom\b|\bthereof\b|\bPlainly\b"
    r"|\bmends?\b|\b(?:is|are) ill\b|\blearnt\b|\bkept head\b|\bhead kept\b",
}
# What stays although it reads so: names in saved state, keys of draws, other projects' names.
EXCEPTIONS = {
    "bits, bit-width, bit config": ("standard deviation at every width",),
    "index, position": (
        "self.places", "encoder.places", "places.table.weight", '"place"', "in its place",
    ),
    "std, standard deviation": ("numpy", "kurtosis", "Standard deviation"),
    "value, metric, result": (
        "plt", "matplotlib", "Figure", "<figure", "figure>", "figure{", "figure {", "figure.",
        " figure:", "return figure", "const figure", "_png(figure", "paper's figure",
    ),
    "augmentation policy": ("distribution_strategy", "sharing_strategy", '"strategies"'),
    "codebook": ("books.csv", "self.books", ".books.vectors", "num_books"),
    "emails, rotating objects, detection samples, audio file": (
        '"mails"', '"spins"', '"recording"', "`recording`", "mail addresses",
    ),
    "point cloud": ("self.cloud", "points.clouds", "cloud {i}", "clouds](points.md)"),
}  # fmt: skip
FOLDERS = ("src/mezzotint", "docs", "benchmarks", "scripts")
SUFFIXES = {".py", ".md", ".yaml", ".html"}


def texts() -> list[Path]:
    found = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "CHANGELOG.md"]
    for folder in FOLDERS:
        paths = sorted((ROOT / folder).rglob("*"))
        found += [p for p in paths if p.suffix in SUFFIXES]
    return found


@pytest.mark.parametrize("word", REPLACED)
def test_a_private_word_is_not_used(word: str) -> None:
    pattern, exceptions = re.compile(REPLACED[word]), EXCEPTIONS.get(word, ())
    used = [
        f"{path.relative_to(ROOT)}:{number}: {line.strip()[:80]}"
        for path in texts()
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1)
        if pattern.search(line) and "http" not in line and not any(e in line for e in exceptions)
    ]
    assert not used, f"write: {word}\n" + "\n".join(used)


@pytest.mark.parametrize("folder", ["src/mezzotint", "docs", "benchmarks", "scripts"])
def test_spelling_is_american(folder: str) -> None:
    """As torch spells: color, center, normalize, gray."""
    british = re.compile(
        r"(?i)colour|\bcentre|centring|neighbour|behaviour|\bgrey|labelled|artefact|favour"
        r"|(?:normal|optim|initial|general|synchron|recogn|minim|maxim|standard|regular|visual"
        r"|organ|serial|random|parametr|quant|equal|summar|special)"
        r"is(?:e|ed|es|er|ers|ing|ation|ations)\b"
    )
    used = [
        f"{path.relative_to(ROOT)}:{number}: {line.strip()[:80]}"
        for path in texts()
        if path.is_relative_to(ROOT / folder)
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1)
        # libsndfile and old keys of recipes spell otherwise, and are matched or refused by that.
        if british.search(line) and "recognised" not in line and path.name != "schema.py"
    ]
    assert not used, "\n".join(used)
