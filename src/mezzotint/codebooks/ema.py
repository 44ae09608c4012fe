"""Learned codebooks: codes that follow their vectors by exponential moving averages (EMA).

Two rules. `count` keeps moving averages of the number and of the sum of each code's vectors, and
the code is their quotient (van den Oord et al. 2017, appendix A.1): a code chosen by 3 vectors
moves less than one chosen by 300. `norm` moves every chosen code by a fixed fraction toward the
mean of its vectors, as in BEiT-v2, BEATs and BRIDLE. With both rules a code that no vector chose
does not change, bit for bit; so the counts need no smoothing, which would pull such codes to the
origin.

A code expires when its average count falls below a fraction of the mean count of all codes. An
absolute threshold, as in other libraries, resets the whole codebook when there are more codes than
vectors. An expired code does not move onto a vector of the batch, as in other libraries, but from
this vector's code `1/√D` of the way to the vector; see `kmeans.split_toward` for the reason. It
starts with the count of an average code, and the sum that corresponds to it; with its old state the
next step would move it back.

All state is in buffers: nothing has a gradient, and only `fit` and `learn` write. Draws are keyed
by (seed, step), so a resumed run continues bit for bit. Ranks pool their sums in one collective per
step; draws and fits do not depend on how vectors are split over ranks. A step with a vector that is
not finite changes no code on any rank: the codebook survives an overflow of mixed precision, and
the loss, which is not finite, reports it to the training loop.

Shapes: B codebooks (1 when levels share one), K codes, D dimensions.
"""

from dataclasses import dataclass
from typing import Any, Literal

import torch
import torch.distributed as td
from torch import Tensor, nn

from mezzotint import dist
from mezzotint.codebooks.gradient import unit
from mezzotint.codebooks.kmeans import (
    RowSample,
    accumulate,
    kmeans,
    nearest,
    need_rows,
    pool,
    split_toward,
)
from mezzotint.recipe.component import Component
from mezzotint.seeding import Draws, key_of


class EMA(Component):
    """Update codes by moving averages of their vectors.

    Args:
        rule: `count`, averages weighted by the number of vectors of a code, or `norm`, a fixed step
            toward their mean.
        decay: weight of the past, 0 or more and below 1.
        renormalize: keep codes at length 1 if vectors have length 1 (`cosine`, `bridle`); BRIDLE's
            source does not.
        expire_below: replace codes used less than this fraction of the mean usage; 0 for never.
        expire_every: number of steps between two searches for such codes.
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
                f"`rule` must be count or norm, got {rule!r}. Try count, or norm as in BEATs."
            )
        if not 0.0 <= decay < 1.0:
            raise ValueError(f"`decay` must be 0 or more and below 1, got {decay}. Try 0.99.")
        if not 0.0 <= expire_below < 1.0:
            raise ValueError(
                "`expire_below` must be 0 (never) or a fraction of the mean usage below 1, "
                f"got {expire_below}. Try 0.1."
            )
        if expire_every < 1:
            raise ValueError(
                f"`expire_every` must be 1 or more, got {expire_every}. "
                "Set `expire_below: 0` to turn expiry off."
            )
        self.rule: Literal["count", "norm"] = rule
        self.decay = decay
        self.renormalize = renormalize
        self.expire_below = expire_below
        self.expire_every = expire_every

    def expires_at(self, step: int) -> bool:
        """Return whether unused codes are replaced at the end of this step (counted from 1)."""
        return self.expire_below > 0.0 and step % self.expire_every == 0


Init = Literal["kmeans", "uniform_sphere", "data", "uniform"]


@dataclass
class StepSums:
    """Sums of a training step: of vectors and counts by code, with candidates for expired codes."""

    sums: Tensor
    counts: Tensor
    candidates: Tensor | None = None
    sample: RowSample | None = None


class EMACodes(nn.Module):
    """The codes of B codebooks, and the averages that move them.

    Args:
        num_codebooks: number of codebooks B.
        num_codes: number of codes K of each.
        dim: dimensions D of a code.
        directions: whether the vectors have length 1; the codes have too, unless the averages may
            shorten them.
        init: initialization of the codes; a number is the upper end of a uniform one.
        ema: rule and decay of the averages.
        seed: seed of all draws.
    """

    vectors: Tensor
    counts: Tensor
    sums: Tensor | None
    steps: Tensor
    ready: Tensor

    def __init__(
        self,
        num_codebooks: int,
        num_codes: int,
        dim: int,
        *,
        directions: bool,
        init: Init | float,
        ema: EMA,
        seed: int,
    ) -> None:
        super().__init__()
        self.directions, self.init, self.ema, self.seed = directions, init, ema, seed
        self.on_sphere = directions and ema.renormalize
        self.register_buffer("vectors", torch.zeros(num_codebooks, num_codes, dim))
        self.register_buffer("counts", torch.zeros(num_codebooks, num_codes))
        self.register_buffer(
            "sums", torch.zeros(num_codebooks, num_codes, dim) if ema.rule == "count" else None
        )
        self.register_buffer("steps", torch.zeros((), dtype=torch.int64))
        self.register_buffer("ready", torch.zeros((), dtype=torch.bool))
        self._steps: int | None = 0
        self._ready = False

    @property
    def num_codes(self) -> int:
        """Number of codes K of each codebook."""
        return self.vectors.shape[1]

    @property
    def is_ready(self) -> bool:
        """Whether the codes are initialized; read from the device once."""
        self._ready = self._ready or bool(self.ready)
        return self._ready

    def nearest(self, codebook: int, x_ND: Tensor) -> Tensor:
        """Return the nearest code of each vector, int64 `[N]`."""
        return nearest(x_ND, self.vectors[codebook], on_sphere=self.on_sphere)[0]

    @torch.no_grad()
    def fit(self, x_ND: Tensor, codebook: int, start: int, stop: int) -> Tensor:
        """Initialize codes from the vectors of all ranks; all ranks call it together.

        Args:
            x_ND: this rank's vectors.
            codebook: index of the codebook.
            start: first code to initialize.
            stop: end of the range of codes.

        Returns:
            The codes, `[stop − start, D]`.

        Raises:
            ValueError: when there are fewer vectors than codes, and `init` needs as many.
        """
        key, k = key_of(self.seed, "init", codebook, start), stop - start
        counts: Tensor | None = None
        if self.init == "kmeans":
            codes, counts = kmeans(x_ND, k, spherical=self.directions, key=key)
        elif self.init == "data":
            sample = RowSample(len(x_ND), k, key, x_ND.device)
            need_rows(sample.total, k)
            codes = sample.take(x_ND)
        elif self.init == "uniform_sphere":
            codes = self._on_sphere(x_ND, k, key)
        else:
            end = 1.0 if self.init == "uniform" else float(self.init)
            draws = Draws(torch.arange(k, device=x_ND.device), key)
            codes = draws.uniform("uniform", x_ND.shape[1], high=end)
            codes = unit(codes) if self.on_sphere else codes
        if counts is None:
            rows = pool(torch.tensor(float(len(x_ND)), device=x_ND.device))
            counts = (rows / k).expand(k)
        self.vectors[codebook, start:stop], self.counts[codebook, start:stop] = codes, counts
        if self.sums is not None:
            # The codes are averages of these sums; other values would undo the initialization in
            # the first step.
            self.sums[codebook, start:stop] = codes * counts.unsqueeze(1)
        return codes

    def _on_sphere(self, x_ND: Tensor, k: int, key: int) -> Tensor:
        """Draw directions; where vectors have lengths, of the best length.

        That is the radius at which the nearest directions leave the smallest residual.
        """
        codes = unit(
            Draws(torch.arange(k, device=x_ND.device), key).normal("sphere", x_ND.shape[1])
        )
        score = nearest(x_ND, codes, on_sphere=True)[1]
        total = pool(torch.stack([score.sum(), score.new_tensor(float(len(score)))]))
        if self.directions:
            return codes
        return codes * (total[0] / total[1].clamp_min(1.0)).clamp_min(1e-6)

    @torch.no_grad()
    def start(self) -> None:
        """Mark fitted codes as initialized; copy rank 0's to all ranks, and reset the step."""
        self.steps.zero_()
        self.ready.fill_(True)
        self._steps, self._ready = 0, True
        if dist.world_size() > 1:
            for buffer in self.buffers():
                td.broadcast(buffer, src=0)

    def step_of(self) -> int:
        """Return the number of training steps so far; read from the device once."""
        if self._steps is None:
            self._steps = int(self.steps)
        return self._steps

    def begin(self, rows: int) -> StepSums:
        """Return empty sums for a step with this number of rows; `add` fills them for `learn`."""
        shape = self.vectors.shape
        step, device = self.step_of() + 1, self.vectors.device
        step_sums = StepSums(self.vectors.new_zeros(shape), self.vectors.new_zeros(shape[:2]))
        if self.ema.expires_at(step):
            step_sums.sample = RowSample(
                rows, self.num_codes, key_of(self.seed, "expire", step), device
            )
            step_sums.candidates = self.vectors.new_zeros(shape)
        return step_sums

    def add(
        self,
        step_sums: StepSums,
        codebook: int,
        x_ND: Tensor,
        indices_N: Tensor,
        part: slice = slice(None),
    ) -> None:
        """Add vectors to the sums of their codes.

        Args:
            step_sums: sums of the step.
            codebook: index of the codebook.
            x_ND: vectors.
            indices_N: codes of the vectors.
            part: rows drawn for expiry that these vectors provide: all, or every S-th of a codebook
                that S levels share.
        """
        accumulate(x_ND, indices_N, step_sums.sums[codebook], step_sums.counts[codebook])
        if step_sums.sample is not None and step_sums.candidates is not None:
            rows = step_sums.sample.take(x_ND)
            vectors = self.vectors[codebook]
            own = vectors[nearest(rows, vectors, on_sphere=self.on_sphere)[0]]
            step_sums.candidates[codebook, part] = split_toward(own, rows)[part]

    @torch.no_grad()
    def learn(self, step_sums: StepSums) -> None:
        """Move the codes; all ranks call it together, with or without vectors."""
        both = pool(torch.cat([step_sums.sums, step_sums.counts.unsqueeze(2)], dim=2))
        new_sums, new_counts = both[..., :-1], both[..., -1]
        valid = both.isfinite().all() & (new_counts.sum() > 0)
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
        if step_sums.sample is not None and step_sums.candidates is not None:
            codes, counts, sums = self._expire(
                codes, counts, sums, step_sums.candidates, step_sums.sample.drawn
            )
        torch.where(valid, codes, self.vectors, out=self.vectors)
        torch.where(valid, counts, self.counts, out=self.counts)
        if self.sums is not None and sums is not None:
            torch.where(valid, sums, self.sums, out=self.sums)
        self.steps += 1
        self._steps = self.step_of() + 1 if self._steps is None else self._steps + 1

    def _expire(
        self, codes: Tensor, counts: Tensor, sums: Tensor | None, candidates: Tensor, drawn: int
    ) -> tuple[Tensor, Tensor, Tensor | None]:
        """Replace expired codes, the least used first, by candidates, and reset their averages."""
        mean = counts.mean(1, keepdim=True)
        rank = counts.argsort(dim=1, stable=True).argsort(dim=1)
        expired = (counts < self.ema.expire_below * mean) & (rank < drawn)
        fresh = candidates.gather(1, rank.unsqueeze(2).expand_as(candidates))
        fresh = unit(fresh) if self.on_sphere else fresh
        counts = torch.where(expired, mean, counts)
        expired = expired.unsqueeze(2)
        if sums is not None:
            sums = torch.where(expired, fresh * mean.unsqueeze(2), sums)
        return torch.where(expired, fresh, codes), counts, sums

    def checksum(self) -> Tensor:
        """Return a checksum of all bits of the state, int64 `[]`: equal states have equal ones."""
        total = self.steps.clone()
        for buffer in (self.vectors, self.counts, self.sums):
            if buffer is not None:
                bits = buffer.flatten().view(torch.int32).long()
                # Odd weights, so that the product loses no bit.
                weights = torch.arange(1, 2 * len(bits), 2, device=bits.device)
                total = total * 31 + (bits * weights).sum()
        return total

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *rest: Any) -> None:
        stored = state_dict.get(f"{prefix}vectors")
        if stored is not None and stored.shape != self.vectors.shape:
            got, own = ("{} x {} codes of dim {}".format(*v.shape) for v in (stored, self.vectors))
            raise ValueError(
                f"The checkpoint must have {own}, as this codebook has, got {got}. "
                "Construct the codebook with the sizes of the checkpoint, or initialize it again."
            )
        super()._load_from_state_dict(state_dict, prefix, *rest)
        self._steps, self._ready = None, False
