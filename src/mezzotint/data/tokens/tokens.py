"""Read text and other token sequences as integers of one length.

A tokenizer (`tokenizers.py`) turns text into ids; 0 is padding and 1 is reserved for masked tokens.
Longer texts are truncated, or split into as many samples as they fill (`overflow: "split"`);
shorter ones are padded.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from mezzotint.data.listing.groups import grouped, independent
from mezzotint.data.listing.sampling import check_holdout, held_out
from mezzotint.data.memory import InMemory
from mezzotint.data.source import FOLDER, Index, Source, Task, label_tasks
from mezzotint.data.tokens.files import FILES, Text, Unit, notes_on_folder, read_texts
from mezzotint.data.tokens.tokenizers import tokenizer_of
from mezzotint.modality.tokens import FIRST_TOKEN, MASK, PADDING
from mezzotint.types import Input, Sample

Overflow = Literal["truncate", "split"]


class InMemoryTokens(InMemory, abstract=True):
    """Tokens in memory, stored in 32 bits and read as int64."""

    modality = "tokens"
    tokenizer: str = "bytes"

    def read(self, index: int) -> Sample:
        sample = super().read(index)
        return {**sample, "x": sample["x"].long()}

    def read_batch(self, indices: Tensor) -> Tensor:
        return super().read_batch(indices).long()

    def preprocessing(self) -> dict[str, Any]:
        return {
            **super().preprocessing(),
            "tokenizer": Path(self.tokenizer).name,
            "first_token": FIRST_TOKEN,
            "padding": PADDING,
            "mask": MASK,
            "length": self.input.shape[0],
            "rule": "id = token of the tokenizer + first_token, cut to length or padded",
        }

    def text(self, x: Tensor) -> str:
        """Decode a sample `[L]` to text; padding is dropped, masked tokens become `_`."""
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
    """Read texts from files, or rows of integers, as tokens `[length]`.

    Args:
        path: path of a folder of text files, with or without class folders; of a `.txt` file; of a
            `.csv`, `.tsv`, `.parquet` or `.arrow` table with a column of texts, or a folder of the
            last two; or of an `.npz` or `.npy` of integers `[N, L]` or `[T]`, negative for padding.
        length: tokens per sample.
        tokenizer: `bytes`, or the path of a `tokenizer.json` or of a vocabulary with one token a
            line. Arrays of integers need none.
        unit: `line` makes each line of a text file a text, `file` the whole file.
        overflow: `truncate` keeps the beginning of a longer text, `split` cuts it into as many
            samples as it fills.
        text: column of the texts in a table, by default `text`, or `sentence` in parquet and Arrow
            files, where it may also be lists of integers; or array of the tokens in an `.npz`, by
            default `x`.
        label: column of the labels in a table, or their array in an `.npz`; `null` ignores them.
            Only `label` may be missing.
        vocabulary: size of the vocabulary of an array; by default one more than its largest token.
        holdout: fraction of each class to score, if no folder defines the split; pretraining never
            sees these samples.
        group: column or array of the person or other source of each text, or for text files a
            regular expression over their path; texts of one are held out together. By default a
            column such as `subject` or `speaker_id`, and the file of a line.

    Attributes:
        classes: names of the classes; a label is an index into this list.
        columns: what each column or array of the file is used for.

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
        text: str | None = None,
        label: str | None = "label",
        vocabulary: int | None = None,
        holdout: float = 0.2,
        group: str | None = None,
    ) -> None:
        if length < 2 or unit not in ("line", "file") or overflow not in ("truncate", "split"):
            raise ValueError(
                "`length` must be 2 or more, `unit` line or file, and `overflow` truncate or "
                f"split, got length={length}, unit={unit!r}, overflow={overflow!r}. 128, line and "
                "truncate are the defaults."
            )
        check_holdout(holdout)
        if vocabulary is not None and vocabulary < 1:
            raise ValueError(
                f"`vocabulary` must be 1 or more, got {vocabulary}. Leave it out to take it from "
                "the tokens."
            )
        unreadable: list[tuple[str, str]] = []
        texts, self.columns, notes = read_texts(Path(path), unit, text, label, group, unreadable)
        self.notes, self.unreadable = (*notes_on_folder(Path(path)), *notes), unreadable
        if unreadable:
            name, reason = unreadable[0]
            note = f"left out as unreadable: {len(unreadable):,} files, such as `{name}` ({reason})"
            self.notes = (*self.notes, note)
        self.tokenizer = tokenizer
        encoded, size = _encoded(texts, tokenizer, vocabulary)
        rows, owner = windows(encoded, length, split=overflow == "split")
        if not len(rows):
            raise ValueError(f"`{path}` is empty: it has no tokens. Check the file.")
        self.classes = sorted({t.label for t in texts if t.label is not None})
        labels = np.array(
            [-1 if t.label is None else self.classes.index(t.label) for t in texts], np.int64
        )
        marked = np.array([t.split is not None for t in texts])
        whole = bool(marked.any() and not marked.all())
        content = grouped([row.tobytes().hex() for row in encoded])
        who = [t.source for t in texts]
        groups = independent(labels, content, who, required=bool(group) or whole)
        test = (
            marked
            if whole
            else held_out(labels, holdout, "label", groups)
            if len(self.classes) > 1
            else np.zeros_like(marked)
        )
        self.split = next((t.split for t in texts if t.split), "test") if whole else "holdout"
        order = np.argsort(
            test[owner], kind="stable"
        )  # test samples come last, so that pretraining takes a prefix
        owner = owner[order]
        self._groups = grouped(list(map(str, groups[owner])))
        self._all = torch.from_numpy(rows[order])
        self._labels = labels[owner]
        self.ids = [texts[i].id for i in owner.tolist()]
        seen = int((~test[owner]).sum())
        self.images, self.labels = self._all[:seen], self._labels[:seen]
        self.input = Input((length,), (), (), "tokens", size + FIRST_TOKEN)

    @classmethod
    def located(cls, path: str, input: Input) -> dict[str, Any]:
        vocabulary = input.vocabulary - FIRST_TOKEN
        return {"path": path, "length": input.shape[0], "vocabulary": vocabulary}

    def evaluation(self) -> tuple[Source, Sequence[Task]]:
        """Return all samples, and the task; with fewer than two classes there is none."""
        everything = self.with_samples(self._all, self._labels)
        everything.groups = self._groups
        everything.held_out = len(self.images), self.split
        test = np.arange(len(self._all)) >= len(self.images)
        return everything, label_tasks(f"label/{self.split}", self._labels, test, self.classes)


def windows(
    encoded: Sequence[npt.NDArray[np.int64]], length: int, *, split: bool = False
) -> tuple[npt.NDArray[np.int32], Index]:
    """Cut token numbers into samples of one length.

    Args:
        encoded: the tokenizer's numbers for each text.
        length: tokens per sample.
        split: whether a longer text gives several samples; the last is padded, and at least half
            full.

    Returns:
        ids int32 `[N, length]`, and the index of the text of each, int64 `[N]`. Texts without
        tokens give no sample.
    """
    rows, owner = [], []
    for number, tokens in enumerate(encoded):
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
            owner.append(number)
    return np.stack(rows) if rows else np.zeros((0, length), np.int32), np.array(owner, np.int64)


def _encoded(
    texts: Sequence[Text], tokenizer: str, vocabulary: int | None
) -> tuple[list[npt.NDArray[np.int64]], int]:
    """Return the token numbers of each text, and the size of the vocabulary."""
    given = [t.content[t.content >= 0] for t in texts if isinstance(t.content, np.ndarray)]
    if not given:
        tokens = tokenizer_of(tokenizer)
        return [np.array(tokens.encode(str(t.content)), np.int64) for t in texts], tokens.size
    largest = max((int(row.max()) for row in given if row.size), default=0)
    if vocabulary is not None and largest >= vocabulary:
        raise ValueError(
            f"`vocabulary` must be above the largest token {largest}, got {vocabulary}. Set it to "
            f"{largest + 1}."
        )
    return given, vocabulary or largest + 1
