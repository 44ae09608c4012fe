"""A source from what a user types: a folder, a file, or the short name of embedded data.

Nothing is listed here: each source of the package says in `opens` which paths it takes, and in
`embedded` under which names it is known.
"""

import functools
import importlib
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

from mezzotint.data.formats.columns import MissingName
from mezzotint.data.listing.folder import packed_suffix
from mezzotint.data.source import FOLDER, Source
from mezzotint.modality.modality import modality_of
from mezzotint.recipe.reading import apply_overrides
from mezzotint.recipe.schema import class_of, construct, resolve
from mezzotint.recipe.signatures import index
from mezzotint.types import Input


@functools.cache
def sources() -> tuple[type[Source], ...]:
    """Return the classes of all sources that a recipe can name."""
    known = index()
    classes = []
    for entry in known.members("Source").values():
        # A factory is no class: what it returns stands for it.
        name = entry.name if entry.name in known.classes else entry.bases[0]
        module = importlib.import_module(known.classes[name].module)
        classes.append(getattr(module, name))
    return tuple(classes)


def openers(modality: str) -> Mapping[str, type[Source]]:
    """Return the source that opens each kind of path of a modality, by suffix or `"folder"`."""
    return {
        suffix: source
        for source in sources()
        if source.modality == modality
        for suffix in sorted(source.opens)
    }


def embedded_names(modality: str | None = None) -> Mapping[str, type[Source]]:
    """Return the sources of embedded data by their short names, of one modality or of all."""
    return {
        name: source
        for source in sources()
        if modality in (None, source.modality)
        for name in source.embedded
    }


def open_source(
    name: str | None,
    input: Input,
    trained: Mapping[str, Any] | None = None,
    *,
    overrides: Sequence[str] = (),
    encoder: str | Path | None = None,
) -> Source:
    """Open data so that an encoder with this input can take it; see `source_config`.

    Args:
        name: path, name of embedded data, or `None` for the training data.
        input: input of the encoder.
        trained: section `data` of the encoder's training, whose settings are kept.
        overrides: `data.KEY=VALUE`, which win.
        encoder: directory of the encoder, whose preprocessing is used.

    Raises:
        ValueError: when it cannot be opened, or its samples have another shape.
    """
    config = source_config(name, input, trained, overrides=overrides, encoder=encoder)
    named = {override.partition("=")[0] for override in overrides}
    source: Source
    try:
        source = construct(config, "Source", {})
    except MissingName as error:
        # Samples to embed have often no labels. Only a name that was written for them must exist.
        if trained is None or f"data.{error.key}" in named:
            raise
        without = [*overrides, f"data.{error.key}=null"]
        source = open_source(name, input, trained, overrides=without, encoder=encoder)
        source.notes = [*source.notes, f"{str(error).partition('. ')[0]}: samples have no labels."]
        return source
    require_fit(source, input, name or config["kind"], trained or {}, overrides)
    return source


def _require_front_end(
    source: Source, trained: Mapping[str, Any], overrides: Sequence[str], name: str
) -> None:
    """Check that samples are made by the front-end of training, unless an override changes it.

    Raises:
        ValueError: when it is another one, whose spectrograms look alike and mean something else.
    """
    shown = other_front_end(trained, source.preprocessing())
    if not shown or any(text.partition("=")[0].endswith(".front_end") for text in overrides):
        return
    raise ValueError(
        f"`{name}` is read by another front-end than the encoder was trained on ({shown}). Use an "
        "encoder that was trained on such data, or set `data.front_end` to use it all the same."
    )


def other_front_end(trained: Mapping[str, Any], described: Mapping[str, Any]) -> str:
    """Say how the front-end of samples differs from that of training; nothing if it does not.

    Args:
        trained: preprocessing of an encoder's training samples.
        described: preprocessing of other samples.
    """
    before, now = trained.get("front_end"), described.get("front_end")
    if before is None or now is None or before == now:
        return ""
    changed = [key for key, value in before.items() if now.get(key) != value]
    return ", ".join(f"{key} {now.get(key)} instead of {before[key]}" for key in changed[:3])


def require_same_meaning(
    trained: Mapping[str, Any], described: Mapping[str, Any], key: str, path: str | Path
) -> None:
    """Refuse columns and tokens that look like those of training and mean something else.

    Args:
        trained: preprocessing of an encoder's training samples.
        described: preprocessing of the samples that it is to get.
        key: key of the recipe that names the encoder.
        path: of the encoder.

    Raises:
        ValueError: for tables of other columns, and for texts with another tokenizer.
    """
    then, now = (
        [{**column, "mean": 0, "std": 0} for column in found.get("columns", ())]
        for found in (trained, described)
    )
    if then and now and then != now:
        names = ", ".join(str(column["name"]) for column in then[:6])
        raise ValueError(
            f"`{key}`: the encoder of `{path}` takes the columns {names}"
            f"{', …' if len(then) > 6 else ''}, in this order and with these categories, and the "
            f"data has others. Set data.fitted={path}, which matches columns by name."
        )
    known, used = (_tokenizer(found) for found in (trained, described))
    if known and used and known != used:
        raise ValueError(
            f"`{key}`: the encoder of `{path}` was trained with another tokenizer than the data "
            f"has. Set data.tokenizer={trained['source']['tokenizer']}."
        )


def _tokenizer(described: Mapping[str, Any]) -> bytes:
    """Return the content of a tokenizer's file; nothing where there is none."""
    name = (described.get("source") or {}).get("tokenizer") or ""
    return Path(name).read_bytes() if name and Path(name).is_file() else b""


def require_fit(
    source: Source,
    input: Input,
    name: str,
    trained: Mapping[str, Any] = MappingProxyType({}),
    overrides: Sequence[str] = (),
) -> None:
    """Check that an encoder with this input can take the samples of a source.

    Args:
        source: the samples.
        input: the encoder's.
        name: of the data, for messages.
        trained: the encoder's `preprocessing`.
        overrides: `data.key=value` that a user gave.

    Raises:
        ValueError: when its samples have another shape, vocabulary or front-end.
    """
    _require_front_end(source, trained, overrides, name)
    if not modality_of(input).fits(source.input, input):
        raise ValueError(
            f"`{name}` has {modality_of(source.input).plural} of shape {source.input.shape}, but "
            f"the encoder takes {modality_of(input).plural} of shape {input.shape}. Use data of "
            "that shape, or another encoder."
        )
    if input.range and source.input.range != input.range:
        raise ValueError(
            f"`{name}` is mapped to [0, 1] by {range_words(source.input)}, but the encoder was "
            f"trained with {range_words(input)}. Leave `data.reader` out, or set its range to that "
            "of training."
        )
    if source.input.vocabulary != input.vocabulary:
        raise ValueError(
            f"`{name}` has a vocabulary of {source.input.vocabulary} tokens, but the encoder knows "
            f"{input.vocabulary}. Set `data.tokenizer` to the encoder's tokenizer, or write its "
            "token ids into an .npz."
        )


def range_words(input: Input) -> str:
    """Name the range of an input's values: 8 bits, or stored values that become 0 and 1."""
    if not input.range:
        return "8 bits"
    same = len(set(input.range)) == 1
    return f"the range {[list(pair) for pair in (input.range[:1] if same else input.range)]}"


def source_config(
    name: str | None,
    input: Input,
    trained: Mapping[str, Any] | None = None,
    *,
    overrides: Sequence[str] = (),
    encoder: str | Path | None = None,
) -> dict[str, Any]:
    """Return the `data` section that reads data as an encoder's training samples were read.

    Args:
        name: a folder or file of the encoder's modality, or the name of embedded data; `None` for
            the data that the encoder was trained on, or that the overrides name.
        input: the encoder's input; samples are read at its size.
        trained: the encoder's `preprocessing`. All its settings are used but those that say where
            the data are, and what was fitted to the training samples.
        overrides: `data.key=value`, which win.
        encoder: where `trained` is from, for sources that read what was fitted there.

    Raises:
        ValueError: when the name is none of these, an override cannot be used, or a table is opened
            for an encoder without an encoding of its columns.
    """
    trained = trained or {}
    given: Mapping[str, Any] = trained.get("source") or {}
    config = _named(name, input, given, kind_in(overrides) or given.get("kind"))
    if "fitted" in keys_of(config["kind"]) and encoder is not None:
        if "columns" in trained:
            config["fitted"] = str(Path(encoder).resolve())
        elif name is not None:
            raise ValueError(
                f"`{encoder}` was saved without the encoding of its table's columns, so `{name}` "
                "cannot be encoded the same way. Train it again with this version."
            )
    config = apply_overrides({"data": config}, overrides)["data"]
    return resolve(config, "Source", "data")


def _named(
    name: str | None, input: Input, given: Mapping[str, Any], kind: str | None
) -> dict[str, Any]:
    """Return the section for a path or a name, with the settings that it shares with `given`."""
    known = index().members("Source")
    if name is None:
        if kind is None:
            raise ValueError(
                "Data is missing: the encoder was saved without its data. Name a folder, a file or "
                "embedded data (export: --data), or set data.kind and its keys."
            )
        if kind not in known:
            raise ValueError(
                f"The encoder was trained on {kind!r}, which is no source of the package. Name a "
                "folder, a file or embedded data, or pass the source in Python."
            )
        return (
            dict(given)
            if kind == given.get("kind")
            else {"kind": kind, **shared_settings(given, kind)}
        )
    embedded = embedded_names()
    if name in embedded and not Path(name).exists():
        config = embedded[name].open_embedded(name).config
        return {**shared_settings(given, config["kind"]), **config}
    opener = _opener(name, input)
    if kind is not None and kind in known and kind != given.get("kind") and kind != opener.kind:
        key = next((key for key in ("root", "path") if key in known[kind].keys), None)
        if key is not None:
            return {"kind": kind, **shared_settings(given, kind), key: name}
    settings = shared_settings(given, opener.kind)
    return {"kind": opener.kind, **settings, **opener.located(name, input)}


def shared_settings(given: Mapping[str, Any], kind: str) -> dict[str, Any]:
    """Return the settings of one source that another kind has too."""
    keys, location = keys_of(kind), class_of(kind, "Source").location
    return {
        key: value
        for key, value in given.items()
        if key in keys and key not in location and key not in ("kind", "fitted")
    }


def keys_of(kind: str) -> Collection[str]:
    """Return the keys of a source."""
    known = index().members("Source")
    return known[kind].keys.keys() if kind in known else ()


def split_overrides(overrides: Sequence[str]) -> tuple[list[str], list[str]]:
    """Split overrides of labeled data: those of the recipe, and those of the samples.

    A key that `labeled` does not have is one of the samples: `data.size` is `data.source.size`.
    Those of the samples are returned as `data.key=value`.
    """
    own, of_source = [], []
    for text in overrides:
        key = text.removeprefix("data.").partition("=")[0].partition(".")[0]
        if text.startswith("data.source."):
            of_source.append(f"data.{text.removeprefix('data.source.')}")
        elif text.startswith("data.") and key != "source" and key not in keys_of("labeled"):
            of_source.append(text)
        else:
            own.append(text)
    return own, of_source


def kind_in(overrides: Sequence[str]) -> str | None:
    """Return the kind that overrides of `data` name, or that alone has a `reader`; else `None`."""
    named = [text.partition("=")[2] for text in overrides if text.startswith("data.kind=")]
    if not named and any(text.startswith("data.reader") for text in overrides):
        return "image_folder"
    return named[-1] if named else None


def open_images(name: str, size: int) -> Source:
    """Open images, whatever encoder they are for.

    Args:
        name: an image folder, an .npz or .npy file, or the name of embedded images.
        size: height and width at which images of a folder are read, in pixels.

    Raises:
        ValueError: when it is none of these.
    """
    embedded = embedded_names("image")
    if name in embedded and not Path(name).exists():
        return embedded[name].open_embedded(name)
    input = Input((3, size, size), (0.0,) * 3, (1.0,) * 3)
    if name in embedded_names():
        _opener(name, input)  # refuses embedded data of another modality
    source: Source = construct(source_config(name, input), "Source", {})
    return source


def is_data(name: str) -> bool:
    """Return whether a name is embedded data, or a folder or file that is no recipe and no run."""
    path = Path(name)
    if path.is_dir():
        return not (path / "recipe.yaml").is_file()
    return name in embedded_names() or (path.is_file() and path.suffix not in (".yaml", ".yml"))


def _opener(name: str, input: Input) -> type[Source]:
    """Return the source that opens a path."""
    path, known = Path(name), openers(input.modality)
    kind = FOLDER if path.is_dir() else path.suffix.lower()
    packed = packed_suffix(name)
    if packed in known:
        return known[str(packed)]
    one = _one_file(kind, input.modality) if path.is_file() and kind not in known else None
    if one is not None:
        return one
    if not path.exists() or kind not in known:
        wrong = "does not exist" if not path.exists() else f"cannot be read as {input.modality}"
        if not path.exists() and name in embedded_names():
            wrong = f"is embedded {embedded_names()[name].modality} data"
        kinds = ["a folder"] * (FOLDER in known) + sorted({*known} - {FOLDER, ""})
        embedded = ", ".join(embedded_names(input.modality))
        raise ValueError(
            f"`{name}` {wrong}. Supported for {input.modality}: {', '.join(kinds)}"
            f"{'; embedded data: ' if embedded else ''}{embedded}. Check the path or the name."
        )
    return known[kind]


def _one_file(suffix: str, modality: str) -> type[Source] | None:
    """Return the source of folders that also takes one file with this suffix."""
    own = (s for s in sources() if s.modality == modality and FOLDER in s.opens)
    return next((source for source in own if suffix in source.opens_one), None)
