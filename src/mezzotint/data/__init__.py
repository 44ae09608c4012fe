"""Where samples come from, and how they reach the loop."""

from typing import TYPE_CHECKING

from mezzotint._lazy import lazy_names

if TYPE_CHECKING:
    from mezzotint.data.audio.benchmarks import AudioBenchmark as AudioBenchmark
    from mezzotint.data.audio.embedded import Speech as Speech
    from mezzotint.data.audio.folder import AudioFolder as AudioFolder
    from mezzotint.data.audio.shards import AudioShards as AudioShards
    from mezzotint.data.balance import Balance as Balance
    from mezzotint.data.detection.coco import COCOFolder as COCOFolder
    from mezzotint.data.detection.embedded import Pasted as Pasted
    from mezzotint.data.detection.source import DetectionSource as DetectionSource
    from mezzotint.data.detection.voc import VOCFolder as VOCFolder
    from mezzotint.data.image.arrays import Arrays as Arrays
    from mezzotint.data.image.classic import CIFAR10 as CIFAR10
    from mezzotint.data.image.classic import CIFAR100 as CIFAR100
    from mezzotint.data.image.classic import STL10 as STL10
    from mezzotint.data.image.classic import SVHN as SVHN
    from mezzotint.data.image.embedded import EmbeddedImages as EmbeddedImages
    from mezzotint.data.image.folder import ImageFolder as ImageFolder
    from mezzotint.data.image.shards import ImageShards as ImageShards
    from mezzotint.data.image.transfer_set import TransferSet as TransferSet
    from mezzotint.data.image_tags import ImageTags as ImageTags
    from mezzotint.data.image_text import CaptionedImages as CaptionedImages
    from mezzotint.data.image_text import EmojiNames as EmojiNames
    from mezzotint.data.labeled import Labeled as Labeled
    from mezzotint.data.loader import BatchPlan as BatchPlan
    from mezzotint.data.loader import batches as batches
    from mezzotint.data.open import open_source as open_source
    from mezzotint.data.points.clouds import point_clouds as point_clouds
    from mezzotint.data.points.embedded import Furniture as Furniture
    from mezzotint.data.series.embedded import Smartwatch as Smartwatch
    from mezzotint.data.series.series import Series as Series
    from mezzotint.data.source import Source as Source
    from mezzotint.data.source import Task as Task
    from mezzotint.data.table.table import Table as Table
    from mezzotint.data.table.table import TableSample as TableSample
    from mezzotint.data.tokens.embedded import Emails as Emails
    from mezzotint.data.tokens.tokens import Tokens as Tokens
    from mezzotint.data.video.embedded import RotatingObjects as RotatingObjects
    from mezzotint.data.video.folder import VideoFolder as VideoFolder

__getattr__, __dir__ = lazy_names(__name__, __file__)
