"""Embedded point clouds: 820 models of furniture, 1,024 points each.

Sampled evenly over the surfaces of Sweet Home 3D's additional catalogs, upright with z up,
centered in a unit sphere. Pretraining sees all clouds and no label. Two questions are asked of the
features: the object class of the 332 models whose name says it (ten classes, a fifth of them
seats), and the room category of the catalog for all (twelve). Three tenths of each class are held
out; `object/1-percent` learns from one model of each class. Models that look alike (light switches
with another frame, windows with more panes) are never torn apart by a split.

`part="tune"` asks about the other seven tenths only, of which a quarter is held out, in four ways:
settings are chosen on these tasks, and the samples that `all` scores have had no say.
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
from mezzotint.data.memory import InMemory
from mezzotint.data.sampling import held_out, one_percent
from mezzotint.data.source import Index, Source, Task
from mezzotint.types import Input

Part = Literal["all", "tune"]

_STEPS = 1024  # of the unit radius, in which the coordinates are stored
_HELD_OUT = 0.3
_TUNING_SPLITS = 4


class Furniture(InMemory):
    """820 clouds of 1,024 points, `[3, 1024]`, from meshes of furniture, embedded in the package.

    Args:
        part: which models the tasks are about: `all`, or `tune`, those that `all` learns from.

    Attributes:
        credit: whose work the models are.
        classes: names of the object classes; a label is a place in this list, or −1.
    """

    modality = "points"
    embedded = ("furniture",)
    credit = (
        "Furniture: models of Andrew Kator and Jennifer Legaz, Reallusion, Scopia, and contributors of Blend Swap, "
        "from the catalogs of Sweet Home 3D by Emmanuel Puybaret (CC-BY 3.0, "
        "https://creativecommons.org/licenses/by/3.0/, and CC0), as points."
    )

    def __init__(self, *, part: Part = "all") -> None:
        if part not in ("all", "tune"):
            raise ValueError(f"got part={part!r}; allowed is all or tune: choose one of them")
        self.part = part
        arrays, names = _furniture()
        self.images = torch.from_numpy(arrays["points"])
        self.labels, self.rooms = arrays["object"], arrays["room"]
        self.group = arrays["group"]
        self.ids = names["ids"]
        self.classes, self.room_names = names["objects"], names["rooms"]
        # One scale for all axes, so that shapes keep their proportions; the clouds are centered
        # already.
        spread = float(self.images.double().square().mean().sqrt())
        self.input = Input(tuple(self.images.shape[1:]), (0.0,) * 3, (spread,) * 3, "points")

    def evaluation(self) -> tuple[Source, Sequence[Task]]:
        """All clouds, and the object and room tasks over `part`."""
        tasks = []
        for name, labels, classes in (
            ("object", self.labels, self.classes),
            ("room", self.rooms, self.room_names),
        ):
            test = held_out(labels, _HELD_OUT, name, self.group)
            known = labels >= 0
            splits = {f"{name}/holdout": (known & ~test, test)}
            if self.part == "tune":
                known = known & ~test
                tuned = np.where(known, labels, -1)
                splits = {}
                for place in range(_TUNING_SPLITS):
                    chosen = held_out(tuned, 0.25, f"{name}/tune-{place}", self.group)
                    splits[f"{name}/tune-{place}"] = known & ~chosen, chosen & known
            for title, (train, scored) in splits.items():
                tasks.append(
                    Task(
                        title, "classify", labels, train.nonzero()[0], scored.nonzero()[0], classes
                    )
                )
        return self, tasks if self.part == "tune" else [*tasks, one_percent(tasks[0])]


@functools.cache
def _furniture() -> tuple[dict[str, npt.NDArray[Any]], dict[str, list[str]]]:
    """`points` float16 `[820, 3, 1024]`; `object`, `room` and `group` int64 `[820]`; and the names."""
    with np.load(io.BytesIO(embedded_file("furniture.npz")), allow_pickle=False) as file:
        steps = np.cumsum(file["changes"], axis=2, dtype=np.int16)
        labels: dict[str, Index] = {
            name: file[name].astype(np.int64) for name in ("object", "room", "group")
        }
    points = (steps.astype(np.float32) / _STEPS).astype(np.float16)  # exact: whole steps up to 1
    return {"points": points, **labels}, json.loads(embedded_file("furniture.json"))
