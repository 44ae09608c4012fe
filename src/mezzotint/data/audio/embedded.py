"""Spoken prompts in five languages: the audio that is embedded in the package.

1,565 recordings of a telephone system: numbers, letters, the words that letters are spelled with
(alpha, bravo), names of days, months and symbols, and short phrases, in English, Spanish, French,
Italian and Russian, each read by one professional speaker (English and Spanish by the same). 8 kHz;
the first 1.28 s of each, as 64 mels of 64 ms frames each 20 ms. Pretraining sees all of them and no
label. No recording occurs twice, and no task has one on both sides:

- `kind/LANGUAGE`: is it a number, a letter or a spelling word? Five recordings of each to learn
  from, the others of that language to be scored. Length tells a part of it, and what the spectrum
  is on average another.
- `digit/holdout`: which digit, 1 to 9, a number is built on. Learns from teens, tens and hundreds
  (fourteen, forty, and their ordinals) in all languages, and is scored on the plain digits and
  their ordinals (four, fourth).
- `language/few-shot`: which language, from five recordings of each; all others are scored. With one
  voice a language (and the same in English and Spanish) it asks for the voice as much as for the
  words.
- `language/holdout`: a fifth of the *prompts* is held out, the same in all languages. Voice and
  room tell the language as well as the words do, and with so many examples it is an easy question.

Licenses of the recordings: see NOTICE.
"""

import functools
import io
import json
import re
from collections.abc import Sequence

import numpy as np
import torch

from mezzotint.data.audio.log_mel import Mel
from mezzotint.data.image.embedded import embedded_file
from mezzotint.data.memory import InMemory
from mezzotint.data.sampling import held_out
from mezzotint.data.source import Index, Source, Task
from mezzotint.seeding import Draws, key_of
from mezzotint.types import Input

MEL = Mel(8000, 512, 512, 160, 64, 60.0, 3900.0)
"""The front-end of the stored spectrograms: BYOL-A's 64 ms frames at half its rate, each 20 ms."""

FRAMES = 64
FLOOR, STEP = -10.0, 0.2
"""A stored byte `b` stands for `FLOOR + STEP · b`; 0 for everything below, and for what is missing of a short one."""

LANGUAGES = ("en", "es", "fr", "it", "ru")
KINDS = ("number", "letter", "spelling word")
_MEAN, _STD = -7.2707, 3.1780
_CREDIT = (
    "Spoken prompts of Asterisk: English and Spanish by Allison Smith, French by June Wallack (CC BY-SA 3.0, "
    "https://creativecommons.org/licenses/by-sa/3.0/), Italian by Carlo Flora, Russian by Maxim Topal (CC BY 3.0), "
    "reduced to log-mel spectrograms of their first 1.28 s."
)
_NUMBER = re.compile(r"digits/(h-)?(\d+|hundred|thousand|millions?|billion)(-and|[FMn])?")
_LETTER = re.compile(r"letters/([a-z]|zed|aa|ww)")


class Speech(InMemory):
    """Embedded data: spoken prompts in five languages, as log-mel spectrograms.

    Samples are float32 `[1, 64, 64]`: natural logarithms of mel power, from −10 on, mels by frames.

    Args:
        shots: recordings of each class to learn from in the tasks `kind/LANGUAGE` and
            `language/few-shot`.
        draw: which recordings these are; another number gives another, independent choice.

    Attributes:
        credit: whose work the recordings are.
        names: of the recordings, `en/digits/4`.
    """

    modality = "audio"
    embedded = ("speech",)

    def __init__(self, *, shots: int = 5, draw: int = 0) -> None:
        if not 1 <= shots <= 20:
            raise ValueError(
                f"got shots={shots}; allowed is 1 to 20: each language has at least 25 recordings of a kind, and some "
                "must be left to be scored"
            )
        self.shots, self.draw = shots, draw
        stored, self.names = _stored()
        self.images = stored
        self.ids = [f"speech/{name}" for name in self.names]
        self.credit = _CREDIT
        self.mel = MEL
        self.input = Input((1, MEL.mels, FRAMES), (_MEAN,), (_STD,), "audio")
        self.labels = np.array([LANGUAGES.index(name[:2]) for name in self.names], np.int64)

    def evaluation(self) -> tuple[Source, Sequence[Task]]:
        """All recordings, and the tasks."""
        tasks = [self._kind_task(place, language) for place, language in enumerate(LANGUAGES)]
        return self, [self._few_shot_task(), *tasks, self._digit_task(), self._language_task()]

    def _few_shot_task(self) -> Task:
        chosen = _some_of_each(self.labels, self.shots, f"speech/language/{self.draw}")
        test = np.setdiff1d(np.arange(len(self.labels)), chosen)
        return Task("language/few-shot", "classify", self.labels, chosen, test, LANGUAGES)

    def _kind_task(self, place: int, language: str) -> Task:
        kinds = np.array(
            [KINDS.index(kind) if (kind := kind_of_prompt(name)) else -1 for name in self.names],
            np.int64,
        )
        own = np.where(self.labels == place, kinds, -1)
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
        # All prompts are one stratum: a prompt has no language, it is said in up to five.
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
    """The kind of a recording by its name, `en/digits/4`: one of `KINDS`; None for words and phrases."""
    prompt = name.partition("/")[2]
    if _NUMBER.fullmatch(prompt):
        return "number"
    if _LETTER.fullmatch(prompt):
        return "letter"
    return "spelling word" if prompt.startswith("phonetic/") else None


def digit_of_prompt(name: str) -> tuple[int, bool] | None:
    """The digit that a number is built on, and whether it is that digit or its ordinal; None where there is none.

    Digits 1 to 9, teens but ten, whole tens and whole hundreds have one; ten, and twenty-one, have
    none.
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
    """`count` samples of each label, by a keyed draw; their indices, sorted. Negative labels are none."""
    place = Draws(torch.arange(len(labels)), key_of("some_of_each", key)).bits("place").numpy()
    order = np.lexsort((place, labels))
    chosen = [order[labels[order] == label][:count] for label in range(labels.max() + 1)]
    return np.sort(np.concatenate(chosen))


@functools.cache
def _stored() -> tuple[torch.Tensor, list[str]]:
    with np.load(io.BytesIO(embedded_file("speech.npz")), allow_pickle=False) as file:
        values = torch.from_numpy(file["log_mel"]).transpose(1, 2).unsqueeze(1)
    return values.float().mul_(STEP).add_(FLOOR).contiguous(), json.loads(
        embedded_file("speech.json")
    )
