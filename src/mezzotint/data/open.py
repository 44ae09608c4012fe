"""A source from what a user types: a folder, a file, or the name of embedded data."""

from collections.abc import Callable
from pathlib import Path

from mezzotint.data.audio.embedded import Speech
from mezzotint.data.audio.folder import AudioFolder
from mezzotint.data.image.arrays import Arrays
from mezzotint.data.image.embedded import Samples
from mezzotint.data.image.folder import ImageFolder
from mezzotint.data.image_text import CaptionedImages, EmojiNames
from mezzotint.data.points.clouds import point_clouds
from mezzotint.data.points.embedded import Furniture
from mezzotint.data.series.embedded import Smartwatch
from mezzotint.data.series.series import Series
from mezzotint.data.source import Source
from mezzotint.data.table.table import Table
from mezzotint.data.tokens.embedded import Mails
from mezzotint.data.tokens.tokenizers import FIRST
from mezzotint.data.tokens.tokens import Tokens
from mezzotint.data.video.embedded import Spins
from mezzotint.data.video.folder import VideoFolder
from mezzotint.types import Input

_EMBEDDED: dict[str, Callable[[], Source]] = {
    "emoji": lambda: Samples(name="emoji"),
    "mnist5k": lambda: Samples(name="mnist5k"),
    "digits": lambda: Samples(name="digits"),
    "speech": Speech,
    "furniture": Furniture,
    "smartwatch": Smartwatch,
    "mails": Mails,
    "emoji_names": EmojiNames,
    "spins": Spins,
}
_ALLOWED = {
    "image": "an image folder, an .npz or .npy file",
    "audio": "a folder of recordings",
    "points": "a folder of clouds or meshes, an .npz or .h5 file",
    "series": "an .npz, .ts or .csv file",
    "table": "a .csv, .npz or .parquet file",
    "video": "a folder of videos",
    "tokens": "a folder of text files, a .txt, .csv, .npz or .npy file",
    "image_text": "a list of captions, .csv or .json, beside its images",
}


def open_source(name: str, input: Input) -> Source:
    """Open data so that an encoder with this input can take it.

    Args:
        name: a folder or file of the encoder's modality, or the name of embedded data.
        input: of the encoder; samples are read at its size.

    Raises:
        ValueError: when it is none of these, or its samples have another shape.
    """
    source: Source
    if name in _EMBEDDED and not Path(name).exists():
        source = _EMBEDDED[name]()
    elif not Path(name).exists():
        raise ValueError(
            f"got the data {name!r}; allowed is {_ALLOWED[input.modality]}, or {', '.join(_EMBEDDED)}"
        )
    elif input.modality == "audio":
        source = AudioFolder(root=name)
    elif input.modality == "points":
        source = point_clouds(path=name, points=input.shape[1])
    elif input.modality == "series":
        source = Series(path=name, window=input.shape[1])
    elif input.modality == "table":
        source = Table(path=name)
    elif input.modality == "video":
        source = VideoFolder(root=name, frames=input.shape[1], size=input.shape[2])
    elif input.modality == "tokens":
        source = Tokens(path=name, length=input.shape[0], vocabulary=input.vocabulary - FIRST)
    elif input.modality == "image_text":
        source = CaptionedImages(
            root=str(Path(name).parent), files=name, length=input.text, size=input.shape[-1]
        )
    elif Path(name).is_dir():
        source = ImageFolder(root=name, size=input.shape[-1])
    else:
        source = Arrays(path=name)
    # Encoders of sound take recordings of any length.
    free = 1 if input.modality == source.input.modality == "audio" else 0
    ours, theirs = (i.shape[: len(i.shape) - free] for i in (source.input, input))
    if (source.input.modality, ours) != (input.modality, theirs):
        raise ValueError(
            f"got {source.input.modality} of shape {source.input.shape}; the encoder takes {input.modality} of shape "
            f"{input.shape}: use data of that shape, or another encoder"
        )
    if source.input.vocabulary != input.vocabulary:
        raise ValueError(
            f"got {name}, in which {source.input.vocabulary} different tokens can stand; the encoder knows "
            f"{input.vocabulary}: texts are taken apart into bytes here, so write the numbers that the encoder's "
            "tokenizer gives into an .npz, or name the data in a recipe"
        )
    return source


def open_images(name: str, size: int) -> Source:
    """Open images, whatever encoder they are for.

    Args:
        name: an image folder, an .npz or .npy file, or the name of embedded images.
        size: at which images of a folder are read, in pixels.

    Raises:
        ValueError: when it is none of these.
    """
    if Path(name).is_dir():
        return ImageFolder(root=name, size=size)
    if Path(name).exists():
        return Arrays(path=name)
    source = _EMBEDDED[name]() if name in _EMBEDDED else None
    if source is None or source.input.modality != "image":
        images = [known for known, make in _EMBEDDED.items() if isinstance(make(), Samples)]
        raise ValueError(
            f"got the images {name!r}; allowed is {_ALLOWED['image']}, or {', '.join(images)}"
        )
    return source


def is_data(name: str) -> bool:
    """Whether this is a name of embedded data, or a folder or file that is no recipe and no run."""
    path = Path(name)
    if path.is_dir():
        return not (path / "recipe.yaml").is_file()
    return name in _EMBEDDED or (path.is_file() and path.suffix not in (".yaml", ".yml"))
