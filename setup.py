"""The text of the package's index page: the README, whose links are absolute there.

Everything else about the package is in `pyproject.toml`.
"""

import re
import tomllib
from pathlib import Path

from setuptools import setup

ROOT = Path(__file__).parent
LINK = re.compile(r"(!?)\[([^\]]*)\]\((?!https?:|#)([^)]+)\)")


def index_page(text: str, source: str) -> str:
    """Return Markdown with absolute links; pictures need the file itself, not its page."""

    def absolute(match: re.Match[str]) -> str:
        picture, title, target = match.groups()
        return f"{picture}[{title}]({source}/{'raw' if picture else 'blob'}/main/{target})"

    return LINK.sub(absolute, text)


if __name__ == "__main__":
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    setup(
        long_description=index_page(readme, project["urls"]["Source"]),
        long_description_content_type="text/markdown",
    )
