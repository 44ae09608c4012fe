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
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from operator import ge, gt, le, lt
from typing import Any

from mezzotint.recipe.schema import DEFAULTS, FAMILIES, OPTIONAL
from mezzotint.recipe.signatures import Alternatives, ComponentEntry, Key, ListOf, Member, index

_REFUSALS = ("ValueError", "TypeError", "RecipeError")
# A name begins a clause: the first, or one after a comma or "and".
_CLAUSE = re.compile(r"(?:^|,? and |, )`([\w.{}]+)`")
_OTHER_VERBS = ("needs ", "name ")
_WRITTEN = (ast.Constant, ast.UnaryOp)  # a number, or one below 0
# Of "1 to {len(depths)}, the stages of the network" the words are kept, which always hold.
_MEASURED = re.compile(r"\{[^{}]*\}(?:[^,;]*), (the [^,;]+)")
_CONSTRUCTORS = ("__init__", "__post_init__", "_check")
_A, _NULL = r"(?:an? [\w ]*?)?", r"(?:, or null)?"
_MIN, _MAX, _OVER, _UNDER = (
    rf"(?P<{keyword}>-?[\d.]+)"  # the keyword of JSON Schema for a number
    for keyword in ("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum")
)
# What refusals say of plain ranges.
_BOUNDS = (
    rf"at least {_MIN}",
    rf"{_MIN}(?: pixels?)? or more(?: pixels)?",
    rf"above {_OVER}",
    rf"{_A}{_MIN} to {_MAX}(?: pixels)?(?:, the .*)?",
    rf"{_MIN} to the .*",
    rf"{_A}in \[{_MIN}, {_MAX}\]",
    rf"{_A}in \({_OVER}, {_UNDER}\)",
    rf"{_A}in \[{_MIN}, {_UNDER}\)",
    rf"{_A}in \({_OVER}, {_MAX}\]",
    rf"(?:at least )?{_MIN}(?: or more)? and below {_UNDER}",
    rf"above {_OVER} and at most {_MAX}",
    rf"{_A}(?:above|more than|between) {_OVER} and (?:below |less than )?{_UNDER}{_NULL}",
)
_POSITIVE = re.compile(rf"positive(?: and finite)?{_NULL}")
_COMPARE = {"minimum": ge, "maximum": le, "exclusiveMinimum": gt, "exclusiveMaximum": lt}
_PLAIN: dict[Any, str] = {int: "integer", float: "number", bool: "boolean", str: "string"}

Function = ast.FunctionDef
Found = dict[str, tuple[str, ...]]


@dataclass(frozen=True)
class _Reached:
    """A function that a component's constructor reaches, and what its parameters stand for."""

    function: Function
    keys: Mapping[str, str]  # parameter → key of the component; empty for other values
    words: Mapping[str, str]  # parameter that is a text → the key that the text names
    numbers: Mapping[str, str]  # constant, or parameter that is a number → that number
    others: tuple[str, ...] = ()  # keys that its `**keywords` take
    called: bool = False  # by the constructor, and not the constructor itself

    def key_of(self, node: ast.expr | None, name: str) -> str:
        """The key of the component that is passed as a parameter; empty for none."""
        if node is None or isinstance(node, ast.Constant):
            return ""
        # An attribute is named like its parameter; other expressions are of the key of that name.
        return self.keys.get(ast.unparse(node).removeprefix("self."), name)


@functools.cache
def _refused(name: str) -> Found:
    """What the constructor of a component, by its Python name, demands of each of its keywords."""
    entry = index().functions.get(name) or index().classes[name]
    demands: Found = {}
    for reached in _reached(name):
        own: Found = {}
        loops = {
            node: loop
            for loop in ast.walk(reached.function)
            if isinstance(loop, ast.For)
            for node in ast.walk(loop)
        }
        for node in ast.walk(reached.function):
            if isinstance(node, ast.Raise) and isinstance(node.exc, ast.Call):
                call = node.exc
                if ast.unparse(call.func).rpartition(".")[2] in _REFUSALS and call.args:
                    text = _text(call.args[0], reached.numbers)
                    for key, demand in _demands(text, loops.get(node), reached):
                        if demand not in (known := own.get(key, ())):
                            own[key] = (*known, demand)
        # What the component demands itself comes first. A part that a default leaves out, by an
        # `if`, demands something of its own.
        fits = {k: d for k, d in own.items() if not reached.called or _fits(entry.keys.get(k), d)}
        demands = fits | demands
    return demands


def _fits(key: Key | None, demands: Sequence[str]) -> bool:
    """Whether the default of a key is within demands."""
    if key is None or type(key.default) not in (int, float):
        return key is not None
    bounds = [bound for demand in demands for bound in _bounds(demand).items()]
    return all(_COMPARE[name](key.default, bound) for name, bound in bounds)


def _reached(name: str) -> Iterator[_Reached]:
    """A constructor, those of its base classes, and the functions of this package they call."""
    known = index()
    entry = known.functions.get(name) or known.classes[name]
    waiting: list[tuple[str, str, _Reached | None, ast.Call | None]]
    waiting, seen = [(entry.name, entry.module, None, None)], set[str]()
    while waiting:
        named, module, caller, call = waiting.pop(0)
        if module not in known.files:
            continue
        file = known.files[module]
        bodies, fields = list[ast.stmt](), list[str]()
        for node in file.tree.body:
            if isinstance(node, ast.FunctionDef) and node.name == named:
                bodies.append(node)
            elif isinstance(node, ast.ClassDef) and node.name == named:
                bases = known.classes[named].bases if caller is None else ()
                homes = [(b, known.classes[b].module) for b in bases if b in known.classes]
                waiting += [(base, home, None, None) for base, home in homes]
                bodies += [s for s in node.body if isinstance(s, Function)]
                fields = [ast.unparse(s.target) for s in node.body if isinstance(s, ast.AnnAssign)]
        for body in bodies:
            if isinstance(body, Function) and body.name in (named, *_CONSTRUCTORS):
                reached = _bound(body, fields, _numbers(file.aliases), caller, call)
                if repr(reached) in seen:
                    continue
                seen.add(repr(reached))
                yield reached
                for inner in ast.walk(body):
                    if isinstance(inner, ast.Call) and isinstance(inner.func, ast.Name):
                        home = file.imported.get(inner.func.id, module)
                        waiting.append((inner.func.id, home, reached, inner))


def _numbers(nodes: Mapping[str, ast.expr]) -> dict[str, str]:
    """Return the names whose value is written as a number, and that number."""
    written = {n: ast.unparse(v) for n, v in nodes.items() if isinstance(v, _WRITTEN)}
    found = {name: text.removesuffix(".0") for name, text in written.items()}
    return {name: text for name, text in found.items() if re.fullmatch(r"-?[\d.]+", text)}


def _bound(
    function: Function, fields: Sequence[str], constants: dict[str, str],
    caller: _Reached | None, call: ast.Call | None,
) -> _Reached:  # fmt: skip
    """Say what the parameters of a function stand for in a call; without one, for themselves."""
    arguments = function.args
    names = [a.arg for a in (*arguments.posonlyargs, *arguments.args)]
    if names[:1] in (["self"], ["cls"]):
        names = names[1:]
    if function.name == "__post_init__":
        names = list(fields)
    every = [*names, *(a.arg for a in arguments.kwonlyargs)]
    if caller is None or call is None:
        return _Reached(function, {name: name for name in every}, {}, constants)
    given = dict(zip(names, call.args, strict=False))
    given |= {k.arg: k.value for k in call.keywords if k.arg is not None}
    words = {
        name: caller.keys.get(text := value.value.rpartition(".")[2], text)
        for name, value in given.items()
        if isinstance(value, ast.Constant) and isinstance(value.value, str)
    }
    keys = {name: caller.key_of(given.get(name), name) for name in every}
    others = (caller.key_of(value, name) for name, value in given.items() if name not in every)
    numbers = constants | _numbers(given)
    return _Reached(function, keys, words, numbers, tuple(filter(None, others)), called=True)


def _text(node: ast.expr, numbers: Mapping[str, str]) -> str:
    """A message as its source writes it; values in it become known numbers, or their names."""
    if isinstance(node, ast.JoinedStr):
        return "".join(_text(part, numbers) for part in node.values)
    if isinstance(node, ast.FormattedValue):
        return numbers.get(name := ast.unparse(node.value), f"{{{name}}}")
    if isinstance(node, ast.BinOp):
        return _text(node.left, numbers) + _text(node.right, numbers)
    return str(node.value) if isinstance(node, ast.Constant) else "{}"


def _demands(
    message: str, loop: ast.For | None, reached: _Reached | None = None
) -> Iterator[tuple[str, str]]:
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
        demand = _MEASURED.sub(r"\1", demand.strip(" ,").removesuffix(" and"))
        if "{" not in demand and not demand.startswith(_OTHER_VERBS):
            for named in names:
                yield from ((key, demand) for key in _keys_named(named, loop, reached))
        names = []


def _keys_named(name: str, loop: ast.For | None, reached: _Reached | None) -> list[str]:
    """The keys that a name stands for: of `method.{name}`, the texts of the loop around it."""
    last = name.rpartition(".")[2]
    if "{" not in last:
        found = [last]
    elif reached is not None and last[1:-1] in reached.words:
        return [reached.words[last[1:-1]]]
    else:
        nodes = list(ast.walk(loop.iter)) if loop is not None else []
        keywords = reached.function.args.kwarg if reached is not None else None
        if keywords and any(isinstance(n, ast.Name) and n.id == keywords.arg for n in nodes):
            assert reached is not None
            return list(reached.others)
        found = [n.value for n in nodes if isinstance(n, ast.Constant) and type(n.value) is str]
    keys = {} if reached is None else reached.keys
    return [key for key in (keys.get(one, one) for one in found) if key]


def accepted(entry: ComponentEntry, key: Key) -> str:
    """Return what a key's value must be beyond its type, or nothing: `positive`, `in [0, 1]`."""
    if typing.get_origin(key.type) is typing.Literal:
        return ""  # the type lists the values
    demands = _refused(entry.name).get(key.name, ())
    return "; ".join(demand.removesuffix(", or null") for demand in demands)


def _bounds(demand: str) -> dict[str, float]:
    """JSON Schema's keywords for what one refusal says; none for what is no plain range."""
    if _POSITIVE.fullmatch(demand):
        return {"exclusiveMinimum": 0}
    found = next(filter(None, (re.fullmatch(pattern, demand) for pattern in _BOUNDS)), None)
    return {} if found is None else {name: float(n) for name, n in found.groupdict().items()}


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
    options = [schema, *schema.get("anyOf", ())]
    items = [part for o in options for part in (o.get("items"), *o.get("prefixItems", ()))]
    for option in (*options, *filter(None, items)):
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
        without = {"not": {"required": ["kind"]}}
        chosen.append({"if": without, "then": {"$ref": f"#/$defs/{name}.{own}"}})
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
