"""From what a page says to the page: one template, everything escaped, nothing loaded from elsewhere."""

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
"""Colors of classes, in light and in dark; they repeat when there are more classes."""


def content_hash(text: str) -> str:
    """What a content security policy calls an inline style sheet or script that may be used."""
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode("ascii")


@functools.cache
def template(name: str) -> jinja2.Template:
    """A template of this folder, which escapes what it is given and refuses names that it is not."""
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
        title: of the page, a plain string like everything else: markup in it is shown, not used.
        data: what the script needs: `charts` and `map`.
        **sections: what the template shows; a section that is left out is not on the page.
    """
    names = (
        "hero", "curves", "results", "transfer", "bits", "layers", "weak", "atlas", "maps", "kin", "gallery", "lab",
        "codes", "making", "credit",
    )  # fmt: skip
    return template("page.html").render(
        title=title,
        data=dict(data or {}),
        palette=PALETTE,
        version=__version__,
        **{name: sections.get(name) for name in names},
    )


def write_page(out: Path, page: str) -> Path:
    r"""Write a page so that a reader sees the old one or the new one, never half of it.

    File names that are not text (lone surrogates) are written as `\udc80`: nothing else could show
    them.
    """
    out.parent.mkdir(parents=True, exist_ok=True)
    with replacing(out) as temporary:
        temporary.write_bytes(page.encode("utf-8", errors="backslashreplace"))
    return out
