"""Views of the input: transforms, policies and view generators."""

from typing import TYPE_CHECKING

from mezzotint._lazy import lazy_names

if TYPE_CHECKING:
    from mezzotint.augment.audio import Gain as Gain
    from mezzotint.augment.audio import LogMixup as LogMixup
    from mezzotint.augment.audio import RandomFrames as RandomFrames
    from mezzotint.augment.audio import RandomResizeCrop as RandomResizeCrop
    from mezzotint.augment.audio import SpecAugment as SpecAugment
    from mezzotint.augment.audio import TimeRoll as TimeRoll
    from mezzotint.augment.byol_a import BYOLA as BYOLA
    from mezzotint.augment.byol_a import LinearFader as LinearFader
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
    from mezzotint.augment.image_text import ImageAndText as ImageAndText
    from mezzotint.augment.masking import AxesMask as AxesMask
    from mezzotint.augment.masking import Mask as Mask
    from mezzotint.augment.masking import RandomMask as RandomMask
    from mezzotint.augment.masking import TubeMask as TubeMask
    from mezzotint.augment.mixing import DACLMixup as DACLMixup
    from mezzotint.augment.mixing import Mixing as Mixing
    from mezzotint.augment.points import PointCrop as PointCrop
    from mezzotint.augment.points import PointDrop as PointDrop
    from mezzotint.augment.points import PointJitter as PointJitter
    from mezzotint.augment.points import PointRotation as PointRotation
    from mezzotint.augment.points import PointScale as PointScale
    from mezzotint.augment.randomized_quantization.transform import (
        RandomizedQuantization as RandomizedQuantization,
    )
    from mezzotint.augment.series import AxisRotation as AxisRotation
    from mezzotint.augment.series import ChannelDrop as ChannelDrop
    from mezzotint.augment.series import SeriesCrop as SeriesCrop
    from mezzotint.augment.series import SeriesJitter as SeriesJitter
    from mezzotint.augment.series import SeriesScale as SeriesScale
    from mezzotint.augment.series import TimeWarp as TimeWarp
    from mezzotint.augment.table import FeatureDrop as FeatureDrop
    from mezzotint.augment.table import FeatureNoise as FeatureNoise
    from mezzotint.augment.table import FeatureQuantization as FeatureQuantization
    from mezzotint.augment.tokens import TokenCrop as TokenCrop
    from mezzotint.augment.tokens import TokenDrop as TokenDrop
    from mezzotint.augment.tokens import TokenMask as TokenMask
    from mezzotint.augment.tokens import TokenSwap as TokenSwap
    from mezzotint.augment.transform import Compose as Compose
    from mezzotint.augment.transform import Transform as Transform
    from mezzotint.augment.video import PerFrame as PerFrame
    from mezzotint.augment.video import RandomClip as RandomClip
    from mezzotint.augment.video import RandomErasing as RandomErasing
    from mezzotint.augment.views import CleanTarget as CleanTarget
    from mezzotint.augment.views import Transformed as Transformed
    from mezzotint.augment.views import ViewContext as ViewContext
    from mezzotint.augment.views import ViewGenerator as ViewGenerator

__getattr__, __dir__ = lazy_names(__name__, __file__)
