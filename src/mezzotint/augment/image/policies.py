"""Augmentation policies: what is done to a view after its crop and flip.

A policy is a sequence of transforms, or a choice among policies. Published policies have names, so
that a recipe can say `policy: {kind: simclr}`. Their order is the one of the papers' code: jitter,
grayscale, blur, solarize. With `blur_p: 0` they are the versions for small images.
"""

from collections.abc import Sequence
from typing import ClassVar

import torch
from torch import Tensor

from mezzotint.augment.image.blur import GaussianBlur
from mezzotint.augment.image.color import ColorJitter, Grayscale
from mezzotint.augment.image.geometry import probability
from mezzotint.augment.image.tone import ChannelDropout, GainOffset, GaussianNoise, Solarize
from mezzotint.augment.transform import (
    IMAGES,
    SPECTROGRAMS,
    BatchLayout,
    Compose,
    Params,
    Transform,
    params_of,
    to_device_of,
)
from mezzotint.recipe.component import factory
from mezzotint.seeding import Draws


class Policy(Compose):
    """Apply transforms one after the other to a view, after its crop and flip.

    Args:
        transforms: transforms in order, each with its own draws.
    """

    layouts: ClassVar[tuple[BatchLayout, ...]] = (IMAGES, SPECTROGRAMS)

    def __init__(self, *, transforms: list[Transform]) -> None:
        super().__init__(transforms=transforms)

    def check(self, shape: Sequence[int]) -> None:
        super().check(shape)
        for transform in self.transforms:
            transform.check(shape)


class Chain(Policy):
    """Apply any transforms in order; policies count as transforms.

    Args:
        transforms: transforms in order, such as `rand_augment`, then `random_erasing`.
    """

    def __init__(self, *, transforms: list[Transform]) -> None:
        super().__init__(transforms=transforms)


class Choice(Policy):
    """Apply one of several policies to each sample, drawn uniformly.

    Args:
        policies: policies to choose from.
    """

    decisions = frozenset({"policy"})

    def __init__(self, *, policies: list[Policy]) -> None:
        if not policies:
            raise ValueError(
                "`policies` must have one entry or more, got none. Try [{kind: simclr}]."
            )
        super().__init__(transforms=list(policies))

    def draw(self, shape: Sequence[int], draws: Draws) -> Params:
        """Draw `policy`, int64 `[B]`, and the parameters of each policy under `index.kind.name`.

        Parameters are drawn for the samples that chose the policy; the other rows are zero.
        """
        choice = draws.integers("policy", high=len(self.transforms))
        params: Params = {"policy": choice}
        for index, (name, policy) in enumerate(zip(self.names(), self.transforms, strict=True)):
            rows = (choice == index).nonzero().squeeze(1)
            own = Draws(draws.ids[rows], draws.key).fold(name)
            for key, value in policy.draw((len(rows), *shape[1:]), own).items():
                full = value.new_zeros(len(choice), *value.shape[1:])
                params[f"{name}.{key}"] = full.index_copy_(0, rows, value)
        return params

    def apply(self, x: Tensor, params: Params) -> Tensor:
        parts, order = [], []
        for index, (name, policy) in enumerate(zip(self.names(), self.transforms, strict=True)):
            rows = (params["policy"] == index).nonzero().squeeze(1)
            if len(rows):
                own = {k: v[to_device_of(v, rows)] for k, v in params_of(params, name).items()}
                part = x if len(rows) == len(x) else x.index_select(0, to_device_of(x, rows))
                parts.append(policy.apply(part, own))
                order.append(rows)
        if len(parts) < 2:
            return parts[0] if parts else x
        return torch.cat(parts).index_select(0, to_device_of(x, torch.cat(order).argsort()))


@factory
def simclr(
    *,
    strength: float = 1.0,
    jitter_p: float = 0.8,
    gray_p: float = 0.2,
    blur_p: float = 0.5,
    blur_kernel: int | None = None,
) -> Policy:
    """Augment as SimCLR does (Chen et al. 2020, appendix A): strong jitter, grayscale, blur.

    Args:
        strength: factor of the jitter's (0.8, 0.8, 0.8, 0.2); 1 on ImageNet, 0.5 on CIFAR-10.
        jitter_p: probability that colors are jittered.
        gray_p: probability that an image turns gray.
        blur_p: probability that an image is blurred, with sigma 0.1 to 2 pixels; 0 on CIFAR-10.
        blur_kernel: width of the blur's kernel in pixels; `None` for a tenth of the image.
    """
    if not 0.0 <= strength <= 2.5:
        raise ValueError(
            f"`strength` must be 0 to 2.5, got {strength}. At 2.5 the hue turns by half the circle."
        )
    jitter = (0.8 * strength, 0.8 * strength, 0.8 * strength, 0.2 * strength)
    return _published(jitter, jitter_p, gray_p, blur_p, blur_kernel)


@factory
def mocov1(*, jitter_p: float = 1.0, gray_p: float = 0.2) -> Policy:
    """Augment as MoCo v1 does (He et al. 2019): grayscale, then a jitter of strength 0.4.

    Args:
        jitter_p: probability that colors are jittered.
        gray_p: probability that an image turns gray.
    """
    _probabilities(jitter_p=jitter_p, gray_p=gray_p)
    jitter = ColorJitter(brightness=0.4, contrast=0.4, saturation=0.4, hue=0.4, p=jitter_p)
    return Policy(transforms=[Grayscale(p=gray_p), jitter])


@factory
def mocov2(
    *,
    jitter_p: float = 0.8,
    gray_p: float = 0.2,
    blur_p: float = 0.5,
    blur_kernel: int | None = None,
) -> Policy:
    """Augment as MoCo v2 (Chen et al. 2020), SimSiam and SSQL do: jitter (0.4, 0.4, 0.4, 0.1).

    Args:
        jitter_p: probability that colors are jittered.
        gray_p: probability that an image turns gray.
        blur_p: probability that an image is blurred; 0 for SimSiam and SSQL on CIFAR.
        blur_kernel: width of the blur's kernel in pixels; `None` for a tenth of the image.
    """
    return _published((0.4, 0.4, 0.4, 0.1), jitter_p, gray_p, blur_p, blur_kernel)


@factory
def byol(
    *,
    blur_p: float = 1.0,
    solarize_p: float = 0.0,
    jitter_p: float = 0.8,
    gray_p: float = 0.2,
    blur_kernel: int | None = None,
) -> Policy:
    """Augment as BYOL (Grill et al. 2020, appendix B) and MoCo v3 do: jitter, blur, solarize.

    The jitter is (0.4, 0.4, 0.2, 0.1). The two views differ: the defaults are for the first, the
    second has `blur_p=0.1, solarize_p=0.2`.

    Args:
        blur_p: probability that an image is blurred.
        solarize_p: probability that an image is solarized, at half the range.
        jitter_p: probability that colors are jittered.
        gray_p: probability that an image turns gray.
        blur_kernel: width of the blur's kernel in pixels; `None` for a tenth of the image.
    """
    return _published((0.4, 0.4, 0.2, 0.1), jitter_p, gray_p, blur_p, blur_kernel, solarize_p)


@factory
def three_augment(*, jitter: float = 0.3, sigma: tuple[float, float] = (0.1, 2.0)) -> Policy:
    """Augment as DeiT III does (3-Augment, arXiv 2204.07118): gray, solarize or blur; then jitter.

    Every image gets one of the three, drawn uniformly. The jitter does not change the hue.

    Args:
        jitter: strength of brightness, contrast and saturation.
        sigma: range of the blur's standard deviation in pixels.
    """
    if jitter < 0.0:
        raise ValueError(f"`jitter` must be 0 or more, got {jitter}. Try 0.3.")
    three = [Grayscale(p=1.0), Solarize(p=1.0), GaussianBlur(sigma=sigma, p=1.0)]
    choice = Choice(policies=[Policy(transforms=[transform]) for transform in three])
    colors = ColorJitter(brightness=jitter, contrast=jitter, saturation=jitter, hue=0.0, p=1.0)
    return Policy(transforms=[choice, colors])


@factory
def native(
    *,
    strength: float = 1.0,
    gain_p: float = 0.8,
    noise_p: float = 0.3,
    blur_p: float = 0.5,
    dropout: float = 0.1,
    blur_kernel: int | None = None,
) -> Policy:
    """Augment images of any channels and bits: gain and offset, noise, blur, channel dropout.

    It has no color, and no step that reduces values to 256 levels. With randomized quantization in
    the view, it is the counterpart of SimCLR's policy for images that are not 8-bit RGB.

    Args:
        strength: factor of gain and offset, which are 0.4, and of the noise, which is up to 0.2
            standard deviations.
        gain_p: probability that gain and offset of the channels are changed.
        noise_p: probability that noise is added.
        blur_p: probability that an image is blurred, with sigma 0.1 to 2 pixels.
        dropout: probability that a channel is replaced by its mean; at least one is kept.
        blur_kernel: width of the blur's kernel in pixels; `None` for a tenth of the image.
    """
    if not strength >= 0.0:
        raise ValueError(f"`strength` must be 0 or more, got {strength}. Try 1.")
    _probabilities(gain_p=gain_p, noise_p=noise_p, blur_p=blur_p, dropout=dropout)
    return Policy(
        transforms=[
            GainOffset(gain=0.4 * strength, offset=0.4 * strength, p=gain_p),
            GaussianBlur(kernel=blur_kernel, p=blur_p),
            GaussianNoise(std=(0.0, 0.2 * strength), p=noise_p),
            ChannelDropout(p=dropout),
        ]
    )


@factory
def identity() -> Policy:
    """Change nothing after crop and flip, for randomized quantization as the only tone change."""
    return Policy(transforms=[])


def _probabilities(**values: float) -> None:
    """Check probabilities by the names of their keys, before a transform names its own."""
    for name, p in values.items():
        probability(p, name)


def _published(
    jitter: tuple[float, float, float, float],
    jitter_p: float,
    gray_p: float,
    blur_p: float,
    blur_kernel: int | None,
    solarize_p: float = 0.0,
) -> Policy:
    """Compose jitter, grayscale, blur and solarize.

    Transforms with probability 0 stay in the list, because the index keys the draws.
    """
    _probabilities(jitter_p=jitter_p, gray_p=gray_p, blur_p=blur_p, solarize_p=solarize_p)
    brightness, contrast, saturation, hue = jitter
    return Policy(
        transforms=[
            ColorJitter(
                brightness=brightness, contrast=contrast, saturation=saturation, hue=hue, p=jitter_p
            ),
            Grayscale(p=gray_p),
            GaussianBlur(kernel=blur_kernel, p=blur_p),
            Solarize(p=solarize_p),
        ]
    )
