"""kNN while the encoder trains: is it learning? Never on test samples."""

import torch

from mezzotint.data.source import Evaluable, Source
from mezzotint.encoders.encoder import Encoder
from mezzotint.evaluate.features import extract_readable
from mezzotint.evaluate.knn import KNN
from mezzotint.seeding import sample_order
from mezzotint.types import Features

_MOST = 10_000


class OnlineKNN:
    """Scores an encoder on a validation fifth of the training samples of the data's first classification task.

    Args:
        source: of the run; without labels there is nothing to measure.
        limit: take at most so many samples.
    """

    def __init__(self, source: Source, *, limit: int = _MOST) -> None:
        self.name = ""
        if not isinstance(source, Evaluable):
            return
        self.source, tasks = source.evaluation()
        task = next((t for t in tasks if t.kind == "classify"), None)
        if task is None or len(task.train) < 10:
            return
        chosen = torch.from_numpy(task.train)[sample_order(len(task.train), 0, 0)][:limit]
        self.name = f"knn/{task.name}"
        self.indices = chosen
        self.labels = torch.from_numpy(task.labels)

    def measure(self, encoder: Encoder) -> dict[str, float]:
        """Accuracy on the held-out fifth, under `knn/TASK`; empty without labels."""
        if not self.name:
            return {}
        found = extract_readable(encoder, self.source, indices=self.indices)
        everything = Features(found.x, self.labels[found.indices])
        held_out = len(everything.x) // 5
        train, scored = everything[held_out:], everything[:held_out]
        rows = KNN().run(train, scored)
        return {self.name: next(row.value for row in rows if row.metric == "top1")}
