"""Randomness as a function: every draw is computed from a key, and no generator is ever kept or saved.

A key is 64 bits, made by hashing names and integers (the seed, the epoch, the view, the transform).
A draw hashes the key with each sample's id and a counter, so a sample sees the same augmentation
whatever batch, worker, rank or resumed run it appears in. The mixer is `lowbias32` (Ettinger and
Wellons, hash-prospector, public domain), applied twice over the two halves of the key;
`tests/test_seeding.py` checks its uniformity and independence.

It runs on the device of the ids with plain integer arithmetic, and gives the same bits on every
device.
"""

import hashlib
import math
from dataclasses import dataclass

import torch
from torch import Tensor

_MASK = 0xFFFFFFFF


def key_of(*parts: int | str) -> int:
    """Hash names and integers to a 63-bit key."""
    text = "\x1f".join(f"{type(part).__name__}:{part}" for part in parts)
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "little") >> 1


def _mix(h: Tensor) -> Tensor:
    """`lowbias32` on int64 tensors that hold 32-bit values; products wrap, and the mask keeps their low half."""
    h = h ^ (h >> 16)
    h = (h * 0x7FEB352D) & _MASK
    h = h ^ (h >> 15)
    h = (h * 0x846CA68B) & _MASK
    return h ^ (h >> 16)


@dataclass(frozen=True)
class Draws:
    """Keyed random numbers for a batch.

    Attributes:
        ids: int64 `[B]`, the samples' ids, on the device where the numbers are wanted.
        key: what all draws of this object share; see `key_of`.
    """

    ids: Tensor
    key: int

    def fold(self, *parts: int | str) -> "Draws":
        """The draws of a sub-stream, independent of this one's and of its other sub-streams."""
        return Draws(self.ids, key_of(self.key, *parts))

    def bits(self, name: str, *shape: int) -> Tensor:
        """Random 32-bit integers, int64 `[B, *shape]`."""
        key = key_of(self.key, name)
        count = math.prod(shape)
        ids = self.ids.unsqueeze(1)
        rows = _mix(_mix((ids & _MASK) ^ (key & _MASK)) ^ ((ids >> 32) & _MASK) ^ (key >> 32))
        counter = torch.arange(count, device=self.ids.device).unsqueeze(0) * 0x9E3779B9 & _MASK
        return _mix(_mix(rows ^ counter) ^ (key & _MASK)).view(-1, *shape)

    def uniform(self, name: str, *shape: int, low: float = 0.0, high: float = 1.0) -> Tensor:
        """Uniform on `[low, high)`, float32 `[B, *shape]`, with 24 random bits each."""
        unit = (self.bits(name, *shape) >> 8).to(torch.float32) * 2.0**-24
        return unit if (low, high) == (0.0, 1.0) else unit.mul_(high - low).add_(low)

    def integers(self, name: str, *shape: int, low: int = 0, high: int) -> Tensor:
        """Uniform integers of `low … high − 1`, int64 `[B, *shape]`."""
        return low + ((self.bits(name, *shape) * (high - low)) >> 32)

    def chance(self, name: str, p: float) -> Tensor:
        """Bernoulli: bool `[B]`, true with probability `p` (exactly always for 1, exactly never for 0)."""
        return self.uniform(name) < p

    def normal(self, name: str, *shape: int) -> Tensor:
        """Standard normal by Box and Muller, float32 `[B, *shape]`."""
        radius = (1.0 - self.uniform(f"{name}.radius", *shape)).log().mul(-2.0).sqrt()
        return radius * (self.uniform(f"{name}.angle", *shape) * (2.0 * math.pi)).cos()

    def permutation(self, name: str, n: int) -> Tensor:
        """A uniform permutation of `0 … n − 1` per sample, int64 `[B, n]`."""
        return self.bits(name, n).argsort(dim=1)

    def generator(self, name: str) -> torch.Generator:
        """A CPU generator seeded with the key alone, for what is drawn once for the whole batch."""
        return torch.Generator().manual_seed(key_of(self.key, name))


def sample_order(length: int, seed: int, epoch: int) -> Tensor:
    """The order in which an epoch visits a data set: an int64 permutation of `0 … length − 1`, a pure function."""
    return (
        Draws(torch.arange(length), key_of(seed, epoch, "order")).bits("order").argsort(stable=True)
    )


def weighted_order(
    weights: Tensor, count: int, seed: int, epoch: int, *, replacement: bool
) -> Tensor:
    """Samples of an epoch, each drawn in proportion to the weights: int64 `[count]`, a pure function.

    Without replacement each is drawn from those that are left, all at once by keys that race: the
    one of weight `w` has an exponential waiting time of rate `w` (Efraimidis and Spirakis 2006,
    "Weighted random sampling with a reservoir").

    Args:
        weights: float64 `[N]`, 0 or more; `count` of them above 0 where nothing is replaced, else
            one.
        count: how many are drawn.
        seed: of the run.
        epoch: from 0.
        replacement: whether the same sample can be drawn again.
    """
    draws = Draws(
        torch.arange(count if replacement else len(weights)), key_of(seed, epoch, "weighted order")
    )
    unit = (draws.bits("order").double() + 0.5) * 2.0**-32  # neither 0 nor 1
    if not replacement:
        return (-unit.log() / weights).argsort(stable=True)[:count]
    upto = weights.cumsum(0)
    return torch.searchsorted(upto, unit * upto[-1], right=True)
