"""Randomized quantization: reduce every channel to a few random levels, as a view of the sample.

Wu et al., "Randomized Quantization: A Generic Augmentation for Data Agnostic Self-supervised
Learning", ICCV 2023. The range of each channel of each sample is cut at random into bins, and every
number is replaced by a random value in its bin. Each view loses other details, and the method fits
any modality: a channel can be a color, a coordinate or a feature.

A *row* is one channel of one sample: all numbers with the same index in dimension 0, the batch, and
in the dimension of the channels. Bins are half-open: a number equal to an edge belongs to the bin
on its right. NaN stays NaN; NaN and infinities do not count for the range, and infinities go to the
outermost bins. A row that is constant, has no finite number, or has length one stays unchanged.

Differs from the paper's published code: numbers are looked up instead of compared with every bin,
so memory does not grow with the number of bins; no row leaves its range; `p` is drawn per sample,
never per channel; any rank, layout and numeric type works. `reference=True` gives the published
numbers, draw for draw.
"""

import sys
from collections.abc import Callable, Sequence
from typing import Any, Literal, Self, overload

import numpy as np
import torch
from torch import Tensor, nn

from mezzotint.augment.randomized_quantization.levels import Levels
from mezzotint.augment.randomized_quantization.rows import checked_channel_dim, quantize_channels
from mezzotint.augment.transform import Params, Transform, chance
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
        x: batch `[B, …]` of rank 2 or more; floating point, uint8, or signed integers. Half
            precision and integers are computed in float32 (int32 and int64 in float64, exact up to
            2⁵³).
        bins: number of bins, at least 2; or `(low, high)`, both included, drawn for each sample.
        channel_dim: dimension of the channels; not 0, which is the batch.
        spacing: `random` draws the edges uniformly over the row's range, `uniform` spaces them
            evenly.
        reproduction: `random` draws the value of a bin uniformly in it, `middle` takes its
            midpoint.
        p: probability that a sample is quantized.
        gradient: gradient of quantized numbers: `none`, or `ste` (straight-through) for learned
            embeddings. Numbers that `p` or `mask` exclude always pass their gradient.
        mask: valid mask, bool, of the rank of `x` and broadcastable to it. The other numbers
            (padding) do not count for the range and stay unchanged.
        generator: source of the draws; the default is torch's own for the device of `x`.
        return_codes: also return the index of each number's bin, uint8, or int32 for more than 256
            bins; unchanged numbers have one too.
        reference: end the last bin at max + 1e-6, as in the authors' code. With float32 and the
            same random state the results are equal, bit for bit.

    Returns:
        The quantized tensor, with shape, dtype and memory format of `x`; with `return_codes` also
        the codes.

    Raises:
        TypeError: for a dtype or mask that is not supported.
        ValueError: for an argument out of its range.
    """
    _check(bins, spacing, reproduction, p, gradient)
    channels = x.shape[checked_channel_dim(x.shape, channel_dim)]

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


class RandomizedQuantization(nn.Module, Transform, positional="bins"):
    """Quantize channels at random, in a model, as a transform, or in a torchvision pipeline.

    * In a `forward`: `module(x)` and `module(x, mask=mask)` for a batch. It acts in training mode
      only, unless `always` is set, and draws from torch's own generator, like dropout.
    * As a `Transform`: `module(x, draws)`, or `draw` and `apply`; keyed draws, one row of fractions
      per sample.
    * In `torchvision.transforms.v2.Compose`: `module(image)` for a single image, a tensor `[C, H,
      W]` of 1, 3 or 4 channels or a PIL image, before or after conversion to a tensor.

    A tensor of rank 3 with another number of channels is ambiguous, and refused unless
    `channel_dim` is set.

    Args:
        bins: number of bins, at least 2; or `(low, high)`, both included, drawn for each sample.
        spacing: spacing of the edges: `random` or `uniform`.
        reproduction: value of a bin: `random` in the bin, or its `middle`.
        p: probability that a sample is quantized.
        gradient: gradient through quantized values: `none`, or `ste` for learned embeddings.
        channel_dim: dimension of the channels in a batch, any whole number that is one; 0 for a
            single sample, channels first; None for 1 in a batch, with tensors of rank 3 as images.
        always: act in evaluation mode too.
        reference: end the last bin at max + 1e-6, as in the authors' code.
    """

    scaled = {"p": chance}

    def __init__(
        self,
        bins: int | tuple[int, int] = 8,
        *,
        spacing: Spacing = "random",
        reproduction: Reproduction = "random",
        p: float = 1.0,
        gradient: Gradient = "none",
        channel_dim: int | None = None,
        always: bool = False,
        reference: bool = False,
    ) -> None:
        super().__init__()
        bins = tuple(bins) if isinstance(bins, list) else bins  # YAML has lists, no tuples
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
                    "The second input must be mezzotint.seeding.Draws, got "
                    f"{type(draws).__name__}. In a pipeline with labels, apply this transform to "
                    "the image only."
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
                    "Without `channel_dim` the input must be an image of 1, 3 or 4 channels, or a "
                    f"batch of rank 2, 4 or more, got shape {tuple(x.shape)}. "
                    "Set channel_dim=1 for a batch, 0 for a single sample."
                )
            return self._on_sample(x)
        return self._on_batch(x, self._batch_channel_dim, mask)

    def draw(self, shape: Sequence[int], draws: Draws) -> Params:
        """Draw the fractions for a batch `[B, …]` with C channels; see `Levels`."""
        channels = shape[checked_channel_dim(shape, self._batch_channel_dim)]
        return _fractions(
            draws.uniform, channels, self.bins, self.spacing, self.reproduction, self.p
        )

    @overload
    def apply(self, x: Callable[[nn.Module], None], params: None = None) -> Self: ...
    @overload
    def apply(self, x: Tensor, params: Params, mask: Tensor | None = None) -> Tensor: ...
    def apply(self, x: Any, params: Params | None = None, mask: Tensor | None = None) -> Any:
        """Apply drawn fractions to the values that `mask` marks as valid.

        With a function as the only argument this is `nn.Module.apply`, by which a model
        initializes its submodules.
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
        """Return the arguments, for `print(model)`."""
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
        """Quantize a single sample, channels first; torchvision's tensor subclasses are kept."""
        y = self._on_batch(x.as_subclass(Tensor).unsqueeze(0), 1).squeeze(0)
        return y if isinstance(x, nn.Parameter) else y.as_subclass(type(x))


def _on_picture(picture: Any, quantize: Callable[[Tensor], Tensor]) -> Any:
    """Quantize the bands of a PIL image."""
    # Not imported here: a caller who has a PIL image has imported PIL.
    pil = sys.modules.get("PIL.Image")
    if pil is None or not isinstance(picture, pil.Image):
        raise TypeError(
            f"The input must be a tensor or a PIL image, got {type(picture).__name__}. "
            "Convert it first."
        )
    if picture.mode in _PALETTES:
        raise ValueError(
            "A PIL image must have a mode with intensities, such as L, RGB or F, "
            f"got {picture.mode!r}. Use image.convert('RGB') first."
        )
    bands = np.stack([np.asarray(band) for band in picture.split()])
    # Torch supports few operations in uint16.
    wide = bands.astype(np.int32) if bands.dtype == np.uint16 else bands
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
    """Draw the fractions of `Levels` and the samples to quantize, in the published code's order.

    Args:
        uniform: function of a name and a shape; returns uniform numbers of this shape per sample.
        channels: number of channels C.
        bins: number of bins, or both ends of a range.
        spacing: spacing of the edges.
        reproduction: values of the bins.
        p: probability that a sample is quantized.
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
    """Return one row of levels for each channel of each sample."""
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
    """Refuse arguments out of their range."""
    ends = bins if isinstance(bins, (tuple, list)) else (bins, bins)
    if (
        len(ends) != 2
        or not all(isinstance(end, int) for end in ends)
        or not 2 <= ends[0] <= ends[1]
    ):
        raise ValueError(
            "`bins` must be an integer of at least 2, or (low, high) with 2 <= low <= high, "
            f"got {bins!r}. Try 8."
        )
    for name, value, choices in (
        ("spacing", spacing, ("random", "uniform")),
        ("reproduction", reproduction, ("random", "middle")),
        ("gradient", gradient, ("none", "ste")),
    ):
        if value not in choices:
            raise ValueError(
                f"`{name}` must be {' or '.join(choices)}, got {value!r}. Try {choices[0]}."
            )
    if not 0 <= p <= 1:
        raise ValueError(
            f"`p` must be a probability of 0 to 1, got {p}. Use 1 to quantize every sample."
        )


def _ends(bins: Bins) -> tuple[int, int]:
    return bins if isinstance(bins, tuple) else (bins, bins)
