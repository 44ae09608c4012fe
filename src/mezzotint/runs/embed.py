"""Features of every sample of some data, in a file: training and test samples, with class names."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from mezzotint import dist
from mezzotint.data.formats.numpy_files import numpy_arrays
from mezzotint.data.source import Index, Source
from mezzotint.encoders.encoder import Encoder
from mezzotint.evaluation.features import WHITEN, Whitening, extract_readable
from mezzotint.files import replacing
from mezzotint.modality.modality import modality_of
from mezzotint.types import Sample, Unreadable

_SHOWN = 3  # unreadable samples that a message names
_FIT = "fit"
_FEWEST = 10  # training samples of a whitening; shrinkage bears fewer samples than features
_MAP = ("mean", "whitening")  # arrays of an .npz
_Map = tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]
"""Mean `[D]` and matrix `[D, D]`."""


@dataclass(frozen=True)
class Embedded:
    """What was written.

    Attributes:
        splits: number of samples of each split.
        dim: number of features.
        classes: names of the classes, by label.
        left_out: sentences on what is not in the file, and why.
    """

    splits: Mapping[str, int]
    dim: int
    classes: Sequence[str]
    left_out: Sequence[str]

    def __str__(self) -> str:
        count = sum(self.splits.values())
        parts = ", ".join(f"{size} {name}" for name, size in self.splits.items())
        named = f", {len(self.classes)} classes" if self.classes else ""
        shown = f" ({parts})" if len(self.splits) > 1 else ""
        noun = "sample" if count == 1 else "samples"
        return f"{count} {noun}{shown}, {self.dim} features{named}"


def embed(
    encoder: Encoder, source: Source, out: str | Path, *, whiten: str | Path | None = None
) -> Embedded:
    """Write the features of all samples to a file, in the order of their ids.

    Args:
        encoder: encoder in eval mode.
        source: source of the samples; those that it holds out are written too.
        out: `.npz` with the arrays `features` `[N, D]`, `split`, `ids`, `labels` and `classes`; or
            `.parquet` with the columns `id`, `split`, `label`, `class` and `feature`. A label is an
            index into the classes, −1 for none; where samples have several, `labels` is bool
            `[N, C]`. A sample that cannot be read is left out.
        whiten: `fit` whitens the features by those of the training samples, and adds the map to the
            `.npz`, `mean` `[D]` and `whitening` `[D, D]`; a file that was written so whitens them
            by its map, for samples that are compared with those in the file; `None` does not.

    With several processes, all call it together; they divide the samples, and the main one writes.

    Raises:
        ValueError: for another suffix, without pyarrow, when no sample can be read, or for a file
            without the map of this encoder's features.
    """
    path = Path(out)
    _require_npz(path, whiten)
    known = None if whiten in (None, _FIT) else _read_map(Path(whiten), encoder.dim)
    if path.suffix not in (".npz", ".parquet"):
        raise ValueError(
            f"`--out` must end in .npz or .parquet, got {path.name!r}. Change the name."
        )
    samples, split = source.everything()
    noted = _Noted(samples)
    extraction = extract_readable(encoder, noted)
    if not len(extraction.x):
        plural = modality_of(source.input).plural
        raise ValueError(
            f"None of the {len(samples)} {plural} can be read; the first is {extraction.bad[0]}. "
            "Check the files."
            if extraction.bad
            else f"There are no {plural} to embed. Check the data."
        )
    indices = extraction.indices.numpy()
    noted.gather()
    labels, classes = source.named_labels()
    if labels is None:
        labels = np.array([noted.answers.get(index, -1) for index in range(len(samples))], np.int64)
    ids = np.array([noted.ids[index] for index in indices.tolist()])
    order = np.argsort(ids, kind="stable")
    kept = {}
    if whiten == _FIT:
        known = _fit_map(extraction.x[torch.from_numpy(split[indices] == "train")])
        kept = dict(zip(_MAP, known, strict=True))
    features = extraction.x.numpy()
    if known is not None:
        features = (features - known[0]) @ known[1]
    columns = {
        "features": features[order],
        "split": split[indices][order],
        "ids": ids[order],
        "labels": labels[indices][order],
        "classes": np.array(list(classes), np.str_),
        **kept,
    }
    dist.on_main(lambda: _write(path, columns))
    left_out = [*source.notes, *_unreadable(extraction.bad)]
    return Embedded(Counter(columns["split"].tolist()), extraction.x.shape[1], classes, left_out)


def _require_npz(path: Path, whiten: str | Path | None) -> None:
    if whiten == _FIT and path.suffix != ".npz":
        raise ValueError(
            f"`--whiten fit` keeps its map with the features in an .npz, got {path.name!r}. "
            "Write an .npz, or give one as --whiten FILE."
        )


def _fit_map(train: Tensor) -> _Map:
    """Fit a whitening to the features of the training samples."""
    if len(train) < _FEWEST:
        raise ValueError(
            f"`--whiten fit` needs {_FEWEST} training samples or more, got {len(train)}. Give the "
            "features of more samples as --whiten FILE."
        )
    whitening = Whitening.fit(train, WHITEN)
    return whitening.mean.numpy(), whitening.matrix.numpy()


def _read_map(path: Path, dim: int) -> _Map:
    """Read the map that an earlier file keeps."""
    if not path.is_file():
        raise ValueError(
            f"`--whiten` must be fit, or a file that `embed --whiten fit` wrote; {str(path)!r} is "
            "neither. Check the path."
        )
    arrays = numpy_arrays(path, "an .npz that `embed --whiten fit` wrote")
    if not set(_MAP) <= set(arrays):
        raise ValueError(
            f"{str(path)!r} has the arrays {', '.join(arrays)} and no map to whiten by. Write it "
            "with `embed --whiten fit`."
        )
    mean, matrix = (np.asarray(arrays[name], np.float32) for name in _MAP)
    if mean.shape != (dim,) or matrix.shape != (dim, dim):
        raise ValueError(
            f"{str(path)!r} whitens {mean.size} features, and the encoder has {dim}. Use a file of "
            "this encoder."
        )
    return mean, matrix


def _write(path: Path, columns: Mapping[str, Any]) -> None:
    with replacing(path) as temporary:
        if path.suffix == ".npz":
            np.savez(temporary, **columns)
        else:
            _parquet(temporary, columns)


def _unreadable(bad: Sequence[Unreadable]) -> list[str]:
    if not bad:
        return []
    shown = "; ".join(map(str, bad[:_SHOWN])) + ("; …" if len(bad) > _SHOWN else "")
    return [f"{len(bad)} samples cannot be read and are left out: {shown}"]


class _Noted(Source):
    """A source that keeps each sample's id and label when it is read, to read nothing twice."""

    def __init__(self, source: Source) -> None:
        self.source, self.input, self.config = source, source.input, source.config
        self.ids: dict[int, str] = {}
        self.answers: dict[int, int] = {}

    def __len__(self) -> int:
        return len(self.source)

    def read(self, index: int) -> Sample:
        sample = self.source.read(index)
        self.ids[index], label = sample["id"], sample["label"]
        self.answers[index] = label if isinstance(label, int) else -1
        return sample

    def gather(self) -> None:
        """Learn the ids and labels that other processes read."""
        for ids, answers in dist.gather_objects((self.ids, self.answers)):
            self.ids |= ids
            self.answers |= answers

    def fingerprint(self) -> str:
        return self.source.fingerprint()


def _parquet(path: Path, columns: Mapping[str, npt.NDArray[Any]]) -> None:
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError as error:
        raise ValueError(
            "Parquet files need pyarrow, which is not installed. Run pip install "
            "'mezzotint[parquet]', or choose .npz."
        ) from error
    features, labels = columns["features"], columns["labels"]
    flat = pyarrow.array(features.reshape(-1))
    table = {
        "id": columns["ids"].tolist(),
        "split": columns["split"].tolist(),
        "label": labels.tolist(),
        "class": _names(labels, columns["classes"].tolist()),
        "feature": pyarrow.FixedSizeListArray.from_arrays(flat, features.shape[1]),
    }
    pyarrow.parquet.write_table(pyarrow.table(table), path)


def _names(labels: Index | npt.NDArray[np.bool_], classes: Sequence[str]) -> list[Any]:
    """Return the class name of each row, `None` without one; where it has several, their list."""
    if labels.ndim == 2:
        return [[classes[i] for i in np.flatnonzero(row).tolist()] for row in labels]
    return [classes[label] if 0 <= label < len(classes) else None for label in labels.tolist()]
