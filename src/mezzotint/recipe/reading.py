"""Recipes as they are written: found by name or path, parsed, overridden, and not checked yet.

Recipes come from strangers, so YAML is plain data and nothing more. There are no tags, no anchors,
no interpolation and no environment, duplicate keys are refused, and size and depth are limited.
"""

import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

from mezzotint.files import read_json, require_seal
from mezzotint.recipe.override_values import read_value, wanted_type
from mezzotint.recipe.schema import RecipeError, nearest

_SHIPPED = Path(__file__).parent.parent / "recipes"
DEMO = "image/emoji_simclr"

_PATHS = frozenset({"root", "path", "files", "test_files", "labels", "tokenizer", "fitted"})
"""Keys of the section `data` that may be paths; only what exists as one is taken for one."""

# PyYAML reads about 100 kB a second; a recipe has a few.
_MAX_BYTES, _MAX_DEPTH = 1 << 16, 20


class _Loader(yaml.SafeLoader):
    """Safe YAML without anchors and duplicate keys; `5e-4` is a number, as everywhere else."""

    depth = 0

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        if self.check_event(yaml.AliasEvent):
            raise RecipeError("uses a YAML alias, and a recipe is plain data. Write the value out.")
        self.depth += 1
        if self.depth > _MAX_DEPTH:
            raise RecipeError(
                f"is nested deeper than {_MAX_DEPTH} levels, and a recipe is flat. Flatten it."
            )
        node = super().compose_node(parent, index)
        self.depth -= 1
        return node

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen: set[str] = set()
        for key, _ in node.value:
            line = node.start_mark.line + 1
            if not isinstance(key, yaml.ScalarNode):
                raise RecipeError(f"has a key that is no name in line {line}. Write names as keys.")
            if key.value in seen:
                raise RecipeError(
                    f"has the key {key.value!r} twice in the mapping of line {line}. Keep one."
                )
            seen.add(key.value)
        return super().construct_mapping(node, deep)


class _TextLoader(_Loader):
    """Keeps every scalar as text."""


_TextLoader.yaml_implicit_resolvers = {}
# `root: 2024-01-05` is the name of a folder.
_Loader.yaml_implicit_resolvers = {
    first: [pair for pair in pairs if pair[0] != "tag:yaml.org,2002:timestamp"]
    for first, pairs in yaml.SafeLoader.yaml_implicit_resolvers.items()
}


class _Dumper(yaml.SafeDumper):
    """Writes what `_Loader` reads back: no aliases, and quotes around text that looks like 5e-4."""

    def ignore_aliases(self, data: Any) -> bool:
        return True


# YAML 1.1 reads 5e-4 as text, because it has no decimal point.
for _side in (_Loader, _Dumper):
    _side.add_implicit_resolver(
        "tag:yaml.org,2002:float",
        re.compile(r"^[-+]?(?:\d+\.?\d*|\.\d+)[eE][-+]?\d+$"),
        list("-+0123456789."),
    )


def dump_yaml(value: Any) -> str:
    """Write plain data as YAML text that `parse_yaml` reads back as the same data."""
    text: str = yaml.dump(value, Dumper=_Dumper, sort_keys=False, allow_unicode=True)
    return text


def parse_yaml(text: str, name: str, *, as_text: bool = False) -> Any:
    """Read YAML text as plain data; dates stay text, because no key takes one.

    Args:
        text: a recipe, or the value of an override.
        name: of the file or override, for messages.
        as_text: whether numbers, booleans and null stay text too.

    Raises:
        RecipeError: when it is not plain YAML.
    """
    _require_size(len(text), name)
    try:
        loader = _TextLoader if as_text else _Loader
        return yaml.load(text, Loader=loader)  # noqa: S506 - a subclass of SafeLoader
    except yaml.YAMLError as error:
        problem = " ".join(str(getattr(error, "problem", None) or error).split())
        mark = getattr(error, "problem_mark", None)
        where = f"line {mark.line + 1}, column {mark.column + 1}: " if mark else ""
        raise RecipeError(
            f"`{name}` is not plain YAML, {where}{problem}. Correct this line."
        ) from error
    except RecipeError as error:
        raise RecipeError(f"`{name}` {error}") from error
    except (ValueError, RecursionError) as error:  # a number of thousands of digits, a date of none
        raise RecipeError(
            f"`{name}` has a value that cannot be read ({error}). Correct it."
        ) from error


def read_yaml(path: Path) -> Any:
    """Read a small YAML file of the user's as plain data.

    Raises:
        RecipeError: when the file is large, is no UTF-8 text, or is not plain YAML.
    """
    try:
        _require_size(path.stat().st_size, str(path))  # before anything is read
        require_seal(path)
        text = path.read_text(encoding="utf-8")
    except (UnicodeDecodeError, OSError) as error:
        raise RecipeError(
            f"`{path}` cannot be read as UTF-8 text: {error}. Give a YAML file."
        ) from error
    except ValueError as error:
        raise RecipeError(str(error)) from error
    return parse_yaml(text, str(path))


def _require_size(size: int, name: str) -> None:
    if size > _MAX_BYTES:
        raise RecipeError(
            f"`{name}` has {size} characters, and such a file has at most {_MAX_BYTES}. "
            "Check that it is the right file."
        )


def shipped() -> dict[str, Path]:
    """List the recipes that come with the package, by name: `image/emoji_simclr` → file."""
    files = {
        p.relative_to(_SHIPPED).with_suffix("").as_posix(): p
        for p in sorted(_SHIPPED.rglob("*.yaml"))
    }
    return {
        name: path for name, path in files.items() if not name.startswith(("studies/", "transfer/"))
    }


def is_data_path(name: str) -> bool:
    """Return whether a name is a path of data: no recipe, no run and no YAML file."""
    path = Path(name)
    if name in shipped() or path.suffix in (".yaml", ".yml"):
        return False
    return path.is_file() or (path.is_dir() and not (path / "recipe.yaml").is_file())


def read_raw(name: str | Path, overrides: Sequence[str] = ()) -> dict[str, Any]:
    """Read a recipe as it is written, with overrides applied; nothing in it is checked."""
    path = shipped().get(str(name)) or Path(name)
    run = path if path.is_dir() and (path / "recipe.yaml").is_file() else None
    if run is not None:
        path = run / "recipe.yaml"
    if path.is_dir():
        raise RecipeError(
            f"`{path}` has no recipe.yaml, so it is not a run. Give a run, the path of a YAML "
            "file, or a name that `mezzotint recipes` lists."
        )
    if not path.is_file():
        raise RecipeError(
            f"There is no recipe {str(name)!r}, and no such path. Give the path of a YAML file (to "
            "`mezzotint pretrain` also of data), or a name that `mezzotint recipes` lists."
            f"{nearest(str(name), shipped())}"
        )
    config = read_yaml(path)
    if not isinstance(config, dict):
        raise RecipeError(
            f"`{path}` must be a mapping with the sections data, encoder, method and optimizer, "
            f"got {name_of(config)}. See `mezzotint recipes {DEMO}` for an example."
        )
    if run is not None and isinstance(config.get("data"), dict):
        config["data"] = _located(config["data"], run)
    return apply_overrides(config, overrides)


def _located(data: dict[str, Any], run: Path) -> dict[str, Any]:
    """Return the section `data` of a run with paths that hold in any directory.

    A relative path holds in the directory that the run was started in, whatever has its name in the
    current one.
    """
    environment = run / "environment.json"
    # A changed directory would lead to other data, so it is refused and not passed over.
    require_seal(environment)
    try:
        base = read_json(environment)["directory"]
    except (OSError, ValueError, KeyError, TypeError):
        return data  # written by an earlier version
    if Path.cwd() == Path(base):
        return data
    found = {}
    for key, value in data.items():
        if isinstance(value, dict):
            value = _located(value, run)
        elif key in _PATHS and isinstance(value, str) and (Path(base) / value).exists():
            value = str(Path(base) / value)
        found[key] = value
    return found


def name_of(value: Any) -> str:
    """Name what stands where a mapping was expected, for messages."""
    return {"NoneType": "nothing", "list": "a list", "str": "text"}.get(
        type(value).__name__, repr(value)
    )


def apply_overrides(config: dict[str, Any], overrides: Sequence[str]) -> dict[str, Any]:
    """Set dotted keys in place. A new `kind` empties its section, whose keys were the old kind's.

    Args:
        config: the recipe as it is written.
        overrides: `section.key=value`; the value is text where the key takes text, else YAML.

    Returns:
        The same mapping.

    Raises:
        RecipeError: for text that is no override, or a position that a list does not have.
    """
    for text in overrides:
        name, equals, value_text = text.partition("=")
        keys = name.split(".")
        if not equals or not all(keys):
            raise RecipeError(
                f"{text!r} is not an override. Write section.key=value, such as run.epochs=20."
            )
        value = _value(config, keys, value_text, name)
        parent: Any = config
        for key in keys[:-1]:
            child = parent.get(key) if isinstance(parent, dict) else None
            if isinstance(child, str):
                child = {"kind": child}
            if isinstance(parent, dict):
                parent[key] = child = child if isinstance(child, (dict, list)) else {}
            else:
                child = parent[_position(parent, key, name)]
            parent = child
        if isinstance(parent, dict):
            if keys[-1] == "kind" and parent.get("kind", value) != value:
                parent.clear()
            parent[keys[-1]] = value
        else:
            parent[_position(parent, keys[-1], name)] = value
    return config


def _value(config: dict[str, Any], keys: list[str], text: str, name: str) -> Any:
    def parse(part: str, as_text: bool) -> Any:
        return parse_yaml(part, name, as_text=as_text)

    return read_value(text, wanted_type(config, keys), parse)


def _position(items: Any, key: str, name: str) -> int:
    """The position in a list that a part of a dotted key names."""
    if isinstance(items, list) and key.isdigit() and int(key) < len(items):
        return int(key)
    accepted = f"a position from 0 to {len(items) - 1}" if isinstance(items, list) else "no key"
    raise RecipeError(
        f"`{name}` cannot be set: {key!r} must be {accepted} there. Write the whole list."
    )


def suggested(kind: str) -> str:
    """Choose the shortest shipped recipe for a kind of data, SimCLR if any; empty without one."""
    candidates = [
        name
        for name, path in shipped().items()
        if not name.startswith("supervised/")
        and re.search(rf"\bkind: {kind}\b", path.read_text(encoding="utf-8"))
    ]
    return min(candidates, key=lambda name: ("simclr" not in name, len(name), name), default="")


def start_overrides(path: Path) -> list[str]:
    """Return the overrides that start a recipe from a trained encoder, with its own network.

    Args:
        path: a run, an encoder directory, a local folder of timm's hub layout, or a file of
            weights, which does not say what network it is of.

    Raises:
        RecipeError: for a path that is none of them.
    """
    found = [f"init.path={path}"]
    for file in (path / "encoder.json", path / "encoder" / "encoder.json", path / "config.json"):
        if not file.is_file():
            continue
        try:
            described = read_json(file)
            encoder = described.get("encoder") or {
                "kind": "timm",
                "name": described["architecture"],
            }
        except (ValueError, KeyError, AttributeError) as error:
            raise RecipeError(
                f"`{file}` does not say what network it is of ({error}). Give an encoder of "
                "mezzotint, or a folder of timm with `architecture` in its config.json."
            ) from error
        return [f"encoder={json.dumps(encoder)}", *found]
    if not path.is_file():
        raise RecipeError(
            f"--init must be a run, an encoder directory, a file of weights, or a folder of timm's "
            f"hub layout, got '{path}'. Check the path."
        )
    return found
