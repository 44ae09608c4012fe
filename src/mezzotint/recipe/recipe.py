"""Recipes: a YAML file of plain data, the same thing as Python objects, and the way between them.

A recipe has eight sections, and may have `mup` and `init`. Each is checked against the signatures
of the package's classes (`mezzotint.recipe.schema`), so that from Python the very same objects can
be made. It is read once, into a `Plan` whose phases are checked before torch is imported, and each
phase is built once, into a `Recipe` of objects.
"""

import copy
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mezzotint.recipe.phases import check_parts, refuse_other_recipe, refuse_two_starts, unfold
from mezzotint.recipe.reading import (
    apply_overrides,
    dump_yaml,
    name_of,
    parse_yaml,
    read_raw,
    suggested,
)
from mezzotint.recipe.schema import (
    DEFAULTS,
    FAMILIES,
    OPTIONAL,
    RecipeError,
    class_of,
    construct,
    nearest,
    resolve,
)
from mezzotint.recipe.signatures import index

if TYPE_CHECKING:
    from mezzotint.augment.views import ViewGenerator
    from mezzotint.data.source import Source
    from mezzotint.encoders.encoder import Encoder
    from mezzotint.methods.method import Method
    from mezzotint.optim.mup.method import MuP
    from mezzotint.optim.optimizer import Optimizer
    from mezzotint.optim.schedules import Schedule
    from mezzotint.runs.settings import Budget, Evaluate, Export
    from mezzotint.train.init import Init
    from mezzotint.train.settings import Run


def read_recipe(name: str | Path, overrides: Sequence[str] = ()) -> dict[str, Any]:
    """Read a recipe by name or path, and apply overrides.

    Args:
        name: a shipped recipe's name, or the path of a YAML file or of a run's directory.
        overrides: `section.key=value`, the value in YAML.

    Returns:
        The sections as plain data, checked and with all defaults filled in; of a recipe with
        phases, the last one's.

    Raises:
        RecipeError: for anything that cannot be used, with the nearest name.
    """
    return resolve_recipe(unfold(read_raw(name, overrides))[-1][2])


def read_plan(name: str | Path, overrides: Sequence[str] = ()) -> "Plan":
    """Read a recipe like `read_recipe`, with all its phases."""
    return Plan.of(read_raw(name, overrides))


def read_resumed_plan(run: Path, overrides: Sequence[str] = ()) -> "Plan":
    """Read the recipe of a run that goes on, and apply overrides.

    Raises:
        RecipeError: for an override of something that a run keeps to its end.
    """
    if not (run / "recipe.yaml").is_file():
        raise RecipeError(
            f"--resume needs a run, and {run} has no recipe.yaml. "
            "Give the directory of a run as --out."
        )
    raw = read_raw(run)
    plan = before = Plan.of(raw)
    if overrides:
        plan = Plan.of(apply_overrides(copy.deepcopy(raw), overrides))
        refuse_other_recipe(before.phases[-1].config, plan.phases[-1].config)
    return plan


def read_continued_plan(
    run: Path, name: str, overrides: Sequence[str] = ()
) -> tuple["Plan", bool, bool]:
    """Read a recipe, by name or file, for a run in a directory that starts or goes on.

    Returns:
        The plan; whether there are checkpoints to go on from; whether only the beginnings of a run
        are left, which was killed before its first checkpoint.

    Raises:
        RecipeError: for a recipe that is not the run's, at the first key that differs.
    """
    plan = read_plan(name, overrides)
    if not any(run.glob("checkpoints/step-*")) and not any(run.glob("*/checkpoints/step-*")):
        return plan, False, (run / "recipe.yaml").is_file()
    before = Plan.of(read_raw(run))
    refuse_other_recipe(before.phases[-1].config, plan.phases[-1].config)
    return plan, True, False


def read_encoder(path: str | Path, overrides: Sequence[str] = ()) -> dict[str, Any]:
    """Read how to evaluate an encoder of another project.

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
        raise RecipeError(f"`{path}` is not a file. Give an ONNX or YAML file, or a run.")
    config: Any = {"encoder": {"kind": "onnx", "path": str(path)}}
    if path.suffix != ".onnx":
        config = parse_yaml(path.read_text(encoding="utf-8", errors="replace"), str(path))
    needed, known = ("encoder", "data"), ("encoder", "data", "run", "evaluate")
    if isinstance(config, dict):
        apply_overrides(config, overrides)
    if not isinstance(config, dict) or not set(needed) <= set(config) <= set(known):
        got = ", ".join(map(str, config)) if isinstance(config, dict) else name_of(config)
        raise RecipeError(
            f"`{path}` must have the sections encoder and data, and may have run and evaluate, "
            f"got {got}. Say on which data: data.kind=image_folder data.root=photos."
        )
    return {name: resolve(config.get(name) or {}, FAMILIES[name], name) for name in known}


def resolve_recipe(config: Mapping[str, Any], own: Collection[str] = ()) -> dict[str, Any]:
    """Check the sections of a recipe and fill in defaults; a RecipeError says what is refused.

    Sections in `own` hold a class of the user's own, and stay as they are.
    """
    for name in config:
        if name not in FAMILIES and name not in OPTIONAL:
            known = [*FAMILIES, *OPTIONAL]
            raise RecipeError(
                f"`{name}` is not a section of a recipe, which has {', '.join(known)}."
                f"{nearest(str(name), known)}"
            )
    resolved = {}
    for name, family in FAMILIES.items():
        if name not in config and name not in DEFAULTS:
            needed = ", ".join(f for f in FAMILIES if f not in DEFAULTS)
            raise RecipeError(f"`{name}` is missing. A recipe needs the sections {needed}.")
        value = config.get(name, DEFAULTS.get(name))
        value = {} if value is None else value
        resolved[name] = value if name in own else resolve(value, family, name)
    for name, family in OPTIONAL.items():
        if config.get(name) is not None:
            resolved[name] = resolve(config[name], family, name)
    return resolved


@dataclass(frozen=True)
class Phase:
    """One run of a plan.

    Attributes:
        name: the end of its directory's name, after its number.
        load: parts of the method that come from elsewhere: their names in an earlier phase, or
            paths.
        config: its recipe, checked.
    """

    name: str
    load: Mapping[str, str]
    config: dict[str, Any]


@dataclass(frozen=True)
class Plan:
    """A recipe as it was read: its phases in order, each checked.

    Attributes:
        phases: one for a recipe without `phases`.
        raw: the recipe as it was written.
    """

    phases: Sequence[Phase]
    raw: Mapping[str, Any]

    @classmethod
    def of(cls, raw: Mapping[str, Any]) -> "Plan":
        """Check a recipe as it is written.

        Raises:
            RecipeError: for anything in a phase that cannot be used.
        """
        phases = []
        for number, (name, load, config) in enumerate(unfold(raw)):
            try:
                phases.append(Phase(name, load, resolve_recipe(config)))
            except RecipeError as error:
                if "phases" not in raw:
                    raise
                raise RecipeError(f"In `phases.{number}`: {error}") from error
            if "init" in config:
                refuse_two_starts(number, load, config)
        check_parts([(phase.name, dict(phase.load), phase.config) for phase in phases])
        return cls(phases, raw)

    def summary(self) -> list[str]:
        """Return a line for where the first phase starts, and for each phase after it."""
        start = [f"starts from {part}: {path}" for part, path in self.phases[0].load.items()]
        return start + [
            f"{f'phase {number}':<12}{phase.name}: {phase.config['run']['epochs']} epochs, loads "
            f"{', '.join(phase.load) or 'nothing'}"
            for number, phase in enumerate(self.phases[1:], 2)
        ]


def _default(section: str) -> Any:
    family = FAMILIES[section]
    return construct(resolve(DEFAULTS[section], family, section), family, {})


def require_one_modality(config: Mapping[str, Any], modality: str) -> None:
    """Check that views and encoder take the modality of the data.

    Encoders, transforms and view generators name the modalities that they take (`modalities`, a
    class variable, empty for any). So the check needs no encoder, and runs before one is made.

    Args:
        config: a checked recipe.
        modality: the samples' modality.

    Raises:
        RecipeError: with the section to change and a recipe to try.
    """
    from mezzotint.modality.modality import modality_of  # imports torch

    for key, kind, family in _parts(config):
        takes = class_of(kind, family).modalities
        if takes and modality not in takes:
            data = config["data"]
            kind_of_data = data["source"]["kind"] if data["kind"] == "labeled" else data["kind"]
            samples = modality_of(modality)
            recipe = suggested(kind_of_data) or samples.recipe
            accepted = " or ".join(modality_of(name).plural for name in sorted(takes))
            raise RecipeError(
                f"`data` ({kind_of_data}) has {samples.plural}, but `{key}` ({kind}) takes "
                f"{accepted}. Change `{key}` or `data`, or try `mezzotint pretrain {recipe}`."
            )


def _parts(config: Mapping[str, Any]) -> Iterator[tuple[str, str, str]]:
    """Key, kind and family of what meets a whole sample; a transform inside another may not."""
    yield "encoder", config["encoder"]["kind"], "Encoder"
    transforms, views = index().members("Transform"), config["views"]
    for where, own in (("views", views), ("views.student", views.get("student", {}))):
        if own:
            yield where, own["kind"], "ViewGenerator"
        for key, chain in own.items():
            for position, item in enumerate(chain if isinstance(chain, list) else ()):
                if isinstance(item, Mapping) and item.get("kind") in transforms:
                    yield f"{where}.{key}.{position}", item["kind"], "Transform"


@dataclass(kw_only=True)
class Recipe:
    """Everything that a run is made of, as objects. Make it in Python, or with `Recipe.load`.

    Attributes:
        data: where samples come from.
        method: what trains; it has the encoder.
        optimizer: what changes the weights.
        views: the augmentations that make a method's input of a sample.
        schedule: the learning rate's course over the run.
        run: how long, how many at once, from which seed.
        evaluate: what is measured at the end.
        mup: how rates and initialization scale with the width; `None` leaves them as they are.
        budget: what the evaluation after training may take.
        init: the trained encoder to start from; `None` for random weights.
        export: what `mezzotint pretrain` exports at the end; `None` for nothing.
    """

    data: "Source"
    method: "Method"
    optimizer: "Optimizer"
    views: "ViewGenerator" = field(default_factory=lambda: _default("views"))
    schedule: "Schedule" = field(default_factory=lambda: _default("schedule"))
    run: "Run" = field(default_factory=lambda: _default("run"))
    evaluate: "Evaluate" = field(default_factory=lambda: _default("evaluate"))
    mup: "MuP | None" = None
    budget: "Budget | None" = None
    init: "Init | None" = None
    export: "Export | None" = None

    def __post_init__(self) -> None:
        self.method.require_generator(self.views, self.data.input)
        self.method.require_source(self.data)
        if self.mup is not None:
            self.mup.apply(self.method)

    @property
    def encoder(self) -> "Encoder":
        """The network that is trained and saved."""
        return self.method.encoder

    @classmethod
    def load(cls, name: str | Path, overrides: Sequence[str] = ()) -> "Recipe":
        """Read, check and build a recipe; see `read_recipe`. Nothing of `load` is read."""
        return cls.build(read_recipe(name, overrides))

    @classmethod
    def build(cls, config: Mapping[str, Any], data: "Source | None" = None) -> "Recipe":
        """Make the objects that checked plain data describes, with weights from `run.seed`.

        Args:
            config: a checked recipe.
            data: the source of its section `data`, if it is open already.

        Raises:
            RecipeError: when data, views and encoder do not share a modality.
        """
        import torch

        if data is None:
            data = construct(config["data"], FAMILIES["data"], {})
        require_one_modality(config, data.input.modality)
        run = construct(config["run"], FAMILIES["run"], {})
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(run.seed)
            encoder = construct(config["encoder"], FAMILIES["encoder"], {"Encoder": (data.input,)})
            method = construct(config["method"], FAMILIES["method"], {"Method": (encoder,)})
        rest = {
            name: construct(config[name], FAMILIES[name], {})
            for name in ("views", "optimizer", "schedule", "evaluate")
        }
        rest["views"].check(data.input)
        rest |= {n: construct(config[n], OPTIONAL[n], {}) for n in OPTIONAL if n in config}
        return cls(data=data, method=method, run=run, **rest)

    def untrained_encoder(self, seed: int) -> "Encoder":
        """Make the same encoder with fresh weights from another seed, as a baseline."""
        import torch

        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            # Weights that training started from are trained ones.
            own = {k: v for k, v in self.encoder.config.items() if k != "pretrained_path"}
            config = resolve(own, "Encoder", "encoder")
            made: Encoder = construct(config, "Encoder", {"Encoder": (self.encoder.input,)})
            if self.mup is not None:  # roles follow from encoder and heads together
                method = resolve(self.method.config, "Method", "method")
                self.mup.apply(construct(method, "Method", {"Method": (made,)}))
        return made

    def config(self) -> dict[str, Any]:
        """The recipe as plain data, with all defaults; a class of your own as it was made."""
        return self._described()[0]

    def _described(self) -> tuple[dict[str, Any], list[str]]:
        """The sections as plain data, and the names of those with a class of your own."""
        sections, own = {}, []
        for name, family in FAMILIES.items():
            sections[name] = getattr(self, name).config
            try:
                sections[name] = resolve(sections[name], family, name)
            except RecipeError:
                own.append(name)
        for name in (name for name in OPTIONAL if getattr(self, name) is not None):
            sections[name] = resolve(getattr(self, name).config, OPTIONAL[name], name)
        return sections, own

    def own_classes(self) -> list[str]:
        """Say which of data and encoder only Python can make again, a sentence each."""
        own = self._described()[1]
        how = {
            "data": "evaluate(run, data=…) takes it",
            "encoder": "load_encoder(run, model=…) and evaluate(run, model=…, data=…) take it",
        }
        return [
            f"{name}: `{type(getattr(self, name)).__name__}` is a class of your own, which the "
            f"command line cannot load again; in Python, {how[name]}."
            for name in how
            if name in own
        ]

    def to_yaml(self) -> str:
        """The recipe as YAML, which `Recipe.load` reads back to the same objects."""
        sections, own = self._described()
        note = f"# {', '.join(own)}: a class of your own, which only Python can make again\n"
        return (note if own else "") + dump_yaml(sections)
