"""Views of BYOL for Audio (Niizumi et al. 2021, arXiv 2103.06695), and their form with randomized quantization.

Each sample is normalized, mixed faintly with an earlier one, cropped and resized, twice; then both
views together are normalized by the statistics of their batch. Wu et al. (ICCV 2023) put randomized
quantization in the place of the mixture: `mixup: 0` and `randomized_quantization: {bins: 8,
channel_dim: 2}` for a quantizer a mel, or `channel_dim: 1` for one for the whole spectrogram; which
of the two they used is not published. The second version (Niizumi et al. 2022, arXiv 2204.07402)
mixes less and fades the crop in or out: `mixup: 0.2` and `fader: {gain: 1.0}`.

Differs from the published code: samples are normalized by the mean and deviation of the data, which
its running statistics approach; the bank holds each sample once, where there each view puts it in;
it lives on the device, where there each loader worker has its own and starts afresh each epoch.
Partners are drawn by age, so that a resumed run, which makes the views of the last steps again to
fill the bank, mixes with the same. `bank: 0` mixes within the batch.

Fading in and out: a straight line over time, added to the logarithm of power.

`RandomLinearFader` of BYOL-A's second version (Niizumi et al. 2022, arXiv 2204.07402, section III),
batched.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from mezzotint.augment.audio import LogMixup, RandomFrames, RandomResizeCrop, log_mixup
from mezzotint.augment.randomized_quantization.transform import RandomizedQuantization
from mezzotint.augment.transform import Params, Transform
from mezzotint.augment.views import ViewGenerator, view_draws
from mezzotint.seeding import Draws
from mezzotint.timing import part
from mezzotint.types import Batch, Input


class LinearFader(Transform):
    """Add a line that runs from one random gain at the first frame to another at the last, to all mels alike.

    Args:
        gain: both ends are uniform on [-gain, gain), in the units of the values: deviations where
            they are normalized, as BYOL-A's are with its 1.0, and nepers of power where they are
            logarithms.
    """

    modalities = frozenset({"audio"})

    def __init__(self, *, gain: float = 1.0) -> None:
        if not gain > 0.0:
            raise ValueError(f"got gain={gain}; allowed is more than 0: BYOL-A has 1.0")
        self.gain = gain

    def draw(self, shape: Sequence[int], draws: Draws) -> Params:
        """`head` and `tail`, `[B]`."""
        return {end: draws.uniform(end, low=-self.gain, high=self.gain) for end in ("head", "tail")}

    def apply(self, x: Tensor, params: Params) -> Tensor:
        """Fade."""
        head, tail = (params[end].to(x.dtype).view(-1, 1, 1, 1) for end in ("head", "tail"))
        share = torch.linspace(0.0, 1.0, x.shape[3], dtype=x.dtype, device=x.device)
        return x + torch.lerp(head, tail, share)


class BYOLA(ViewGenerator, kind="byol_a"):
    """Two views of log-mel spectrograms, as BYOL-A makes them.

    Args:
        frames: of each view, cut out of longer samples at a place that both views share; null takes
            all.
        mixup: the earlier sample's share of power is uniform on [0, mixup); 0 leaves the mixture
            out.
        bank: how many past samples to mix with; 0 mixes within the batch.
        crop: cuts and resizes, of normalized values; null leaves it out.
        fader: adds a line over time to the cropped view; null leaves it out.
        randomized_quantization: of the cropped view; null leaves it out.
        batch_normalize: normalize both views by the mean and deviation of their batch.
    """

    modalities = frozenset({"audio"})

    def __init__(
        self,
        *,
        frames: int | None = 96,
        mixup: float = 0.4,
        bank: int = 2048,
        crop: RandomResizeCrop | None = RandomResizeCrop(fill=0.0),  # noqa: B008 - keeps no state
        fader: LinearFader | None = None,
        randomized_quantization: RandomizedQuantization | None = None,
        batch_normalize: bool = True,
    ) -> None:
        if not 0.0 <= mixup <= 1.0 or bank < 0:
            raise ValueError(
                f"got mixup={mixup} and bank={bank}; allowed are a share from 0 to 1 and a number of samples of 0 or "
                "more: BYOL-A has 0.4 and 2048"
            )
        self.frames = RandomFrames(frames=frames) if frames is not None else None
        self.mixup = LogMixup(alpha=mixup) if mixup else None
        self.bank, self.crop, self.fader, self.quantize = bank, crop, fader, randomized_quantization
        self.batch_normalize = batch_normalize
        self._held: Tensor | None = None
        self._next = 0

    @property
    def tags(self) -> tuple[str, ...]:
        """Two global views."""
        return ("global", "global")

    @property
    def remembers(self) -> int:
        """The bank."""
        return self.bank if self.mixup is not None else 0

    def draw(self, ids: Tensor, *, input: Input, seed: int, epoch: int) -> list[dict[str, Params]]:
        """Parameters of each view by step; the partner is drawn among those that the bank holds when it is needed."""
        shape = (len(ids), *input.shape)
        cut = (
            {}
            if self.frames is None
            else {"frames": self.frames.draw(shape, view_draws(ids, seed, epoch, "frames"))}
        )
        shape = shape if self.frames is None else self.frames.output_shape(shape)
        return [cut | self._draw(shape, view_draws(ids, seed, epoch, place)) for place in range(2)]

    def _draw(self, shape: tuple[int, ...], draws: Draws) -> dict[str, Params]:
        steps = {
            "mixup": self.mixup,
            "crop": self.crop,
            "fader": self.fader,
            "randomized_quantization": self.quantize,
        }
        return {
            name: step.draw(shape, draws.fold(name))
            for name, step in steps.items()
            if step is not None
        }

    @torch.no_grad()
    def render(
        self,
        batch: Batch,
        *,
        input: Input,
        seed: int,
        epoch: int,
        device: torch.device | None = None,
        normalized: bool = True,
    ) -> tuple[Tensor, ...]:
        """Make both views.

        Raises:
            ValueError: when the batch was cropped by the loader, or does not hold spectrograms.
        """
        if batch.cropped or len(batch.x) != 1 or batch.x[0].ndim != 4:
            raise ValueError(
                "got something else than whole spectrograms [B, 1, mels, frames]; allowed are these: choose audio data"
            )
        stored = batch.x[0] if device is None else batch.x[0].to(device, non_blocking=True)
        x = input.as_float(stored)
        if self.frames is not None:
            x = self.frames(
                x, Draws(batch.ids.to(x.device), view_draws(batch.ids, seed, epoch, "frames").key)
            )
        x = input.normalize(x)
        held = self._held
        views = []
        for place in range(2):
            draws = view_draws(batch.ids, seed, epoch, place)
            with part("draw"):
                drawn = {
                    name: {key: value.to(x.device) for key, value in params.items()}
                    for name, params in self._draw(tuple(x.shape), draws).items()
                }
            view = x
            if self.mixup is not None:
                with part("mixup"):
                    view = self._mixed(x, held, drawn["mixup"], draws)
            changes = {
                "crop": self.crop,
                "fader": self.fader,
                "randomized_quantization": self.quantize,
            }
            for name, change in changes.items():
                if change is not None:
                    with part(name):
                        view = change.apply(view, drawn[name])
            views.append(view)
        if self.mixup is not None and self.bank:
            self._remember(x)
        if not normalized:
            return tuple(
                view * view.new_tensor(input.std) + view.new_tensor(input.mean) for view in views
            )
        return (
            tuple(_normalized(torch.stack(views)).unbind())
            if self.batch_normalize
            else tuple(views)
        )

    def _mixed(self, x: Tensor, held: Tensor | None, params: Params, draws: Draws) -> Tensor:
        assert self.mixup is not None
        if not self.bank:
            return self.mixup.apply(x, params)
        if held is None or held.shape[1:] != x.shape[1:] or held.device != x.device:
            return x
        rows = (self._next - 1 - draws.integers("bank", high=len(held)).to(x.device)) % len(held)
        return log_mixup(x, held.index_select(0, rows), params["share"])

    def _remember(self, x: Tensor) -> None:
        """Put a batch into the bank: added until it is full, then in the place of the oldest."""
        x = x[-self.bank :]
        if (
            self._held is None
            or self._held.shape[1:] != x.shape[1:]
            or self._held.device != x.device
        ):
            self._held, self._next = x.clone(), len(x) % self.bank
            return
        if len(self._held) < self.bank:
            self._held = torch.cat([self._held, x])[-self.bank :]
            self._next = len(self._held) % self.bank
            return
        places = (self._next + torch.arange(len(x), device=x.device)) % self.bank
        self._held.index_copy_(0, places, x)
        self._next = (self._next + len(x)) % self.bank


def _normalized(views: Tensor) -> Tensor:
    """By the mean and deviation of all values of all views, the deviation no less than an epsilon."""
    centered = views - views.mean()
    # The norm of all values takes a fifth of the time of `std`, which goes through them one by one.
    deviation = torch.linalg.vector_norm(centered) / max(1, views.numel() - 1) ** 0.5
    return centered.div_(deviation.clamp(min=torch.finfo(torch.float32).eps))
