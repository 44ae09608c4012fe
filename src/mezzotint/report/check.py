"""The page of `mezzotint check`: what holds in green, what does not in red, with each tolerance."""

from collections.abc import Sequence
from pathlib import Path

from mezzotint._version import __version__
from mezzotint.report.render import template, write_page
from mezzotint.runs.check import Outcome

_STYLE = """
:root { color-scheme: light dark; --paper: #f7f2e8; --plate: #fdfaf3; --ink: #1e1a15;
  --soft: #655c50; --rule: #dcd2c1; --pass: #2c6e2f; --fail: #a8281a; --skip: #655c50; }
@media (prefers-color-scheme: dark) { :root { --paper: #131110; --plate: #1b1816; --ink: #ebe4d7;
  --soft: #a89f91; --rule: #37312b; --pass: #86c977; --fail: #f0806a; --skip: #a89f91; } }
body { font: 16px/1.5 system-ui, sans-serif; color: var(--ink); background: var(--paper); }
body { max-width: 60rem; margin: 3rem auto; padding: 0 1.25rem; overflow-wrap: anywhere; }
h1 { font: 400 2rem/1.2 Georgia, serif; margin: 0 0 .5rem; }
.verdict { font-size: 1.15rem; margin: 0 0 2rem; }
table { border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums; }
thead th { color: var(--soft); font-size: .8rem; }
th, td { text-align: left; font-weight: 400; vertical-align: top; }
th, td { padding: .7rem 1.2rem .7rem 0; border-bottom: 1px solid var(--rule); }
th:last-child, td:last-child { padding-right: .8rem; text-align: right; }
tr > :first-child { padding-left: .8rem; }
.verdict-of, td:last-child { white-space: nowrap; } .verdict-of { font-weight: 600; }
.pass { color: var(--pass); } .fail { color: var(--fail); } .skip { color: var(--skip); }
.skip { font-weight: 400; } tr.failed { background: var(--plate); }
tr.failed > :first-child { box-shadow: inset 4px 0 var(--fail); }
code { font: .85em ui-monospace, monospace; } tbody th code { display: block; color: var(--soft); }
th { width: 17rem; } thead th:not(:first-child) { width: auto; }
.found { min-width: 12rem; } .allowed { min-width: 5.5rem; }
.foot { color: var(--soft); font-size: .85rem; max-width: 46rem; margin-top: 1.5rem; }
@media (max-width: 46rem) {
  thead { display: none; } tr { display: block; padding: .8rem 0; }
  tr { border-bottom: 1px solid var(--rule); } tr.failed { box-shadow: inset 4px 0 var(--fail); }
  th, td, th:last-child, td:last-child { display: block; border: 0; width: auto; text-align: left; }
  th, td { padding: .1rem .8rem; } tr.failed > :first-child { box-shadow: none; }
  td[data-name]::before { content: attr(data-name) ": "; color: var(--soft); } }
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
