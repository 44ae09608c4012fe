"""Sources of images: folders, arrays, classic data sets and embedded images."""

from typing import TYPE_CHECKING

from mezzotint._lazy import lazy_names

if TYPE_CHECKING:
    from mezzotint.data.image.arrays import Arrays as Arrays
    from mezzotint.data.image.classic import CIFAR10 as CIFAR10
    from mezzotint.data.image.classic import CIFAR100 as CIFAR100
    from mezzotint.data.image.classic import STL10 as STL10
    from mezzotint.data.image.classic import SVHN as SVHN
    from mezzotint.data.image.embedded import EmbeddedImages as EmbeddedImages
    from mezzotint.data.image.folder import ImageFolder as ImageFolder
    from mezzotint.data.image.transfer_set import TransferSet as TransferSet
    from mezzotint.data.image_tags import ImageTags as ImageTags

__getattr__, __dir__ = lazy_names(__name__, __file__)
