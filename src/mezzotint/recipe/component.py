"""Objects that a recipe can name: each remembers the keyword arguments it was made with.

A recipe names a class and its keyword arguments. To write an object that was made in Python back
into a recipe, those arguments are needed again; `Component` keeps them, and nothing else.
"""

import functools
import os
import re
from collections.abc import Callable, Mapping
from typing import Any, ClassVar, ParamSpec, TypeVar

P = ParamSpec("P")
T = TypeVar("T")


def kind_of(name: str) -> str:
    """Return a class's name in recipes: its name in snake case, `TwoViews` → `two_views`.

    Where the field spells it otherwise, the class gives its own: `class SimSiam(Siamese,
    kind="simsiam")`.
    """
    return re.sub(r"(?<=[a-z0-9])(?=[A-Z][a-z]{2})", "_", name).lower()


def as_config(value: Any) -> Any:
    """Turn an argument into plain data, with the `config` in place of each component."""
    if hasattr(value, "config"):
        return value.config
    if isinstance(value, Mapping):
        return {str(key): as_config(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [as_config(item) for item in value]
    return str(value) if hasattr(value, "__fspath__") else value


def expanded(value: Any) -> Any:
    """Replace a leading `~/` of a text or path by the home directory; others stay as they are."""
    text = value if isinstance(value, str) else str(value) if hasattr(value, "__fspath__") else ""
    return os.path.expanduser(text) if text.startswith("~/") else value


def require_sizes(section: str, **sizes: int) -> None:
    """Refuse a size below 1 by the name of its key.

    Args:
        section: section of the recipe in which the keys stand.
        sizes: by key.

    Raises:
        ValueError: with the key.
    """
    for name, size in sizes.items():
        if size < 1:
            raise ValueError(f"`{section}.{name}` must be 1 or more, got {size}. Increase it.")


class Component:
    """A class that a recipe can name.

    Attributes:
        kind: the name of the class in a recipe.
        config: `kind` and the keyword arguments of the constructor, as plain data. Positional
            arguments are not part of it: the recipe injects them (an encoder into its method).
    """

    config: dict[str, Any]

    kind: ClassVar[str]

    def __init_subclass__(
        cls, kind: str = "", abstract: bool = False, positional: str = "", **kwargs: Any
    ) -> None:
        """Name the class.

        Args:
            kind: its name in recipes, where the rule of `kind_of` gives another one.
            abstract: true for a base class, which a recipe cannot name.
            positional: a key that may also be given as the only positional argument, in a class to
                which a recipe injects nothing.
            kwargs: keywords of other base classes.
        """
        super().__init_subclass__(**kwargs)
        cls.kind = kind or kind_of(cls.__name__)
        if "__init__" not in cls.__dict__:
            return
        construct = cls.__init__

        @functools.wraps(construct)
        def recorded(self: Any, *args: Any, **keywords: Any) -> None:
            keywords = {name: expanded(value) for name, value in keywords.items()}
            if positional and len(args) == 1 and positional not in keywords:
                keywords, args = {positional: args[0], **keywords}, args[1:]
            # The outermost constructor runs first, and its class is the one that was named.
            if "config" not in self.__dict__:
                self.config = {"kind": self.kind, **as_config(keywords)}
            construct(self, *args, **keywords)

        cls.__init__ = recorded  # type: ignore[method-assign]


def factory(build: Callable[P, T]) -> Callable[P, T]:
    """Let a recipe name a function; its product remembers the name and the keyword arguments."""

    @functools.wraps(build)
    def recorded(*args: P.args, **keywords: P.kwargs) -> T:
        keywords.update({name: expanded(value) for name, value in keywords.items()})
        product = build(*args, **keywords)
        product.config = {"kind": build.__name__, **as_config(keywords)}  # type: ignore[attr-defined]
        return product

    return recorded
