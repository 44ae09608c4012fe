"""The site's generated pages: every public name, key and verb, and links between the files."""

import importlib
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests import ROOT

sys.path.insert(0, str(ROOT / "scripts"))
import docs_reference  # noqa: E402
import docs_site  # noqa: E402


def test_every_public_name_has_a_block_on_the_page_of_its_package() -> None:
    assert len(docs_reference.public_names()) >= 12
    for package, names in docs_reference.public_names().items():
        page = docs_reference.pages()[f"reference/api/{package}.md"]
        module = importlib.import_module(package)
        for name in {*dir(module)} - {*vars(module)} | {*names}:
            if not name.startswith("_"):
                assert f"::: {package}.{name}\n" in page
                assert hasattr(module, name), f"{package}.{name}"


def test_links_between_files_become_links_between_pages() -> None:
    text = "[a](../docs/ssql.md#use) [b](../CHANGELOG.md) [c](results/views.md) [d](views.py)"
    found = docs_site.relinked(text, "benchmarks/README.md", "benchmarks/readme.md")
    source = "https://github.com/mezzotint/mezzotint/blob/main/benchmarks/views.py"
    assert found == (
        f"[a](../ssql.md#use) [b](../changelog.md) [c](../results/views.md) [d]({source})"
    )
    assert docs_site.relinked("[x](own.md)", "docs/a/b.md", "a/b.md") == "[x](own.md)"


def test_formulas_become_mathml() -> None:
    html = r'<p><span class="arithmatex">\(a &lt; \frac{1}{2}\)</span></p>'
    found = docs_site.on_page_content(html)
    assert "<math" in found and "<mfrac>" in found and "arithmatex" not in found


def test_a_page_that_loads_from_the_web_is_refused() -> None:
    docs_site.on_post_page('<a href="https://arxiv.org/abs/2002.05709">', page=None)
    with pytest.raises(docs_site.PluginError, match="https://cdn.example/x.js"):
        docs_site.on_post_page('<script src="https://cdn.example/x.js">', page=None)


@pytest.mark.slow
def test_the_site_builds_without_a_warning(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "mkdocs", "build", "--site-dir", str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    html = (tmp_path / "reference" / "api" / "mezzotint.methods.html").read_text(encoding="utf-8")
    assert re.search(r'id="mezzotint.methods.SimCLR"', html)
