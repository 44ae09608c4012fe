"""Text and other sequences of tokens, as whole numbers of one length.

A tokenizer (`tokenizers.py`) turns texts into ids, of which 0 is padding and 1 is kept for masked
tokens. Longer texts are cut at their end, or into as many samples as they fill (`overflow: "split"`);
shorter ones are padded.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from mezzotint.data.memory import InMemory
from mezzotint.data.sampling import held_out
from mezzotint.data.source import FOLDER, Index, Source, Task, label_tasks
from mezzotint.data.tokens.files import FILES, Text, Unit, read_texts
from mezzotint.data.tokens.tokenizers import tokenizer_of
from mezzotint.modality.tokens import FIRST_TOKEN, MASK, PADDING
from mezzotint.types import Input, Sample

Overflow = Literal["truncate", "split"]


class InMemoryTokens(InMemory, abstract=True):
    """Tokens in memory: stored in 32 bits, read as int64."""

    modality = "tokens"
    tokenizer: str = "bytes"

    def read(self, index: int) -> Sample:
        """One sample, int64 `[L]`."""
        sample = super().read(index)
        return {**sample, "x": sample["x"].long()}

    def read_batch(self, indices: Tensor) -> Tensor:
        """int64 `[B]` → int64 `[B, L]`."""
        return super().read_batch(indices).long()

    def text(self, x: Tensor) -> str:
        """What a sample `[L]` says: padding is left out, masked tokens are `_`."""
        decode = tokenizer_of(self.tokenizer).decode
        parts, run = [], list[int]()
        for token in [*x.tolist(), MASK]:
            if token >= FIRST_TOKEN:
                run.append(token - FIRST_TOKEN)
            elif token == MASK:
                parts.append(decode(run))
                run = []
        return "_".join(parts)


class Tokens(InMemoryTokens):
    """Texts from files, or rows of integers, as tokens `[length]`.

    Args:
        path: of a folder of text files, in class folders or not; of a `.txt` file; of a `.csv` or
            `.tsv` table with a column of texts; or of an `.npz` or `.npy` of integers `[N, L]` or
            `[T]`, negative for no token.
        length: tokens of a sample.
        tokenizer: `bytes`; or the path of a vocabulary with one token a line, or of a
            `tokenizer.json`. Integers of an array are tokens already.
        unit: whether each line of a text file is a text, or the whole file.
        overflow: `truncate` keeps the beginning of a longer text, `split` cuts it into as many
            samples as it fills.
        text: column of a table that holds the texts.
        label: column of a table, or array of an `.npz`, that holds the labels.
        x: array of an `.npz` that holds the tokens.
        vocabulary: of an array, how many tokens there are; by default one more than the largest.
        holdout: part of each class to be scored, where no folder says which. These are not
            pretrained on.

    Attributes:
        classes: names of the classes; a label is a place in this list.

    Raises:
        ValueError: when nothing can be read, or no text is left.
    """

    opens = frozenset({FOLDER, *FILES})

    def __init__(
        self,
        *,
        path: str,
        length: int = 128,
        tokenizer: str = "bytes",
        unit: Unit = "line",
        overflow: Overflow = "truncate",
        text: str = "text",
        label: str = "label",
        x: str = "x",
        vocabulary: int | None = None,
        holdout: float = 0.2,
    ) -> None:
        if length < 2 or unit not in ("line", "file") or overflow not in ("truncate", "split"):
            raise ValueError(
                f"got length={length}, unit={unit!r}, overflow={overflow!r}; allowed are 2 or more, line or file, and truncate or "
                "split: 128 tokens, line and truncate are the defaults"
            )
        texts = read_texts(Path(path), unit, text, label, x)
        self.tokenizer = tokenizer
        encoded, size = _encoded(texts, tokenizer, vocabulary)
        rows, owner = windows(encoded, length, split=overflow == "split")
        if not len(rows):
            raise ValueError(
                f"{path} is empty: it holds no token; allowed is one at least: check the file"
            )
        self.classes = sorted({t.label for t in texts if t.label is not None})
        labels = np.array(
            [-1 if t.label is None else self.classes.index(t.label) for t in texts], np.int64
        )
        said = np.array([t.test for t in texts])
        whole = bool(said.any() and not said.all())
        test = (
            said
            if whole
            else held_out(labels, holdout, "label")
            if len(self.classes) > 1
            else np.zeros_like(said)
        )
        self.split = "test" if whole else "holdout"
        order = np.argsort(
            test[owner], kind="stable"
        )  # those to be scored stand behind what pretraining counts
        owner = owner[order]
        self._all = torch.from_numpy(rows[order])
        self._labels = labels[owner]
        self.ids = [texts[i].id for i in owner.tolist()]
        seen = int((~test[owner]).sum())
        self.images, self.labels = self._all[:seen], self._labels[:seen]
        self.input = Input((length,), (), (), "tokens", size + FIRST_TOKEN)

    @classmethod
    def open(cls, path: str, input: Input) -> Source:
        return cls(path=path, length=input.shape[0], vocabulary=input.vocabulary - FIRST_TOKEN)

    def evaluation(self) -> tuple[Source, Sequence[Task]]:
        """All samples, and the task where there are at least two classes."""
        everything = self.with_samples(self._all, self._labels)
        test = np.arange(len(self._all)) >= len(self.images)
        return everything, label_tasks(f"label/{self.split}", self._labels, test, self.classes)


def windows(
    encoded: Sequence[npt.NDArray[np.int64]], length: int, *, split: bool = False
) -> tuple[npt.NDArray[np.int32], Index]:
    """Token numbers as samples of one length.

    Args:
        encoded: the tokenizer's numbers of each text.
        length: of a sample.
        split: a longer text gives several samples, of which the last may be padded, but holds a
            half at least.

    Returns:
        ids int32 `[N, length]`, and the text of each, int64 `[N]`. Texts without a token give none.
    """
    rows, owner = [], []
    for place, tokens in enumerate(encoded):
        starts = (
            range(0, max(1, len(tokens) - (length + 1) // 2 + 1), length) if split else range(1)
        )
        for start in starts if len(tokens) else ():
            cut = tokens[start : start + length]
            rows.append(
                np.pad(cut + FIRST_TOKEN, (0, length - len(cut)), constant_values=PADDING).astype(
                    np.int32
                )
            )
            owner.append(place)
    return np.stack(rows) if rows else np.zeros((0, length), np.int32), np.array(owner, np.int64)


def _encoded(
    texts: Sequence[Text], tokenizer: str, vocabulary: int | None
) -> tuple[list[npt.NDArray[np.int64]], int]:
    """Token numbers of each text, and how many tokens there are."""
    given = [t.content[t.content >= 0] for t in texts if isinstance(t.content, np.ndarray)]
    if not given:
        tokens = tokenizer_of(tokenizer)
        return [np.array(tokens.encode(str(t.content)), np.int64) for t in texts], tokens.size
    largest = max((int(row.max()) for row in given if row.size), default=0)
    if vocabulary is not None and largest >= vocabulary:
        raise ValueError(
            f"got the token {largest} and vocabulary={vocabulary}; allowed are tokens below it: give {largest + 1}"
        )
    return given, vocabulary or largest + 1
