"""Images with text: a picture and what is said of it, as one sample.

`modality/image_text.py` says how a sample is laid out. Only transformers over patches take such
samples.

The question that any such data can be asked is DABS's: does this text belong to this picture?
(Tamkin et al. 2021, arXiv 2111.12062, "mismatched caption".) Half of the pairs asked about are
true, the others have the text of another picture of the same side of the split.
"""

import copy
import csv
import json
import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch

from mezzotint.data.image.embedded import EmbeddedImages
from mezzotint.data.image.folder import ImageFolder, PathList, check_image_options, input_of
from mezzotint.data.memory import InMemory
from mezzotint.data.sampling import held_out
from mezzotint.data.source import Index, Source, Task
from mezzotint.data.tokens.tokenizers import tokenizer_of
from mezzotint.data.tokens.tokens import windows
from mezzotint.modality.image_text import pack
from mezzotint.modality.tokens import FIRST_TOKEN
from mezzotint.seeding import Draws, key_of
from mezzotint.types import Input, Sample

ANSWERS = ("another picture's text", "its own text")


class EmojiNames(InMemory):
    """Embedded images with text: the emoji in two drawing styles, each with its name.

    Tasks: the category across and within styles, and whether the name is the picture's, for a fifth
    of the emoji.

    Args:
        length: bytes of a name; longer ones are cut, shorter ones padded.

    Attributes:
        credit: whose work the drawings are.
    """

    modality = "image_text"
    embedded = ("emoji_names",)
    tokenizer = "bytes"

    def __init__(self, *, length: int = 32) -> None:
        if not 4 <= length <= 64:
            raise ValueError(
                f"got length={length}; allowed is 4 to 64, the longest names: 32 is the default"
            )
        self._drawings = EmbeddedImages(name="emoji")
        self.ids, self.labels, self.credit = (
            self._drawings.ids,
            self._drawings.labels,
            self._drawings.credit,
        )
        said = [name.partition("/")[2].replace("_", " ") for name in self.ids]
        self.tokens = torch.from_numpy(encoded(said, "bytes", length))
        self.images = pack(self._drawings.images, self.tokens)
        self.input = input_with_text(self._drawings.input, length, 256)

    def evaluation(self) -> tuple[Source, Sequence[Task]]:
        """The true pairs, then as many false ones; and the tasks."""
        test = held_out(np.zeros(len(self), np.int64), 0.2, "mismatch", self._drawings.groups)
        other = mismatched(test, self._drawings.groups)
        images = torch.cat(
            [self.images, pack(self._drawings.images, self.tokens[torch.from_numpy(other)])]
        )
        everything = self.with_samples(images, np.tile(self.labels, 2))
        everything.ids = [*self.ids, *(f"{name}?" for name in self.ids)]
        wanted = ("category/across-styles", "category/within-style")
        tasks = [task for task in self._drawings.evaluation()[1] if task.name in wanted]
        return everything, [*tasks, mismatch_task(test, "holdout")]


class CaptionedImages(Source):
    """Image files with captions, such as MSCOCO: each caption is a sample, with its image.

    The task is whether a caption is its image's, for a part of the images that pretraining does
    see.

    Args:
        root: folder to which the paths of the list are relative.
        files: the list: a CSV with a header; or a JSON of COCO, with `images` (`id`, `file_name`)
            and `annotations` (`image_id`, `caption`).
        path: the column of a CSV that names the files.
        caption: the column of a CSV that holds the texts.
        length: tokens of a caption; longer ones are cut, shorter ones padded.
        tokenizer: `bytes`, or the path of a vocabulary with one token a line, or of a
            `tokenizer.json`.
        size: height and width of an image, in pixels: the middle square of 7/8 of the shorter side.
        holdout: part of the images to be asked about.
        max_pixels: images of more pixels are refused before they are decoded.

    Raises:
        ValueError: when the list cannot be read, lacks a column, or names no image with a caption.
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
    ) -> None:
        check_image_options(size, holdout, max_pixels)
        if not 1 <= length <= size * size:
            raise ValueError(
                f"got length={length} and size={size}; allowed is 1 to size · size tokens, the room that a sample has: "
                "32 is what DABS takes"
            )
        pairs = _captions(Path(files), path, caption)
        self.holdout, self.tokenizer = holdout, tokenizer
        self._files = _ImageFiles(os.fspath(root), [name for name, _ in pairs], size, max_pixels)
        self.tokens = torch.from_numpy(encoded([text for _, text in pairs], tokenizer, length))
        self.input = input_with_text(self._files.input, length, tokenizer_of(tokenizer).size)

    @classmethod
    def open(cls, path: str, input: Input) -> Source:
        root = str(Path(path).parent)
        return cls(root=root, files=path, length=input.text, size=input.shape[-1])

    def __len__(self) -> int:
        return len(self.tokens)

    def read(self, index: int) -> Sample:
        """One image with one of its captions, float32 `[4, size, size]`."""
        sample = self._files.read(index)
        return {**sample, "x": pack(sample["x"].unsqueeze(0), self.tokens[index : index + 1])[0]}

    def id_of(self, index: int) -> str:
        """The path of an image, relative to the root."""
        return self._files.id_of(index)

    def fingerprint(self) -> str:
        """A hash of the paths and sizes of all files, and of the captions' tokens."""
        return f"{self._files.fingerprint()}-{key_of('captions', self.tokens.numpy().tobytes().hex()):016x}"

    def evaluation(self) -> tuple[Source, Sequence[Task]]:
        """The true pairs, then as many false ones; and the task."""
        paths = [self.id_of(index) for index in range(len(self))]
        group = np.unique(paths, return_inverse=True)[1].astype(np.int64).reshape(-1)
        if len(np.unique(group)) < 4:
            return self, []  # a false pair needs another image on either side
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
    """Images by their paths, read as in `ImageFolder`; no labels, and nothing is looked for in the folder."""

    def __init__(self, root: str, paths: Sequence[str], size: int, max_pixels: int) -> None:
        self.root, self.size, self.max_pixels, self.input = root, size, max_pixels, input_of(size)
        self._paths, self.labels = PathList(paths), np.full(len(paths), -1, np.int64)

    def of(self, paths: Sequence[str]) -> "_ImageFiles":
        return _ImageFiles(self.root, paths, self.size, self.max_pixels)


def input_with_text(image: Input, length: int, tokens: int) -> Input:
    """What an encoder takes of such pictures with `length` of `tokens` different tokens."""
    shape = (4, *image.shape[1:])
    return Input(
        shape, (*image.mean, 0.0), (*image.std, 1.0), "image_text", tokens + FIRST_TOKEN, length
    )


def encoded(texts: Sequence[str], tokenizer: str, length: int) -> npt.NDArray[np.int32]:
    """Texts as tokens `[N, length]`; a text without any is all padding."""
    encode = tokenizer_of(tokenizer).encode
    rows = np.zeros((len(texts), length), np.int32)
    found, owner = windows([np.array(encode(text), np.int64) for text in texts], length)
    rows[owner] = found
    return rows


def mismatched(test: npt.NDArray[np.bool_], group: Index) -> Index:
    """For each sample one of another group on its own side of the split, by a keyed draw: int64 `[N]`."""
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
        )  # those of other groups follow the own group, around the end
        other[members] = members[(last + (draws * free).astype(np.int64)) % len(members)]
    return other


def mismatch_task(test: npt.NDArray[np.bool_], name: str) -> Task:
    """Is it its own text? Over the true pairs and then the false ones, `[2 N]`."""
    labels = np.repeat(np.array([1, 0], np.int64), len(test))
    both = np.tile(test, 2)
    return Task(
        f"mismatch/{name}", "classify", labels, (~both).nonzero()[0], both.nonzero()[0], ANSWERS
    )


def _captions(file: Path, path: str, caption: str) -> list[tuple[str, str]]:
    """The files of a list with their texts, in its order."""
    try:
        text = file.read_text(encoding="utf-8-sig")
        if file.suffix == ".json":
            found = json.loads(text)
            names = {image["id"]: image["file_name"] for image in found["images"]}
            pairs = [(names[note["image_id"]], note["caption"]) for note in found["annotations"]]
        else:
            pairs = [(row[path], row[caption]) for row in csv.DictReader(text.splitlines())]
    except (OSError, ValueError) as error:
        raise ValueError(
            f"{file} cannot be read ({error}); allowed is a CSV or COCO's JSON: check the path"
        ) from None
    except (KeyError, TypeError) as error:
        raise ValueError(
            f"{file} lacks {error}; allowed is a CSV with the columns {path!r} and {caption!r}, or COCO's JSON with "
            "images and annotations: name the columns with data.path and data.caption"
        ) from None
    pairs = [(name, said) for name, said in pairs if name and said]
    if not pairs:
        raise ValueError(
            f"{file} names no image with a caption; allowed is one at least: check the file"
        )
    return pairs
