"""A source from what a user types: a folder, a file, or the short name of embedded data.

Nothing is listed here: each source of the package says in `opens` which paths it takes, and in
`embedded` under which names it is known.
"""

import functools
import importlib
from collections.abc import Mapping
from pathlib import Path

from mezzotint.data.source import FOLDER, Source
from mezzotint.modality.modality import modality_of
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


def open_source(name: str, input: Input) -> Source:
    """Open data so that an encoder with this input can take it.

    Args:
        name: a folder or file of the encoder's modality, or the name of embedded data.
        input: the encoder's input; samples are read at its size.

    Raises:
        ValueError: when it is none of these, or its samples have another shape.
    """
    embedded = embedded_names()
    if name in embedded and not Path(name).exists():
        source = embedded[name].open_embedded(name)
    else:
        source = _opened(name, input)
    if not modality_of(input).fits(source.input, input):
        raise ValueError(
            f"`{name}` has {modality_of(source.input).plural} of shape {source.input.shape}, but "
            f"the encoder takes {modality_of(input).plural} of shape {input.shape}. Use data of "
            "that shape, or another encoder."
        )
    if source.input.vocabulary != input.vocabulary:
        raise ValueError(
            f"`{name}` has a vocabulary of {source.input.vocabulary} tokens, but the encoder knows "
            f"{input.vocabulary}. Text is read as bytes here: write the token ids of the encoder's "
            "tokenizer into an .npz, or name the data in a recipe."
        )
    return source


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
    return _opened(name, Input((3, size, size), (0.0,) * 3, (1.0,) * 3))


def is_data(name: str) -> bool:
    """Return whether a name is embedded data, or a folder or file that is no recipe and no run."""
    path = Path(name)
    if path.is_dir():
        return not (path / "recipe.yaml").is_file()
    return name in embedded_names() or (path.is_file() and path.suffix not in (".yaml", ".yml"))


def _opened(name: str, input: Input) -> Source:
    path, known = Path(name), openers(input.modality)
    kind = FOLDER if path.is_dir() else path.suffix.lower()
    if not path.exists() or kind not in known:
        wrong = "does not exist" if not path.exists() else f"cannot be read as {input.modality}"
        if not path.exists() and name in embedded_names():
            wrong = f"is embedded {embedded_names()[name].modality} data"
        kinds = ["a folder"] * (FOLDER in known) + sorted({*known} - {FOLDER, ""})
        raise ValueError(
            f"`{name}` {wrong}. Supported for {input.modality}: {', '.join(kinds)}; embedded data: "
            f"{', '.join(embedded_names(input.modality))}. Check the path or the name."
        )
    return known[kind].open(name, input)
