"""The hook of mkdocs.yml: generated pages, links out of `docs/`, mathematics without JavaScript.

    make docs          # writes build/site, warnings are errors
    make docs-serve    # shows it on loopback

Nothing is downloaded. Pages of the reference come from `docs_reference`, the results from
`docs_results`. A link to a file outside `docs/` goes to its page on the site if it has one, and
else to the repository. Formulas between dollars become MathML, which browsers draw themselves.
"""

import posixpath
import re
import sys
from functools import cache
from pathlib import Path
from typing import Any

from latex2mathml.converter import convert
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.exceptions import PluginError as PluginError
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT / "scripts"))
sys.path.insert(0, str(ROOT / "src"))

import docs_reference  # noqa: E402
import docs_results  # noqa: E402

_SOURCE = "https://github.com/mezzotint/mezzotint/blob/main/"
_LINK = re.compile(r"(\]\()([^)#:\s]+)((?:#[^)\s]*)?\))")
_MATH = re.compile(r'<(span|div) class="arithmatex">\\([(\[])(.*?)\\[)\]]</\1>', re.S)
_LOADED = re.compile(r"<(?:script|link|img|iframe)\b[^>]*(?:src|href)=\"?(https?:[^\s\">]*)")
# Files of the repository that have a page: path → page.
PAGES = {"CHANGELOG.md": "changelog.md", "CONTRIBUTING.md": "contributing.md"}


@cache
def pages() -> dict[str, str]:
    """Map files outside `docs/` to their page on the site."""
    results = sorted((ROOT / "benchmarks" / "results").glob("*.md"))
    return PAGES | {f"benchmarks/results/{p.name}": f"results/{p.name}" for p in results}


@cache
def generated() -> dict[str, str]:
    """Text of each page that does not lie in `docs/`, by its path on the site."""
    copies = {}
    for path, page in pages().items():
        text = (ROOT / path).read_text(encoding="utf-8")
        copies[page] = relinked(text, path, page)
    return copies | docs_reference.pages() | docs_results.pages()


def relinked(text: str, path: str, page: str) -> str:
    """Point the links of a file to pages of the site.

    Args:
        text: of the file.
        path: of the file in the repository.
        page: where its text stands on the site.
    """

    def link(match: re.Match[str]) -> str:
        target = posixpath.normpath(posixpath.join(posixpath.dirname(path), match[2]))
        here = posixpath.dirname(page)
        if target in pages():
            return match[1] + posixpath.relpath(pages()[target], here or ".") + match[3]
        if target.startswith("docs/"):
            return match[1] + posixpath.relpath(target[5:], here or ".") + match[3]
        return f"{match[1]}{_SOURCE}{target}{match[3]}" if (ROOT / target).exists() else match[0]

    return _LINK.sub(link, text)


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """Append the generated pages to their parts of the navigation."""
    for part in config.nav or []:
        for title, entries in part.items():
            entries.extend(docs_reference.navigation() if title == "Reference" else ())
            if title == "Results":
                entries.append({"Benchmarks": [p for p in pages().values() if "/" in p]})
    config.watch += [str(ROOT / "src"), str(ROOT / "benchmarks" / "results")]
    return config


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the generated pages."""
    for path, text in generated().items():
        files.append(File.generated(config, path, content=text))
    return files


def on_page_markdown(markdown: str, page: Page, **_: Any) -> str:
    """Point links out of `docs/` to pages of the site, or to the repository."""
    path = page.file.src_uri
    return markdown if path in generated() else relinked(markdown, f"docs/{path}", path)


def on_page_content(html: str, **_: Any) -> str:
    """Turn formulas into MathML."""

    def math(match: re.Match[str]) -> str:
        text = match[3].replace("&lt;", "<").replace("&gt;", ">").replace("&amp;", "&")
        formula = str(convert(text, display="block" if match[2] == "[" else "inline"))
        return f'<{match[1]} class="arithmatex">{formula}</{match[1]}>'

    return _MATH.sub(math, html)


def on_post_page(output: str, *, page: Page | None, **_: Any) -> str:
    """Refuse a page that loads something from the web.

    Raises:
        PluginError: with the address.
    """
    loaded = _LOADED.search(output)
    if loaded is not None:
        name = page.file.src_uri if page is not None else "A page"
        raise PluginError(f"{name} loads {loaded[1]}. The site works offline; keep a copy.")
    return output
