"""Images with text: a picture and its caption as one sample.

`modality/image_text.py` says how a sample is laid out. Only transformers over patches take such
samples.

All such data shares a task of DABS: does this text belong to this picture? (Tamkin et al. 2021,
arXiv 2111.12062, "mismatched caption".) Half of the pairs are true; the others have the text of
another picture from the same side of the split.
"""

import copy
import json
import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from mezzotint.data.formats.delimited import read_text, read_text_table
from mezzotint.data.image.embedded import EmbeddedImages
from mezzotint.data.image.folder import ImageFolder, PathList, check_image_options, input_of
from mezzotint.data.image.losses import notes_on_losses
from mezzotint.data.listing.groups import grouped, merged, same_files, source_of
from mezzotint.data.listing.lists import require_inside
from mezzotint.data.listing.sampling import held_out
from mezzotint.data.memory import InMemory
from mezzotint.data.source import Index, Source, Task
from mezzotint.data.tokens.tokenizers import tokenizer_of
from mezzotint.data.tokens.tokens import windows
from mezzotint.modality.image_text import pack
from mezzotint.modality.tokens import FIRST_TOKEN, PADDING
from mezzotint.seeding import Draws, key_of
from mezzotint.types import Input, Sample

ANSWERS = ("another picture's text", "its own text")


class EmojiNames(InMemory):
    """Use embedded images with text: emoji in two drawing styles, each with its name.

    Tasks: the category across and within styles, and whether the name belongs to the picture,
    scored on a fifth of the emoji.

    Args:
        length: bytes of a name; longer names are truncated, shorter ones padded.

    Attributes:
        credit: attribution of the drawings.
    """

    modality = "image_text"
    embedded = ("emoji_names",)
    tokenizer = "bytes"

    def __init__(self, *, length: int = 32) -> None:
        if not 4 <= length <= 64:
            raise ValueError(
                f"`length` must be 4 to 64, the longest name, got {length}. 32 is the default."
            )
        self._drawings = EmbeddedImages(name="emoji")
        self.ids, self.labels, self.credit = (
            self._drawings.ids,
            self._drawings.labels,
            self._drawings.credit,
        )
        names = [name.partition("/")[2].replace("_", " ") for name in self.ids]
        self.tokens = torch.from_numpy(encoded(names, "bytes", length))
        self.images = pack(self._drawings.images, self.tokens)
        self.input = input_with_text(self._drawings.input, length, 256)

    def everything(self) -> tuple[Source, npt.NDArray[np.str_]]:
        return self, np.full(len(self), "train")  # a false pair is no sample of the data

    def evaluation(self) -> tuple[Source, Sequence[Task]]:
        """Return the true pairs, then as many false ones; and the tasks."""
        test = held_out(np.zeros(len(self), np.int64), 0.2, "mismatch", self._drawings.groups)
        other = mismatched(test, self._drawings.groups)
        images = torch.cat(
            [self.images, pack(self._drawings.images, self.tokens[torch.from_numpy(other)])]
        )
        everything = self.with_samples(images, np.tile(self.labels, 2))
        everything.ids = [*self.ids, *(f"{name}?" for name in self.ids)]
        wanted = ("category/across-styles", "category/within-style")
        tasks = [
            # The false pairs behind the true ones take no part in these tasks.
            replace(task, labels=np.tile(np.asarray(task.labels, np.int64), 2))
            for task in self._drawings.evaluation()[1]
            if task.name in wanted
        ]
        return everything, [*tasks, mismatch_task(test, "holdout")]


class CaptionedImages(Source):
    """Read image files with captions, such as MSCOCO: each caption is a sample, with its image.

    The task is whether a caption belongs to its image, scored on a part of the images; pretraining
    sees them as well.

    Args:
        root: folder to which paths in the list are relative.
        files: the list, a CSV with a header or COCO's JSON with `images` (`id`, `file_name`)
            and `annotations` (`image_id`, `caption`).
        path: column of a CSV with the files.
        caption: column of a CSV with the captions.
        length: tokens of a caption; longer captions are truncated, shorter ones padded.
        tokenizer: `bytes`, or the path of a `tokenizer.json` or of a vocabulary with one token a
            line.
        size: height and width of an image, in pixels: the middle square of 7/8 of the shorter side.
        holdout: fraction of the images to score.
        max_pixels: images with more pixels are unreadable; checked before decoding.
        allow_outside: whether paths of a list may lead outside of `root`, such as `../a`, absolute
            ones, and symbolic links; set it for lists that you trust.

    Raises:
        ValueError: when the list cannot be read, lacks a column, or has no captions.
    """

    modality = "image_text"
    opens = frozenset({".csv", ".json"})

    def __init__(
        self,
        *,
        root: str,
        files: str,
        path: str = "path",
        caption: str = "caption",
        length: int = 32,
        tokenizer: str = "bytes",
        size: int = 224,
        holdout: float = 0.2,
        max_pixels: int = 50_000_000,
        allow_outside: bool = False,
    ) -> None:
        check_image_options(size, holdout, max_pixels)
        if not 1 <= length <= size * size:
            raise ValueError(
                "`length` must be 1 to size · size tokens, the capacity of a sample, got "
                f"length={length} and size={size}. DABS uses 32."
            )
        pairs = _captions(Path(files), path, caption)
        if not allow_outside:
            require_inside(root, [name for name, _ in pairs], files, has_key=True)
        self.holdout, self.tokenizer = holdout, tokenizer
        self._files = _ImageFiles(os.fspath(root), [name for name, _ in pairs], size, max_pixels)
        self.notes = notes_on_losses(self._files.root, [name for name, _ in pairs], max_pixels)
        self.tokens = torch.from_numpy(encoded([text for _, text in pairs], tokenizer, length))
        self.input = input_with_text(self._files.input, length, tokenizer_of(tokenizer).size)

    @classmethod
    def located(cls, path: str, input: Input) -> dict[str, Any]:
        root = str(Path(path).parent)
        return {"root": root, "files": path, "length": input.text, "size": input.shape[-1]}

    def preprocessing(self) -> dict[str, Any]:
        image = {k: v for k, v in self._files.preprocessing().items() if k != "source"}
        return {
            **super().preprocessing(),
            **image,
            "tokenizer": Path(self.tokenizer).name,
            "first_token": FIRST_TOKEN,
            "padding": PADDING,
            "length": self.input.text,
        }

    def __len__(self) -> int:
        return len(self.tokens)

    def read(self, index: int) -> Sample:
        """Read one image with one of its captions, float32 `[4, size, size]`."""
        sample = self._files.read(index)
        return {**sample, "x": pack(sample["x"].unsqueeze(0), self.tokens[index : index + 1])[0]}

    def id_of(self, index: int) -> str:
        return self._files.id_of(index)

    def fingerprint(self) -> str:
        """Hash the paths and sizes of all files, and the tokens of the captions."""
        captions = key_of("captions", self.tokens.numpy().tobytes().hex())
        return f"{self._files.fingerprint()}-{captions:016x}"

    def everything(self) -> tuple[Source, npt.NDArray[np.str_]]:
        return self, np.full(len(self), "train")  # a false pair is no sample of the data

    def evaluation(self) -> tuple[Source, Sequence[Task]]:
        """Return the true pairs, then as many false ones; and the task."""
        paths = [self.id_of(index) for index in range(len(self))]
        if self.groups is None:
            names = [source_of(path, None) for path in paths]
            self.groups = merged(same_files(self._files.root, paths), grouped(names))
        group = np.unique(paths, return_inverse=True)[1].astype(np.int64).reshape(-1)[self.groups]
        if len(np.unique(group)) < 4:
            return self, []  # a false pair needs another image on its side of the split
        test = held_out(np.zeros(len(self), np.int64), self.holdout, "mismatch", group)
        if min(len(np.unique(group[test])), len(np.unique(group[~test]))) < 2:
            return self, []
        both = copy.copy(self)
        both._files = self._files.of([*paths, *paths])
        both.tokens = torch.cat(
            [self.tokens, self.tokens[torch.from_numpy(mismatched(test, group))]]
        )
        return both, [mismatch_task(test, "holdout")]


class _ImageFiles(ImageFolder):
    """Unlabeled images by their paths, read as in `ImageFolder`, without listing the folder."""

    def __init__(self, root: str, paths: Sequence[str], size: int, max_pixels: int) -> None:
        self.root, self.size, self.max_pixels, self.input = root, size, max_pixels, input_of(size)
        self._paths, self.labels = PathList(paths), np.full(len(paths), -1, np.int64)

    def of(self, paths: Sequence[str]) -> "_ImageFiles":
        return _ImageFiles(self.root, paths, self.size, self.max_pixels)


def input_with_text(image: Input, length: int, tokens: int) -> Input:
    """Return the input for pictures with `length` tokens from a vocabulary of `tokens`."""
    shape = (4, *image.shape[1:])
    return Input(
        shape, (*image.mean, 0.0), (*image.std, 1.0), "image_text", tokens + FIRST_TOKEN, length
    )


def encoded(texts: Sequence[str], tokenizer: str, length: int) -> npt.NDArray[np.int32]:
    """Encode texts as tokens `[N, length]`; an empty text is all padding."""
    encode = tokenizer_of(tokenizer).encode
    rows = np.zeros((len(texts), length), np.int32)
    found, owner = windows([np.array(encode(text), np.int64) for text in texts], length)
    rows[owner] = found
    return rows


def mismatched(test: npt.NDArray[np.bool_], group: Index) -> Index:
    """Draw for each sample one of another group on its side of the split: int64 `[N]`."""
    other = np.empty(len(test), np.int64)
    for side in (test, ~test):
        members = side.nonzero()[0]
        members = members[np.argsort(group[members], kind="stable")]
        first = np.searchsorted(group[members], group[members], "left")
        last = np.searchsorted(group[members], group[members], "right")
        draws = (
            Draws(torch.from_numpy(members), key_of("mismatch")).uniform("other").double().numpy()
        )
        free = len(members) - (
            last - first
        )  # other groups follow the own group, wrapping around the end
        other[members] = members[(last + (draws * free).astype(np.int64)) % len(members)]
    return other


def mismatch_task(test: npt.NDArray[np.bool_], name: str) -> Task:
    """Return the task whether a text belongs to its picture: true pairs, then false, `[2 N]`."""
    labels = np.repeat(np.array([1, 0], np.int64), len(test))
    both = np.tile(test, 2)
    return Task(
        f"mismatch/{name}", "classify", labels, (~both).nonzero()[0], both.nonzero()[0], ANSWERS
    )


def _position(name: str, header: Sequence[str]) -> int:
    if name not in header:
        raise KeyError(name)
    return header.index(name)


def _captions(file: Path, path: str, caption: str) -> list[tuple[str, str]]:
    """Read the files of a list with their captions, in its order."""
    try:
        if file.suffix.lower() == ".json":
            found = json.loads(read_text(file, "a CSV or COCO's JSON"))
            names = {image["id"]: image["file_name"] for image in found["images"]}
            pairs = [(names[note["image_id"]], note["caption"]) for note in found["annotations"]]
        else:
            table = read_text_table(file, keep_spaces=True)
            where, what = (_position(name, table.header) for name in (path, caption))
            pairs = [(row[where], row[what]) for row in table.rows]
    except (json.JSONDecodeError, RecursionError) as error:
        raise ValueError(
            f"`{file}` cannot be read ({error}). It must be a CSV or COCO's JSON. Check the path."
        ) from None
    except (KeyError, TypeError) as error:
        raise ValueError(
            f"`{file}` has no {error}. It must be a CSV with the columns {path!r} and {caption!r}, "
            "or COCO's JSON with images and annotations. Name the columns with `data.path` and "
            "`data.caption`."
        ) from None
    pairs = [(name, text) for name, text in pairs if name and text]
    if not pairs:
        raise ValueError(f"`{file}` has no image with a caption. Add one, or check the file.")
    return pairs
