"""What a verb works on: an encoder from any directory or file, and data read as it was trained.

An encoder is a run, a directory that `save_encoder` or `mezzotint import` wrote, a packed export,
an ONNX file, or a YAML file with the sections `encoder` and `data`. Its data is what a user names,
or what it was trained on. Settings and what was fitted come from the encoder; overrides win.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from mezzotint.augment.views import ViewGenerator
from mezzotint.data.open import keys_of, kind_in, open_source, require_fit, source_config
from mezzotint.data.source import Source
from mezzotint.encoders.encoder import Encoder
from mezzotint.encoders.onnx import load_exported
from mezzotint.encoders.saving import load_encoder
from mezzotint.methods.method import BranchName, Method
from mezzotint.optim.optimizer import SGD
from mezzotint.recipe.phases import unfold
from mezzotint.recipe.reading import apply_overrides, read_raw
from mezzotint.recipe.recipe import Recipe, read_encoder, require_one_modality, resolve_recipe
from mezzotint.recipe.schema import FAMILIES, RecipeError, construct, resolve
from mezzotint.runs.reuse import Part, branch_of, load_branch
from mezzotint.runs.settings import Evaluate
from mezzotint.train.settings import Run
from mezzotint.types import Input

_YAML = (".yaml", ".yml")
_SECTIONS = ("data", "run", "evaluate")
_OWN_CLASSES = re.compile(r"# ([a-z, ]+): a class of your own")  # see `Recipe.to_yaml`


@dataclass(frozen=True)
class Subject:
    """An encoder, its data and settings.

    Attributes:
        encoder: encoder in eval mode.
        data: data to measure it on.
        settings: the section `evaluate`.
        workers: processes of the loader.
        untrained: makes the same encoder with fresh weights from a seed; `None` where there is no
            way to.
        most: largest number of samples of each side of a task; `None` for all.
    """

    encoder: Encoder
    data: Source
    settings: Evaluate
    workers: int
    untrained: Callable[[int], Encoder] | None
    most: int | None = None


def subject(
    path: str | Path,
    data: str | Source | None = None,
    overrides: Sequence[str] = (),
    *,
    model: Encoder | None = None,
) -> Subject:
    """Load an encoder and open its data.

    Args:
        path: a run, an encoder's directory, an ONNX file, or a YAML file.
        data: a name, see `open_data`, or a source.
        overrides: of `data`, `run` and `evaluate`; of any section for a run.
        model: the network of a run that trained a class of the user's own.

    Raises:
        ValueError: when there is no encoder, or the data cannot be opened or does not fit it.
    """
    folder = run_of(path)
    if Path(path).suffix in _YAML:
        return _of_file(Path(path), overrides)
    if folder is None or data is not None or model is not None:
        return _of_encoder(path, data, overrides, model)
    encoder = load_encoder(folder)
    kind, own = kind_in(overrides), own_sections(folder)
    if kind is None or kind == read_run(folder)["data"]["kind"]:
        config = read_run(folder, overrides)
        _require_known(folder, own, config)
        if any(text.startswith("data.reader") for text in overrides):
            raise RecipeError(
                "`data.reader` cannot be set for a run that is trained: its images are mapped by "
                "the range of training. Train again to change it."
            )
        config["data"] = with_fitted(config["data"], folder, encoder)
    else:  # other data, read with the settings of the run's
        named = [text for text in overrides if text.startswith("data")]
        config = read_run(folder, [text for text in overrides if text not in named])
        config["data"] = source_config(
            None, encoder.input, trained_on(folder, encoder), overrides=named, encoder=folder
        )
        _require_known(folder, own, config)
    source, run, settings = (construct(config[name], FAMILIES[name], {}) for name in _SECTIONS)
    if "views" not in own:
        require_one_modality(config, source.input.modality)
    network = settings.branch, settings.part
    if network != ("online", "backbone"):
        encoder = load_branch(folder, Recipe.build(config, source), *network)
    untrained = None
    if "method" not in own or "mup" not in config:
        untrained = _untrained_of_run(config, source, encoder, network)
    most = config.get("budget", {}).get("samples")
    return Subject(encoder, source, settings, run.loader.processes(source), untrained, most)


def encoder_at(
    path: str | Path,
    input: Callable[[], Input] | None = None,
    *,
    model: Encoder | None = None,
) -> Encoder:
    """Load an encoder in eval mode.

    Args:
        path: a run, an encoder's directory, a packed export, or an ONNX file.
        input: makes the input of an ONNX file that does not state one.
        model: the network of a run that trained a class of the user's own.

    Raises:
        ValueError: when there is no encoder.
    """
    if Path(path).suffix == ".onnx":
        return load_exported(path, input)
    return load_encoder(path, model=model)


def run_of(path: str | Path) -> Path | None:
    """Return the run that a path names, or whose `encoder/` it is; `None` for other encoders."""
    path = Path(path)
    for folder in (path, path.resolve().parent if path.resolve().name == "encoder" else path):
        if (folder / "recipe.yaml").is_file():
            return folder
    return None


def open_data(
    path: str | Path, encoder: Encoder, name: str | None = None, overrides: Sequence[str] = ()
) -> Source:
    """Open data for an encoder, with the settings and the preprocessing of its training data.

    Args:
        path: where the encoder is from.
        encoder: the encoder.
        name: a folder, a file, or the name of embedded data; `None` for the data of its run, or
            that overrides name.
        overrides: `data.key=value`.

    Raises:
        ValueError: when it cannot be opened, or its samples have another shape.
    """
    trained = trained_on(path, encoder)
    return open_source(name, encoder.input, trained, overrides=overrides, encoder=path)


def data_of(
    path: str | Path, encoder: Encoder, name: str | None = None, overrides: Sequence[str] = ()
) -> tuple[Source, int]:
    """Open data as `open_data` does, and return it with the number of processes that read it."""
    source = open_data(path, encoder, name, overrides)
    loop, _ = _sections(run_of(path), ())
    return source, loop.loader.processes(source)


def _sections(run: Path | None, overrides: Sequence[str]) -> tuple[Run, Evaluate]:
    """Build the sections `run` and `evaluate` of a run's recipe, or their defaults."""
    written = {} if run is None else read_raw(run)
    sections: dict[str, Any] = {name: written.get(name) or {} for name in ("run", "evaluate")}
    sections = apply_overrides(sections, overrides)
    loop, settings = (
        construct(resolve(sections[name], FAMILIES[name], name), FAMILIES[name], {})
        for name in ("run", "evaluate")
    )
    return loop, settings


def views_of(path: str | Path, overrides: Sequence[str] = ()) -> ViewGenerator:
    """Build the views of a run, or those that overrides name for another encoder.

    Raises:
        ValueError: when there are none.
    """
    run = run_of(path)
    written = {} if run is None else {"views": read_run(run)["views"]}
    config = apply_overrides(written, overrides).get("views")
    if config is None:
        raise RecipeError(
            f"`{path}` has no recipe that names its views. Set views.kind, such as "
            "views.kind=two_views."
        )
    views: ViewGenerator = construct(resolve(config, "ViewGenerator", "views"), "ViewGenerator", {})
    return views


def trained_on(path: str | Path, encoder: Encoder) -> Mapping[str, Any]:
    """Return the preprocessing of an encoder, with the data of its run as its source."""
    run = run_of(path)
    if run is None:
        return encoder.preprocessing
    if "data" in own_sections(run):
        return encoder.preprocessing
    data = read_run(run)["data"]
    source = dict(data["source"] if data["kind"] == "labeled" else data)
    # What was measured is filled in; where the data are, the recipe knows best.
    measured = encoder.preprocessing.get("source", {})
    if measured.get("kind") == source["kind"]:
        source |= {key: value for key, value in measured.items() if source.get(key) is None}
        source = with_fitted(source, run, encoder)
    return {**encoder.preprocessing, "source": source}


def with_fitted(data: Mapping[str, Any], path: Path, encoder: Encoder) -> dict[str, Any]:
    """Return a section `data` that uses what was fitted in training, where its kind can.

    That is the encoding of a table's columns, or the range by which a reader maps values.
    """
    if data["kind"] == "labeled":
        return {**data, "source": with_fitted(data["source"], path, encoder)}
    if "columns" in encoder.preprocessing and "fitted" in keys_of(data["kind"]):
        return {**data, "fitted": str(path.resolve())}
    fitted = (encoder.preprocessing.get("source") or {}).get("reader")
    if not fitted or not isinstance(data.get("reader"), Mapping):
        return dict(data)
    return {**data, "reader": {**data["reader"], **fitted}}


def untrained_of(encoder: Encoder) -> Callable[[int], Encoder] | None:
    """Return what makes the encoder with fresh weights; `None` where a recipe cannot name it."""
    config = {key: value for key, value in encoder.config.items() if key != "pretrained_path"}
    if not any(True for _ in encoder.parameters()):
        return None  # an ONNX file cannot have other weights
    try:
        resolved = resolve(config, "Encoder", "encoder")
    except RecipeError:
        return None  # a class of the user's own

    def untrained(seed: int) -> Encoder:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            made: Encoder = construct(resolved, "Encoder", {"Encoder": (encoder.input,)})
        return made

    return untrained


def _input_of(overrides: Sequence[str], path: str | Path) -> Input:
    """Return the input of the data that overrides name for an ONNX file of another project."""
    config = read_encoder(path, overrides)["data"]
    source: Source = construct(config, FAMILIES["data"], {})
    return source.input


def own_sections(run: Path) -> list[str]:
    """Return the sections of a run's recipe that hold a class of the user's own."""
    recipe = run / "recipe.yaml"
    if not recipe.is_file():
        return []
    with recipe.open(encoding="utf-8", errors="replace") as file:
        found = _OWN_CLASSES.match(file.readline())
    return found[1].split(", ") if found else []


def read_run(run: Path, overrides: Sequence[str] = ()) -> dict[str, Any]:
    """Read the recipe of a run as `read_recipe` does; classes of one's own stay as they are."""
    _, _, last = unfold(read_raw(run, overrides))[-1]
    return resolve_recipe(last, own_sections(run))


class _Holder(Method, abstract=True):
    """Hold an encoder whose method is a class of the user's own."""


def recipe_of(run: Path, encoder: Encoder) -> Recipe:
    """Build the recipe of a run, without the classes that only Python can make again.

    Args:
        run: directory of the run.
        encoder: its encoder, which holds what was fitted.

    Raises:
        RecipeError: when the data are such a class.
    """
    config, own = read_run(run), own_sections(run)
    config["data"] = with_fitted(config["data"], run, encoder)
    if not own:
        return Recipe.build(config)
    if "data" in own:
        raise RecipeError("they are a class of your own, which only Python can make again.")
    parts = [n for n in ("data", "optimizer", "views", "schedule", "run") if n not in own]
    known = {name: construct(config[name], FAMILIES[name], {}) for name in parts}
    return Recipe(**{"optimizer": SGD(lr=1.0)} | known, method=_Holder(encoder))


def _require_known(folder: Path, own: Sequence[str], config: Mapping[str, Any]) -> None:
    """Refuse what needs a class of the user's own to be made again."""
    if "data" in own and config["data"] == read_raw(folder)["data"]:
        raise RecipeError(
            f"The data of `{folder}` are a class of your own, which only Python can make again. "
            "Call `mezzotint.evaluate(run, data=…)`, or name other data."
        )
    chosen = config["evaluate"]["branch"], config["evaluate"]["part"]
    if "method" in own and chosen != ("online", "backbone"):
        raise RecipeError(
            f"`evaluate.branch` and `evaluate.part` must be online and backbone for `{folder}`, "
            "whose method is a class of your own. Leave them out."
        )


def _of_encoder(
    path: str | Path, data: str | Source | None, overrides: Sequence[str], model: Encoder | None
) -> Subject:
    """Load an encoder without a recipe, or measure that of a run on other data."""
    encoder = encoder_at(path, lambda: _input_of(overrides, path), model=model)
    others = [o for o in overrides if not o.startswith("data")]
    wrong = next((o for o in others if not o.startswith(("run.", "evaluate."))), None)
    if wrong is not None:
        raise RecipeError(
            f"{wrong!r} cannot be set for an encoder that is trained. Override data, run or "
            "evaluate."
        )
    if isinstance(data, Source):
        source = data
        require_fit(source, encoder.input, source.kind)
    else:
        own = [o for o in overrides if o.startswith("data")]
        source = open_data(path, encoder, data, own)
    loop, settings = _sections(run_of(path), others)
    workers = loop.loader.processes(source)
    return Subject(encoder, source, settings, workers, untrained_of(encoder))


def _untrained_of_run(
    config: Mapping[str, Any], data: Source, encoder: Encoder, network: tuple[BranchName, Part]
) -> Callable[[int], Encoder]:
    """Return what makes a part of a run's network with fresh weights."""

    def untrained(seed: int) -> Encoder:
        made = untrained_of(encoder) if network == ("online", "backbone") else None
        if made is not None and "mup" not in config:  # roles follow from the method too
            return made(seed).eval()
        fresh = {**config, "run": config["run"] | {"seed": seed}}
        # Weights that training started from are trained ones.
        for section, key in (("encoder", "pretrained_path"), ("method", "init")):
            if key in config[section]:
                fresh[section] = config[section] | {key: None}
        return branch_of(Recipe.build(fresh, data).method, *network).eval()

    return untrained


def _of_file(path: Path, overrides: Sequence[str]) -> Subject:
    config = read_encoder(path, overrides)
    data, run, settings = (construct(config[name], FAMILIES[name], {}) for name in _SECTIONS)
    encoder = construct(config["encoder"], "Encoder", {"Encoder": (data.input,)}).eval()
    return Subject(encoder, data, settings, run.loader.processes(data), untrained_of(encoder))
