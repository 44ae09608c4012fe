"""Point clouds of 820 models of furniture, embedded in the package, 1,024 points each.

Sampled evenly over the surfaces of Sweet Home 3D's additional catalogs, upright with z up,
centered in a unit sphere. Pretraining sees all of them and no label. There are two tasks: the
object class of the 332 models that are named by it (ten classes, a fifth of them seats), and the
room category of the catalog for all (twelve). Three tenths of each class are held out;
`object/1-percent` learns from one model of each class. Models that look alike (light switches with
another frame, windows with more panes) are never separated by a split.

`part="tune"` uses the other seven tenths only and holds out a quarter of them, in four ways: choose
settings on these tasks, so that the test samples of `all` stay unseen.
"""

import functools
import io
import json
from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import torch

from mezzotint.data.image.embedded import embedded_file
from mezzotint.data.listing.sampling import held_out, one_percent
from mezzotint.data.memory import InMemory
from mezzotint.data.source import Index, Source, Task
from mezzotint.types import Input

Part = Literal["all", "tune"]

_STEPS = 1024  # stored coordinates per unit radius
_HELD_OUT = 0.3
_TUNING_SPLITS = 4


class Furniture(InMemory):
    """Use 820 embedded models of furniture as point clouds, `[3, 1024]`.

    Args:
        part: models of the tasks: `all`, or `tune`, the training models of `all`.

    Attributes:
        credit: attribution of the models.
        classes: names of the object classes; a label is an index into this list, or −1.
    """

    modality = "points"
    embedded = ("furniture",)
    credit = (
        "Furniture: models of Andrew Kator and Jennifer Legaz, Reallusion, Scopia, and "
        "contributors of Blend Swap, from the catalogs of Sweet Home 3D by Emmanuel Puybaret "
        "(CC-BY 3.0, https://creativecommons.org/licenses/by/3.0/, and CC0), as points."
    )

    def __init__(self, *, part: Part = "all") -> None:
        if part not in ("all", "tune"):
            raise ValueError(f"`part` must be all or tune, got {part!r}. Choose one.")
        self.part = part
        arrays, names = _furniture()
        self.images = torch.from_numpy(arrays["points"])
        self.labels, self.rooms = arrays["object"], arrays["room"]
        self.group = arrays["group"]
        self.ids = names["ids"]
        self.classes, self.room_names = names["objects"], names["rooms"]
        # One std for all axes, so that shapes keep their proportions; the models are centered
        # already.
        spread = float(self.images.double().square().mean().sqrt())
        self.input = Input(tuple(self.images.shape[1:]), (0.0,) * 3, (spread,) * 3, "points")

    def evaluation(self) -> tuple[Source, Sequence[Task]]:
        """Return all models, and the object and room tasks over `part`."""
        tasks = []
        for name, labels, classes in (
            ("object", self.labels, self.classes),
            ("room", self.rooms, self.room_names),
        ):
            test = held_out(self._of_groups(labels), _HELD_OUT, name, self.group)
            known = labels >= 0
            splits = {f"{name}/holdout": (known & ~test, test)}
            if self.part == "tune":
                known = known & ~test
                tuned = np.where(known, labels, -1)
                splits = {}
                for number in range(_TUNING_SPLITS):
                    chosen = held_out(
                        self._of_groups(tuned), 0.25, f"{name}/tune-{number}", self.group
                    )
                    splits[f"{name}/tune-{number}"] = known & ~chosen, chosen & known
            for title, (train, scored) in splits.items():
                tasks.append(
                    Task(
                        title, "classify", labels, train.nonzero()[0], scored.nonzero()[0], classes
                    )
                )
        return self, tasks if self.part == "tune" else [*tasks, one_percent(tasks[0])]

    def _of_groups(self, labels: Index) -> Index:
        """Hide the labels of groups whose first model has none: published splits have them so."""
        _, first, member = np.unique(self.group, return_index=True, return_inverse=True)
        return np.where(labels[first][member] >= 0, labels, -1)


@functools.cache
def _furniture() -> tuple[dict[str, npt.NDArray[Any]], dict[str, list[str]]]:
    """Read `points` float16 `[820, 3, 1024]`, int64 labels and groups `[820]`, and names."""
    with np.load(io.BytesIO(embedded_file("furniture.npz")), allow_pickle=False) as file:
        steps = np.cumsum(file["changes"], axis=2, dtype=np.int16)
        labels: dict[str, Index] = {
            name: file[name].astype(np.int64) for name in ("object", "room", "group")
        }
    points = (steps.astype(np.float32) / _STEPS).astype(
        np.float16
    )  # exact: multiples of 1 / 1024 up to 1
    return {"points": points, **labels}, json.loads(embedded_file("furniture.json"))
