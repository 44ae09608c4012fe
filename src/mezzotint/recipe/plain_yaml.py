"""YAML as plain data, and nothing more than that.

Recipes come from strangers. So there are no tags, no anchors, no interpolation and no environment,
duplicate keys are refused, and size and depth are limited.
"""

import re
from typing import Any

import yaml

from mezzotint.recipe.schema import RecipeError

_MAX_BYTES, _MAX_DEPTH = 1 << 20, 20


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
        keys = [key.value for key, _ in node.value]
        for key in keys:
            if keys.count(key) > 1:
                line = node.start_mark.line + 1
                raise RecipeError(
                    f"has the key {key!r} twice in the mapping of line {line}. Keep one."
                )
        return super().construct_mapping(node, deep)


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


def parse_yaml(text: str, name: str) -> Any:
    """Read YAML text as plain data.

    Args:
        text: a recipe, or the value of an override.
        name: of the file or override, for messages.

    Raises:
        RecipeError: when it is not plain YAML.
    """
    if len(text) > _MAX_BYTES:
        raise RecipeError(
            f"`{name}` has {len(text)} characters, and a recipe has at most {_MAX_BYTES}. "
            "Check that the file is a recipe."
        )
    try:
        return yaml.load(text, Loader=_Loader)  # noqa: S506 - a subclass of SafeLoader
    except yaml.YAMLError as error:
        problem = " ".join(str(getattr(error, "problem", None) or error).split())
        mark = getattr(error, "problem_mark", None)
        where = f"line {mark.line + 1}, column {mark.column + 1}: " if mark else ""
        raise RecipeError(
            f"`{name}` is not plain YAML, {where}{problem}. Correct this line."
        ) from error
    except RecipeError as error:
        raise RecipeError(f"`{name}` {error}") from error
