"""The page of `mezzotint check`: what holds in green, what does not in red, with each tolerance."""

from collections.abc import Sequence
from pathlib import Path

from mezzotint._version import __version__
from mezzotint.report.render import template, write_page
from mezzotint.runs.check import Outcome

_STYLE = """
:root { color-scheme: light dark; --ink: #1c1a18; --paper: #faf8f5; --rule: #d9d3ca;
  --pass: #2c6e2f; --fail: #a8281a; --skip: #6b645b; }
@media (prefers-color-scheme: dark) { :root { --ink: #ece7e0; --paper: #191714; --rule: #453f37;
  --pass: #86c977; --fail: #f0806a; --skip: #a39a8e; } }
body { font: 16px/1.5 Georgia, serif; color: var(--ink); background: var(--paper); }
body { max-width: 60rem; margin: 2rem auto; padding: 0 1rem; }
h1 { font-weight: 400; } section { overflow-x: auto; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; width: 100%; }
th, td { text-align: left; font-weight: 400; vertical-align: top; }
th, td { padding: .4rem .8rem .4rem 0; border-bottom: 1px solid var(--rule); }
td.pass { color: var(--pass); } td.fail { color: var(--fail); } td.skip { color: var(--skip); }
.foot { opacity: .7; font-size: .85rem; }
"""
WORDS = {"pass": "✓ holds", "fail": "✗ fails", "skip": "– does not apply"}


def verdict(outcomes: Sequence[Outcome]) -> str:
    """Summarize all checks in one sentence."""
    failed = [outcome.check for outcome in outcomes if outcome.verdict == "fail"]
    held = sum(outcome.verdict == "pass" for outcome in outcomes)
    if failed:
        return f"{len(failed)} of {len(outcomes)} checks fail: {', '.join(failed)}."
    return f"{held} of {len(outcomes)} checks hold, and none fails."


def write_check(outcomes: Sequence[Outcome], recipe: str, out: Path) -> Path:
    """Write the page; it is a single file without scripts."""
    page = template("check.html").render(
        recipe=recipe,
        verdict=verdict(outcomes),
        outcomes=outcomes,
        words=WORDS,
        style=_STYLE,
        version=__version__,
    )
    return write_page(out, page)
