"""Recipes as plain data: checked against the signatures, and made into objects.

Components are checked recursively, all other values by pydantic in strict JSON mode: a list may be
a tuple and an integer a number, and nothing else is converted. Only `construct` imports torch.
"""

import difflib
import functools
import importlib
import json
import os
import types
import typing
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from mezzotint.recipe.component import expanded, kind_of
from mezzotint.recipe.signatures import Alternatives, ListOf, Member, index, show_type

if TYPE_CHECKING:
    from pydantic import TypeAdapter

FAMILIES = {
    "data": "Source",
    "views": "ViewGenerator",
    "encoder": "Encoder",
    "method": "Method",
    "optimizer": "Optimizer",
    "schedule": "Schedule",
    "run": "Run",
    "evaluate": "Evaluate",
}
"""Sections of a recipe, and the family of each."""

OPTIONAL = {"mup": "MuP", "budget": "Budget", "init": "Init", "export": "Export"}
"""Sections that a recipe may leave out."""

DEFAULTS: dict[str, Any] = {"views": "two_views", "schedule": "cosine", "run": {}, "evaluate": {}}
"""What a section that is left out is."""

RENAMED_KINDS = {
    "daclmixup": "dacl_mixup",
    "mails": "emails",
    "spins": "rotating_objects",
    "samples": "embedded_images",
    "labelled": "labeled",
    "learnt_tokenizer": "learned_tokenizer",
}
"""Kinds that earlier recipes name otherwise: old name → new name."""

RENAMED_KEYS = {
    ("moco", "directions"): "symmetric",
    ("byol", "directions"): "symmetric",
    ("shed", "share"): "ratio",
    ("deeplab_v3", "hardest"): "ohem_fraction",
    ("training", "exact_norms"): "precise_bn_batches",
    ("audio_folder", "labels"): "files.labels",
    ("audio_folder", "test_fold"): "files.test_fold",
    ("voc_folder", "use"): "segmentation",
    ("series", "longest_gap"): "max_gap",
    ("table", "most_categories"): "max_categories",
    ("tokens", "long"): "overflow",
    ("tokens", "x"): "text",
    ("loader", "on_bad"): "on_unreadable",
    ("loader", "max_bad_fraction"): "max_unreadable_fraction",
    ("point_crop", "centre"): "center",
    ("bridle_joint", "centre"): "center",
    ("bridle_tokenizer", "centre"): "center",
    ("dgcnn", "neighbours"): "neighbors",
    ("mae", "normalise"): "normalize",
    ("mixing", "each"): "per_sample",
    ("multi_augment", "strategies"): "policies",
    ("time_roll", "most"): "max_shift",
    ("cold_start", "normalise"): "normalize",
    ("random_projection", "normalise"): "normalize",
    ("random_projection", "num_books"): "num_codebooks",
    ("ema", "renormalise"): "renormalize",
    ("evaluate", "protocols"): "ptq",
    ("linear", "strongest"): "max_l2",
    ("linear", "weakest"): "min_l2",
    ("rank", "first"): "first_eigenvalue",
    ("rank", "last"): "last_eigenvalue",
    ("sgd_linear", "rule"): "optimizer",
    ("sgd_linear", "decay"): "schedule",
    ("sgd_linear", "scaled"): "lr_scaling",
    ("sgd_linear", "title"): "name",
    ("evar", "title"): "name",
}
"""Keys that earlier recipes name otherwise: (kind, old key) → new key."""


OTHER_NAMES = {("series", "group"): "subject"}
"""Keys that one kind calls otherwise than the others do: (kind, name elsewhere) → its key."""

_LARGEST = 3.4028234663852886e38  # of float32


class RecipeError(ValueError):
    """A recipe, or a value in it, that cannot be used; the message says what to do."""


def nearest(word: str, names: Iterable[str]) -> str:
    """End a message with ` Did you mean X?`, or with nothing when no name is near."""
    match = difflib.get_close_matches(word, list(names), n=1, cutoff=0.5)
    return f" Did you mean {match[0]!r}?" if match else ""


def resolve(config: Any, family: str, path: str) -> dict[str, Any]:
    """Check a component's plain data against its signature, and fill in the defaults.

    Args:
        config: a mapping with `kind` and keywords, or the bare kind. `kind` may be left out where
            the family itself is concrete.
        family: name of the class that the component must be or inherit.
        path: of the key in the recipe, for messages.

    Raises:
        RecipeError: with the path, what it must be, what it is, and the nearest name.
    """
    members = index().members(family)
    kind, given, alone = _kind(config, family, path)
    keys = members[kind].keys
    for name in given:
        if (kind, name) in RENAMED_KEYS and name not in keys:
            raise RecipeError(
                f"`{path}.{name}` is now `{path}.{RENAMED_KEYS[kind, name]}`. Rename it in the "
                "recipe; a run that was written with the old name must be trained again."
            )
        if name != "kind" and name not in keys:
            raise RecipeError(
                f"`{path}.{name}` is not a key of {kind}, which takes {', '.join(keys) or 'none'}."
                f"{_hint(kind, str(name), keys) or f' See `mezzotint recipes {kind}`.'}"
            )
    resolved: dict[str, Any] = {} if alone else {"kind": kind}
    for name, key in keys.items():
        if name not in given and key.required:
            raise RecipeError(
                f"`{path}.{name}` is missing, and {kind} needs it: {key.shown_type}. "
                f"See `mezzotint recipes {kind}`."
            )
        resolved[name] = _check(given.get(name, key.default), key.type, f"{path}.{name}", kind)
    return resolved


def _hint(kind: str, name: str, keys: Iterable[str]) -> str:
    """Return ` Did you mean X?` for a key that a kind does not have; empty if none is near."""
    other = OTHER_NAMES.get((kind, name))
    return nearest(name, keys) if other is None else f" Did you mean {other!r}?"


def _kind(config: Any, family: str, path: str) -> tuple[str, Mapping[str, Any], bool]:
    """Find a component's kind and its mapping, and whether the family has no other kind."""
    members = index().members(family)
    own = index().classes[family].kind
    alone = list(members) == [own]  # such a component needs no `kind`
    if alone and not isinstance(config, Mapping) and config != own:
        raise RecipeError(
            f"`{path}` must be a mapping with keys of {own}, got {_shown(config)}. "
            f"See `mezzotint recipes {own}`."
        )
    if isinstance(config, str):
        config = {"kind": config}
    if not isinstance(config, Mapping):
        raise RecipeError(
            f"`{path}` must be a mapping with `kind` and its keys, got {_shown(config)}. "
            f"See `mezzotint recipes {kind_of(family)}`."
        )
    kind = config.get("kind", own if own in members else None)
    if kind is not None and not isinstance(kind, str):
        raise RecipeError(
            f"`{path}.kind` must be a name, got {_shown(kind)}. Choose one of {', '.join(members)}."
        )
    if kind in RENAMED_KINDS and RENAMED_KINDS[kind] in members:
        raise RecipeError(
            f"`{path}.kind: {kind}` is now `{RENAMED_KINDS[kind]}`. Rename it in the recipe; "
            "a run that was written with the old name must be trained again."
        )
    if kind not in members:
        if kind is None:
            raise RecipeError(f"`{path}.kind` is missing. Choose one of {', '.join(members)}.")
        raise RecipeError(
            f"`{path}.kind` must be one of {', '.join(members)}, got {kind!r}."
            f"{nearest(str(kind), members)}"
        )
    return str(kind), config, alone


def _check(value: Any, kind: Any, path: str, owner: str) -> Any:
    """Check one value: components recursively, everything else by pydantic in strict JSON mode."""
    if isinstance(kind, Member):
        return resolve(value, kind.family, path)
    if isinstance(kind, ListOf):
        if not isinstance(value, Sequence) or isinstance(value, str):
            raise RecipeError(
                f"`{path}` must be {show_type(kind)}, got {_shown(value)}. "
                f"See `mezzotint recipes {owner}`."
            )
        return [
            _check(item, kind.item, f"{path}.{position}", owner)
            for position, item in enumerate(value)
        ]
    if isinstance(kind, Alternatives):
        if value is None and None in kind.options:
            return None
        parts = [o for o in kind.options if isinstance(o, (Member, ListOf))]
        plain = [o for o in kind.options if o is not None and o not in parts]
        if plain and not isinstance(value, (Mapping, list)):
            return _check(value, plain[0], path, owner)
        return _check(value, parts[0], path, owner)
    from pydantic import ValidationError

    odd = _first_not_finite(value)
    if odd is not None:
        raise RecipeError(
            f"`{path}` must be finite in 32 bits, got {odd}. See `mezzotint recipes {owner}`."
        )
    value = expanded(value)
    try:
        _adapter(kind).validate_json(json.dumps(value), strict=True)
    except (ValidationError, TypeError) as error:
        raise RecipeError(
            f"`{path}` must be {show_type(kind)}, got {_shown(value)}."
            + (_advice(value, kind) or f" See `mezzotint recipes {owner}`.")
        ) from error
    return value


@functools.cache
def _adapter(kind: Any) -> "TypeAdapter[Any]":
    """Make pydantic's check of a type, once: making it takes longer than using it."""
    from pydantic import TypeAdapter  # imported late, so that the command line starts fast

    return TypeAdapter(kind)


def _first_not_finite(value: Any) -> float | None:
    """Find a number that is NaN or inf, or would be in the arithmetic of a run."""
    if isinstance(value, float):
        return None if abs(value) <= _LARGEST else value
    if isinstance(value, Mapping):
        value = list(value.values())
    if isinstance(value, list):
        return next((odd for item in value if (odd := _first_not_finite(item)) is not None), None)
    return None


_LOCATIONS = ("root", "files", "test_files", "files.path", "test_files.path")


def require_paths(config: Mapping[str, Any], path: str = "data") -> None:
    """Refuse checked data whose folder or file does not exist; nothing of torch is needed.

    Args:
        config: a source as `resolve` returns it.
        path: of its key in the recipe, for messages.

    Raises:
        RecipeError: with the first path that does not exist.
    """
    keys = index().members("Source")[config["kind"]].keys
    for name, value in config.items():
        if isinstance(value, Mapping) and "kind" in value and isinstance(keys[name].type, Member):
            require_paths(value, f"{path}.{name}")
        if isinstance(value, Mapping) and name in ("files", "test_files"):
            name, value = f"{name}.path", value["path"]
        # A `path` with a default is the name of a column.
        located = name in _LOCATIONS or (name == "path" and keys[name].required)
        on_disk = isinstance(value, str) and "://" not in value
        if located and on_disk and not os.path.exists(value):
            raise RecipeError(f"`{value}` does not exist. Check the path, `{path}.{name}`.")


def _advice(value: Any, kind: Any) -> str:
    """What to write instead, where the value gives it away."""
    options = typing.get_args(kind) if isinstance(kind, types.UnionType) else (kind,)
    if any(typing.get_origin(o) is list for o in options) and isinstance(value, (str, int, float)):
        return f" Write [{value}]."
    if str in options and isinstance(value, (bool, int, float)):
        return " Put it into quotes."
    if typing.get_origin(kind) is typing.Literal:
        return nearest(str(value), [str(choice) for choice in typing.get_args(kind)])
    return ""


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "…"


def class_of(kind: str, family: str) -> Any:
    """The class of a kind; of a factory, the class that it returns."""
    entry = index().members(family)[kind]
    if entry.name in index().functions:
        entry = index().classes[entry.bases[0]]
    return getattr(importlib.import_module(entry.module), entry.name)


def construct(config: Any, family: Any, injected: Mapping[str, tuple[Any, ...]]) -> Any:
    """Make the object that resolved plain data describes.

    Args:
        config: as `resolve` returns it; a value of one of its keys.
        family: of the component, by name; for a value the type of its key.
        injected: positional arguments, by family (an encoder's input, a method's encoder).
    """
    if isinstance(family, Alternatives):
        if not isinstance(config, (Mapping, list)):
            return config
        form = Member if isinstance(config, Mapping) else ListOf
        family = next(option for option in family.options if isinstance(option, form))
    if isinstance(family, ListOf):
        return [construct(item, family.item, injected) for item in config]
    if isinstance(family, Member):
        if config is None:
            return None
        family = family.family
    if not isinstance(family, str):
        is_tuple = typing.get_origin(family) is tuple and isinstance(config, list)
        return tuple(config) if is_tuple else config
    entry = index().members(family)[config.get("kind", index().classes[family].kind)]
    product = getattr(importlib.import_module(entry.module), entry.name)
    families = index().families_of(entry)
    positional = next((injected[f] for f in injected if f in families), ())
    keywords = {k: construct(config[k], key.type, injected) for k, key in entry.keys.items()}
    return product(*positional, **keywords)
