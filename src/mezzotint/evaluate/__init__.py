"""What frozen features are worth.

The package is callable, because `mezzotint.evaluate(run)` is a public name and Python gives that name to this package
as soon as any of its modules is imported.
"""

import importlib
import sys
from types import ModuleType
from typing import Any


class _Callable(ModuleType):
    def __call__(self, *args: Any, **keywords: Any) -> Any:
        """`mezzotint.train.runs.evaluate`."""
        return importlib.import_module("mezzotint.train.runs").evaluate(*args, **keywords)


sys.modules[__name__].__class__ = _Callable
