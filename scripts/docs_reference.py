"""Pages of the reference, generated from the package: public names, recipe keys, the command line.

Nothing of torch is imported: names come from the `__init__.py` files, keys from signatures, ranges
from the refusals of constructors, and verbs from the parser.
"""

import ast
import html
import json
import re
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any

import typer

from mezzotint.cli import app
from mezzotint.detection.recipes import FAMILIES as TRANSFER
from mezzotint.recipe.component import kind_of
from mezzotint.recipe.json_schema import accepted, families_of, recipe_schema
from mezzotint.recipe.reading import shipped
from mezzotint.recipe.schema import FAMILIES, OPTIONAL
from mezzotint.recipe.signatures import ComponentEntry, Key, index

PACKAGE = Path(__file__).parent.parent / "src" / "mezzotint"
_ROOMS = (
    "", "methods", "encoders", "data", "augment", "codebooks", "quant", "optim", "optim.mup",
    "evaluation", "export", "recipe", "train", "runs", "interop", "detection", "report",
)  # fmt: skip
_MODULES = ("types", "dist", "seeding")
_PAPER = re.compile(r"arXiv|et al\.|\b(?:19|20)\d\d\b")
_CLI, _SECTIONS, _PARTS = "reference/cli.md", "reference/recipes", "reference/recipes/parts.md"


@cache
def public_names() -> dict[str, tuple[str, ...]]:
    """The public names of each package and of three modules.

    A package's `__init__.py` lists them as `from x import Y as Y`; a module's are what it defines.
    """
    found: dict[str, tuple[str, ...]] = {}
    for room in _ROOMS:
        path = PACKAGE.joinpath(*room.split(".") if room else (), "__init__.py")
        tree = ast.parse(path.read_text(encoding="utf-8"))
        names = [
            alias.name
            for node in ast.walk(tree)
            if isinstance(node, ast.ImportFrom)
            for alias in node.names
            if alias.asname == alias.name
        ]
        if names:
            found[".".join(filter(None, ("mezzotint", room)))] = tuple(names)
    for module in _MODULES:
        body = ast.parse((PACKAGE / f"{module}.py").read_text(encoding="utf-8")).body
        defined = [n.name for n in body if isinstance(n, (ast.ClassDef, ast.FunctionDef))]
        found[f"mezzotint.{module}"] = tuple(n for n in defined if not n.startswith("_"))
    return found


def _api_path(package: str) -> str:
    return f"reference/api/{package}.md"


def _parsed(module: str) -> ast.Module:
    """A module of the package or the `__init__.py` of one, by its dotted name."""
    parts = module.split(".")[1:]
    path = PACKAGE.joinpath(*parts).with_suffix(".py")
    path = path if parts and path.is_file() else PACKAGE.joinpath(*parts, "__init__.py")
    return ast.parse(path.read_text(encoding="utf-8"))


def _api(package: str, names: tuple[str, ...]) -> str:
    """The page of a package: its docstring, and each of its public names."""
    tree = _parsed(package)
    homes = {
        alias.name: node.module or ""
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    }
    doc = ast.get_docstring(tree) or ""
    blocks = [
        f"::: {package}.{name}\n{_keys_link(name)}{_source(homes.get(name, ''))}"
        for name in names
        if not name.startswith("_")
    ]
    return f"# `{package}`\n\n{doc}\n\n" + "\n".join(blocks)


def _keys_link(name: str) -> str:
    """A link from a component's class or function to its keys."""
    known = index()
    entry = known.functions.get(name) or known.classes.get(name)
    if entry is None:
        return ""
    for family, path in families().items():
        if entry is known.members(family).get(entry.kind):
            target = f"../{path.removeprefix('reference/')}#{_anchor(family, entry.kind)}"
            link = f"[Its keys in a recipe, with ranges]({target})"
            return f"\n{link}; other values raise a `ValueError`.\n"
    return ""


@cache
def _source(module: str) -> str:
    """A folded note with the docstring of a module that tells a paper and what differs from it."""
    doc = (ast.get_docstring(_parsed(module)) or "") if module.startswith("mezzotint.") else ""
    if not _PAPER.search(doc):
        return ""
    lines = (f"    {line}".rstrip() for line in doc.splitlines())
    title = module.removeprefix("mezzotint.").replace(".", "/")
    return (
        f'\n??? quote "Source, and what differs from it: `{title}.py`"\n' + "\n".join(lines) + "\n"
    )


@cache
def families() -> dict[str, str]:
    """The page of each family that a recipe can name.

    A section has a page, so has a family of several kinds; what else stands in keys shares one.
    """
    sections = FAMILIES | OPTIONAL
    pages = {family: f"{_SECTIONS}/{name}.md" for name, family in sections.items()}
    for family in families_of(sections | {f"transfer.{k}": v for k, v in TRANSFER.items()}):
        several = len(index().members(family)) > 1
        pages.setdefault(family, f"{_SECTIONS}/{kind_of(family)}.md" if several else _PARTS)
    return pages


def _anchor(family: str, kind: str) -> str:
    return f"{kind_of(family)}-{kind}".replace("_", "-")


def _key_line(entry: ComponentEntry, key: Key, page: str) -> str:
    """A row of a table of keys: name, type and range, default, meaning."""
    kind, demand = key.shown_type, accepted(entry, key)
    if key.family is not None:
        target, kinds = families()[key.family], list(index().members(key.family))
        anchor = f"#{_anchor(key.family, kinds[0])}" if len(kinds) == 1 else ""
        here = anchor if target == page else f"{target.rpartition('/')[2]}{anchor}"
        alone = kinds == [index().classes[key.family].kind]
        kind = f"[{'its keys' if alone else kind}]({here or '#'})"
    default = "**required**" if key.required else f"`{_shown(key.default)}`"
    if key.family is not None and default.strip("`") == kind_of(key.family):
        default = "all of its defaults"
    doc = f"{key.doc[:1].upper()}{key.doc[1:]}".replace("`None`", "`null`")
    cells = (f"`{key.name}`", kind + (f", {demand}" if demand else ""), default, doc)
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


def _shown(value: Any) -> str:
    if isinstance(value, dict) and list(value) == ["kind"]:
        return str(value["kind"])
    return value if isinstance(value, str) and value else json.dumps(value).replace('"', "")


@cache
def _examples() -> dict[str, str]:
    """A shipped recipe for each kind that one names, the shortest name first."""
    found: dict[str, str] = {}
    for name, path in sorted(shipped().items(), key=lambda item: (len(item[0]), item[0])):
        for kind in re.findall(r"\bkind: (\w+)", path.read_text(encoding="utf-8")):
            found.setdefault(kind, name)
    return found


def _kind(family: str, entry: ComponentEntry, page: str) -> str:
    """What a kind is, its keys, and an example of it."""
    section = next((name for name, f in (FAMILIES | OPTIONAL).items() if f == family), None)
    needed = {n: _sample(key) for n, key in entry.keys.items() if key.required}
    text = ", ".join([f"kind: {entry.kind}", *(f"{n}: {value}" for n, value in needed.items())])
    alone = list(index().members(family)) == [index().classes[family].kind]
    some = next((k for k in entry.keys.values() if not k.required), None)
    if alone:
        text = "" if some is None else f"{some.name}: {_sample(some)}"
    example = f"```yaml\n{section}: {{{text}}}\n```" if section else f"`{{{text}}}`"
    shown = _examples().get(entry.kind)
    if shown and not alone:
        example += f"\n\nIn a recipe: `mezzotint recipes {shown}`."
    rows = [_key_line(entry, key, page) for key in entry.keys.values()]
    head = ["| key | type and range | default | meaning |", "|---|---|---|---|"]
    table = "\n".join([*head, *rows]) if rows else "It has no keys."
    title = f"## `{entry.kind}` {{#{_anchor(family, entry.kind)}}}"
    return "\n\n".join([title, entry.summary, example, table])


def _sample(key: Key) -> str:
    """A value for an example: the default, or one that the type suggests."""
    if not key.required and key.default is not None:
        return _shown(key.default)
    if key.family is not None:
        return next(iter(index().members(key.family)))
    words = {int: "10", float: "0.1", str: "path", bool: "true"}
    return words.get(key.type, "…")


def _recipe_pages() -> dict[str, str]:
    pages: dict[str, list[str]] = {}
    sections = {family: name for name, family in (FAMILIES | OPTIONAL).items()}
    for family, page in families().items():
        members = index().members(family)
        if page not in pages:
            title = sections.get(family) or ("Parts" if page == _PARTS else kind_of(family))
            pages[page] = [f"# `{title}`" if page != _PARTS else "# Other keys"]
            doc = _family_doc(family) if page != _PARTS else "Components that stand in keys."
            pages[page].append(doc)
        pages[page] += [_kind(family, entry, page) for entry in members.values()]
    return {page: "\n\n".join(parts) + "\n" for page, parts in pages.items()}


def _family_doc(family: str) -> str:
    entry = index().classes[family]
    kinds = index().members(family)
    text = entry.summary
    if len(kinds) > 1:
        links = (f"[`{kind}`](#{_anchor(family, kind)})" for kind in kinds)
        text += "\n\n" + " · ".join(links)
    return text


_RECIPES = """\
# Recipe keys

A recipe is a YAML file of plain data with {count} sections. `kind` names a component, all other
keys are its keyword arguments: their types, ranges and defaults are on these pages and in
`mezzotint recipes KIND`. A misspelt key is refused with the nearest one.

```yaml
data: {{kind: image_folder, root: photos/, size: 96}}
views: {{kind: two_views, policy: {{kind: simclr, blur_p: 0.0}}}}
encoder: {{kind: resnet18, stem: small}}
method: {{kind: simclr, temperature: 0.2}}
optimizer: {{kind: adamw, lr: 1.0e-3}}
run: {{epochs: 100, batch_size: 256}}
```

| section | what it says | kinds |
|---|---|---|
{rows}

Also at the top: `load` (parts that start from a file or an earlier phase) and `phases` (several
runs, one after the other); see [masked prediction](../../masked-prediction.md#phases).

## Completion in an editor

The JSON Schema of recipes knows every key, type, default and plain range. Write it once:

```bash
mezzotint recipes --schema > recipe.schema.json
```

and name it in the first line of a recipe, for editors with the YAML language server (VS Code with
"YAML" by Red Hat, Neovim, Emacs, JetBrains):

```yaml
# yaml-language-server: $schema=recipe.schema.json
```

The site has [a copy](recipe.schema.json); `mezzotint recipes transfer --schema` prints the one of
`mezzotint transfer`. Conditions between keys are checked by `mezzotint pretrain --dry-run`.
"""


def _recipes_index() -> str:
    rows = []
    for name, family in (FAMILIES | OPTIONAL).items():
        optional = " (may be left out)" if name in OPTIONAL else ""
        kinds = ", ".join(f"`{kind}`" for kind in index().members(family))
        summary = index().classes[family].summary
        rows.append(f"| [`{name}`]({name}.md) | {summary}{optional} | {kinds} |")
    return _RECIPES.format(rows="\n".join(rows), count=f"{len(FAMILIES)} to {len(rows)}")


def _cell(text: str) -> str:
    return html.escape(text, quote=False).replace("|", "\\|").replace("\n", " ")


@cache
def verbs() -> Mapping[str, Any]:
    """The verbs of the command line, in the order of its help."""
    group: Any = typer.main.get_command(app)
    return dict(group.commands)


def _verb(name: str, command: Any) -> str:
    """A verb: its help, an example, its arguments and options."""
    usage = [f"mezzotint {name}"]
    rows = []
    for parameter in command.params:
        shown = parameter.metavar or parameter.name.upper()
        argument = parameter.param_type_name == "argument"
        if argument:
            usage.append(shown)
        label = shown if argument else parameter.opts[0]
        default = parameter.default
        plain = isinstance(default, (int, float, str)) and default not in (False, "")
        value = "**required**" if parameter.required else f"`{default}`" if plain else ""
        rows.append(f"| `{_cell(label)}` | {_cell(parameter.help or '')} | {value} |")
    usage.append("[OPTIONS]")
    example = command.epilog.removeprefix("Example: ").strip("`")
    return "\n\n".join(
        [
            f"## `{name}`",
            command.help.strip(),
            f"```text\n{' '.join(usage)}\n```",
            f"```bash\n{example}\n```",
            "| argument or option | meaning | default |\n|---|---|---|\n" + "\n".join(rows),
        ]
    )


def _cli() -> str:
    links = [
        f"| [`{name}`](#{name}) | {_cell(command.help.strip().splitlines()[0])} |"
        for name, command in verbs().items()
    ]
    head = (
        "# Command line\n\n"
        "`mezzotint VERB --help` prints the same. Exit codes: 0 done, 1 failure, 2 bad input, 130 "
        "and 143 stopped with a checkpoint saved.\n\n| verb | what it does |\n|---|---|\n"
    )
    texts = (_verb(name, command) for name, command in verbs().items())
    return head + "\n".join(links) + "\n\n" + "\n\n".join(texts) + "\n"


@cache
def pages() -> dict[str, str]:
    """Text of each page, by its path on the site."""
    api = {_api_path(package): _api(package, names) for package, names in public_names().items()}
    recipes = {f"{_SECTIONS}/index.md": _recipes_index()} | _recipe_pages()
    schema = {f"{_SECTIONS}/recipe.schema.json": json.dumps(recipe_schema(), ensure_ascii=False)}
    return {_CLI: _cli()} | recipes | schema | api


def _titles(paths: Iterator[str]) -> list[Any]:
    return [{f"{path.rpartition('/')[2].removesuffix('.md')}": path} for path in paths]


def navigation() -> list[Any]:
    """The entries of the pages in the navigation."""
    sections = [f"{_SECTIONS}/{name}.md" for name in FAMILIES | OPTIONAL]
    rest = sorted({*families().values()} - {*sections, _PARTS})
    recipes = [f"{_SECTIONS}/index.md", *_titles(iter(sections))]
    recipes += [{"In keys": [*_titles(iter(rest)), {"others": _PARTS}]}]
    api = [{f"{name}": _api_path(name)} for name in public_names()]
    return [{"Command line": _CLI}, {"Recipe keys": recipes}, {"API": api}]
