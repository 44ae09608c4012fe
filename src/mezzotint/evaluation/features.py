"""Frozen features: extracted once, then shared by all probes.

The encoder runs in eval mode under `inference_mode` and is left in its mode: neither parameters nor
BatchNorm statistics change. With several processes, each extracts every n-th batch and every rank
gets all rows, in the source's order and none twice (`DistributedSampler` would pad the last batch
with repeated samples and count them twice). Batches are those of one process, so that features are
equal to the last bit: the rounding of a matrix product depends on the number of its rows.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from itertools import zip_longest
from typing import cast

import torch
from torch import Tensor, nn
from torch.utils.data import Dataset

from mezzotint import dist
from mezzotint.data.source import Source
from mezzotint.encoders.encoder import Encoder
from mezzotint.evaluation import progress
from mezzotint.memory import keep_freed_memory
from mezzotint.modality.modality import modality_of
from mezzotint.quant.hooks import evaluating
from mezzotint.types import Input, Unreadable
from mezzotint.workers import read_in_workers

WHITEN = 1.0
"""Default shrinkage of `embed --whiten fit`: kNN of trained encoders gained most with it, see
`benchmarks/results/whitening.md`."""

Progress = Callable[[int, int], None]
"""Called with the number of samples done and their total, of this process."""


_DENSE = 4096  # dimensions up to which covariances are computed; samples of the fit above it


@dataclass(frozen=True)
class Whitening:
    """A fixed linear map after which all directions of the fitted features vary about alike.

    Features of a few strong directions hide what the others know from a cosine. The map is the
    symmetric one (ZCA), which changes features least (Kessy et al. 2018, arXiv 1512.00809), with
    shrinkage, so that directions without information are not made as loud as the others.

    Attributes:
        mean: `[D]`, subtracted first.
        directions: `[D, R]`, orthonormal.
        gains: `[R]`, factors along them.
        rest: factor of everything that is orthogonal to them.
    """

    mean: Tensor
    directions: Tensor
    gains: Tensor
    rest: float

    @classmethod
    def fit(cls, x: Tensor, shrinkage: float) -> "Whitening":
        """Fit the map to features, without labels.

        Args:
            x: float `[N, D]`; with more than 4,096 dimensions, 4,096 evenly spaced rows are used.
            shrinkage: added to each variance, as a multiple of their mean; positive. Large values
                leave the features as they are, but for the mean and one factor.

        Raises:
            ValueError: without rows, or for features that are not finite.
        """
        if not len(x):
            raise ValueError("There are no features to fit a whitening to. Check the data.")
        if not x.isfinite().all():
            raise ValueError(
                "Features to whiten must be finite, got NaN or inf. Check the encoder."
            )
        dim = x.shape[1]
        if dim > _DENSE:
            x = x[torch.linspace(0, len(x) - 1, min(len(x), _DENSE)).round().long()]
        mean = x.double().mean(dim=0)
        centered = x.double() - mean
        if dim > _DENSE:
            # Variances of more dimensions than samples come from the products of the samples.
            variances, sides = torch.linalg.eigh(centered @ centered.T / len(x))
            directions = centered.T @ sides
            lengths = directions.norm(dim=0)
            known = lengths > lengths.max() * 1e-6
            directions, variances = directions[:, known] / lengths[known], variances[known]
        else:
            variances, directions = torch.linalg.eigh(centered.T @ centered / len(x))
        variances = variances.clamp(min=0.0)
        # Features that do not vary stay near zero: what float32 cannot tell apart is no variance.
        rounding = torch.finfo(torch.float32)
        least = rounding.eps**2 * float(x.double().square().mean()) + rounding.tiny
        floor = max(shrinkage * float(variances.sum()) / dim, least)
        gains = (variances + floor).rsqrt()
        return cls(mean.float(), directions.float(), gains.float(), floor**-0.5)

    def __call__(self, x: Tensor) -> Tensor:
        """Map features `[M, D]`."""
        centered = x - self.mean
        along = (centered @ self.directions) * (self.gains - self.rest)
        return self.rest * centered + along @ self.directions.T

    @property
    def matrix(self) -> Tensor:
        """The map as `[D, D]`: features are `(x - mean) @ matrix`."""
        return self(torch.eye(len(self.mean)) + self.mean)


class Kept:
    """Samples as they were read, so that further encoders need not read the files again.

    One list of indices of one source is kept, and only if it is small.

    Args:
        most: bytes to keep.
    """

    def __init__(self, most: int = 1 << 30) -> None:
        self.most = most
        self._source: Source | None = None
        self._indices = torch.empty(0, dtype=torch.int64)
        self._parts: list[ReadBatch] = []

    def read(self, source: Source, indices: Tensor, reading: "Reading") -> Iterator["ReadBatch"]:
        """Yield what `read_batches` yields, from memory if it is there."""
        if source is self._source and torch.equal(indices, self._indices):
            yield from self._parts
            return
        parts: list[ReadBatch] = []
        size = 0
        for part in _read_files(source, indices, reading):
            size += part[1].numel() * part[1].element_size()
            if size <= self.most:
                parts.append(part)
            yield part
        if size <= self.most:
            self._source, self._indices, self._parts = source, indices, parts


ReadBatch = tuple[Tensor, Tensor, list[Unreadable]]
"""Indices, stored samples, and what could not be read."""

_Batch = tuple[Tensor, Tensor, list[Unreadable]]
"""Features, indices, and what could not be read."""


@dataclass(frozen=True)
class Reading:
    """How samples are read and where features are computed.

    Attributes:
        batch_size: samples in one forward pass.
        workers: processes of the loader, for sources that are not in memory.
        device: device of the forward passes; the encoder's by default.
        progress: called after each batch.
        kept: samples that were read before; `None` reads the files every time.
    """

    batch_size: int = 256
    workers: int = 0
    device: torch.device | str | None = None
    progress: Progress | None = None
    kept: Kept | None = None

    def device_of(self, encoder: nn.Module) -> torch.device:
        """Return the device to compute on."""
        own = next((p.device for p in encoder.parameters()), torch.device("cpu"))
        return own if self.device is None else torch.device(self.device)


@dataclass(frozen=True)
class Extraction:
    """Features of the samples that could be read.

    Attributes:
        x: float32 `[M, D]`, on the CPU.
        indices: int64 `[M]`, the sample of each row, in the order of the request.
        bad: samples that could not be read.
    """

    x: Tensor
    indices: Tensor
    bad: tuple[Unreadable, ...] = ()

    def of(self, indices: Tensor) -> "Extraction":
        """Return the features of some of these samples, int64 `[N]`, in that order."""
        order = self.indices.argsort()
        rows = order[torch.searchsorted(self.indices[order], indices)]
        return Extraction(self.x[rows], indices)


def extract_readable(
    encoder: Encoder,
    source: Source,
    reading: Reading = Reading(),
    *,
    indices: Tensor | None = None,
) -> Extraction:
    """Extract the features of the samples that can be read.

    Args:
        encoder: encoder in any mode; it is left in that mode and on its device.
        source: samples of the shape that `encoder.input` states.
        reading: how to read, and where to compute.
        indices: int64 `[N]`, samples to extract; all by default.
    """
    # A callback of training measures its own encoder, which must be back where its optimizer is.
    home = next((p.device for p in encoder.parameters()), torch.device("cpu"))
    device = reading.device_of(encoder)
    keep_freed_memory()
    # With several processes each extracts a part, in batches that one process would make too.
    requested = torch.arange(len(source)) if indices is None else indices
    batches = requested.split(reading.batch_size)
    own = torch.cat([requested[:0], *batches[dist.rank() :: dist.world_size()]])
    extracted: list[_Batch] = []
    done = 0
    with evaluating(encoder):
        encoder.to(device)
        try:
            for part, x, failed in read_batches(source, own, reading):
                done += len(part) + len(failed)
                features = torch.empty(0, 0)
                if len(part):
                    with torch.inference_mode():
                        values = x.to(device, non_blocking=True)
                        # On the CPU: features of a whole data set may not fit on the device.
                        features = _averaged(encoder, values).float().cpu()
                extracted.append((features, part, failed))
                progress.count(done, len(own))
                if reading.progress is not None:
                    reading.progress(done, len(own))
        finally:
            encoder.to(home)
    return _union(extracted)


def extract(
    encoder: Encoder,
    source: Source,
    reading: Reading = Reading(),
    *,
    indices: Tensor | None = None,
) -> Tensor:
    """Extract features of samples that must all be readable, one row each, in order.

    Returns:
        float32 `[N, dim]` on the CPU.

    Raises:
        Unreadable: the first sample that cannot be read; `extract_readable` skips such samples.
    """
    extraction = extract_readable(encoder, source, reading, indices=indices)
    if extraction.bad:
        raise extraction.bad[0]
    return extraction.x


class _InputFeatures(Encoder, abstract=True):
    """Return the raw input, and hand-made features after it, in place of a network's features.

    Args:
        input: of the samples.
        handmade: whether to add hand-made features; the modality must have some.
    """

    def __init__(self, input: Input, *, handmade: bool = False) -> None:
        super().__init__(input, 0)
        self.handmade = handmade

    def forward(self, x: Tensor) -> Tensor:
        modality = modality_of(self.input)
        raw = modality.raw_features(x, self.input)
        own = modality.handmade_features(x, self.input) if self.handmade else None
        return raw if own is None else torch.cat([raw, own], dim=1)


def raw_features(
    source: Source, reading: Reading = Reading(), *, indices: Tensor | None = None
) -> Extraction:
    """Return the input itself as features, as its modality defines them: the baseline to beat."""
    on_cpu = replace(reading, device="cpu")
    return extract_readable(_InputFeatures(source.input), source, on_cpu, indices=indices)


def input_features(
    source: Source, reading: Reading = Reading(), *, indices: Tensor | None = None
) -> tuple[Extraction, Extraction | None]:
    """Return the raw input and hand-made features, for which each sample is read once.

    Hand-made features are `None` where the modality has none of its own; see `Modality`.
    """
    input = source.input
    empty = input.prepare(torch.zeros(1, *input.shape))
    made = modality_of(input).handmade_features(empty, input)
    if made is None:
        return raw_features(source, reading, indices=indices), None
    network, on_cpu = _InputFeatures(input, handmade=True), replace(reading, device="cpu")
    both = extract_readable(network, source, on_cpu, indices=indices)
    raw, own = both.x.tensor_split([-made.shape[1]], dim=1) if len(both.x) else (both.x, both.x)
    return replace(both, x=raw), replace(both, x=own)


class _Reads(Dataset[tuple[int, Tensor | Unreadable]]):
    """`Source.read` over a list of indices; failures are returned instead of raised."""

    def __init__(self, source: Source, indices: Tensor) -> None:
        self.source, self.indices = source, indices

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, position: int) -> tuple[int, Tensor | Unreadable]:
        index = int(self.indices[position])
        try:
            return index, self.source.read(index)["x"]
        except Unreadable as bad:
            return index, bad


def read_batches(source: Source, indices: Tensor, reading: Reading) -> Iterator[ReadBatch]:
    """Yield indices, stored samples and what could not be read, in the order of `indices`."""
    if source.in_memory:
        for part in torch.split(indices, reading.batch_size):
            yield part, source.read_batch(part), []
    elif reading.kept is not None:
        yield from reading.kept.read(source, indices, reading)
    else:
        yield from _read_files(source, indices, reading)


def _read_files(source: Source, indices: Tensor, reading: Reading) -> Iterator[ReadBatch]:
    loader = read_in_workers(
        _Reads(source, indices),
        workers=reading.workers,
        collate=list,
        batch_size=reading.batch_size,
    )
    for items in loader:
        good = [(index, x) for index, x in items if isinstance(x, Tensor)]
        bad = [x for _, x in items if isinstance(x, Unreadable)]
        read = torch.stack([x for _, x in good]) if good else torch.empty(0)
        yield torch.tensor([index for index, _ in good], dtype=torch.int64), read, bad


def _averaged(encoder: Encoder, x: Tensor) -> Tensor:
    """Features `[B, D]`; of samples with clips or crops, `[B, V, *shape]`, the mean over them."""
    input = encoder.input
    if x.ndim == len(input.shape) + 1:
        return cast("Tensor", encoder(input.prepare(x)))
    every = cast("Tensor", encoder(input.prepare(x.flatten(0, 1))))
    return every.view(*x.shape[:2], -1).mean(dim=1)


def _union(extracted: list[_Batch]) -> Extraction:
    """Gather the batches of all ranks in the order of one process; a rank may have none."""
    # Gathered as objects, because batches have different numbers of rows where samples are
    # unreadable.
    every = zip_longest(*dist.gather_objects(extracted))
    batches = [batch for turn in every for batch in turn if batch is not None]
    return Extraction(
        torch.cat([x for x, _, _ in batches if x.numel()] or [torch.empty(0, 0)]),
        torch.cat([part for _, part, _ in batches] or [torch.empty(0, dtype=torch.int64)]),
        tuple(item for _, _, bad in batches for item in bad),
    )
