"""Randomness as a function: every draw follows from a key, and no generator state is ever saved.

A key is 64 bits, a hash of names and integers (the seed, the epoch, the view, the transform). A
draw hashes the key with each sample's id and a counter, so a sample gets the same augmentation in
any batch, worker, rank or resumed run. The mixer is `lowbias32` (Ettinger and
Wellons, hash-prospector, public domain), applied twice over the two halves of the key;
`tests/test_seeding.py` checks its uniformity and independence.

It runs on the device of the ids with plain integer arithmetic, and gives the same bits on every
device.
"""

import functools
import hashlib
import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

_MASK = 0xFFFFFFFF
_AT_ONCE = 1 << 18
_BIN_BITS, _BINS = 16, 1 << 16  # of an order that is computed in parts


def key_of(*parts: int | str) -> int:
    """Hash names and integers to a 63-bit key."""
    text = "\x1f".join(f"{type(part).__name__}:{part}" for part in parts)
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "little") >> 1


def _mix(h: Tensor) -> Tensor:
    """Apply `lowbias32` to 32-bit values in int64; the mask keeps the low half of products."""
    h = h ^ (h >> 16)
    h = (h * 0x7FEB352D) & _MASK
    h = h ^ (h >> 15)
    h = (h * 0x846CA68B) & _MASK
    return h ^ (h >> 16)


@dataclass(frozen=True)
class Draws:
    """Keyed random numbers for a batch.

    Attributes:
        ids: int64 `[B]`, ids of the samples, on the device of the results.
        key: key of all draws of this object; see `key_of`.
    """

    ids: Tensor
    key: int

    def fold(self, *parts: int | str) -> "Draws":
        """Return the draws of a sub-stream, which is independent of all other streams."""
        return Draws(self.ids, key_of(self.key, *parts))

    def bits(self, name: str, *shape: int) -> Tensor:
        """Draw random 32-bit integers, int64 `[B, *shape]`."""
        key = key_of(self.key, name)
        count = math.prod(shape)
        ids = self.ids.unsqueeze(1)
        rows = _mix(_mix((ids & _MASK) ^ (key & _MASK)) ^ ((ids >> 32) & _MASK) ^ (key >> 32))
        counter = torch.arange(count, device=self.ids.device).unsqueeze(0) * 0x9E3779B9 & _MASK
        return _mix(_mix(rows ^ counter) ^ (key & _MASK)).view(-1, *shape)

    def uniform(self, name: str, *shape: int, low: float = 0.0, high: float = 1.0) -> Tensor:
        """Draw uniform numbers in `[low, high)`, float32 `[B, *shape]`, of 24 random bits each."""
        unit = (self.bits(name, *shape) >> 8).to(torch.float32) * 2.0**-24
        return unit if (low, high) == (0.0, 1.0) else unit.mul_(high - low).add_(low)

    def integers(self, name: str, *shape: int, low: int = 0, high: int) -> Tensor:
        """Draw uniform integers in `low … high − 1`, int64 `[B, *shape]`."""
        return low + ((self.bits(name, *shape) * (high - low)) >> 32)

    def chance(self, name: str, p: float) -> Tensor:
        """Draw bool `[B]`, true with probability `p`: always for 1, never for 0."""
        return self.uniform(name) < p

    def normal(self, name: str, *shape: int) -> Tensor:
        """Draw standard normal numbers by Box and Muller, float32 `[B, *shape]`."""
        radius = (1.0 - self.uniform(f"{name}.radius", *shape)).log().mul(-2.0).sqrt()
        return radius * (self.uniform(f"{name}.angle", *shape) * (2.0 * math.pi)).cos()

    def permutation(self, name: str, n: int) -> Tensor:
        """Draw a uniform permutation of `0 … n − 1` per sample, int64 `[B, n]`."""
        return self.bits(name, n).argsort(dim=1)

    def generator(self, name: str) -> torch.Generator:
        """Return a CPU generator that depends on the key only, for one draw for the whole batch."""
        return torch.Generator().manual_seed(key_of(self.key, name))


def sample_order(
    length: int, seed: int, epoch: int, *, start: int = 0, stop: int | None = None
) -> Tensor:
    """Return the order of samples in an epoch: an int64 permutation of `0 … length − 1`.

    A part of it takes the memory of the part alone, however many samples there are.

    Args:
        length: number of samples.
        seed: seed of the run.
        epoch: number of the epoch, from 0.
        start: first position of the part that is returned.
        stop: position after its last one; by default that of the whole order.
    """
    stop = length if stop is None else min(stop, length)
    key = key_of(seed, epoch, "order")
    first, last, before, count = 0, _BINS, 0, length
    if start >= stop:
        return torch.empty(0, dtype=torch.int64)
    if stop - start < length > _AT_ONCE:
        ends = _bin_ends(length, key)
        first, last = (int(torch.searchsorted(ends, n, right=True)) for n in (start, stop - 1))
        before = int(ends[first - 1]) if first else 0
        count = int(ends[last]) - before
    # Samples are sorted by 32 random bits, and by their index where these are equal.
    packed, filled = torch.empty(count, dtype=torch.int64), 0
    for ids, bits in _order_bits(length, key):
        chosen = ((bits - 2**31) << 32).bitwise_or_(ids)
        if count < length:
            bits >>= _BIN_BITS
            chosen = chosen[(bits >= first) & (bits <= last)]
        packed[filled : filled + len(chosen)] = chosen
        filled += len(chosen)
    packed.numpy().sort()  # in place, where torch would take three times the memory
    return packed.bitwise_and_(_MASK)[start - before : stop - before]


def _order_bits(length: int, key: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield samples and the random bits that they are sorted by, some at a time."""
    for start in range(0, length, _AT_ONCE):
        ids = torch.arange(start, min(start + _AT_ONCE, length))
        yield ids, Draws(ids, key).bits("order")


@functools.lru_cache(maxsize=4)
def _bin_ends(length: int, key: int) -> Tensor:
    """Count the samples up to the end of each bin of random bits: int64 `[_BINS]`."""
    counts = torch.zeros(_BINS, dtype=torch.int64)
    for _, bits in _order_bits(length, key):
        counts += torch.bincount(bits >> _BIN_BITS, minlength=_BINS)
    return counts.cumsum(0)


def weighted_order(
    weights: Tensor, count: int, seed: int, epoch: int, *, replacement: bool
) -> Tensor:
    """Draw the samples of an epoch in proportion to weights: int64 `[count]`.

    Without replacement, all samples are drawn at once: a sample of weight `w` has an exponential
    waiting time of rate `w`, and the earliest ones are chosen (Efraimidis and Spirakis 2006,
    "Weighted random sampling with a reservoir").

    Args:
        weights: float64 `[N]`, at least 0; at least `count` positive ones without replacement, at
            least one with replacement.
        count: number of samples to draw.
        seed: seed of the run.
        epoch: number of the epoch, from 0.
        replacement: whether a sample can be drawn again.
    """
    draws = Draws(
        torch.arange(count if replacement else len(weights)), key_of(seed, epoch, "weighted order")
    )
    unit = (draws.bits("order").double() + 0.5) * 2.0**-32  # neither 0 nor 1
    if not replacement:
        return (-unit.log() / weights).argsort(stable=True)[:count]
    upto = weights.cumsum(0)
    return torch.searchsorted(upto, unit * upto[-1], right=True)
