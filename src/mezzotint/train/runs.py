"""What is done with a run after training: evaluation into the run's directory, and embedding of other data."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from mezzotint.data.source import Source
from mezzotint.encoders.encoder import Encoder
from mezzotint.encoders.saving import load_encoder
from mezzotint.evaluate.features import extract_readable
from mezzotint.evaluate.results import Evaluation, write_evaluation
from mezzotint.evaluate.suite import baselines, evaluate_encoder
from mezzotint.files import replacing
from mezzotint.train.recipe import Recipe
from mezzotint.types import Sample, Unreadable


def evaluate(run: str | Path, overrides: Sequence[str] = ()) -> Evaluation:
    """Measure a run's encoder as its recipe says, and write `evaluation.json` and `baselines.json`.

    Args:
        run: a directory that `pretrain` wrote.
        overrides: of the recipe, such as `evaluate.seeds=5`.

    Raises:
        ValueError: when the directory is not a finished run.
    """
    folder = Path(run)
    encoder = load_encoder(folder)
    recipe = Recipe.load(folder, overrides)
    settings = recipe.evaluate
    probes, seeds, workers = settings.probes, settings.seeds, recipe.run.loader.processes(recipe.data)
    evaluation = evaluate_encoder(encoder, recipe.data, probes=probes, seeds=seeds, workers=workers)
    beside = None
    if settings.baselines:
        beside = baselines(recipe.untrained_encoder, recipe.data, probes=probes, seeds=seeds, workers=workers)
    write_evaluation(folder, evaluation, beside)
    return evaluation


def embed(encoder: Encoder, source: Source, out: str | Path) -> tuple[int, int, Sequence[Unreadable]]:
    """Write the features of all samples.

    Args:
        encoder: in eval mode.
        source: of the samples.
        out: `.npz` (arrays `features`, `ids`, `labels`) or `.parquet` (columns `id`, `label`, `feature`). A sample
            without a label has −1; one that cannot be read is left out.

    Returns:
        How many samples and features were written, and what could not be read.

    Raises:
        ValueError: for another suffix, or when pyarrow is missing.
    """
    path = Path(out)
    if path.suffix not in (".npz", ".parquet"):
        raise ValueError(f"got --out {path.name!r}; allowed is a name that ends in .npz or .parquet")
    noting = _Noting(source)
    found = extract_readable(encoder, noting)
    ids, labels = zip(*(noting.notes[index] for index in found.indices.tolist()), strict=True)
    with replacing(path) as temporary:
        if path.suffix == ".npz":
            np.savez(temporary, features=found.x.numpy(), ids=np.array(ids), labels=np.array(labels))
        else:
            _parquet(temporary, list(ids), list(labels), found.x.numpy())
    return found.x.shape[0], found.x.shape[1], found.bad


class _Noting:
    """A source that remembers each sample's id and label as it is read, so that nothing is read twice."""

    def __init__(self, source: Source) -> None:
        self.source, self.input, self.config = source, source.input, source.config
        self.notes: dict[int, tuple[str, int]] = {}

    def __len__(self) -> int:
        return len(self.source)

    def read(self, index: int) -> Sample:
        sample = self.source.read(index)
        self.notes[index] = (sample["id"], -1 if sample["label"] is None else int(sample["label"]))
        return sample

    def fingerprint(self) -> str:
        return self.source.fingerprint()


def _parquet(path: Path, ids: list[str], labels: list[int], features: Any) -> None:
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError as error:
        raise ValueError(
            "got --out ….parquet, which needs pyarrow; pip install 'mezzotint[parquet]', or use .npz"
        ) from error
    flat = pyarrow.array(features.reshape(-1))
    column = pyarrow.FixedSizeListArray.from_arrays(flat, features.shape[1])
    pyarrow.parquet.write_table(pyarrow.table({"id": ids, "label": labels, "feature": column}), path)
