"""Randomized quantization: keep a few random levels of every channel, and call that another view of the sample.

Wu et al., "Randomized Quantization: A Generic Augmentation for Data Agnostic Self-supervised
Learning", ICCV 2023. The range of each channel of each sample is cut at random into bins, and every
number is replaced by one that was drawn inside its bin. What is lost is different each time, and
nothing in it knows whether the channel is a color, a coordinate or a feature.

A *row* is one channel of one sample: all numbers that share their index in dimension 0, the batch,
and in the dimension of the channels. Bins are half-open: a number equal to an edge belongs to the
bin on its right. NaN stays NaN; NaN and infinities do not count for the range, and infinities go to
the outermost bins. A row that is constant, or has no finite number, comes back as it is, and so
does a row of length one.

Differs from the paper's published code in that a number is looked up instead of tested against
every bin, so that memory does not grow with the bins; that no row leaves its range; that `p` is
drawn per sample, never per channel; and that any rank, layout and numeric type works.
`reference=True` gives the published numbers, draw for draw.
"""

import sys
from collections.abc import Callable, Sequence
from typing import Any, Literal, Self, overload

import numpy as np
import torch
from torch import Tensor, nn

from mezzotint.augment.randomized_quantization.levels import Levels
from mezzotint.augment.randomized_quantization.rows import checked_channel_dim, quantize_channels
from mezzotint.augment.transform import Params, Transform
from mezzotint.seeding import Draws

Bins = int | tuple[int, int]
Spacing = Literal["random", "uniform"]
Reproduction = Literal["random", "middle"]
Gradient = Literal["none", "ste"]

_PALETTES = ("1", "P", "PA")


def randomized_quantize(
    x: Tensor,
    bins: int | tuple[int, int] = 8,
    *,
    channel_dim: int = 1,
    spacing: Spacing = "random",
    reproduction: Reproduction = "random",
    p: float = 1.0,
    gradient: Gradient = "none",
    mask: Tensor | None = None,
    generator: torch.Generator | None = None,
    return_codes: bool = False,
    reference: bool = False,
) -> Tensor | tuple[Tensor, Tensor]:
    """Quantize every channel of every sample with random bins (Wu et al. 2023, section 3).

    Args:
        x: `[B, …]` of rank 2 or more; floating point, uint8, or signed integers. Half precision and
            integers are computed in float32 (int32 and int64 in float64: exact up to 2⁵³).
        bins: number of bins, at least 2; or `(low, high)`, both included, drawn for each sample.
        channel_dim: dimension of the channels; not 0, which is the batch.
        spacing: `random` draws the edges uniformly over the row's range, `uniform` spaces them
            evenly.
        reproduction: `random` draws the number that stands for a bin uniformly in it, `middle`
            takes its midpoint.
        p: probability that a sample is quantized; the others come back as they are.
        gradient: of quantized numbers: `none`, or `ste`, unchanged (straight-through), for learned
            embeddings. Numbers that `p` or `mask` left out always pass theirs.
        mask: bool, of the rank of `x` and broadcastable to it: true where a number is real. The
            others (padding) do not count for the range and come back as they are.
        generator: source of the draws; the default is torch's own for the device of `x`.
        return_codes: also return the index of each number's bin, uint8, or int32 for more than 256
            bins; also for numbers that were left as they are.
        reference: let the last bin end at max + 1e-6, as the authors' code does. With float32 and
            the same random state the result equals that code's, bit for bit.

    Returns:
        The quantized tensor, with shape, dtype and memory format of `x`; with `return_codes` also
        the codes.

    Raises:
        TypeError: for a dtype or mask that is not supported.
        ValueError: for an argument out of its range.
    """
    _check(bins, spacing, reproduction, p, gradient)
    channels = x.shape[checked_channel_dim(x, channel_dim)]

    def uniform(_: str, *shape: int) -> Tensor:
        device = x.device if generator is None else generator.device
        return torch.rand((len(x), *shape), generator=generator, device=device).to(x.device)

    params = _fractions(uniform, channels, bins, spacing, reproduction, p)
    y, codes = quantize_channels(
        x,
        _levels(params, bins, channels, reference),
        channel_dim=channel_dim,
        applied=params.get("applied"),
        mask=mask,
        straight_through=gradient == "ste",
        return_codes=return_codes,
    )
    return y if codes is None else (y, codes)


class RandomizedQuantization(nn.Module, Transform):
    """`randomized_quantize` where it is needed: in a model, among our transforms, in a torchvision pipeline.

    * In a `forward`: `module(x)` and `module(x, mask=mask)` for a batch. It acts in training mode
      only, unless `always` is set, and draws from torch's own generator, like dropout.
    * As a `Transform`: `module(x, draws)`, or `draw` and `apply`; keyed draws, one row of fractions
      a sample.
    * In `torchvision.transforms.v2.Compose`: `module(image)` for a single image, a tensor `[C, H,
      W]` of 1, 3 or 4 channels or a PIL image, before or after conversion to a tensor.

    A tensor of rank 3 that does not look like an image is ambiguous, and refused unless
    `channel_dim` is given.

    Args:
        bins: number of bins, at least 2; or `(low, high)`, both included, drawn for each sample.
        spacing: how the edges of the bins are placed.
        reproduction: which value of its bin stands for it.
        p: probability that a sample is quantized.
        gradient: what the gradient through quantized values is; `ste` on learned embeddings.
        channel_dim: dimension of the channels in a batch; 0 if the input is a single sample,
            channels first; None: 1 in a batch, and a tensor of rank 3 is an image.
        always: act in evaluation mode too.
        reference: end the last bin at max + 1e-6, as the authors' published code does.
    """

    def __init__(
        self,
        *,
        bins: int | tuple[int, int] = 8,
        spacing: Spacing = "random",
        reproduction: Reproduction = "random",
        p: float = 1.0,
        gradient: Gradient = "none",
        channel_dim: int | None = None,
        always: bool = False,
        reference: bool = False,
    ) -> None:
        super().__init__()
        bins = tuple(bins) if isinstance(bins, list) else bins  # as a recipe read from YAML has it
        _check(bins, spacing, reproduction, p, gradient)
        self.bins = bins
        self.spacing: Spacing = spacing
        self.reproduction: Reproduction = reproduction
        self.p = p
        self.gradient: Gradient = gradient
        self.channel_dim = channel_dim
        self.always = always
        self.reference = reference

    def forward(self, x: Any, draws: Draws | None = None, *, mask: Tensor | None = None) -> Any:
        """Quantize a batch, a single image, or, with `draws`, a batch as a `Transform`."""
        if draws is not None:
            if not isinstance(draws, Draws):
                raise TypeError(
                    f"got {type(draws).__name__} as the second input; allowed: mezzotint.seeding.Draws; "
                    "in a pipeline that passes labels too, apply this transform to the image alone"
                )
            return self.apply(x, self.draw(x.shape, draws))
        if not (self.training or self.always):
            return x
        if not isinstance(x, Tensor):
            return _on_picture(x, self._on_sample)
        if self.channel_dim == 0:
            return self._on_sample(x)
        if self.channel_dim is None and x.ndim == 3 and mask is None:
            if x.shape[0] not in (1, 3, 4):
                raise ValueError(
                    f"got a tensor of shape {tuple(x.shape)}; allowed without channel_dim: an image of 1, 3 or 4 "
                    "channels, or a batch of rank 2 or from 4; give channel_dim=1 for a batch, 0 for a single sample"
                )
            return self._on_sample(x)
        return self._on_batch(x, self._batch_channel_dim, mask)

    def draw(self, shape: Sequence[int], draws: Draws) -> Params:
        """Fractions for a batch `[B, …]` with C channels; see `Levels`."""
        channels = shape[self._batch_channel_dim]
        return _fractions(
            draws.uniform, channels, self.bins, self.spacing, self.reproduction, self.p
        )

    @overload
    def apply(self, x: Callable[[nn.Module], None], params: None = None) -> Self: ...
    @overload
    def apply(self, x: Tensor, params: Params, mask: Tensor | None = None) -> Tensor: ...
    def apply(self, x: Any, params: Params | None = None, mask: Tensor | None = None) -> Any:
        """Apply drawn fractions, to what `mask` says is no padding; see `randomized_quantize`.

        A lone function is `nn.Module.apply`'s, as when a model initializes its parts.
        """
        if params is None:
            return super().apply(x)
        channel_dim = self._batch_channel_dim
        y, _ = quantize_channels(
            x,
            _levels(params, self.bins, x.shape[channel_dim], self.reference),
            channel_dim=channel_dim,
            applied=params.get("applied"),
            mask=mask,
            straight_through=self.gradient == "ste",
        )
        return y

    def extra_repr(self) -> str:
        """The arguments, for `print(model)`."""
        return ", ".join(
            f"{name}={value!r}" for name, value in self.config.items() if name != "kind"
        )

    @property
    def _batch_channel_dim(self) -> int:
        return self.channel_dim or 1

    def _on_batch(self, x: Tensor, channel_dim: int, mask: Tensor | None = None) -> Tensor:
        y = randomized_quantize(
            x,
            self.bins,
            channel_dim=channel_dim,
            spacing=self.spacing,
            reproduction=self.reproduction,
            p=self.p,
            gradient=self.gradient,
            mask=mask,
            reference=self.reference,
        )
        assert isinstance(y, Tensor)
        return y

    def _on_sample(self, x: Tensor) -> Tensor:
        """A single sample, channels first. Subclasses of tensors, as torchvision has them, are kept."""
        y = self._on_batch(x.as_subclass(Tensor).unsqueeze(0), 1).squeeze(0)
        return y if isinstance(x, nn.Parameter) else y.as_subclass(type(x))


def _on_picture(picture: Any, quantize: Callable[[Tensor], Tensor]) -> Any:
    """Quantize the bands of a PIL image. Whoever has such an image has imported PIL, so we need not."""
    pil = sys.modules.get("PIL.Image")
    if pil is None or not isinstance(picture, pil.Image):
        raise TypeError(
            f"got {type(picture).__name__}; allowed: a tensor or a PIL image; convert it first"
        )
    if picture.mode in _PALETTES:
        raise ValueError(
            f"got a PIL image of mode {picture.mode!r}, whose numbers are not intensities; "
            "allowed: modes such as L, RGB and F; use image.convert('RGB') first"
        )
    bands = np.stack([np.asarray(band) for band in picture.split()])
    wide = (
        bands.astype(np.int32) if bands.dtype == np.uint16 else bands
    )  # torch computes little in uint16
    changed = quantize(torch.from_numpy(wide)).numpy().astype(bands.dtype)
    images = [pil.fromarray(band) for band in changed]
    return images[0] if len(images) == 1 else pil.merge(picture.mode, images)


def _fractions(
    uniform: Callable[..., Tensor],
    channels: int,
    bins: Bins,
    spacing: str,
    reproduction: str,
    p: float,
) -> Params:
    """Draw what `Levels` needs and who is quantized, in the order of the published code, and no more than it.

    Args:
        uniform: takes a name and a shape, gives uniform numbers of that shape for each sample.
        channels: C.
        bins: a number or both ends of a range.
        spacing: of the edges.
        reproduction: of the values.
        p: probability of quantizing a sample.
    """
    low, high = _ends(bins)
    params: Params = {}
    if spacing == "random":
        params["edges"] = uniform("edges", channels, high - 1)
    if reproduction == "random":
        params["values"] = uniform("values", channels, high)
    if p != 1:
        params["applied"] = uniform("applied") < p
    if low != high:
        params["bins"] = low + (uniform("bins") * (high - low + 1)).long()
    return params


def _levels(params: Params, bins: Bins, channels: int, reference: bool) -> Levels:
    """One row of levels for each channel of each sample."""
    edges, values, counts = params.get("edges"), params.get("values"), params.get("bins")
    return Levels(
        _ends(bins)[1],
        None if edges is None else edges.flatten(0, 1),
        None if values is None else values.flatten(0, 1),
        None
        if counts is None
        else counts.repeat_interleave(channels, output_size=len(counts) * channels),
        reference,
    )


def _check(bins: object, spacing: str, reproduction: str, p: float, gradient: str) -> None:
    """Refuse arguments that mean nothing."""
    ends = bins if isinstance(bins, (tuple, list)) else (bins, bins)
    if (
        len(ends) != 2
        or not all(isinstance(end, int) for end in ends)
        or not 2 <= ends[0] <= ends[1]
    ):
        raise ValueError(
            f"got bins={bins!r}; allowed: an integer of at least 2, or (low, high); give 8 if unsure"
        )
    for name, value, allowed in (
        ("spacing", spacing, ("random", "uniform")),
        ("reproduction", reproduction, ("random", "middle")),
        ("gradient", gradient, ("none", "ste")),
    ):
        if value not in allowed:
            raise ValueError(
                f"got {name}={value!r}; allowed: {' or '.join(allowed)}; choose one of them"
            )
    if not 0 <= p <= 1:
        raise ValueError(
            f"got p={p}; allowed: a probability from 0 to 1; give 1 to quantize every sample"
        )


def _ends(bins: Bins) -> tuple[int, int]:
    return bins if isinstance(bins, tuple) else (bins, bins)
