"""The labeled samples of another source, or a few of them: what supervised training and fine-tuning learn from.

Only training samples of a task are taken, so that its test samples stay unseen. Which ones is a
function of labels, seed and share: of each class the first samples of one keyed order, so that 1 %
is a part of 10 %, and 1 sample a class a part of 5. A list of files, as SimCLR's 1 % and 10 % of
ImageNet (Chen et al. 2020, arXiv 2002.05709), replaces them.
"""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from mezzotint.data.balance import Balance
from mezzotint.data.image.nvjpeg import Jpeg
from mezzotint.data.sampling import some_of_each
from mezzotint.data.source import Index, Source, Task
from mezzotint.seeding import key_of
from mezzotint.types import CropSampler, Sample


class Labeled(Source):
    """Training samples of a task, with their labels.

    Args:
        source: of the samples.
        task: name of the task; by default the source's first one with classes, or else with tags
            (several a sample).
        fraction: share of the training samples, of each class alike and at least one.
        per_class: so many of each class instead, for few-shot learning; not for tags.
        files: a text file of ids or file names, one a line: exactly these instead.
        seed: of the choice.
        balance: draw samples of rare labels as often as those of common ones; by default each is
            visited once an epoch.

    Attributes:
        task: the task over the chosen training samples.
        num_classes: how many classes there are.
        chosen: int64 `[N]`, indices in the source of all samples.
        all_labels: int64 `[M]`, or bool `[M, C]` for tags, of all samples of the source.
        weighting: how often each is drawn; `None` without `balance`.

    Raises:
        ValueError: when there is no such task, a share is out of range, or the list names what is
            not there.
    """

    def __init__(
        self,
        *,
        source: Source,
        task: str | None = None,
        fraction: float = 1.0,
        per_class: int | None = None,
        files: str | None = None,
        seed: int = 0,
        balance: Balance | None = None,
    ) -> None:
        if not 0.0 < fraction <= 1.0 or (per_class is not None and per_class < 1):
            raise ValueError(
                f"got fraction={fraction}, per_class={per_class}; allowed are a share in (0, 1] and 1 sample or more: "
                "0.01 is 1 %"
            )
        if (files is not None) + (per_class is not None) + (fraction < 1.0) > 1:
            raise ValueError(
                "got more than one of fraction, per_class and files; allowed is one: keep that"
            )
        self.samples, found = _task(source, task)
        tags = found.kind == "tag"
        labels: npt.NDArray[Any] = np.asarray(found.labels, np.bool_ if tags else np.int64)
        pool = np.asarray(found.train, np.int64)
        self.num_classes = (
            labels.shape[1] if tags else max(len(found.classes), int(labels[pool].max()) + 1)
        )
        if files is not None:
            pool = _listed(self.samples, pool, files)
        elif fraction < 1.0 or per_class is not None:
            if tags and per_class is not None:
                raise ValueError(
                    f"got per_class={per_class} for tags, several a sample; allowed is fraction or files"
                )
            classes = np.zeros(len(labels), np.int64) if tags else labels
            pool = some_of_each(
                classes, pool, key_of("labeled", seed), fraction=fraction, per_class=per_class
            )
        self.labels, self.chosen = labels[pool], torch.from_numpy(pool)
        self.all_labels = torch.from_numpy(labels)
        self.weighting = (
            None if balance is None else balance.weighting(self.all_labels, self.chosen)
        )
        self.task = replace(found, train=pool)
        self._trained_on = self.samples.with_context()
        self.input = source.input
        self._own = source.fingerprint()
        self.in_memory, self.croppable = self.samples.in_memory, self.samples.croppable
        self.decoder = self.samples.decoder

    def __len__(self) -> int:
        return len(self.chosen)

    def read(self, index: int) -> Sample:
        """One sample of the source, as long as training reads it."""
        return self._trained_on.read(int(self.chosen[index]))

    def targets(self, indices: Tensor) -> Tensor:
        """int64 `[B]` → labels int64 `[B]`, or bool `[B, C]` of tags."""
        return self.all_labels[self.chosen[indices]]

    def fingerprint(self) -> str:
        """That of the source, with the choice."""
        return f"{self._own}-{key_of(*self.chosen.tolist()):016x}"

    def evaluation(self) -> tuple[Source, Sequence[Task]]:
        """All samples, and the task: learn from the chosen ones, be scored on all of its test samples."""
        return self.samples, [self.task]

    def id_of(self, index: int) -> str:
        return self.samples.id_of(int(self.chosen[index]))

    def read_batch(self, indices: Tensor) -> Tensor:
        return self.samples.read_batch(self.chosen[indices])

    def read_crops(self, index: int, choose: CropSampler) -> list[Tensor]:
        return self.samples.read_crops(int(self.chosen[index]), choose)

    def read_encoded(self, index: int, choose: CropSampler) -> Jpeg | list[Tensor]:
        return self.samples.read_encoded(int(self.chosen[index]), choose)


def _task(source: Source, name: str | None) -> tuple[Source, Task]:
    samples, tasks = source.evaluation()
    usable = [task for kind in ("classify", "tag") for task in tasks if task.kind == kind]
    known = {task.name: task for task in usable}
    if not known or (name is not None and name not in known):
        raise ValueError(
            f"got task={name!r}; allowed: {', '.join(known) or 'none, as these samples have no classes'}: "
            "name one of them, or give data with class folders or labels"
        )
    return samples, next(iter(known.values())) if name is None else known[name]


def _listed(samples: Source, pool: Index, files: str) -> Index:
    """The training samples that a list names, by id or by the last part of it."""
    try:
        wanted = [
            line.strip()
            for line in Path(files).read_text(encoding="utf-8").splitlines()
            if line.strip()
        ]
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(
            f"got files={files!r}, which cannot be read ({error}); give a text file of ids"
        ) from None
    ids = [samples.id_of(index) for index in pool.tolist()]
    place = {name.rpartition("/")[2]: i for i, name in enumerate(ids)} | {
        name: i for i, name in enumerate(ids)
    }
    missing = [name for name in wanted if name not in place]
    if missing or not wanted:
        raise ValueError(
            f"{files}: {len(missing)} of {len(wanted)} names are no training samples, {missing[:1]}; "
            f"allowed are ids such as {ids[0]!r}, or the last part of them"
        )
    return np.unique(pool[[place[name] for name in wanted]])
