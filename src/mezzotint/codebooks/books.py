"""The state of learned books: codes, how often they are used, and how both change in a training step.

Everything is a buffer: nothing here has a gradient, and nothing is written except by `fit` and
`learn`. Draws are keyed by (seed, step), so a resumed run goes on to the bit. Ranks pool their sums
in one collective a step, decided by the processes that are there when it runs; what is drawn or
fitted does not depend on how vectors are split over ranks.

A step in which a vector is not finite changes no code on any rank: the books outlive an overflow of
mixed precision, and the loss, which is not finite then, tells the loop.

Shapes: B books (1 when levels share one), K codes, D width.

How a book follows its vectors: moving averages, and new places for codes that nothing uses.

Two rules. `count` keeps moving averages of the number and of the sum of each code's vectors, and
the code is their quotient (van den Oord et al. 2017, appendix A.1): a code that 3 vectors chose
moves less than one that 300 chose. `norm` moves every code that was chosen by a fixed share toward
the mean of the vectors that chose it, as BEiT-v2, BEATs and BRIDLE do. Either way a code that no
vector chose stays as it is, to the bit; so no smoothing of the counts is needed, which would pull
such codes to the origin.

A code is expired when its average count falls below a share of the mean of all codes. An absolute
count, as the field uses, resets whole books as soon as there are more codes than vectors. It is not
put on a vector of the batch, as the field does, but beside that vector's code, `1/√D` of the way to
it; see `kmeans.beside` for why. It starts with the count of an average code, and with the sum that
belongs to it; with its old state the next step would move it back.
"""

from dataclasses import dataclass
from typing import Any, Literal

import torch
import torch.distributed as td
from torch import Tensor, nn

from mezzotint import dist
from mezzotint.codebooks.gradient import unit
from mezzotint.codebooks.kmeans import RowSample, beside, kmeans, nearest, need_rows, pool, tally
from mezzotint.recipe.component import Component
from mezzotint.seeding import Draws, key_of


class EMA(Component):
    """How codes follow the vectors that choose them.

    Args:
        rule: `count`, averages weighted by how many vectors chose a code, or `norm`, a fixed step
            to their mean.
        decay: weight of the past, from 0 to below 1.
        renormalize: keep the codes of length 1 where the vectors are (`cosine`, `bridle`); BRIDLE's
            source does not.
        expire_below: give a new place to codes used less than this share of the mean over codes; 0
            for never.
        expire_every: steps between two looks for such codes.
    """

    def __init__(
        self,
        *,
        rule: Literal["count", "norm"] = "count",
        decay: float = 0.99,
        renormalize: bool = True,
        expire_below: float = 0.1,
        expire_every: int = 20,
    ) -> None:
        if rule not in ("count", "norm"):
            raise ValueError(
                f"got rule={rule!r}; allowed are 'count' and 'norm': choose 'norm' to follow BEATs"
            )
        if not 0.0 <= decay < 1.0:
            raise ValueError(f"got decay={decay}; allowed is 0 to below 1: choose 0.99")
        if not 0.0 <= expire_below < 1.0:
            raise ValueError(
                f"got expire_below={expire_below}; allowed is 0 (never) to below 1, a share of the mean usage: "
                "choose 0.1"
            )
        if expire_every < 1:
            raise ValueError(
                f"got expire_every={expire_every}; allowed is 1 or more: expire_below=0 turns it off"
            )
        self.rule: Literal["count", "norm"] = rule
        self.decay = decay
        self.renormalize = renormalize
        self.expire_below = expire_below
        self.expire_every = expire_every

    def expires_at(self, step: int) -> bool:
        """Whether dead codes are looked for at the end of this step (counted from 1)."""
        return self.expire_below > 0.0 and step % self.expire_every == 0


Init = Literal["kmeans", "uniform_sphere", "data"]


@dataclass
class Tally:
    """What a training step gathers: sums and counts by code, and places for dead codes."""

    sums: Tensor
    counts: Tensor
    candidates: Tensor | None = None
    sample: RowSample | None = None


class Books(nn.Module):
    """B books of K codes.

    Args:
        num_books: B.
        num_codes: K.
        dim: D.
        directions: the vectors have length 1, and so have the codes (unless the averages may
            shorten them).
        init: how a book starts.
        ema: how it follows its vectors.
        seed: of all draws.
    """

    vectors: Tensor
    counts: Tensor
    sums: Tensor | None
    steps: Tensor
    ready: Tensor

    def __init__(
        self,
        num_books: int,
        num_codes: int,
        dim: int,
        *,
        directions: bool,
        init: Init,
        ema: EMA,
        seed: int,
    ) -> None:
        super().__init__()
        self.directions, self.init, self.ema, self.seed = directions, init, ema, seed
        self.on_sphere = directions and ema.renormalize
        self.register_buffer("vectors", torch.zeros(num_books, num_codes, dim))
        self.register_buffer("counts", torch.zeros(num_books, num_codes))
        self.register_buffer(
            "sums", torch.zeros(num_books, num_codes, dim) if ema.rule == "count" else None
        )
        self.register_buffer("steps", torch.zeros((), dtype=torch.int64))
        self.register_buffer("ready", torch.zeros((), dtype=torch.bool))
        self._steps: int | None = 0
        self._ready = False

    @property
    def num_codes(self) -> int:
        """K."""
        return self.vectors.shape[1]

    @property
    def is_ready(self) -> bool:
        """Whether the books have their first codes; read from the device once."""
        self._ready = self._ready or bool(self.ready)
        return self._ready

    def nearest(self, book: int, x_ND: Tensor) -> Tensor:
        """The nearest code of each vector, int64 `[N]`."""
        return nearest(x_ND, self.vectors[book], on_sphere=self.on_sphere)[0]

    @torch.no_grad()
    def fit(self, x_ND: Tensor, book: int, start: int, stop: int) -> Tensor:
        """Start codes from vectors of all ranks, which call it together.

        Args:
            x_ND: this rank's vectors.
            book: whose codes.
            start: first of them.
            stop: the one after the last.

        Returns:
            The codes, `[stop − start, D]`.

        Raises:
            ValueError: when there are fewer vectors than codes, and the start needs as many.
        """
        key, k = key_of(self.seed, "init", book, start), stop - start
        counts: Tensor | None = None
        if self.init == "kmeans":
            codes, counts = kmeans(x_ND, k, spherical=self.directions, key=key)
        elif self.init == "data":
            sample = RowSample(len(x_ND), k, key, x_ND.device)
            need_rows(sample.total, k)
            codes = sample.take(x_ND)
        else:
            draws = Draws(torch.arange(k, device=x_ND.device), key)
            codes = unit(draws.normal("sphere", x_ND.shape[1]))
            # Off the unit sphere: the radius with which the nearest directions leave least of the
            # vectors.
            score = nearest(x_ND, codes, on_sphere=True)[1]
            total = pool(torch.stack([score.sum(), score.new_tensor(float(len(score)))]))
            codes = (
                codes
                if self.directions
                else codes * (total[0] / total[1].clamp_min(1.0)).clamp_min(1e-6)
            )
        if counts is None:
            rows = pool(torch.tensor(float(len(x_ND)), device=x_ND.device))
            counts = (rows / k).expand(k)
        self.vectors[book, start:stop], self.counts[book, start:stop] = codes, counts
        if (
            self.sums is not None
        ):  # of what the codes are averages; with any other value the first step undoes them
            self.sums[book, start:stop] = codes * counts.unsqueeze(1)
        return codes

    @torch.no_grad()
    def start(self) -> None:
        """Declare the books ready, after `fit`: rank 0's are everybody's from here, and the count of steps begins."""
        self.steps.zero_()
        self.ready.fill_(True)
        self._steps, self._ready = 0, True
        if dist.world_size() > 1:
            for buffer in self.buffers():
                td.broadcast(buffer, src=0)

    def step_of(self) -> int:
        """How many steps the books have learned; read from the device once."""
        if self._steps is None:
            self._steps = int(self.steps)
        return self._steps

    def begin(self, rows: int) -> Tally:
        """What a step with so many rows on this rank fills with `add` and hands to `learn`."""
        shape = self.vectors.shape
        step, device = self.step_of() + 1, self.vectors.device
        filled = Tally(self.vectors.new_zeros(shape), self.vectors.new_zeros(shape[:2]))
        if self.ema.expires_at(step):
            filled.sample = RowSample(
                rows, self.num_codes, key_of(self.seed, "expire", step), device
            )
            filled.candidates = self.vectors.new_zeros(shape)
        return filled

    def add(
        self, filled: Tally, book: int, x_ND: Tensor, indices_N: Tensor, turn: slice = slice(None)
    ) -> None:
        """Count vectors and their codes.

        Args:
            filled: to add to.
            book: which the codes are of.
            x_ND: vectors.
            indices_N: their codes.
            turn: which of the rows drawn for expiry are taken from these vectors: all, or a share
                of each level.
        """
        tally(x_ND, indices_N, filled.sums[book], filled.counts[book])
        if filled.sample is not None and filled.candidates is not None:
            rows = filled.sample.take(x_ND)
            own = self.vectors[book][nearest(rows, self.vectors[book], on_sphere=self.on_sphere)[0]]
            filled.candidates[book, turn] = beside(own, rows)[turn]

    @torch.no_grad()
    def learn(self, filled: Tally) -> None:
        """Move the codes; all ranks call it together, also those without vectors."""
        both = pool(torch.cat([filled.sums, filled.counts.unsqueeze(2)], dim=2))
        new_sums, new_counts = both[..., :-1], both[..., -1]
        sound = both.isfinite().all() & (new_counts.sum() > 0)
        chosen = (new_counts > 0).unsqueeze(2)
        counts = self.counts.lerp(new_counts, 1.0 - self.ema.decay)
        sums = None if self.sums is None else self.sums.lerp(new_sums, 1.0 - self.ema.decay)
        if sums is not None:
            moved = sums / counts.clamp_min(1e-30).unsqueeze(2)
        else:
            means = new_sums / new_counts.clamp_min(1.0).unsqueeze(2)
            moved = self.vectors.lerp(
                unit(means) if self.directions else means, 1.0 - self.ema.decay
            )
        moved = unit(moved) if self.on_sphere else moved
        codes = torch.where(chosen, moved, self.vectors)
        if filled.sample is not None and filled.candidates is not None:
            codes, counts, sums = self._expire(
                codes, counts, sums, filled.candidates, filled.sample.found
            )
        torch.where(sound, codes, self.vectors, out=self.vectors)
        torch.where(sound, counts, self.counts, out=self.counts)
        if self.sums is not None and sums is not None:
            torch.where(sound, sums, self.sums, out=self.sums)
        self.steps += 1
        self._steps = self.step_of() + 1 if self._steps is None else self._steps + 1

    def _expire(
        self, codes: Tensor, counts: Tensor, sums: Tensor | None, candidates: Tensor, found: int
    ) -> tuple[Tensor, Tensor, Tensor | None]:
        """Move dead codes, the least used first, to these places, and reset what is remembered of them."""
        mean = counts.mean(1, keepdim=True)
        place = counts.argsort(dim=1, stable=True).argsort(dim=1)
        dead = (counts < self.ema.expire_below * mean) & (place < found)
        fresh = candidates.gather(1, place.unsqueeze(2).expand_as(candidates))
        fresh = unit(fresh) if self.on_sphere else fresh
        counts = torch.where(dead, mean, counts)
        dead = dead.unsqueeze(2)
        if sums is not None:
            sums = torch.where(dead, fresh * mean.unsqueeze(2), sums)
        return torch.where(dead, fresh, codes), counts, sums

    def checksum(self) -> Tensor:
        """int64 `[]` of all bits of the state: equal on ranks that hold the same books."""
        total = self.steps.clone()
        for buffer in (self.vectors, self.counts, self.sums):
            if buffer is not None:
                bits = buffer.flatten().view(torch.int32).long()
                weights = torch.arange(
                    1, 2 * len(bits), 2, device=bits.device
                )  # odd: no bit is lost in the product
                total = total * 31 + (bits * weights).sum()
        return total

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *rest: Any) -> None:
        stored = state_dict.get(f"{prefix}vectors")
        if stored is not None and stored.shape != self.vectors.shape:
            got, own = (
                "{} x {} codes of width {}".format(*v.shape) for v in (stored, self.vectors)
            )
            raise ValueError(
                f"got a checkpoint with books of {got}; allowed is {own}, as this codebook is made: "
                "construct it with the sizes of the checkpoint, or start it anew"
            )
        super()._load_from_state_dict(state_dict, prefix, *rest)
        self._steps, self._ready = None, False
