"""The recipe's keys, read from the signatures of the package's own classes.

A component's keyword arguments, their types, defaults and docstring are the recipe's keys, their
validation and their help; there is no second description. They are read from the source text, so
that a bad recipe is refused, with the nearest key, before torch is imported. A recipe can name only
classes of this package: it cannot import anything.

A class belongs to the family of each of its base classes (`SimCLR(Method)`). A function decorated
with `@factory` belongs to the families of its return type (`resnet18(...) -> ResNet`, and so to
`Encoder`). Positional parameters are injected by the builder, and are no keys.
"""

import ast
import functools
import re
import types
import typing
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mezzotint.recipe.component import kind_of

_PLAIN: dict[str, Any] = {
    "int": int,
    "float": float,
    "bool": bool,
    "str": str,
    "None": None,
    "Any": Any,
}
_GENERIC: dict[str, Any] = {
    "tuple": tuple,
    "list": list,
    "dict": dict,
    "Sequence": list,
    "Mapping": dict,
}


@dataclass(frozen=True)
class Member:
    """The type of a key that takes any component of a family."""

    family: str


@dataclass(frozen=True)
class Key:
    """One keyword argument of a component."""

    name: str
    type: Any
    required: bool
    default: Any
    doc: str

    @property
    def shown_type(self) -> str:
        """The type as people write it."""
        return show_type(self.type)

    @property
    def family(self) -> str | None:
        """The family of the component that the key takes, if it takes one."""
        return _family_in(self.type)

    @property
    def described(self) -> str:
        """The type, and where a component in it is explained."""
        family = self.family
        if family is None:
            return self.shown_type
        see = f"see `mezzotint recipes {kind_of(family)}`"
        plain = isinstance(self.type, Member) and len(index().members(family)) == 1
        return see if plain else f"{self.shown_type}, {see}"


@dataclass
class ComponentEntry:
    """One class or factory of the package.

    Attributes:
        kind: its name in a recipe.
        name: its name in Python.
        module: dotted name of the module that defines it.
        bases: names of its base classes, or of the class that the factory returns.
        abstract: true when a recipe cannot name it.
    """

    kind: str
    name: str
    module: str
    bases: tuple[str, ...]
    abstract: bool
    _read: "Callable[[str], tuple[str, dict[str, Key]]]"

    @functools.cached_property
    def _described(self) -> tuple[str, dict[str, Key]]:
        """Summary and keys, read lazily: parsing a file costs more than finding a class in it."""
        return self._read(self.name)

    @property
    def summary(self) -> str:
        """The first line of its docstring."""
        return self._described[0]

    @property
    def keys(self) -> dict[str, Key]:
        """Its keyword arguments, by name."""
        return self._described[1]


_WORDS: dict[Any, tuple[str, str]] = {
    int: ("a whole number", "whole numbers"),
    float: ("a number", "numbers"),
    bool: ("true or false", "true or false"),
    str: ("text", "texts"),
    type(None): ("null", "null"),
    None: ("null", "null"),
    Any: ("any value", "any values"),
}


def show_type(kind: Any) -> str:
    """Write a type as people do: `a whole number`, `one of imagenet, small`, `a method`."""
    if kind in _WORDS:
        return _WORDS[kind][0]
    if isinstance(kind, Member):
        name = re.sub(r"(?<=[a-z])(?=[A-Z])", " ", kind.family).lower()
        return f"{'an' if name[0] in 'aeiou' else 'a'} {name}"
    if isinstance(kind, Alternatives):
        return " or ".join(show_type(option) for option in kind.options)
    if isinstance(kind, ListOf):
        return f"a list, each item {show_type(kind.item)}"
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if origin is typing.Literal:
        return "one of " + ", ".join(map(str, arguments))
    if origin in (typing.Union, types.UnionType):
        return " or ".join(show_type(option) for option in arguments)
    if origin is dict:
        return f"a mapping of {_plural(arguments[0])} to {_plural(arguments[1])}"
    if origin is tuple and Ellipsis not in arguments:
        return f"a list of {len(arguments)} {_plural(arguments[0])}"
    if origin in (list, tuple):
        item = arguments[0]
        plural = _plural(item)
        return f"a list of {plural}" if plural else f"a list, each item {show_type(item)}"
    return str(getattr(kind, "__name__", kind))


def _family_in(kind: Any) -> str | None:
    """The family of the component that a type contains, if any."""
    if isinstance(kind, Member):
        return kind.family
    if isinstance(kind, ListOf):
        return _family_in(kind.item)
    options = kind.options if isinstance(kind, Alternatives) else ()
    return next((family for family in map(_family_in, options) if family), None)


def _plural(kind: Any) -> str:
    return _WORDS[kind][1] if kind in _WORDS else ""


@dataclass(frozen=True)
class Alternatives:
    """The type of a key that takes a component or something else."""

    options: tuple[Any, ...]


@dataclass(frozen=True)
class ListOf:
    """The type of a key that takes a list of components."""

    item: Any


_CLASS = re.compile(r"^class (\w+)(\((?:[^()]|\([^()]*\))*\))?:", re.M)
_FACTORY = re.compile(r"^@factory\ndef (\w+)\(.*?\) -> ([\w.]+):\n", re.M | re.S)


class _File:
    """One source file, parsed only when a component in it is described."""

    def __init__(self, path: Path, module: str) -> None:
        self.module = module
        self.text = path.read_text(encoding="utf-8")

    @functools.cached_property
    def tree(self) -> ast.Module:
        return ast.parse(self.text)

    @functools.cached_property
    def aliases(self) -> dict[str, ast.expr]:
        """The constants and type aliases of the file, by name."""
        return {
            node.targets[0].id: node.value
            for node in self.tree.body
            if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name)
        }

    @functools.cached_property
    def imported(self) -> dict[str, str]:
        """The module that each imported name of this package comes from."""
        return {
            alias.asname or alias.name: node.module or ""
            for node in self.tree.body
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("mezzotint")
            for alias in node.names
        }


class Index:
    """All components of the package, by family and kind."""

    def __init__(self, root: Path) -> None:
        self.files: dict[str, _File] = {}
        self.classes: dict[str, ComponentEntry] = {}
        self.functions: dict[str, ComponentEntry] = {}
        for path in sorted(root.rglob("*.py")):
            module = ".".join(("mezzotint", *path.relative_to(root).with_suffix("").parts))
            file = self.files[module] = _File(path, module)
            read = functools.partial(self._describe, file)
            for name, header in _CLASS.findall(file.text):
                call = ast.parse(f"_{header or '()'}", mode="eval").body
                assert isinstance(call, ast.Call)
                # Dotted bases stay dotted: `nn.Linear` is not the probe `Linear` of this package.
                bases = tuple(ast.unparse(b).split("[")[0] for b in call.args)
                stated = {
                    k.arg: ast.literal_eval(k.value)
                    for k in call.keywords
                    if k.arg in ("kind", "abstract")
                }
                abstract = stated.get("abstract", False) or "Protocol" in bases
                entry = ComponentEntry(
                    stated.get("kind") or kind_of(name), name, module, bases, abstract, read
                )
                self.classes[name] = entry
            for name, returns in _FACTORY.findall(file.text):
                self.functions[name] = ComponentEntry(name, name, module, (returns,), False, read)

    def _describe(self, file: _File, name: str) -> tuple[str, dict[str, Key]]:
        """Read the first line of a component's docstring, and its keys."""
        node = next(
            n
            for n in file.tree.body
            if isinstance(n, (ast.ClassDef, ast.FunctionDef)) and n.name == name
        )
        doc = ast.get_docstring(node) or ""
        construct: ast.FunctionDef | None = node if isinstance(node, ast.FunctionDef) else None
        for item in node.body if isinstance(node, ast.ClassDef) else ():
            if isinstance(item, ast.FunctionDef) and item.name == "__init__":
                construct, doc = item, f"{doc}\n{ast.get_docstring(item) or ''}"
        if isinstance(node, ast.FunctionDef) and "Args:" not in doc:
            doc = f"{doc}\n{self._class_doc(ast.unparse(node.returns or node))}"
        positional = any(k.arg == "positional" for k in getattr(node, "keywords", ()))
        keys = {} if construct is None else self._keys(file, construct, doc, positional)
        return doc.strip().split("\n")[0], keys

    def _class_doc(self, name: str) -> str:
        """Return the docstring of a class: a factory need not describe the same arguments again."""
        body = self.files[self.classes[name].module].tree.body
        nodes = (n for n in body if isinstance(n, ast.ClassDef) and n.name == name)
        return ast.get_docstring(next(nodes)) or ""

    def _keys(
        self, file: _File, function: ast.FunctionDef, doc: str, positional: bool
    ) -> dict[str, Key]:
        texts, keys, every = _argument_docs(doc), {}, function.args
        pairs = [*zip(every.kwonlyargs, every.kw_defaults, strict=True)]
        for arg, default in ([(every.args[-1], every.defaults[-1])] if positional else []) + pairs:
            kind = self._type(file, arg.annotation) if arg.annotation else Any
            value = None if default is None else self._default(file, default)
            keys[arg.arg] = Key(arg.arg, kind, default is None, value, texts.get(arg.arg, ""))
        return keys

    def _default(self, file: _File, node: ast.expr) -> Any:
        """Evaluate a default: a literal, a constant of the file, or a component with literals.

        A component becomes `{"kind": …, …}`.
        """
        if isinstance(node, ast.Call):
            name = ast.unparse(node.func)
            entry = self.functions.get(name) or self.classes[name]
            return {
                "kind": entry.kind,
                **{str(k.arg): self._default(file, k.value) for k in node.keywords},
            }
        if isinstance(node, (ast.List, ast.Tuple)):
            return [self._default(file, item) for item in node.elts]
        if isinstance(node, ast.Name):
            return self._default(file, file.aliases[node.id])
        return ast.literal_eval(node)

    def _type(self, file: _File, node: ast.expr) -> Any:
        if isinstance(node, ast.Constant):
            return (
                self._type(file, ast.parse(str(node.value), mode="eval").body)
                if node.value
                else None
            )
        if isinstance(node, ast.BinOp):
            options = (self._type(file, node.left), self._type(file, node.right))
            if any(isinstance(o, (Member, ListOf, Alternatives)) for o in options):
                flat = (o.options if isinstance(o, Alternatives) else (o,) for o in options)
                return Alternatives(tuple(option for part in flat for option in part))
            first, second = options
            return typing.Optional[first] if second is None else first | second  # noqa: UP045
        if isinstance(node, ast.Subscript):
            name = ast.unparse(node.value).rpartition(".")[2]
            items = node.slice.elts if isinstance(node.slice, ast.Tuple) else [node.slice]
            if name == "Literal":
                return typing.Literal[tuple(ast.literal_eval(item) for item in items)]
            inner = [Ellipsis if ast.unparse(i) == "..." else self._type(file, i) for i in items]
            if name in ("list", "Sequence") and isinstance(inner[0], (Member, Alternatives)):
                return ListOf(inner[0])
            return _GENERIC[name][tuple(inner)] if len(inner) > 1 else _GENERIC[name][inner[0]]
        name = ast.unparse(node).rpartition(".")[2]
        if name in _PLAIN:
            return _PLAIN[name]
        if name in file.aliases:
            return self._type(file, file.aliases[name])
        home = self.files.get(file.imported.get(name, ""))
        if home is not None and name in home.aliases:
            return self._type(home, home.aliases[name])
        if name in self.classes:
            return Member(name)
        raise TypeError(
            f"{file.module}: the annotation {name!r} of a component is not a type of this package"
        )

    def families_of(self, entry: ComponentEntry) -> set[str]:
        """The names of all ancestors of a component, its own included."""
        ancestors, waiting = set(), [entry.name, *entry.bases]
        while waiting:
            name = waiting.pop()
            if name not in ancestors:
                ancestors.add(name)
                waiting += self.classes[name].bases if name in self.classes else ()
        return ancestors

    @functools.cached_property
    def kinds(self) -> dict[str, list[ComponentEntry]]:
        """All components by kind; a method and a policy, for example, may share one."""
        kinds: dict[str, list[ComponentEntry]] = {}
        made_by_factory = {base for entry in self.functions.values() for base in entry.bases}
        for entry in (*self.classes.values(), *self.functions.values()):
            named = not (entry.abstract or entry.name.startswith("_"))
            if named and entry.name not in made_by_factory and self._is_component(entry):
                kinds.setdefault(entry.kind, []).append(entry)
        return kinds

    def _is_component(self, entry: ComponentEntry) -> bool:
        return entry.name in self.functions or "Component" in self.families_of(entry)

    def family_named(self, word: str) -> str | None:
        """Find the family of several components that a word names: `transform` → `Transform`."""
        return next(
            (
                entry.name
                for entry in self.classes.values()
                if kind_of(entry.name) == word
                and self._is_component(entry)
                and len(self.members(entry.name)) > 1
            ),
            None,
        )

    @functools.cache  # noqa: B019 - each key of a recipe asks the one index
    def members(self, family: str) -> Mapping[str, ComponentEntry]:
        """The components that can stand where a family is expected, by kind."""
        made_by_factory = {base for entry in self.functions.values() for base in entry.bases}
        classes = [
            e for e in self.classes.values() if not e.abstract and e.name not in made_by_factory
        ]
        public = [e for e in (*classes, *self.functions.values()) if not e.name.startswith("_")]
        chosen = [e for e in public if family in self.families_of(e)]
        by_kind = {e.kind: e for e in chosen if e.name != family or len(chosen) == 1 or e.keys}
        return dict(sorted(by_kind.items()))


@functools.cache
def index() -> Index:
    """The index of this package, made once."""
    return Index(Path(__file__).parent.parent)


def _argument_docs(doc: str) -> dict[str, str]:
    """Parse the `Args:` section of a Google docstring, by name."""
    texts: dict[str, str] = {}
    section = re.search(
        r"^\s*Args:\n(.*?)(?=^\S|^\s*(?:Returns|Raises|Attributes|Yields):|\Z)", doc, re.S | re.M
    )
    if section:
        for name, text in re.findall(r"^ +(\w+): (.*?)(?=^ +\w+: |\Z)", section[1], re.S | re.M):
            texts[name] = " ".join(text.split())
    return texts
