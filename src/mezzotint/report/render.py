"""Render pages from templates: everything is escaped, and a page loads nothing."""

import base64
import functools
import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jinja2

from mezzotint._version import __version__
from mezzotint.files import replacing

PALETTE = (
    ("#bf3f2a", "#f0806a"),
    ("#2f6f9f", "#6fb3e0"),
    ("#4b8b3b", "#86c977"),
    ("#b87a0c", "#f0bd57"),
    ("#7a4e9e", "#b994dd"),
    ("#1f8a85", "#5fc9c2"),
    ("#b5527f", "#ea92b8"),
    ("#6b5b45", "#b8a58a"),
    ("#8a9a1e", "#c5d35c"),
    ("#4a55b8", "#93a0f5"),
    ("#d9713c", "#f7a477"),
    ("#5f6b75", "#a9b6c1"),
)
"""Colors of classes in light and in dark mode; they repeat if there are more classes."""


def content_hash(text: str) -> str:
    """Return the hash by which a content security policy allows an inline style or script."""
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode("ascii")


@functools.cache
def template(name: str) -> jinja2.Template:
    """Load a template of this folder; it escapes all values and refuses undefined names."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["content_hash"] = content_hash
    return environment.get_template(name)


def render(*, title: str, data: Mapping[str, Any] | None = None, **sections: Any) -> str:
    """Render a page.

    Args:
        title: title of the page; markup in it is escaped, as in all strings.
        data: data of the page's script: `charts` and `map`.
        **sections: content of the sections; a missing section is left out.
    """
    names = (
        "hero", "curves", "results", "transfer", "bits", "inputs", "layers", "exports", "errors",
        "map", "maps", "neighbors", "gallery", "lab", "codes", "study", "reproduce", "credit",
    )  # fmt: skip
    return template("page.html").render(
        title=title,
        data=dict(data or {}),
        palette=PALETTE,
        version=__version__,
        **{name: sections.get(name) for name in names},
    )


def write_page(out: Path, page: str) -> Path:
    r"""Write a page atomically: a reader sees the old page or the new one.

    File names that are not valid text (lone surrogates) are written as `\udc80`.
    """
    out.parent.mkdir(parents=True, exist_ok=True)
    with replacing(out) as temporary:
        temporary.write_bytes(page.encode("utf-8", errors="backslashreplace"))
    return out
