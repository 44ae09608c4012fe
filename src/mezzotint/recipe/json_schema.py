"""A JSON Schema of recipes, from which editors complete and check; and the values keys accept.

Types and defaults are those of the signatures. What a value may be is read from the refusals of
the constructors: "`method.temperature` must be positive, got …" says it once, for the user who
meets it, for the help, the reference and the editor.
"""

import ast
import functools
import re
import types
import typing
from collections.abc import Iterator, Mapping
from typing import Any

from mezzotint.recipe.schema import DEFAULTS, FAMILIES, OPTIONAL
from mezzotint.recipe.signatures import (
    Alternatives,
    ComponentEntry,
    Key,
    ListOf,
    Member,
    index,
)

_REFUSALS = ("ValueError", "TypeError", "RecipeError")
# A name begins a clause: the first, or one after a comma or "and".
_CLAUSE = re.compile(r"(?:^|,? and |, )`([\w.{}]+)`")
_OTHER_VERBS = ("needs ", "name ")
_NUMBER = r"(-?[\d.]+)"
_A, _NULL = r"(?:an? [\w ]*?)?", r"(?:, or null)?"
# What a refusal says → the keywords of JSON Schema for its numbers, in order.
_BOUNDS = {
    rf"positive(?: and finite)?{_NULL}": (),
    rf"at least {_NUMBER}": ("minimum",),
    rf"{_NUMBER}(?: pixels?)? or more(?: pixels)?": ("minimum",),
    rf"above {_NUMBER}": ("exclusiveMinimum",),
    rf"{_A}{_NUMBER} to {_NUMBER}(?: pixels)?": ("minimum", "maximum"),
    rf"{_A}in \[{_NUMBER}, {_NUMBER}\]": ("minimum", "maximum"),
    rf"{_A}in \({_NUMBER}, {_NUMBER}\)": ("exclusiveMinimum", "exclusiveMaximum"),
    rf"{_A}in \[{_NUMBER}, {_NUMBER}\)": ("minimum", "exclusiveMaximum"),
    rf"{_A}in \({_NUMBER}, {_NUMBER}\]": ("exclusiveMinimum", "maximum"),
    rf"(?:{_NUMBER} or more|at least {_NUMBER}) and below {_NUMBER}": (
        "minimum",
        "exclusiveMaximum",
    ),
    rf"above {_NUMBER} and at most {_NUMBER}": ("exclusiveMinimum", "maximum"),
    rf"{_A}(?:above|more than|between) {_NUMBER} and (?:below |less than )?{_NUMBER}{_NULL}": (
        "exclusiveMinimum",
        "exclusiveMaximum",
    ),
}
_PLAIN: dict[Any, str] = {int: "integer", float: "number", bool: "boolean", str: "string"}

Function = ast.FunctionDef
Found = dict[str, tuple[str, ...]]


@functools.cache
def _refused(name: str) -> Found:
    """What a component's constructor demands of each of its keywords.

    Args:
        name: of the class or factory in Python.
    """
    demands: Found = {}
    for function in _reached(name):
        loops = {
            node: loop
            for loop in ast.walk(function)
            if isinstance(loop, ast.For)
            for node in ast.walk(loop)
        }
        for node in ast.walk(function):
            if isinstance(node, ast.Raise) and isinstance(node.exc, ast.Call):
                call = node.exc
                if ast.unparse(call.func).rpartition(".")[2] in _REFUSALS and call.args:
                    for key, demand in _demands(_text(call.args[0]), loops.get(node)):
                        if demand not in demands.get(key, ()):
                            demands[key] = (*demands.get(key, ()), demand)
    return demands


def _reached(name: str) -> Iterator[Function]:
    """A constructor, those of its base classes, and the functions of this package they call."""
    known = index()
    entry = known.functions.get(name) or known.classes[name]
    waiting, seen = [(entry.name, entry.module)], set[tuple[str, str]]()
    while waiting:
        current = waiting.pop(0)
        if current in seen or current[1] not in known.files:
            continue
        seen.add(current)
        file = known.files[current[1]]
        bodies: list[ast.stmt] = []
        for node in file.tree.body:
            if isinstance(node, ast.FunctionDef) and node.name == current[0]:
                bodies.append(node)
            elif isinstance(node, ast.ClassDef) and node.name == current[0]:
                own = known.classes.get(node.name)
                bases = own.bases if own is not None else ()
                waiting += [(b, known.classes[b].module) for b in bases if b in known.classes]
                bodies += [s for s in node.body if isinstance(s, Function)]
        for body in bodies:
            if isinstance(body, Function) and body.name in (current[0], "__init__", "_check"):
                yield body
                for call in ast.walk(body):
                    if isinstance(call, ast.Call) and isinstance(call.func, ast.Name):
                        called = call.func.id
                        waiting.append((called, file.imported.get(called, current[1])))


def _text(node: ast.expr) -> str:
    """A message as its source writes it; values in it become the names they come from."""
    if isinstance(node, ast.JoinedStr):
        return "".join(map(_text, node.values))
    if isinstance(node, ast.FormattedValue):
        return f"{{{ast.unparse(node.value)}}}"
    if isinstance(node, ast.BinOp):
        return _text(node.left) + _text(node.right)
    return str(node.value) if isinstance(node, ast.Constant) else "{}"


def _demands(message: str, loop: ast.For | None) -> Iterator[tuple[str, str]]:
    """Keys of a refusal and what each must be: "`a` and `b` must be positive" names two."""
    sentence = re.split(r",? got\b|\. ", message)[0]
    parts = _CLAUSE.split(sentence)[1:] if sentence.startswith("`") else []
    names: list[str] = []
    begun = False  # "`a` must be positive and `b` at most 1": the verb stands once
    for name, text in zip(parts[::2], parts[1::2], strict=True):
        names.append(name)
        _, verb, demand = text.rpartition("must be ")
        begun = begun or bool(verb)
        if not text.strip(" ,") or not begun:
            continue
        demand = demand.strip(" ,").removesuffix(" and")
        if "{" not in demand and not demand.startswith(_OTHER_VERBS):
            for named in names:
                yield from ((key, demand) for key in _keys_named(named, loop))
        names = []


def _keys_named(name: str, loop: ast.For | None) -> list[str]:
    """The keys that a name stands for: of `method.{name}`, the texts of the loop around it."""
    if "{" not in name:
        return [name.rpartition(".")[2]]
    nodes = ast.walk(loop.iter) if loop is not None else ()
    return [n.value for n in nodes if isinstance(n, ast.Constant) and isinstance(n.value, str)]


def accepted(entry: ComponentEntry, key: Key) -> str:
    """Return what a key's value must be beyond its type, or nothing: `positive`, `in [0, 1]`.

    Args:
        entry: the component.
        key: one of its keys.
    """
    if typing.get_origin(key.type) is typing.Literal:
        return ""  # the type lists the values
    demands = _refused(entry.name).get(key.name, ())
    return "; ".join(demand.removesuffix(", or null") for demand in demands)


def _bounds(demand: str) -> dict[str, float]:
    """JSON Schema's keywords for what one refusal says; none for what is no plain range."""
    for pattern, keywords in _BOUNDS.items():
        found = re.fullmatch(pattern, demand)
        if found is not None and not keywords:
            return {"exclusiveMinimum": 0}
        if found is not None:
            numbers = [float(number) for number in found.groups() if number is not None]
            return dict(zip(keywords, numbers, strict=True))
    return {}


def _type(kind: Any) -> dict[str, Any]:
    """The schema of a key's type."""
    if isinstance(kind, Member):
        return {"$ref": f"#/$defs/{kind.family}"}
    if isinstance(kind, ListOf):
        return {"type": "array", "items": _type(kind.item)}
    if isinstance(kind, Alternatives):
        return {"anyOf": [_type(option) for option in kind.options]}
    if kind in (None, type(None)):
        return {"type": "null"}
    if kind in _PLAIN:
        return {"type": _PLAIN[kind]}
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if origin is typing.Literal:
        return {"enum": list(arguments)}
    if origin in (typing.Union, types.UnionType):
        return {"anyOf": [_type(option) for option in arguments]}
    if origin is dict:
        return {"type": "object", "additionalProperties": _type(arguments[1])}
    if origin is tuple and Ellipsis not in arguments:
        count = len(arguments)
        items = {"prefixItems": [_type(a) for a in arguments], "items": False}
        return {"type": "array", "minItems": count, "maxItems": count, **items}
    if origin in (list, tuple):
        return {"type": "array", "items": _type(arguments[0])}
    return {}


def _property(entry: ComponentEntry, key: Key) -> dict[str, Any]:
    """The schema of a key, with its meaning, default and range."""
    schema = _type(key.type)
    demand = accepted(entry, key)
    for option in (schema, *schema.get("anyOf", ())):
        if option.get("type") in ("integer", "number"):
            # Two refusals of one key are of different cases, which a schema does not tell apart.
            option.update(_bounds(demand))
    text = ". ".join(filter(None, [key.doc.rstrip("."), demand and f"Must be {demand}"]))
    default = {} if key.required else {"default": key.default}
    return {"description": f"{text[:1].upper()}{text[1:]}.", **schema, **default}


def _component(entry: ComponentEntry) -> dict[str, Any]:
    """The schema of one kind: its keys and no others."""
    keys = entry.keys
    return {
        "description": entry.summary,
        "properties": {"kind": {"const": entry.kind}}
        | {name: _property(entry, key) for name, key in keys.items()},
        "required": [name for name, key in keys.items() if key.required],
        "additionalProperties": False,
    }


def _family(name: str) -> dict[str, Any]:
    """The schema of a family: the bare name of a kind, or a mapping with its keys."""
    members = index().members(name)
    own = index().classes[name].kind
    if list(members) == [own]:
        return {"type": "object", "$ref": f"#/$defs/{name}.{own}"}
    ready = [k for k, e in members.items() if not any(key.required for key in e.keys.values())]
    # `if` and `then` let an editor complete the keys of the kind that is written.
    chosen = [
        {
            "if": {"properties": {"kind": {"const": kind}}, "required": ["kind"]},
            "then": {"$ref": f"#/$defs/{name}.{kind}"},
        }
        for kind in members
    ]
    if own in members:
        own_keys = {
            "if": {"not": {"required": ["kind"]}},
            "then": {"$ref": f"#/$defs/{name}.{own}"},
        }
        chosen.append(own_keys)
    mapping = {
        "properties": {"kind": {"enum": list(members)}},
        "required": [] if own in members else ["kind"],
        "allOf": chosen,
    }
    text = {"if": {"type": "string"}, "then": {"enum": ready}, "else": mapping}
    return {"type": ["string", "object"], **text}


def _phase_section(family: str) -> dict[str, Any]:
    """The schema of a section in a phase, which has some of the keys of its recipe's section."""
    members = index().members(family)
    keys = {key for entry in members.values() for key in entry.keys}
    return {
        "type": ["string", "object", "null"],
        "properties": {"kind": {"enum": list(members)}},
        "propertyNames": {"enum": ["kind", *sorted(keys)]},
    }


def families_of(sections: Mapping[str, str]) -> list[str]:
    """Families of the sections, and of the components in their keys."""
    found, waiting = dict.fromkeys(sections.values()), list(sections.values())
    while waiting:
        for entry in index().members(waiting.pop()).values():
            for key in entry.keys.values():
                for family in _families_in(key.type):
                    if family not in found:
                        found[family] = None
                        waiting.append(family)
    return list(found)


def _families_in(kind: Any) -> set[str]:
    if isinstance(kind, Member):
        return {kind.family}
    if isinstance(kind, ListOf):
        return _families_in(kind.item)
    options = kind.options if isinstance(kind, Alternatives) else ()
    return set().union(*map(_families_in, options))


def recipe_schema(sections: Mapping[str, str] | None = None) -> dict[str, Any]:
    """Build the JSON Schema (draft 2020-12) of recipes.

    It refuses what the reader refuses of names, types and plain ranges; conditions between keys are
    checked by the reader alone.

    Args:
        sections: sections and their families, of recipes for another verb than `pretrain`.
    """
    known = FAMILIES | OPTIONAL if sections is None else sections
    load = {"type": "object", "additionalProperties": {"type": "string"}}
    properties: dict[str, Any] = {}
    required = []
    for name, family in known.items():
        properties[name] = {"$ref": f"#/$defs/{family}"}
        members, own = index().members(family), index().classes[family].kind
        empty = own in members and not any(k.required for k in members[own].keys.values())
        if empty or name in OPTIONAL:
            properties[name] = {"anyOf": [properties[name], {"type": "null"}]}
        elif name not in DEFAULTS or sections is not None:
            required.append(name)
    if sections is None:
        parts = {name: _phase_section(family) for name, family in known.items()}
        phase = {"properties": {"name": {"type": "string"}, "load": load, **parts}}
        items = {"type": "object", **phase, "additionalProperties": False}
        properties |= {"load": load, "phases": {"type": "array", "minItems": 1, "items": items}}
    definitions: dict[str, Any] = {}
    for family in families_of(known):
        definitions[family] = _family(family)
        for kind, entry in index().members(family).items():
            definitions[f"{family}.{kind}"] = _component(entry)
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "Recipe of Mezzotint",
        "type": "object",
        "properties": properties,
        "required": required,
        "additionalProperties": False,
        "$defs": definitions,
    }
