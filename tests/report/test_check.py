"""The page of a check shows every row, escaped, in light and dark."""

from pathlib import Path

from mezzotint.report.check import verdict, write_check
from mezzotint.runs.check import Outcome

ROWS = [
    Outcome("ranks", "2 processes train as one", "pass", "the loss differs by 1e-7", "1e-5", 3.2),
    Outcome("resumed", "a resumed run", "fail", "<script>1 tensor</script>", "every `bit`", 1.0),
    Outcome("workers", "workers do not matter", "skip", "in memory", "", 0.0),
]


def test_the_page_has_every_check_with_its_tolerance(tmp_path: Path) -> None:
    page = write_check(ROWS, "my <recipe>", tmp_path / "index.html").read_text(encoding="utf-8")
    for text in ('pass">✓ holds', 'fail">✗ fails', "1e-5", "every <code>bit</code>", "3 s"):
        assert text in page
    assert page.startswith("<!doctype html>") and page.count('class="failed"') == 1
    assert "my &lt;recipe&gt;" in page and "<script>" not in page
    assert "prefers-color-scheme: dark" in page and "Content-Security-Policy" in page


def test_the_verdict_names_what_fails() -> None:
    assert verdict(ROWS) == "1 of 3 checks fail: resumed."
    assert verdict(ROWS[::2]) == "1 of 2 checks hold, and none fails."
