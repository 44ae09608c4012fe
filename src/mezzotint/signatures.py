"""The recipe's keys, read from the signatures of the package's own classes.

A component's keyword arguments, their types, defaults and docstring are the recipe's keys, their validation and their
help; there is no second description. They are read from the source text, so that a bad recipe is refused, with the
nearest key, before torch is imported. Only what stands in this package can be named: a recipe cannot import anything.

A class belongs to the family of each of its base classes (`SimCLR(Method)`), a function decorated with `@factory` to
that of its return type (`resnet18(...) -> ResNet`, and so to `Encoder`). Positional parameters are what the builder
injects, and are no keys.
"""

import ast
import functools
import re
import types
import typing
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mezzotint.component import kind_of

_FOLDERS = ("quant", "codebooks", "augment", "data", "encoders", "methods", "optim", "evaluate", "train", "transfer")
_PLAIN: dict[str, Any] = {"int": int, "float": float, "bool": bool, "str": str, "None": None, "Any": Any}
_GENERIC: dict[str, Any] = {"tuple": tuple, "list": list, "dict": dict, "Sequence": list, "Mapping": dict}


@dataclass(frozen=True)
class Member:
    """The annotation of a component: any member of a family."""

    family: str


@dataclass(frozen=True)
class Key:
    """One keyword argument."""

    name: str
    type: Any
    required: bool
    default: Any
    doc: str

    @property
    def shown_type(self) -> str:
        """The type as a reader writes it."""
        return show_type(self.type)


@dataclass
class Entry:
    """One component that a recipe can name."""

    kind: str
    name: str
    module: str
    bases: tuple[str, ...]
    summary: str
    abstract: bool
    read: Callable[[], dict[str, Key]] = dict

    @functools.cached_property
    def keys(self) -> dict[str, Key]:
        """The keyword arguments; read when asked for, as most classes of the package are no components."""
        return self.read()


def show_type(kind: Any) -> str:
    """A type as a reader writes it: `int`, `one of imagenet, small`, `a method`."""
    if isinstance(kind, Member):
        return f"a {re.sub(r'(?<=[a-z])(?=[A-Z])', ' ', kind.family).lower()}"
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if origin is typing.Literal:
        return "one of " + ", ".join(map(str, arguments))
    if isinstance(kind, Alternatives):
        return " or ".join(show_type(option) for option in kind.options)
    if isinstance(kind, ListOf):
        return f"a list, each {show_type(kind.item)}"
    if origin in (list, tuple, dict):
        inner = ", ".join("…" if a is Ellipsis else show_type(a) for a in arguments)
        return f"{origin.__name__}[{inner}]"
    if origin in (typing.Union, types.UnionType):
        return " or ".join(show_type(option) for option in arguments)
    return "null" if kind in (None, type(None)) else getattr(kind, "__name__", str(kind))


@dataclass(frozen=True)
class Alternatives:
    """A union with a component in it."""

    options: tuple[Any, ...]


@dataclass(frozen=True)
class ListOf:
    """A list of components."""

    item: Any


class _File:
    """One source file: its classes, factories, aliases and imported names."""

    def __init__(self, path: Path, module: str) -> None:
        self.module = module
        self.tree = ast.parse(path.read_text(encoding="utf-8"))
        self.aliases: dict[str, ast.expr] = {}
        self.imported: dict[str, str] = {}
        for node in self.tree.body:
            if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name):
                self.aliases[node.targets[0].id] = node.value
            elif isinstance(node, ast.ImportFrom) and (node.module or "").startswith("mezzotint"):
                self.imported |= {a.asname or a.name: node.module or "" for a in node.names}


class Index:
    """All components of the package, by family and kind."""

    def __init__(self, root: Path) -> None:
        self.files: dict[str, _File] = {}
        self.classes: dict[str, Entry] = {}
        self.functions: dict[str, Entry] = {}
        paths = [root / "types.py", *(p for f in _FOLDERS for p in sorted((root / f).glob("*.py")))]
        for path in paths:
            module = ".".join(("mezzotint", *path.relative_to(root).with_suffix("").parts))
            self.files[module] = _File(path, module)
        signatures: list[tuple[Entry, _File, ast.FunctionDef, str]] = []
        for file in self.files.values():
            signatures += self._read(file)
        for entry, file, function, doc in signatures:
            entry.read = functools.partial(self._keys, file, function, doc)

    def _read(self, file: _File) -> Iterable[tuple[Entry, _File, ast.FunctionDef, str]]:
        for node in file.tree.body:
            if isinstance(node, ast.ClassDef):
                bases = tuple(ast.unparse(b).split("[")[0].rpartition(".")[2] for b in node.bases)
                doc = ast.get_docstring(node) or ""
                kind = kind_of(node.name, file.module)
                abstract = bool({"ABC", "Protocol"} & set(bases))
                entry = Entry(kind, node.name, file.module, bases, _summary(doc), abstract)
                self.classes[node.name] = entry
                for item in node.body:
                    if isinstance(item, ast.FunctionDef) and item.name == "__init__":
                        own = ast.get_docstring(item) or ""
                        yield entry, file, item, f"{doc}\n{own}"
            elif isinstance(node, ast.FunctionDef) and any(ast.unparse(d) == "factory" for d in node.decorator_list):
                doc = ast.get_docstring(node) or ""
                returns = (ast.unparse(node.returns) if node.returns else "",)
                entry = Entry(node.name, node.name, file.module, returns, _summary(doc), abstract=False)
                self.functions[node.name] = entry
                yield entry, file, node, doc

    def _keys(self, file: _File, function: ast.FunctionDef, doc: str) -> dict[str, Key]:
        texts = _argument_docs(doc)
        keys = {}
        for arg, default in zip(function.args.kwonlyargs, function.args.kw_defaults, strict=True):
            kind = self._type(file, arg.annotation) if arg.annotation else Any
            value = None if default is None else self._default(file, default)
            keys[arg.arg] = Key(arg.arg, kind, default is None, value, texts.get(arg.arg, ""))
        return keys

    def _default(self, file: _File, node: ast.expr) -> Any:
        """A literal, a constant of the file, or a call of a component with literals, which becomes `{"kind": …, …}`."""
        if isinstance(node, ast.Call):
            name = ast.unparse(node.func)
            entry = self.functions.get(name) or self.classes[name]
            return {"kind": entry.kind, **{str(k.arg): self._default(file, k.value) for k in node.keywords}}
        if isinstance(node, (ast.List, ast.Tuple)):
            return [self._default(file, item) for item in node.elts]
        if isinstance(node, ast.Name):
            return self._default(file, file.aliases[node.id])
        return ast.literal_eval(node)

    def _type(self, file: _File, node: ast.expr) -> Any:
        if isinstance(node, ast.Constant):
            return self._type(file, ast.parse(str(node.value), mode="eval").body) if node.value else None
        if isinstance(node, ast.BinOp):
            options = (self._type(file, node.left), self._type(file, node.right))
            if any(isinstance(o, (Member, ListOf, Alternatives)) for o in options):
                return Alternatives(options)
            return options[0] | options[1] if options[1] is not None else typing.Optional[options[0]]  # noqa: UP045
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
        raise TypeError(f"{file.module}: the annotation {name!r} of a component cannot be read from the text")

    def families_of(self, entry: Entry) -> set[str]:
        """The names of all ancestors of a component, its own included."""
        found, waiting = set(), [entry.name, *entry.bases]
        while waiting:
            name = waiting.pop()
            if name not in found:
                found.add(name)
                waiting += self.classes[name].bases if name in self.classes else ()
        return found

    def members(self, family: str) -> dict[str, Entry]:
        """What can stand where a family is asked for, by kind."""
        made_by_factory = {base for entry in self.functions.values() for base in entry.bases}
        classes = [e for e in self.classes.values() if not e.abstract and e.name not in made_by_factory]
        public = [e for e in (*classes, *self.functions.values()) if not e.name.startswith("_")]
        chosen = [e for e in public if family in self.families_of(e)]
        by_kind = {e.kind: e for e in chosen if e.keys or e.name != family or len(chosen) == 1}
        return dict(sorted(by_kind.items()))


@functools.cache
def index() -> Index:
    """The index of this package."""
    return Index(Path(__file__).parent)


def _summary(doc: str) -> str:
    return doc.strip().split("\n")[0]


def _argument_docs(doc: str) -> dict[str, str]:
    """The `Args:` section of a Google docstring, by name."""
    found: dict[str, str] = {}
    section = re.search(r"^\s*Args:\n(.*?)(?=^\S|^\s*(?:Returns|Raises|Attributes|Yields):|\Z)", doc, re.S | re.M)
    if section:
        for name, text in re.findall(r"^ +(\w+): (.*?)(?=^ +\w+: |\Z)", section[1], re.S | re.M):
            found[name] = " ".join(text.split())
    return found
