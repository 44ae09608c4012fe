"""A source from what a user types: a folder, a file, or the name of embedded data."""

from pathlib import Path

from mezzotint.data.arrays import Arrays
from mezzotint.data.image import ImageFolder
from mezzotint.data.samples import Samples
from mezzotint.data.source import Source
from mezzotint.types import Input

_EMBEDDED = ("emoji", "mnist5k", "digits")


def open_source(name: str, input: Input) -> Source:
    """Open data so that an encoder with this input can take it.

    Args:
        name: an image folder, an `.npz` or `.npy` file, or `emoji`, `mnist5k`, `digits`.
        input: of the encoder; folders are read at its size.

    Raises:
        ValueError: when it is none of these, or its samples have another shape.
    """
    source: Source
    if Path(name).is_dir():
        source = ImageFolder(root=name, size=input.shape[-1])
    elif Path(name).suffix in (".npz", ".npy"):
        source = Arrays(path=name)
    elif name in _EMBEDDED:
        source = Samples(name=name)  # type: ignore[arg-type]
    else:
        raise ValueError(
            f"got the data {name!r}; allowed is an image folder, an .npz or .npy file, or {', '.join(_EMBEDDED)}"
        )
    if source.input.shape != input.shape:
        raise ValueError(
            f"got samples of shape {source.input.shape}; the encoder takes {input.shape}: use data "
            "of that shape, or another encoder"
        )
    return source
