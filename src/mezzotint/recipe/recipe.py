"""Recipes: a YAML file of plain data, the same thing as Python objects, and the road between the two.

A recipe has eight sections. Each is checked against the signatures of the package's classes
(`mezzotint.recipe.schema`), so that from Python the very same objects can be made and passed.
Reading is safe: no tags, no anchors, no interpolation, no environment, duplicate keys refused,
size and depth limited.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from mezzotint.recipe.phases import unfold
from mezzotint.recipe.schema import RecipeError, construct, nearest, resolve

if TYPE_CHECKING:
    from mezzotint.augment.views import ViewGenerator
    from mezzotint.data.source import Source
    from mezzotint.encoders.encoder import Encoder
    from mezzotint.methods.method import Method
    from mezzotint.optim.optimizer import Optimizer
    from mezzotint.optim.schedules import Schedule
    from mezzotint.runs.settings import Evaluate
    from mezzotint.train.settings import Run

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
_DEFAULTS: dict[str, Any] = {"views": "two_views", "schedule": "cosine", "run": {}, "evaluate": {}}
_SHIPPED = Path(__file__).parent.parent / "recipes"
DEMO = "image/emoji_simclr"
_MAX_BYTES, _MAX_DEPTH = 1 << 20, 20


class _Loader(yaml.SafeLoader):
    """Safe YAML without anchors and duplicate keys; `5e-4` is a number, as everywhere else."""

    depth = 0

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        if self.check_event(yaml.AliasEvent):
            raise RecipeError(
                "the recipe uses a YAML alias; allowed is plain data: write the value out"
            )
        self.depth += 1
        if self.depth > _MAX_DEPTH:
            raise RecipeError(
                f"the recipe is nested deeper than {_MAX_DEPTH} levels; allowed is plain data"
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
                    f"the key {key!r} stands twice in the mapping of line {line}; keep one"
                )
        return super().construct_mapping(node, deep)


_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(r"^[-+]?(?:\d+\.?\d*|\.\d+)[eE][-+]?\d+$"),
    list("-+0123456789."),
)


def parse_yaml(text: str, where: str) -> Any:
    """Read YAML text as plain data.

    Raises:
        RecipeError: when it is not plain YAML.
    """
    if len(text) > _MAX_BYTES:
        raise RecipeError(
            f"{where} has {len(text)} characters; allowed are {_MAX_BYTES}: a recipe is a page of text"
        )
    try:
        return yaml.load(text, Loader=_Loader)  # noqa: S506 - a subclass of SafeLoader
    except yaml.YAMLError as error:
        message = " ".join(str(error).split())
        raise RecipeError(f"{where} is not plain YAML: {message}") from error
    except RecipeError as error:
        raise RecipeError(f"{where}: {error}") from error


def shipped() -> dict[str, Path]:
    """The recipes that come with the package, by name: `image/emoji_simclr` → file."""
    found = {
        p.relative_to(_SHIPPED).with_suffix("").as_posix(): p
        for p in sorted(_SHIPPED.rglob("*.yaml"))
    }
    return {
        name: path for name, path in found.items() if not name.startswith(("studies/", "transfer/"))
    }


def read_recipe(name: str | Path, overrides: Sequence[str] = ()) -> dict[str, Any]:
    """Read a recipe by name or path, and apply overrides.

    Args:
        name: of a shipped recipe, or the path of a YAML file, or of a run directory.
        overrides: `section.key=value`, the value in YAML.

    Returns:
        The sections as plain data, checked and with all defaults filled in; of a recipe with
        phases, the last one's.

    Raises:
        RecipeError: with what was got, what is allowed, and the nearest name.
    """
    return resolve_recipe(unfold(read_raw(name, overrides))[-1][2])


def read_raw(name: str | Path, overrides: Sequence[str] = ()) -> dict[str, Any]:
    """A recipe as it is written, with overrides applied; nothing in it is checked."""
    path = shipped().get(str(name)) or Path(name)
    if path.is_dir() and (path / "recipe.yaml").is_file():
        path = path / "recipe.yaml"
    if not path.is_file():
        known = shipped()
        raise RecipeError(
            f"got the recipe {str(name)!r}; allowed is the path of a YAML file or a name from `mezzotint recipes`"
            f"{nearest(str(name), known)}"
        )
    try:
        text = path.read_text(encoding="utf-8")
    except (UnicodeDecodeError, OSError) as error:
        raise RecipeError(f"{path} cannot be read as UTF-8 text: {error}") from error
    config = parse_yaml(text, str(path))
    if not isinstance(config, dict):
        raise RecipeError(
            f"{path}: got {type(config).__name__}; allowed is a mapping with {', '.join(FAMILIES)}"
        )
    for override in overrides:
        _override(config, override)
    return config


def _override(config: dict[str, Any], override: str) -> None:
    """Set one dotted key. A new `kind` starts its section afresh: the old kind's keys mean nothing to it."""
    name, equals, text = override.partition("=")
    parts = name.split(".")
    if not equals or not all(parts):
        raise RecipeError(
            f"got the override {override!r}; allowed is section.key=value, such as run.epochs=20"
        )
    value = parse_yaml(text, f"the override {name}")
    place: Any = config
    for part in parts[:-1]:
        inner = place.get(part) if isinstance(place, dict) else None
        if isinstance(inner, str):
            inner = {"kind": inner}
        if isinstance(place, dict):
            place[part] = inner = inner if isinstance(inner, (dict, list)) else {}
        elif isinstance(place, list) and part.isdigit() and int(part) < len(place):
            inner = place[int(part)]
        else:
            raise RecipeError(f"got the override {name}; {part!r} is not a key or place there")
        place = inner
    if parts[-1] == "kind" and isinstance(place, dict) and place.get("kind", value) != value:
        place.clear()
    if isinstance(place, list):
        place[int(parts[-1])] = value
    else:
        place[parts[-1]] = value


def read_encoder(path: str | Path, overrides: Sequence[str] = ()) -> dict[str, Any]:
    """What to evaluate an encoder of another project by.

    Args:
        path: an ONNX file, or a YAML file with the sections `encoder` and `data`, and maybe `run`
            and `evaluate`.
        overrides: as for `read_recipe`; an ONNX file needs `data.kind=…` at least.

    Returns:
        These four sections, checked and with all defaults filled in.

    Raises:
        RecipeError: for a section that is missing or belongs to training.
    """
    path = Path(path)
    if not path.is_file():
        raise RecipeError(
            f"got {str(path)!r}, which is no file; allowed is an ONNX or YAML file: check the path"
        )
    config: Any = {"encoder": {"kind": "onnx", "path": str(path)}}
    if path.suffix != ".onnx":
        config = parse_yaml(path.read_text(encoding="utf-8", errors="replace"), str(path))
    for override in overrides:
        _override(config, override)
    needed, known = ("encoder", "data"), ("encoder", "data", "run", "evaluate")
    if not isinstance(config, dict) or not set(needed) <= set(config) <= set(known):
        got = ", ".join(map(str, config)) if isinstance(config, dict) else type(config).__name__
        raise RecipeError(
            f"{path}: got the sections {got}; allowed are {' and '.join(needed)}, and run and evaluate: "
            "say on which data, such as data.kind=image_folder data.root=photos"
        )
    return {name: resolve(config.get(name) or {}, FAMILIES[name], name) for name in known}


def resolve_recipe(config: Mapping[str, Any]) -> dict[str, Any]:
    """Check all sections of a recipe, and fill in the defaults."""
    for name in config:
        if name not in FAMILIES:
            raise RecipeError(
                f"{name}: unknown section; allowed: {', '.join(FAMILIES)}{nearest(str(name), FAMILIES)}"
            )
    resolved = {}
    for name, family in FAMILIES.items():
        if name not in config and name not in _DEFAULTS:
            raise RecipeError(
                f"{name}: missing; a recipe needs {', '.join(f for f in FAMILIES if f not in _DEFAULTS)}"
            )
        value = config.get(name, _DEFAULTS.get(name))
        resolved[name] = resolve({} if value is None else value, family, name)
    return resolved


def _default(section: str) -> Any:
    family = FAMILIES[section]
    return construct(resolve(_DEFAULTS[section], family, section), family, {})


@dataclass(kw_only=True)
class Recipe:
    """Everything a run is made of, as objects. Made from Python, or from a file by `Recipe.load`.

    Attributes:
        data: where samples come from.
        method: what trains; holds the encoder.
        optimizer: what changes the weights.
        views: what is done to a sample before the method sees it.
        schedule: of the learning rate.
        run: how long, how many at once, from which seed.
        evaluate: what is measured at the end.
    """

    data: "Source"
    method: "Method"
    optimizer: "Optimizer"
    views: "ViewGenerator" = field(default_factory=lambda: _default("views"))
    schedule: "Schedule" = field(default_factory=lambda: _default("schedule"))
    run: "Run" = field(default_factory=lambda: _default("run"))
    evaluate: "Evaluate" = field(default_factory=lambda: _default("evaluate"))

    @property
    def encoder(self) -> "Encoder":
        """What is trained."""
        return self.method.encoder

    @classmethod
    def load(cls, name: str | Path, overrides: Sequence[str] = ()) -> "Recipe":
        """Read, check and build a recipe; see `read_recipe`."""
        return cls.build(read_recipe(name, overrides))

    @classmethod
    def build(cls, config: Mapping[str, Any]) -> "Recipe":
        """Make the objects that checked plain data describes. Weights are initialized from `run.seed`."""
        import torch

        data = construct(config["data"], FAMILIES["data"], {})
        run = construct(config["run"], FAMILIES["run"], {})
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(run.seed)
            encoder = construct(config["encoder"], FAMILIES["encoder"], {"Encoder": (data.input,)})
            method = construct(config["method"], FAMILIES["method"], {"Method": (encoder,)})
        rest = {
            name: construct(config[name], FAMILIES[name], {})
            for name in ("views", "optimizer", "schedule", "evaluate")
        }
        return cls(data=data, method=method, run=run, **rest)

    def untrained_encoder(self, seed: int) -> "Encoder":
        """The same encoder with fresh weights from another seed: the honest baseline."""
        import torch

        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            config = resolve(self.encoder.config, "Encoder", "encoder")
            made: Encoder = construct(config, "Encoder", {"Encoder": (self.encoder.input,)})
        return made

    def config(self) -> dict[str, Any]:
        """The recipe as plain data, with all defaults; a section with a class of your own stands as it was made."""
        parts = {name: getattr(self, name).config for name in FAMILIES}
        return {
            name: part if name in self._foreign() else resolve(part, FAMILIES[name], name)
            for name, part in parts.items()
        }

    def _foreign(self) -> list[str]:
        """The sections that a file cannot name, because they hold a class from outside this package."""
        found = []
        for name, family in FAMILIES.items():
            try:
                resolve(getattr(self, name).config, family, name)
            except RecipeError:
                found.append(name)
        return found

    def to_yaml(self) -> str:
        """The recipe as YAML, which `Recipe.load` reads back to the same objects."""
        own = self._foreign()
        note = (
            f"# {', '.join(own)}: a class of your own, which only Python can make again\n"
            if own
            else ""
        )
        return note + yaml.safe_dump(self.config(), sort_keys=False, allow_unicode=True)
