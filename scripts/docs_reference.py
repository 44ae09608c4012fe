"""Pages of the reference, generated from the package: public names, recipe keys, the command line.

Nothing of torch is imported: names come from the `__init__.py` files, keys from signatures, verbs
from the parser.
"""

import ast
from functools import cache
from pathlib import Path
from typing import Any

PACKAGE = Path(__file__).parent.parent / "src" / "mezzotint"
_ROOMS = (
    "", "methods", "encoders", "data", "augment", "codebooks", "quant", "optim", "optim.mup",
    "evaluation", "export", "recipe", "train", "runs", "interop", "detection", "report",
)  # fmt: skip


@cache
def public_names() -> dict[str, tuple[str, ...]]:
    """The public names of each package, as its `__init__.py` lists them: `from x import Y as Y`."""
    found: dict[str, tuple[str, ...]] = {}
    for room in _ROOMS:
        path = PACKAGE.joinpath(*room.split(".") if room else (), "__init__.py")
        tree = ast.parse(path.read_text(encoding="utf-8"))
        names = [
            alias.name
            for node in ast.walk(tree)
            if isinstance(node, ast.ImportFrom)
            for alias in node.names
            if alias.asname == alias.name
        ]
        if names:
            found[".".join(filter(None, ("mezzotint", room)))] = tuple(names)
    return found


def _api_path(package: str) -> str:
    return f"reference/api/{package}.md"


def _api(package: str, names: tuple[str, ...]) -> str:
    """The page of a package: its docstring, and each of its public names."""
    path = PACKAGE.joinpath(*package.split(".")[1:], "__init__.py")
    doc = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or ""
    blocks = [f"::: {package}.{name}\n" for name in names if not name.startswith("_")]
    return f"# `{package}`\n\n{doc}\n\n" + "\n".join(blocks)


@cache
def pages() -> dict[str, str]:
    """Text of each page, by its path on the site."""
    return {_api_path(package): _api(package, names) for package, names in public_names().items()}


def navigation() -> list[Any]:
    """The entries of the pages in the navigation."""
    return [{"API": [{f"`{name}`": _api_path(name)} for name in public_names()]}]
