"""Recipes as plain data: checked against the signatures, and made into objects.

Leaf values are checked by pydantic in strict JSON mode (a list is a tuple, an integer is a number,
nothing else is converted); components are followed recursively. Nothing here imports torch before
`construct`.
"""

import difflib
import importlib
import json
import typing
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from mezzotint.recipe.signatures import Alternatives, ListOf, Member, index, show_type

RENAMED_KINDS = {"labelled": "labeled", "learnt_tokenizer": "learned_tokenizer"}
"""Kinds that earlier recipes name otherwise: old name → new name."""

RENAMED_KEYS = {
    ("point_crop", "centre"): "center",
    ("bridle_joint", "centre"): "center",
    ("bridle_tokenizer", "centre"): "center",
    ("dgcnn", "neighbours"): "neighbors",
    ("mae", "normalise"): "normalize",
    ("cold_start", "normalise"): "normalize",
    ("random_projection", "normalise"): "normalize",
    ("ema", "renormalise"): "renormalize",
}
"""Keys that earlier recipes name otherwise: (kind, old key) → new key."""


class RecipeError(ValueError):
    """A recipe, or a value in it, that cannot be used: what was got, what is allowed, what to do."""


def nearest(word: str, allowed: Iterable[str]) -> str:
    """`; did you mean X?`, or nothing when no name is near."""
    match = difflib.get_close_matches(word, list(allowed), n=1, cutoff=0.5)
    return f"; did you mean {match[0]!r}?" if match else ""


def resolve(config: Any, family: str, path: str) -> dict[str, Any]:
    """Check a component's plain data against its signature, and fill in the defaults.

    Args:
        config: a mapping with `kind` and keywords, or the bare kind. `kind` may be left out where
            the family itself is concrete.
        family: name of the class whose members are allowed.
        path: of the key in the recipe, for messages.

    Raises:
        RecipeError: with the path, what was got, what is allowed and the nearest name.
    """
    members = index().members(family)
    if isinstance(config, str):
        config = {"kind": config}
    if not isinstance(config, Mapping):
        raise RecipeError(
            f"{path}: got {_shown(config)}; allowed is a mapping with 'kind' and its keys"
        )
    own = index().classes[family].kind
    kind = config.get("kind", own if own in members else None)
    if kind in RENAMED_KINDS and RENAMED_KINDS[kind] in members:
        raise RecipeError(
            f"`{path}.kind: {kind}` is now `{RENAMED_KINDS[kind]}`. Rename it in the recipe; "
            "a run that was written with the old name must be trained again."
        )
    if kind not in members:
        got = "no 'kind'" if kind is None else f"{kind!r}"
        raise RecipeError(
            f"{path}.kind: got {got}; allowed: {', '.join(members)}{nearest(str(kind), members)}"
        )
    keys = members[kind].keys
    for name in config:
        if (kind, name) in RENAMED_KEYS and name not in keys:
            raise RecipeError(
                f"`{path}.{name}` is now `{path}.{RENAMED_KEYS[kind, name]}`. Rename it in the recipe; "
                "a run that was written with the old name must be trained again."
            )
        if name != "kind" and name not in keys:
            allowed = ", ".join(keys) or "no keys"
            raise RecipeError(
                f"{path}.{name}: unknown key; {kind} takes {allowed}{nearest(str(name), keys)}"
            )
    resolved: dict[str, Any] = {} if list(members) == [own] else {"kind": kind}
    for name, key in keys.items():
        if name not in config and key.required:
            raise RecipeError(f"{path}.{name}: missing; {kind} needs it ({key.shown_type})")
        resolved[name] = _check(config.get(name, key.default), key.type, f"{path}.{name}")
    return resolved


def _check(value: Any, kind: Any, path: str) -> Any:
    """Check one value; components recursively, everything else by pydantic in strict JSON mode."""
    if isinstance(kind, Member):
        return resolve(value, kind.family, path)
    if isinstance(kind, ListOf):
        if not isinstance(value, Sequence) or isinstance(value, str):
            raise RecipeError(f"{path}: got {_shown(value)}; allowed is {show_type(kind)}")
        return [_check(item, kind.item, f"{path}.{place}") for place, item in enumerate(value)]
    if isinstance(kind, Alternatives):
        if value is None and None in kind.options:
            return None
        parts = [o for o in kind.options if isinstance(o, (Member, ListOf))]
        plain = [o for o in kind.options if o is not None and o not in parts]
        if plain and not isinstance(value, (Mapping, list)):
            return _check(value, plain[0], path)
        return _check(value, parts[0], path)
    from pydantic import TypeAdapter, ValidationError

    try:
        TypeAdapter(kind).validate_json(json.dumps(value), strict=True)
    except (ValidationError, TypeError) as error:
        allowed = f"{path}: got {_shown(value)}; allowed is {show_type(kind)}"
        if typing.get_origin(kind) is list and isinstance(value, (str, int, float)):
            raise RecipeError(f"{allowed}: write [{value}]") from error
        choices = (
            [str(a) for a in typing.get_args(kind)]
            if typing.get_origin(kind) is typing.Literal
            else []
        )
        raise RecipeError(allowed + nearest(str(value), choices)) from error
    return value


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "…"


def construct(
    config: Mapping[str, Any], family: str, injected: Mapping[str, tuple[Any, ...]]
) -> Any:
    """Make the object that resolved plain data describes.

    Args:
        config: as `resolve` returns it.
        family: of the component.
        injected: positional arguments, by family (an encoder's input, a method's encoder).
    """
    members = index().members(family)
    entry = members[config.get("kind", index().classes[family].kind)]
    product = getattr(importlib.import_module(entry.module), entry.name)
    families = index().families_of(entry)
    positional = next((injected[f] for f in injected if f in families), ())
    keywords = {k: _construct(config[k], key.type, injected) for k, key in entry.keys.items()}
    return product(*positional, **keywords)


def _construct(value: Any, kind: Any, injected: Mapping[str, tuple[Any, ...]]) -> Any:
    if isinstance(kind, Member) and value is not None:
        return construct(value, kind.family, injected)
    if isinstance(kind, ListOf):
        return [_construct(item, kind.item, injected) for item in value]
    if isinstance(kind, Alternatives):
        if isinstance(value, Mapping):
            return _construct(
                value, next(o for o in kind.options if isinstance(o, Member)), injected
            )
        if isinstance(value, list):
            return _construct(
                value, next(o for o in kind.options if isinstance(o, ListOf)), injected
            )
        return value
    return tuple(value) if typing.get_origin(kind) is tuple and isinstance(value, list) else value
