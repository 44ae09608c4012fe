"""What lets a live object be written into a recipe: it remembers how it was constructed.

A recipe names a class and its keyword arguments. The reverse way, from an object made in Python
back to a recipe, needs those arguments again; `Component` keeps them, and nothing else.
"""

import functools
import re
from collections.abc import Callable, Mapping
from typing import Any, ClassVar, ParamSpec, TypeVar

P = ParamSpec("P")
T = TypeVar("T")


def kind_of(name: str) -> str:
    """Return the name of a class in a recipe: its name in snake case, `TwoViews` → `two_views`.

    Where the field spells it otherwise, the class says so: `class SimSiam(Siamese,
    kind="simsiam")`.
    """
    return re.sub(r"(?<=[a-z0-9])(?=[A-Z][a-z]{2})", "_", name).lower()


def as_config(value: Any) -> Any:
    """Turn an argument into plain data: components become their `config`, sequences and mappings are walked."""
    if hasattr(value, "config"):
        return value.config
    if isinstance(value, Mapping):
        return {str(key): as_config(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [as_config(item) for item in value]
    return str(value) if hasattr(value, "__fspath__") else value


class Component:
    """A class that can stand in a recipe.

    Attributes:
        kind: the name of the class in a recipe.
        config: `kind` and the keyword arguments of the constructor, as plain data. Positional
            arguments are what the recipe injects (an encoder into its method, say) and are not part
            of it.
    """

    config: dict[str, Any]

    kind: ClassVar[str]

    def __init_subclass__(cls, kind: str = "", abstract: bool = False, **kwargs: Any) -> None:
        """Name the class.

        Args:
            kind: its name in a recipe, where the rule of `kind_of` gives another.
            abstract: a recipe cannot name it: it is there to be subclassed.
            kwargs: of other base classes.
        """
        super().__init_subclass__(**kwargs)
        cls.kind = kind or kind_of(cls.__name__)
        if "__init__" not in cls.__dict__:
            return
        construct = cls.__init__

        @functools.wraps(construct)
        def recorded(self: Any, *args: Any, **keywords: Any) -> None:
            if (
                "config" not in self.__dict__
            ):  # the outermost class of a hierarchy is the one that was named
                self.config = {"kind": self.kind, **as_config(keywords)}
            construct(self, *args, **keywords)

        cls.__init__ = recorded  # type: ignore[method-assign]


def factory(build: Callable[P, T]) -> Callable[P, T]:
    """Let a function stand in a recipe: what it returns remembers the function's name and keyword arguments."""

    @functools.wraps(build)
    def recorded(*args: P.args, **keywords: P.kwargs) -> T:
        product = build(*args, **keywords)
        product.config = {"kind": build.__name__, **as_config(keywords)}  # type: ignore[attr-defined]
        return product

    return recorded
