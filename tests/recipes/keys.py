"""Every key that shipped recipes set or leave at its default, and other values that it accepts."""

import copy
import functools
import types
import typing
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from mezzotint.recipe.phases import unfold
from mezzotint.recipe.reading import read_raw, shipped
from mezzotint.recipe.recipe import resolve_recipe
from mezzotint.recipe.schema import FAMILIES, class_of, resolve
from mezzotint.recipe.signatures import Alternatives, ComponentEntry, ListOf, Member, index

Config = dict[str, Any]
Path = tuple[str | int, ...]
SECTIONS = ("data", "views", "method", "optimizer", "schedule")


@dataclass(frozen=True)
class Leaf:
    """A key with a plain value.

    Attributes:
        section: section of the recipe.
        kinds: kinds from the section's own to that of the component with the key.
        key: name.
        path: keys and positions within the section.
        type: type of the value.
        config: the section, with all defaults.
    """

    section: str
    kinds: tuple[str, ...]
    key: str
    path: Path
    type: Any = field(compare=False)
    config: Config = field(compare=False, repr=False)

    @property
    def name(self) -> str:
        return ".".join((self.section, *self.kinds, self.key))

    @property
    def value(self) -> Any:
        found: Any = self.config
        for step in self.path:
            found = found[step]
        return found

    @property
    def last(self) -> str:
        """The component's kind and the key."""
        return f"{self.kinds[-1]}.{self.key}"

    def others(self, more: Sequence[Any] = ()) -> Iterator[Config]:
        """The section with each other value that may be accepted, of `more` first."""
        for value in (*more, *other_values(self.value, self.type)):
            if value != self.value:
                yield changed(self.config, self.path, value)

    def needing(self, siblings: Mapping[str, Any]) -> "Leaf":
        """The same key where others have the values that it needs; `^` is a step outward."""
        config = self.config
        for name, value in siblings.items():
            steps = name.split(".")
            outward = steps.count("^")
            config = changed(config, (*self.path[: -1 - outward], *steps[outward:]), value)
        return replace(self, config=config)


def changed(config: Config, path: Path, value: Any) -> Config:
    """A copy of plain data with another value at a path."""
    other = copy.deepcopy(config)
    parent: Any = other
    for step in path[:-1]:
        parent = parent[step]
    parent[path[-1]] = value
    return other


@functools.cache
def recipes() -> list[tuple[str, Config, Config]]:
    """Name, checked sections, and sections as written, of each phase of each shipped recipe."""
    return [
        (name, resolve_recipe(raw), raw)
        for name in shipped()
        for _, _, raw in unfold(read_raw(name))
    ]


def is_written(raw: Any, path: Path) -> bool:
    """Whether a path is in plain data, rather than a default."""
    for step in path:
        known = step in raw if isinstance(raw, Mapping) else isinstance(raw, list)
        if not known:
            return False
        raw = raw[step]
    return True


def modality_of_data(data: Config) -> str:
    data = data["source"] if data["kind"] == "labeled" else data
    return str(class_of(data["kind"], "Source").modality)


def members(family: str) -> Mapping[str, ComponentEntry]:
    return index().members(family)


def leaves(section: str, config: Config) -> Iterator[Leaf]:
    """Every key of a checked section."""
    yield from _component(section, config, config, FAMILIES[section], (), ())


def _component(
    section: str, whole: Config, part: Mapping[str, Any], family: str, kinds: Any, path: Path
) -> Iterator[Leaf]:
    entry = members(family)[part.get("kind", index().classes[family].kind)]
    for name, key in entry.keys.items():
        inside = (*kinds, entry.kind), (*path, name)
        yield from _value(section, whole, part[name], key.type, name, *inside)


def _value(
    section: str, whole: Config, value: Any, kind: Any, name: str, kinds: Any, path: Path
) -> Iterator[Leaf]:
    if isinstance(kind, Alternatives) and isinstance(value, (Mapping, list)):
        wanted = Member if isinstance(value, Mapping) else ListOf
        kind = next(option for option in kind.options if isinstance(option, wanted))
    if isinstance(kind, Member) and value is not None:
        yield from _component(section, whole, value, kind.family, kinds, path)
    elif isinstance(kind, ListOf) and isinstance(kind.item, (Member, Alternatives)):
        for position, item in enumerate(value):
            yield from _value(section, whole, item, kind.item, name, kinds, (*path, position))
    else:
        yield Leaf(section, kinds, name, path, kind, whole)


def other_values(value: Any, kind: Any) -> Iterator[Any]:
    """Values of a type besides the given one; not all of them need be accepted."""
    if isinstance(kind, Alternatives):
        for option in kind.options:
            if isinstance(option, Member):
                yield from _examples(option.family)
            elif isinstance(option, ListOf):
                yield from ([example] for example in _examples(option.item.family))
            elif option is not None:
                yield from other_values(value, option)
        return
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if origin in (typing.Union, types.UnionType):
        for option in arguments:
            if option is type(None):
                yield from (None,) if value is not None else ()
            else:
                yield from other_values(value, option)
    elif origin is typing.Literal:
        yield from (choice for choice in arguments if choice != value)
    elif kind is bool:
        yield not value
    elif kind is int:
        yield from _numbers(value, int)
    elif kind is float:
        yield from _numbers(value, float)
    elif origin in (list, tuple) and isinstance(value, (list, tuple)):
        yield from _sequences(list(value))


def _numbers(value: Any, kind: type) -> Iterator[Any]:
    usual = (1, 2, 3, 4, 8, 0) if kind is int else (0.5, 0.25, 2.0, 0.9, 0.05, 0.0, 1.0)
    near: tuple[float, ...] = ()
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        near = (value * 2, value / 2, value + 1, value - 1, value * 1.1)
    for other in dict.fromkeys(kind(number) for number in (*near, *usual)):
        if other != value:
            yield other


def _sequences(value: list[Any]) -> Iterator[Any]:
    if all(isinstance(item, str) for item in value):
        yield value[:1]
        yield value[1:]
        return
    for position, item in enumerate(value):
        if isinstance(item, (int, float)):
            for other in (item / 2, item * 2, item + 1, item * 0.9):
                yield [*value[:position], type(item)(other), *value[position + 1 :]]


def _examples(family: str) -> Iterator[Config]:
    """Components of a family that need no keys, and the `EXAMPLES` of it."""
    yield from EXAMPLES.get(family, ())
    for kind, entry in members(family).items():
        if not any(key.required for key in entry.keys.values()):
            yield resolve(
                {"kind": kind} if kind != index().classes[family].kind else {}, family, ""
            )


EXAMPLES: dict[str, list[Config]] = {
    "LayerScales": [{"decay": 0.5, "head": 2.0}],
    "Mixing": [{"mixup": 0.5, "cutmix": 0.0, "p": 1.0, "per_sample": False}],
    "RandomizedQuantization": [resolve({"bins": 4}, "RandomizedQuantization", "")],
    "Enlarge": [{"size": 40, "interpolation": "bilinear"}],
}
"""Components of families whose members have required keys, or whose defaults change nothing."""
