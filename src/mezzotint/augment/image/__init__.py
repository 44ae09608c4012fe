"""Transforms, augmentation policies and views of images."""

from typing import TYPE_CHECKING

from mezzotint._lazy import lazy_names

if TYPE_CHECKING:
    from mezzotint.augment.image.aug_mix import AugMix as AugMix
    from mezzotint.augment.image.auto_augment import AutoAugment as AutoAugment
    from mezzotint.augment.image.auto_augment import FastAutoAugment as FastAutoAugment
    from mezzotint.augment.image.blur import GaussianBlur as GaussianBlur
    from mezzotint.augment.image.color import ColorJitter as ColorJitter
    from mezzotint.augment.image.color import Grayscale as Grayscale
    from mezzotint.augment.image.geometry import HorizontalFlip as HorizontalFlip
    from mezzotint.augment.image.geometry import Normalize as Normalize
    from mezzotint.augment.image.geometry import RandomResizedCrop as RandomResizedCrop
    from mezzotint.augment.image.multi_augment import MultiAugment as MultiAugment
    from mezzotint.augment.image.policies import Chain as Chain
    from mezzotint.augment.image.policies import Choice as Choice
    from mezzotint.augment.image.policies import byol as byol
    from mezzotint.augment.image.policies import identity as identity
    from mezzotint.augment.image.policies import mocov1 as mocov1
    from mezzotint.augment.image.policies import mocov2 as mocov2
    from mezzotint.augment.image.policies import native as native
    from mezzotint.augment.image.policies import simclr as simclr
    from mezzotint.augment.image.policies import three_augment as three_augment
    from mezzotint.augment.image.rand_augment import RandAugment as RandAugment
    from mezzotint.augment.image.rand_augment import TrivialAugment as TrivialAugment
    from mezzotint.augment.image.tone import ChannelDropout as ChannelDropout
    from mezzotint.augment.image.tone import Equalize as Equalize
    from mezzotint.augment.image.tone import GainOffset as GainOffset
    from mezzotint.augment.image.tone import GaussianNoise as GaussianNoise
    from mezzotint.augment.image.tone import Posterize as Posterize
    from mezzotint.augment.image.tone import Solarize as Solarize
    from mezzotint.augment.image.views import MultiCrop as MultiCrop
    from mezzotint.augment.image.views import OneView as OneView
    from mezzotint.augment.image.views import TwoViews as TwoViews

__getattr__, __dir__ = lazy_names(__name__, __file__)
