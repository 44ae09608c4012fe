"""Rendering: everything is escaped, undefined names are errors, and pages are whole."""

import base64
import hashlib
from pathlib import Path

import jinja2
import pytest

from mezzotint.report.render import content_hash, render, template, write_page


def test_the_hash_is_that_of_a_content_security_policy() -> None:
    digest = hashlib.sha256("ä".encode()).digest()
    assert content_hash("ä") == f"sha256-{base64.b64encode(digest).decode()}"


def test_markup_in_a_title_is_escaped() -> None:
    page = render(title="<b>&")
    assert "<title>&lt;b&gt;&amp; · Mezzotint</title>" in page and "<b>&" not in page


def test_sections_without_content_are_left_out() -> None:
    assert "<section" not in render(title="t")
    page = render(title="t", curves={"how": "Two & three", "main": [], "rest": []})
    assert page.count("<section") == 1 and "Two &amp; three" in page


def test_undefined_names_are_errors() -> None:
    with pytest.raises(jinja2.UndefinedError):
        template("study.html").render(title="t")


def test_data_of_the_script_cannot_end_its_element() -> None:
    page = render(title="t", data={"charts": ["</script><script>alert(1)"]})
    assert page.count("</script>") == 2 and "<script>alert" not in page


def test_a_page_is_written_with_its_folder_and_without_lone_surrogates(tmp_path: Path) -> None:
    out = write_page(tmp_path / "new" / "page.html", "a\udc80b")
    assert out.read_text(encoding="utf-8") == "a\\udc80b"
    assert [path.name for path in out.parent.iterdir()] == ["page.html"]
