"""Labeled training samples of another source, for supervised training and fine-tuning.

Only the training samples of a task are used; its test samples stay unseen. A subset is a function
of labels, seed and fraction: the first samples of each class in one keyed order, so that 1 % is a
part of 10 %, and 1 sample a class a part of 5. A list of files, as SimCLR's 1 % and 10 % of
ImageNet (Chen et al. 2020, arXiv 2002.05709), replaces them.
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from mezzotint.data.balance import Balance
from mezzotint.data.formats.delimited import lines_of, read_text
from mezzotint.data.image.nvjpeg import Jpeg
from mezzotint.data.listing.sampling import some_of_each
from mezzotint.data.source import Index, Source, Task
from mezzotint.seeding import key_of
from mezzotint.types import CropSampler, Sample


class Labeled(Source):
    """Use the training samples of a task with their labels, or a subset of them.

    Args:
        source: source of the samples.
        task: name of the task; by default the source's first with classes, or else with tags (any
            number a sample).
        fraction: fraction of the training samples of each class, at least one sample.
        per_class: labeled samples per class instead, for few-shot learning; not for tags.
        files: text file of ids or file names, one a line, that lists the samples instead.
        seed: seed of the subset, any whole number.
        balance: draw samples of rare labels as often as common ones; by default each sample is
            visited once an epoch.

    Attributes:
        task: the task over the chosen training samples.
        num_classes: number of classes.
        pool: int64 `[P]`, indices in the source of all training samples of the task.
        chosen: int64 `[N]`, those of them that are used.
        all_labels: int64 `[M]`, or bool `[M, C]` for tags, of all samples of the source.
        weighting: how often each is drawn; `None` without `balance`.

    Raises:
        ValueError: when the task is unknown, a fraction is out of range, or a listed sample is
            missing.
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
                f"`fraction` must be in (0, 1] and `per_class` 1 or more, got fraction={fraction} "
                f"and per_class={per_class}. Try fraction=0.01 for 1 %."
            )
        if (files is not None) + (per_class is not None) + (fraction < 1.0) > 1:
            raise ValueError(
                "Only one of `fraction`, `per_class` and `files` can be set. Keep one of them."
            )
        self.samples, found = _task(source, task)
        tags = found.kind == "tag"
        labels: npt.NDArray[Any] = np.asarray(found.labels, np.bool_ if tags else np.int64)
        pool = np.asarray(found.train, np.int64)
        self.pool = torch.from_numpy(pool)
        self.num_classes = (
            labels.shape[1] if tags else max(len(found.classes), int(labels[pool].max()) + 1)
        )
        if files is not None:
            pool = _listed(self.samples, pool, files)
        elif fraction < 1.0 or per_class is not None:
            if tags and per_class is not None:
                raise ValueError(
                    f"`per_class` must be null for tags, got {per_class}: a sample has any number "
                    "of them. Use `fraction` or `files`."
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
        self.notes, self.columns = source.notes, source.columns
        self._own = source.fingerprint()
        self.in_memory, self.croppable = self.samples.in_memory, self.samples.croppable
        self.decoder = self.samples.decoder

    def majority(self) -> float:
        """Return the fraction of test samples that have the largest class of the training part.

        It is that of all training samples, whatever subset is labeled, so that it is the same for
        every fraction of the labels.
        """
        labels = self.all_labels[self.pool]
        largest = int(torch.bincount(labels[labels >= 0]).argmax())
        answers = self.all_labels[torch.from_numpy(np.asarray(self.task.test, np.int64))]
        return float((answers == largest).double().mean())

    def __len__(self) -> int:
        return len(self.chosen)

    def read(self, index: int) -> Sample:
        return self._trained_on.read(int(self.chosen[index]))

    def targets(self, indices: Tensor) -> Tensor:
        return self.all_labels[self.chosen[indices]]

    def fingerprint(self) -> str:
        return f"{self._own}-{key_of(*self.chosen.tolist()):016x}"

    def evaluation(self) -> tuple[Source, Sequence[Task]]:
        """Return all samples, and the task: the chosen training samples, and all test samples."""
        return self.samples, [self.task]

    def preprocessing(self) -> dict[str, Any]:
        return self.samples.preprocessing()

    def id_of(self, index: int) -> str:
        return self.samples.id_of(int(self.chosen[index]))

    def read_batch(self, indices: Tensor) -> Tensor:
        return self._trained_on.read_batch(self.chosen[indices])

    def read_crops(self, index: int, choose: CropSampler) -> list[Tensor]:
        return self._trained_on.read_crops(int(self.chosen[index]), choose)

    def read_encoded(self, index: int, choose: CropSampler) -> Jpeg | list[Tensor]:
        return self._trained_on.read_encoded(int(self.chosen[index]), choose)


def _task(source: Source, name: str | None) -> tuple[Source, Task]:
    samples, tasks = source.evaluation()
    usable = [task for kind in ("classify", "tag") for task in tasks if task.kind == kind]
    known = {task.name: task for task in usable}
    if not known or (name is not None and name not in known):
        if not known and name is None:
            raise ValueError(
                "The data has no labels of two classes or more, with samples to score. Use class "
                "folders or a column of labels, and at least two samples of each class."
            )
        rule = f"must be one of {', '.join(known)}" if known else "needs labels, and there are none"
        raise ValueError(
            f"`task` {rule}, got {name!r}. Name a task of the data, or use data with class "
            "folders or labels."
        )
    return samples, next(iter(known.values())) if name is None else known[name]


def _listed(samples: Source, pool: Index, files: str) -> Index:
    """Return the training samples that a list names, by id or by its last part."""
    text = read_text(files, "a text file of ids, one a line")
    wanted = [line.strip() for line in lines_of(text) if line.strip()]
    ids = [samples.id_of(index) for index in pool.tolist()]
    position = {name.rpartition("/")[2]: i for i, name in enumerate(ids)} | {
        name: i for i, name in enumerate(ids)
    }
    missing = [name for name in wanted if name not in position]
    if missing or not wanted:
        raise ValueError(
            f"`{files}` must list ids of training samples such as {ids[0]!r}, or their last part. "
            f"{len(missing)} of {len(wanted)} names are not among them: {missing[:1]}."
        )
    return np.unique(pool[[position[name] for name in wanted]])
