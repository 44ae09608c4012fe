"""Frozen features: extracted once, then every probe works on them.

The encoder is in eval mode and under `inference_mode` while it is read, and is left as it was
found: neither its parameters nor its BatchNorm statistics can change, whatever mode the caller had
it in. With several processes each extracts a strided share and every rank gets all rows, in the
source's order, none twice: a sampler that pads the last batch with repeated samples, as
`DistributedSampler` does, would count some of them twice.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
import torch.distributed as td
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from mezzotint import dist
from mezzotint.data.source import Source
from mezzotint.encoders.encoder import Encoder
from mezzotint.modality.modality import modality_of
from mezzotint.quant.hooks import evaluating
from mezzotint.types import Input, Unreadable

Progress = Callable[[int, int], None]
"""Called with the number of samples done and their total, of this process."""


@dataclass(frozen=True)
class Extraction:
    """Features of the samples that could be read.

    Attributes:
        x: float32 `[M, D]`, on the CPU.
        indices: int64 `[M]`, the sample of each row, in the order that was asked for.
        bad: what could not be read.
    """

    x: Tensor
    indices: Tensor
    bad: tuple[Unreadable, ...] = ()


def extract_readable(
    encoder: Encoder,
    source: Source,
    *,
    indices: Tensor | None = None,
    batch_size: int = 256,
    workers: int = 0,
    device: torch.device | str | None = None,
    progress: Progress | None = None,
) -> Extraction:
    """Features of those samples that can be read.

    Args:
        encoder: in any mode; it is left in that mode.
        source: of uint8 samples of the shape `encoder.input` states.
        indices: int64 `[N]`, the samples wanted; all by default.
        batch_size: samples in one forward pass.
        workers: of the loader, for sources that are not in memory.
        device: where to compute; by default where the encoder is.
        progress: called after each batch.
    """
    here = next((p.device for p in encoder.parameters()), torch.device("cpu"))
    device = here if device is None else torch.device(device)

    def forward(x: Tensor) -> Tensor:
        features: Tensor = encoder(x)
        return features

    with evaluating(encoder):
        encoder.to(device)
        try:
            found = _read(
                source, forward, encoder.input, indices, batch_size, workers, device, progress
            )
        finally:
            encoder.to(here)
    return found


def extract(
    encoder: Encoder,
    source: Source,
    *,
    indices: Tensor | None = None,
    batch_size: int = 256,
    workers: int = 0,
    device: torch.device | str | None = None,
    progress: Progress | None = None,
) -> Tensor:
    """Features of samples that are all readable, one row for each, in order.

    Returns:
        float32 `[N, dim]` on the CPU.

    Raises:
        Unreadable: the first sample that cannot be read; `extract_readable` leaves such samples out
            instead.
    """
    found = extract_readable(
        encoder,
        source,
        indices=indices,
        batch_size=batch_size,
        workers=workers,
        device=device,
        progress=progress,
    )
    if found.bad:
        raise found.bad[0]
    return found.x


def raw_features(
    source: Source, *, indices: Tensor | None = None, batch_size: int = 256, workers: int = 0
) -> Extraction:
    """Return the input itself as features, as its modality defines them: the baseline to beat."""

    def forward(x: Tensor) -> Tensor:
        return modality_of(source.input).raw_features(x, source.input)

    return _read(
        source, forward, source.input, indices, batch_size, workers, torch.device("cpu"), None
    )


class InputNormalizer:
    """From stored values to what an encoder takes.

    Args:
        input: its mean and standard deviation.
        device: where to compute.
    """

    def __init__(self, input: Input, device: torch.device) -> None:
        self.input, self.device = input, device

    def __call__(self, x: Tensor) -> Tensor:
        """Stored samples `[B, …]` → what the encoder takes, on the device."""
        return self.input.normalize(self.input.as_float(x.to(self.device, non_blocking=True)))


class _Reads(Dataset[tuple[int, Tensor | Unreadable]]):
    """`Source.read` by place in a list of indices, with failures returned instead of raised."""

    def __init__(self, source: Source, indices: Tensor) -> None:
        self.source, self.indices = source, indices

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, place: int) -> tuple[int, Tensor | Unreadable]:
        index = int(self.indices[place])
        try:
            return index, self.source.read(index)["x"]
        except Unreadable as bad:
            return index, bad


def read_batches(
    source: Source, indices: Tensor, batch_size: int, workers: int
) -> Iterator[tuple[Tensor, Tensor, list[Unreadable]]]:
    """Indices, uint8 samples, and what could not be read, in the order of `indices`."""
    if source.in_memory:
        for part in torch.split(indices, batch_size):
            yield part, source.read_batch(part), []
        return
    loader = DataLoader(_Reads(source, indices), batch_size, num_workers=workers, collate_fn=list)
    for items in loader:
        good = [(index, x) for index, x in items if isinstance(x, Tensor)]
        bad = [x for _, x in items if isinstance(x, Unreadable)]
        read = torch.stack([x for _, x in good]) if good else torch.empty(0)
        yield torch.tensor([index for index, _ in good], dtype=torch.int64), read, bad


def _read(
    source: Source,
    forward: Callable[[Tensor], Tensor],
    input: Input,
    indices: Tensor | None,
    batch_size: int,
    workers: int,
    device: torch.device,
    progress: Progress | None,
) -> Extraction:
    """This rank's share, and then everyone's."""
    wanted = torch.arange(len(source)) if indices is None else indices
    share = wanted[dist.rank() :: dist.world_size()]
    normalize = InputNormalizer(input, device)
    kept: list[Tensor] = []
    features: list[Tensor] = []
    bad: list[Unreadable] = []
    done = 0
    for places, x, failed in read_batches(source, share, batch_size, workers):
        done += len(places) + len(failed)
        bad += failed
        if len(places):
            with torch.inference_mode():
                features.append(_averaged(forward, normalize, x).float().cpu())
            kept.append(places)
        if progress is not None:
            progress(done, len(share))
    own = (
        torch.cat(features) if features else torch.empty(0, 0),
        torch.cat(kept) if kept else torch.empty(0, dtype=torch.int64),
        tuple(bad),
    )
    return _union(own, wanted) if dist.world_size() > 1 else Extraction(*own)


def _averaged(forward: Callable[[Tensor], Tensor], normalize: InputNormalizer, x: Tensor) -> Tensor:
    """Features of samples, or of samples of several parts `[B, V, *shape]` their mean over the parts: `[B, D]`."""
    if x.ndim == len(normalize.input.shape) + 1:
        return forward(normalize(x))
    return forward(normalize(x.flatten(0, 1))).view(*x.shape[:2], -1).mean(dim=1)


def _union(own: tuple[Tensor, Tensor, tuple[Unreadable, ...]], wanted: Tensor) -> Extraction:
    """All ranks' rows, put back into the order of `wanted`; shares may be of any size, also empty."""
    shares: list[tuple[Tensor, Tensor, tuple[Unreadable, ...]]] = [own] * dist.world_size()
    td.all_gather_object(shares, own)
    x = torch.cat([features for features, _, _ in shares if features.numel()] or [own[0]])
    kept = torch.cat([indices for _, indices, _ in shares])
    place = torch.empty(int(wanted.max()) + 1 if len(wanted) else 0, dtype=torch.int64)
    place[wanted] = torch.arange(len(wanted))
    order = place[kept].argsort()
    return Extraction(x[order], kept[order], tuple(item for _, _, bad in shares for item in bad))
