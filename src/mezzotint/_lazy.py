"""Public names that are imported when they are first used, so that a start does not wait for torch.

A package lists its public names once, as imports that only type checkers follow:

    if TYPE_CHECKING:
        from mezzotint.methods.simclr import SimCLR as SimCLR

    __getattr__, __dir__ = lazy_names(__name__, __file__)
"""

import importlib
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

_IMPORT = re.compile(
    r"^ {4}from (mezzotint[\w.]*) import (?:(\w+) as \2|\(\n +(\w+) as \3,\n {4}\))$", re.MULTILINE
)


def lazy_names(package: str, file: str) -> tuple[Callable[[str], Any], Callable[[], list[str]]]:
    """Return `__getattr__` and `__dir__` of a package for the names that its file imports.

    Args:
        package: dotted name of the package.
        file: its `__init__.py`.
    """
    text = Path(file).read_text(encoding="utf-8")
    homes = {short or long: module for module, short, long in _IMPORT.findall(text)}

    def get(name: str) -> Any:
        if name not in homes:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        value = getattr(importlib.import_module(homes[name]), name)
        setattr(sys.modules[package], name, value)
        return value

    def names() -> list[str]:
        return sorted(homes)

    return get, names
