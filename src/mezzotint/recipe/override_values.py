"""Values of overrides, read by the type of the key that they set.

On a command line `data.root=shots #2`, `data.root=2024-01-05` and `data.y=no` are text, because
these keys take text; YAML would read a comment, a date and false. Other keys take YAML.
"""

import types
import typing
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from mezzotint.recipe.component import expanded
from mezzotint.recipe.schema import FAMILIES, OPTIONAL
from mezzotint.recipe.signatures import Alternatives, ComponentEntry, ListOf, Member, index

Parse = Callable[[str, bool], Any]
"""Reads YAML; with true, every scalar in it stays text."""


def wanted_type(config: Mapping[str, Any], keys: Sequence[str]) -> Any:
    """Return the type of a dotted key in a recipe as it is written; `None` if it has none.

    Args:
        config: the recipe, not checked yet.
        keys: parts of the dotted key, such as `("data", "root")`.
    """
    if keys[0] == "phases" and len(keys) > 2:
        phases = config.get("phases")
        number = int(keys[1]) if keys[1].isdigit() else -1
        own = phases[number] if isinstance(phases, list) and -1 < number < len(phases) else {}
        section = own.get(keys[2]) if isinstance(own, Mapping) else None
        if not (isinstance(section, Mapping) and "kind" in section) and not isinstance(
            section, str
        ):
            section = config.get(keys[2])
        return _below({keys[2]: section}, keys[2:])
    return _below(config, keys)


def _below(config: Mapping[str, Any], keys: Sequence[str]) -> Any:
    family = FAMILIES.get(keys[0]) or OPTIONAL.get(keys[0])
    kind: Any = Member(family) if family else Member("")
    value: Any = config.get(keys[0])
    for key in keys[1:]:
        options = _options(kind)
        listed = next((o for o in options if isinstance(o, ListOf)), None)
        member = next((o for o in options if isinstance(o, Member)), None)
        if listed is not None and isinstance(value, list):
            position = int(key) if key.isdigit() and int(key) < len(value) else None
            kind, value = listed.item, None if position is None else value[position]
        elif member is not None and key == "kind":
            return str
        elif member is not None:
            entry = _entry(member.family, value)
            if entry is None or key not in entry.keys:
                return None
            kind = entry.keys[key].type
            value = value.get(key, entry.keys[key].default) if isinstance(value, Mapping) else None
        else:
            item = [
                a
                for o in options
                if typing.get_origin(o) in (list, tuple, dict)
                for a in typing.get_args(o)
            ]
            return item[-1] if item and item[-1] is not Ellipsis else item[0] if item else None
    return kind


def _entry(family: str, value: Any) -> ComponentEntry | None:
    """Find the component that a mapping or a bare kind names."""
    known = index()
    members = known.members(family) if family else {}
    kind = value.get("kind") if isinstance(value, Mapping) else value
    if kind is None and family:
        kind = known.classes[family].kind
    if kind is not None and kind in members:
        return members[kind]
    # The sections of a transfer recipe have families of their own.
    return next(iter(known.kinds.get(str(kind), [])), None)


def _options(kind: Any) -> tuple[Any, ...]:
    if isinstance(kind, Alternatives):
        return kind.options
    if isinstance(kind, types.UnionType) or typing.get_origin(kind) is typing.Union:
        return typing.get_args(kind)
    return (kind,)


def read_value(text: str, kind: Any, parse: Parse) -> Any:
    """Read the value of an override.

    Args:
        text: the value as it was written.
        kind: type of its key, from `wanted_type`.
        parse: reads YAML.
    """
    options = _options(kind)
    choices = [
        c for o in options if typing.get_origin(o) is typing.Literal for c in typing.get_args(o)
    ]
    if text in [choice for choice in choices if isinstance(choice, str)]:
        return text
    word = text.strip()
    optional = None in options or type(None) in options
    if optional and word in ("", "null", "~"):
        return None
    if str in options:
        quoted = len(word) > 1 and word[0] == word[-1] and word[0] in "'\""
        others = [o for o in options if o not in (str, None, type(None))]
        members = [o for o in others if isinstance(o, Member)]
        if members and not quoted and not any(isinstance(o, ListOf) for o in others):
            return _settings(word, parse) or expanded(text)
        if quoted or (others and _fits(parse(text, False), others)):
            return parse(text, False)
        return expanded(text)
    if any(typing.get_origin(o) in (list, tuple) and str in typing.get_args(o) for o in options):
        found = parse(text, True)
        return [expanded(item) for item in found] if isinstance(found, list) else parse(text, False)
    return parse(text, False)


def _settings(word: str, parse: Parse) -> dict[str, Any] | None:
    """Return the mapping in braces that has values; `None` for any other text."""
    if not word.startswith("{"):
        return None
    try:
        found = parse(word, False)
    except ValueError:
        return None
    given = isinstance(found, dict) and any(value is not None for value in found.values())
    return found if given else None


def _fits(value: Any, kinds: Sequence[Any]) -> bool:
    """Return whether a YAML value is of one of these types, and so no text."""
    for kind in kinds:
        if isinstance(kind, (Member, ListOf)):
            if isinstance(value, (Mapping, list)):
                return True
        elif typing.get_origin(kind) in (list, tuple):
            if isinstance(value, list):
                return True
        elif typing.get_origin(kind) is dict:
            if isinstance(value, dict):
                return True
        elif isinstance(kind, type) and isinstance(value, kind):
            return kind is bool or not isinstance(value, bool)
    return False
