"""Views of BYOL for Audio (Niizumi et al. 2021, arXiv 2103.06695), optionally quantized at random.

Each sample is normalized, mixed with a small part of an earlier sample, cropped and resized, twice.
Then both views together are normalized by the statistics of their batch. Wu et al. (ICCV 2023)
replace the mixture by randomized quantization: `mixup: 0` and `randomized_quantization: {bins: 8,
channel_dim: 2}` for one quantizer per mel, or `channel_dim: 1` for one for the whole spectrogram;
the paper does not say which of the two it used. The second version (Niizumi et al. 2022, arXiv
2204.07402) mixes less and fades the crop in or out: `mixup: 0.2` and `fader: {gain: 1.0}`.

Differs from the published code: samples are normalized by the mean and standard deviation of the
data, which its running statistics approximate; the bank stores each sample once, not once per view;
it is on the device, whereas each loader worker of the published code has its own bank and empties
it every epoch. Partners are drawn by age, so a resumed run, which refills the bank with the views
of the last steps, mixes with the same samples. `bank: 0` mixes within the batch.

`LinearFader` is the batched `RandomLinearFader` of the second version (section III): a straight
line over time, added to log power.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from mezzotint.augment.audio import LogMixup, RandomFrames, RandomResizeCrop, log_mixup
from mezzotint.augment.randomized_quantization.transform import RandomizedQuantization
from mezzotint.augment.transform import SPECTROGRAMS, Params, Transform, to_device_of
from mezzotint.augment.views import ViewContext, ViewGenerator
from mezzotint.seeding import Draws
from mezzotint.timing import part
from mezzotint.types import Batch


class LinearFader(Transform):
    """Add a line over time to all mels, between random gains at the first and the last frame.

    Args:
        gain: both ends are uniform on [-gain, gain), in units of the values: standard deviations
            for normalized values, as in BYOL-A with 1.0, and nepers of power for logarithms.
    """

    layouts = (SPECTROGRAMS,)

    def __init__(self, *, gain: float = 1.0) -> None:
        if not gain > 0.0:
            raise ValueError(f"`gain` must be above 0, got {gain}. Try 1.0, as in BYOL-A.")
        self.gain = gain

    def draw(self, shape: Sequence[int], draws: Draws) -> Params:
        """Draw `head` and `tail`, `[B]`."""
        return {end: draws.uniform(end, low=-self.gain, high=self.gain) for end in ("head", "tail")}

    def apply(self, x: Tensor, params: Params) -> Tensor:
        head, tail = (params[end].to(x.dtype).view(-1, 1, 1, 1) for end in ("head", "tail"))
        position = torch.linspace(0.0, 1.0, x.shape[3], dtype=x.dtype, device=x.device)
        return x + torch.lerp(head, tail, position)


class BYOLA(ViewGenerator, kind="byol_a"):
    """Make two views of log-mel spectrograms as BYOL-A does.

    Args:
        frames: length of each view, cut out of longer samples at the same position for both views;
            null takes all frames.
        mixup: the earlier sample's fraction of the power is uniform on [0, mixup); 0 turns mixup
            off.
        bank: number of past samples to mix with; 0 mixes within the batch.
        crop: random resized crop of normalized values; null turns it off.
        fader: line over time that is added to the cropped view; null turns it off.
        randomized_quantization: quantization of the cropped view; null turns it off.
        batch_normalize: normalize both views by the mean and standard deviation of their batch.
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
        if not 0.0 <= mixup <= 1.0:
            raise ValueError(f"`mixup` must be 0 to 1, got {mixup}. Try 0.4, as in BYOL-A.")
        if bank < 0:
            raise ValueError(f"`bank` must be 0 or more, got {bank}. Try 2048, as in BYOL-A.")
        self.frames = RandomFrames(frames=frames) if frames is not None else None
        self.mixup = LogMixup(alpha=mixup) if mixup else None
        self.bank, self.crop, self.fader, self.quantize = bank, crop, fader, randomized_quantization
        self.batch_normalize = batch_normalize
        self._stored: Tensor | None = None
        self._next = 0

    @property
    def tags(self) -> tuple[str, ...]:
        return ("global", "global")

    @property
    def mixes_samples(self) -> bool:
        return self.mixup is not None or self.batch_normalize

    @property
    def memory_size(self) -> int:
        return self.bank if self.mixup is not None else 0

    def draw(self, ids: Tensor, context: ViewContext) -> list[dict[str, Params]]:
        """Draw the parameters of each view; `render` draws the partner from the bank's samples."""
        shape = (len(ids), *context.input.shape)
        cut = (
            {}
            if self.frames is None
            else {"frames": self.frames.draw(shape, context.draws(ids, "frames"))}
        )
        shape = shape if self.frames is None else self.frames.output_shape(shape)
        return [cut | self._draw(shape, context.draws(ids, view)) for view in range(2)]

    def _draw(self, shape: tuple[int, ...], draws: Draws) -> dict[str, Params]:
        return {name: step.draw(shape, draws.fold(name)) for name, step in self._steps.items()}

    @property
    def _steps(self) -> dict[str, Transform]:
        """The steps of a view, in order."""
        steps: dict[str, Transform | None] = {
            "mixup": self.mixup,
            "crop": self.crop,
            "fader": self.fader,
            "randomized_quantization": self.quantize,
        }
        return {name: step for name, step in steps.items() if step is not None}

    @torch.no_grad()
    def render(
        self,
        batch: Batch,
        context: ViewContext,
        *,
        device: torch.device | None = None,
        normalized: bool = True,
    ) -> tuple[Tensor, ...]:
        """Make both views.

        Raises:
            ValueError: when the loader has cropped the batch, or it does not hold spectrograms.
        """
        if batch.cropped or len(batch.x) != 1 or batch.x[0].ndim != 4:
            shapes = [list(x.shape) for x in batch.x]
            raise ValueError(
                f"`views` byol_a takes whole spectrograms [B, 1, mels, frames], got {shapes}. "
                "Choose audio data."
            )
        input = context.input
        stored = batch.x[0] if device is None else batch.x[0].to(device, non_blocking=True)
        x = input.as_float(stored)
        if self.frames is not None:
            x = self.frames(
                x, Draws(to_device_of(x, batch.ids), context.draws(batch.ids, "frames").key)
            )
        x = input.normalize(x)
        bank = self._stored  # both views mix with earlier batches, never with this one
        views = []
        for index in range(2):
            draws = context.draws(batch.ids, index)
            with part("draw"):
                drawn = {
                    name: self._steps[name].to_device(params, x.device)
                    for name, params in self._draw(tuple(x.shape), draws).items()
                }
            view = x
            if self.mixup is not None:
                with part("mixup"):
                    view = self._mixed(x, bank, drawn["mixup"], draws)
            for name, change in self._steps.items():
                if name != "mixup":
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

    def _mixed(self, x: Tensor, bank: Tensor | None, params: Params, draws: Draws) -> Tensor:
        assert self.mixup is not None
        if not self.bank:
            return self.mixup.apply(x, params)
        if bank is None or bank.shape[1:] != x.shape[1:] or bank.device != x.device:
            return x
        # Counted back from the newest sample, so a refilled bank gives the same partners.
        rows = (self._next - 1 - draws.integers("bank", high=len(bank))) % len(bank)
        return log_mixup(x, bank.index_select(0, to_device_of(x, rows)), params["fraction"])

    def _remember(self, x: Tensor) -> None:
        """Append a batch to the bank; when the bank is full, replace its oldest samples."""
        x = x[-self.bank :]
        if (
            self._stored is None
            or self._stored.shape[1:] != x.shape[1:]
            or self._stored.device != x.device
        ):
            self._stored, self._next = x.clone(), len(x) % self.bank
            return
        if len(self._stored) < self.bank:
            self._stored = torch.cat([self._stored, x])[-self.bank :]
            self._next = len(self._stored) % self.bank
            return
        oldest = (self._next + torch.arange(len(x), device=x.device)) % self.bank
        self._stored.index_copy_(0, oldest, x)
        self._next = (self._next + len(x)) % self.bank


def _normalized(views: Tensor) -> Tensor:
    """Normalize by the mean and standard deviation of all values of all views."""
    centered = views - views.mean()
    # The norm of all values takes a fifth of the time of `std`, which reads them one by one.
    std = torch.linalg.vector_norm(centered) / max(1, views.numel() - 1) ** 0.5
    return centered.div_(std.clamp(min=torch.finfo(torch.float32).eps))
