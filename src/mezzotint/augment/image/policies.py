"""Augmentation policies as they were published, after the crop and the flip.

A policy is a sequence of transforms under a family of its own, so that a recipe can say `policy:
{kind: simclr}`. The order is that of the papers' code: jitter, grayscale, blur, solarise. Without
`blur_p` (0) they are the versions for small images.

What is done to a view after its crop and flip: transforms one after the other, or one of several
policies.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from mezzotint.augment.image.blur import GaussianBlur
from mezzotint.augment.image.color import ColorJitter, Grayscale
from mezzotint.augment.image.tone import Solarize
from mezzotint.augment.transform import Compose, Params, Transform
from mezzotint.recipe.component import factory
from mezzotint.seeding import Draws


class Policy(Compose):
    """Transforms one after the other, applied to a view after its crop and flip.

    Args:
        transforms: in order; parameters are drawn apart for each.
    """

    modalities = frozenset({"image", "audio"})

    def __init__(self, *, transforms: list[Transform]) -> None:
        super().__init__(transforms=transforms)


class Chain(Policy):
    """Any transforms in order, other policies among them.

    Args:
        transforms: such as `rand_augment`, then `random_erasing`.
    """

    def __init__(self, *, transforms: list[Transform]) -> None:
        super().__init__(transforms=transforms)


class Choice(Policy):
    """For each sample one of several policies, drawn uniformly.

    Args:
        policies: to choose from; the transforms of each are applied in order.
    """

    def __init__(self, *, policies: list[Policy]) -> None:
        if not policies:
            raise ValueError(
                "got no policies; allowed is one or more: give a list such as [{kind: simclr}]"
            )
        super().__init__(transforms=list(policies))

    def draw(self, shape: Sequence[int], draws: Draws) -> Params:
        """`policy`, int64 `[B]`, and the parameters of each policy under `place.kind.name`.

        They are drawn for the samples that chose it; the rows of the others are zero.
        """
        choice = draws.integers("policy", high=len(self.transforms))
        params: Params = {"policy": choice}
        for place, (name, policy) in enumerate(zip(self.names(), self.transforms, strict=True)):
            rows = (choice == place).nonzero().squeeze(1)
            own = Draws(draws.ids[rows], draws.key).fold(name)
            for key, value in policy.draw((len(rows), *shape[1:]), own).items():
                full = value.new_zeros(len(choice), *value.shape[1:])
                params[f"{name}.{key}"] = full.index_copy_(0, rows, value)
        return params

    def apply(self, x: Tensor, params: Params) -> Tensor:
        """Change each sample by the policy that it drew."""
        parts, order = [], []
        for place, (name, policy) in enumerate(zip(self.names(), self.transforms, strict=True)):
            rows = (params["policy"] == place).nonzero().squeeze(1)
            if len(rows):
                prefix = f"{name}."
                own = {
                    k.removeprefix(prefix): v[rows]
                    for k, v in params.items()
                    if k.startswith(prefix)
                }
                parts.append(
                    policy.apply(x if len(rows) == len(x) else x.index_select(0, rows), own)
                )
                order.append(rows)
        if len(parts) < 2:
            return parts[0] if parts else x
        return torch.cat(parts).index_select(0, torch.cat(order).argsort())


@factory
def simclr(
    *,
    strength: float = 1.0,
    jitter_p: float = 0.8,
    gray_p: float = 0.2,
    blur_p: float = 0.5,
    blur_kernel: int | None = None,
) -> Policy:
    """The policy of SimCLR (Chen et al. 2020, appendix A): strong jitter, grayscale, blur.

    Args:
        strength: of the jitter, which is (0.8, 0.8, 0.8, 0.2) times it; 1 on ImageNet, 0.5 on
            CIFAR-10.
        jitter_p: share of the images whose colors are jittered.
        gray_p: share of the images that turn gray.
        blur_p: share of the images that are blurred, with a sigma of 0.1 to 2 pixels; the paper has
            0 on CIFAR-10.
        blur_kernel: width in pixels; `None` for a tenth of the image.
    """
    jitter = (0.8 * strength, 0.8 * strength, 0.8 * strength, 0.2 * strength)
    return _published(jitter, jitter_p, gray_p, blur_p, blur_kernel)


@factory
def mocov1(*, jitter_p: float = 1.0, gray_p: float = 0.2) -> Policy:
    """The policy of MoCo v1 (He et al. 2019): grayscale, then a jitter of 0.4 in all four.

    Args:
        jitter_p: share of the images whose colors are jittered.
        gray_p: share of the images that turn gray.
    """
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
    """The policy of MoCo v2 (Chen et al. 2020), also of SimSiam and SSQL: a jitter of (0.4, 0.4, 0.4, 0.1).

    Args:
        jitter_p: share of the images whose colors are jittered.
        gray_p: share of the images that turn gray.
        blur_p: share of the images that are blurred; SimSiam and SSQL have 0 on CIFAR.
        blur_kernel: width in pixels; `None` for a tenth of the image.
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
    """The policy of BYOL (Grill et al. 2020, appendix B) and MoCo v3: a jitter of (0.4, 0.4, 0.2, 0.1), solarise.

    The two views differ: the first is as the defaults say, the second has `blur_p=0.1,
    solarize_p=0.2`.

    Args:
        blur_p: share of the images that are blurred.
        solarize_p: share of the images that are solarised at half the range.
        jitter_p: share of the images whose colors are jittered.
        gray_p: share of the images that turn gray.
        blur_kernel: width in pixels; `None` for a tenth of the image.
    """
    return _published((0.4, 0.4, 0.2, 0.1), jitter_p, gray_p, blur_p, blur_kernel, solarize_p)


@factory
def three_augment(*, jitter: float = 0.3, sigma: tuple[float, float] = (0.1, 2.0)) -> Policy:
    """3-Augment (DeiT III, Touvron et al. 2022, arXiv 2204.07118): gray, solarise or blur; then a jitter.

    Every image gets one of the three, drawn uniformly. The jitter leaves the hue alone.

    Args:
        jitter: of brightness, contrast and saturation.
        sigma: range of the blur's standard deviation in pixels.
    """
    three = [Grayscale(p=1.0), Solarize(p=1.0), GaussianBlur(sigma=sigma, p=1.0)]
    choice = Choice(policies=[Policy(transforms=[transform]) for transform in three])
    colors = ColorJitter(brightness=jitter, contrast=jitter, saturation=jitter, hue=0.0, p=1.0)
    return Policy(transforms=[choice, colors])


@factory
def identity() -> Policy:
    """Nothing after the crop and the flip: for randomized quantization as the only augmentation of the tones."""
    return Policy(transforms=[])


def _published(
    jitter: tuple[float, float, float, float],
    jitter_p: float,
    gray_p: float,
    blur_p: float,
    blur_kernel: int | None,
    solarize_p: float = 0.0,
) -> Policy:
    """Jitter, grayscale, blur, solarise; those with probability 0 stay in their place, so draws do not move."""
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
