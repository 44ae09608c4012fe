"""Spoken prompts in five languages, embedded in the package.

1,565 prompts of a telephone system: numbers, letters, the words that letters are spelled with
(alpha, bravo), names of days, months and symbols, and short phrases, in English, Spanish, French,
Italian and Russian, each read by one professional speaker (English and Spanish by the same). 8 kHz;
the first 1.28 s of each, as 64 mels of 64 ms frames each 20 ms. Pretraining sees all of them and no
label. No prompt occurs twice, and no task has one on both sides of its split:

- `kind/LANGUAGE`: is it a number, a letter or a spelling word? It learns from five prompts of each
  and scores the others of that language. Length and average spectrum reveal a part of it.
- `digit/holdout`: the digit, 1 to 9, that a number is built on. It learns from teens, tens and
  hundreds (fourteen, forty, and their ordinals) in all languages, and scores plain digits and their
  ordinals (four, fourth).
- `language/few-shot`: the language, learned from five prompts of each; all others are scored. With
  one voice per language (and the same in English and Spanish) it tests the voice as much as the
  words.
- `language/holdout`: a fifth of the *prompts* is held out, the same in all languages. Voice and
  room reveal the language as well as words do; with this many examples the task is easy.

Licenses of the prompts: see NOTICE.
"""

import functools
import io
import json
import re
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from mezzotint.data.audio.log_mel import Mel, described
from mezzotint.data.image.embedded import embedded_file
from mezzotint.data.listing.sampling import held_out
from mezzotint.data.memory import InMemory
from mezzotint.data.source import Index, Source, Task
from mezzotint.seeding import Draws, key_of
from mezzotint.types import Input

MEL = Mel(8000, 512, 512, 160, 64, 60.0, 3900.0)
"""The front-end of the stored spectrograms: BYOL-A's 64 ms frames at half its rate, each 20 ms."""

FRAMES = 64
FLOOR, STEP = -10.0, 0.2
"""A stored byte `b` stands for `FLOOR + STEP · b`; 0 stands for everything below, and for
padding."""

LANGUAGES = ("en", "es", "fr", "it", "ru")
KINDS = ("number", "letter", "spelling word")
_MEAN, _STD = -7.2707, 3.1780
_CREDIT = (
    "Spoken prompts of Asterisk: English and Spanish by Allison Smith, French by June Wallack "
    "(CC BY-SA 3.0, https://creativecommons.org/licenses/by-sa/3.0/), Italian by Carlo Flora, "
    "Russian by Maxim Topal (CC BY 3.0), reduced to log-mel spectrograms of their first 1.28 s."
)
_NUMBER = re.compile(r"digits/(h-)?(\d+|hundred|thousand|millions?|billion)(-and|[FMn])?")
_LETTER = re.compile(r"letters/([a-z]|zed|aa|ww)")


class Speech(InMemory):
    """Use embedded spoken prompts in five languages, as log-mel spectrograms.

    Samples are float32 `[1, 64, 64]`: natural logarithms of mel power, from −10 on, mels by frames.

    Args:
        shots: labeled samples per class in the tasks `kind/LANGUAGE` and `language/few-shot`.
        draw: seed of their choice, any whole number; another number gives an independent choice.

    Attributes:
        credit: attribution of the prompts.
        names: names of the prompts, `en/digits/4`.
    """

    modality = "audio"
    embedded = ("speech",)

    def __init__(self, *, shots: int = 5, draw: int = 0) -> None:
        if not 1 <= shots <= 20:
            raise ValueError(
                f"`shots` must be 1 to 20, got {shots}. Each language has at least 25 prompts of a "
                "kind, and some must be left to score."
            )
        self.shots, self.draw = shots, draw
        stored, self.names = _stored()
        self.images = stored
        self.ids = [f"speech/{name}" for name in self.names]
        self.credit = _CREDIT
        self.mel = MEL
        self.input = Input((1, MEL.mels, FRAMES), (_MEAN,), (_STD,), "audio")
        self.labels = np.array([LANGUAGES.index(name[:2]) for name in self.names], np.int64)

    def preprocessing(self) -> dict[str, Any]:
        return {**super().preprocessing(), "front_end": described(MEL), "floor": FLOOR}

    def evaluation(self) -> tuple[Source, Sequence[Task]]:
        """Return all prompts, and the tasks."""
        tasks = [self._kind_task(number, language) for number, language in enumerate(LANGUAGES)]
        return self, [self._few_shot_task(), *tasks, self._digit_task(), self._language_task()]

    def _few_shot_task(self) -> Task:
        chosen = _some_of_each(self.labels, self.shots, f"speech/language/{self.draw}")
        test = np.setdiff1d(np.arange(len(self.labels)), chosen)
        return Task("language/few-shot", "classify", self.labels, chosen, test, LANGUAGES)

    def _kind_task(self, number: int, language: str) -> Task:
        kinds = np.array(
            [KINDS.index(kind) if (kind := kind_of_prompt(name)) else -1 for name in self.names],
            np.int64,
        )
        own = np.where(self.labels == number, kinds, -1)
        chosen = _some_of_each(own, self.shots, f"speech/{self.draw}")
        test = np.setdiff1d((own >= 0).nonzero()[0], chosen)
        return Task(f"kind/{language}", "classify", kinds, chosen, test, KINDS)

    def _digit_task(self) -> Task:
        found = [digit_of_prompt(name) for name in self.names]
        labels = np.array([-1 if f is None else f[0] - 1 for f in found], np.int64)
        plain = np.array([f is not None and f[1] for f in found])
        train, test = ((labels >= 0) & ~plain).nonzero()[0], plain.nonzero()[0]
        return Task(
            "digit/holdout", "classify", labels, train, test, [str(d) for d in range(1, 10)]
        )

    def _language_task(self) -> Task:
        prompts = [name.partition("/")[2] for name in self.names]
        group = np.unique(prompts, return_inverse=True)[1].astype(np.int64).reshape(-1)
        # All prompts are one stratum: a prompt is spoken in up to five languages.
        test = held_out(np.zeros(len(prompts), np.int64), 0.2, "speech/language", group)
        return Task(
            "language/holdout",
            "classify",
            self.labels,
            (~test).nonzero()[0],
            test.nonzero()[0],
            LANGUAGES,
        )


def kind_of_prompt(name: str) -> str | None:
    """Return the kind of a prompt by its name, one of `KINDS`; `None` for words and phrases."""
    prompt = name.partition("/")[2]
    if _NUMBER.fullmatch(prompt):
        return "number"
    if _LETTER.fullmatch(prompt):
        return "letter"
    return "spelling word" if prompt.startswith("phonetic/") else None


def digit_of_prompt(name: str) -> tuple[int, bool] | None:
    """Return the digit of a number, and whether the number is that digit or its ordinal.

    Digits 1 to 9, teens except ten, whole tens and whole hundreds have one; ten and twenty-one give
    `None`.
    """
    found = _NUMBER.fullmatch(name.partition("/")[2])
    if found is None or not found[2].isdigit():
        return None
    number = int(found[2])
    if 1 <= number <= 9:
        return number, True
    if 11 <= number <= 19:
        return number - 10, False
    for unit in (10, 100):
        if number % unit == 0 and 2 <= number // unit <= 9:
            return number // unit, False
    return (1, False) if number == 100 else None


def _some_of_each(labels: Index, count: int, key: str) -> Index:
    """Draw `count` samples of each label by key; return their indices, sorted."""
    rank = Draws(torch.arange(len(labels)), key_of("some_of_each", key)).bits("place").numpy()
    order = np.lexsort((rank, labels))
    chosen = [order[labels[order] == label][:count] for label in range(labels.max() + 1)]
    return np.sort(np.concatenate(chosen))


@functools.cache
def _stored() -> tuple[torch.Tensor, list[str]]:
    with np.load(io.BytesIO(embedded_file("speech.npz")), allow_pickle=False) as file:
        values = torch.from_numpy(file["log_mel"]).transpose(1, 2).unsqueeze(1)
    return values.float().mul_(STEP).add_(FLOOR).contiguous(), json.loads(
        embedded_file("speech.json")
    )
