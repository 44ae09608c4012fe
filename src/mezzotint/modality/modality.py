"""The contract of a modality: one object answers for everything that differs between kinds of data.

Add a modality by adding a file to this folder with one subclass of `Modality`, and then its sources
and views. Its file name is its name: `Input.modality`, in recipes' data and in saved encoders.

The package stands below `types`, sources and encoders, so that all of them may ask it. That is why
the patches of a transformer and the pictures of the report are written here, and why a source's
own objects (such as a spectrogram's settings) are used without importing their classes.
"""

import functools
import importlib
import pkgutil
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar, NoReturn

import torch
from torch import Tensor

from mezzotint import modality as package

if TYPE_CHECKING:
    from mezzotint.modality.patches import Patches, PatchSize
    from mezzotint.types import Input

_SHARED = ("modality", "patches")

PICTURE_SIZE = 96
"""Height in pixels of a picture that is drawn, where the sample itself has no size in pixels."""


@dataclass(frozen=True)
class Example:
    """Parts of the smallest recipe that trains on a modality, from embedded data.

    Attributes:
        data: section `data`.
        encoder: section `encoder`: the usual one, as small as possible.
        patches: keys of a `vit` on this data, in addition to its width and depth.
        transforms: of a view.
    """

    data: dict[str, Any]
    encoder: dict[str, Any]
    patches: dict[str, Any] = field(default_factory=dict)
    transforms: Sequence[dict[str, Any]] = ()


class Modality(ABC):
    """Everything that differs between kinds of data. Objects keep no state.

    Attributes:
        name: file name of the modality.
        plural: what samples are called in a message, such as `point clouds`.
        axes: name of each axis of a sample, without the batch.
        free_axes: trailing axes whose size an encoder leaves open.
        is_picture: samples are pictures `[C, H, W]` themselves.
        has_tokens: samples hold token ids, which cannot be mixed or regressed as numbers.
        has_picture: `picture` can draw samples.
        thumbnails: a picture of 32 pixels still shows what a sample is.
        values: how stored values become what a network takes, in words.
        handmade: what `handmade_features` are, in words; empty without any.
        recipe: shipped recipe for a user's own data of this modality, for a machine without a GPU.
        large_recipe: the same for a GPU, or for a long time; empty if there is none.
        sizes: overrides of `recipe`, from large to small, that a budget of minutes chooses from.
        finetune_recipe: shipped recipe that fine-tunes an encoder of this modality.
        example: parts of the smallest recipe.
    """

    plural: ClassVar[str]
    axes: ClassVar[tuple[str, ...]]
    free_axes: ClassVar[int] = 0
    is_picture: ClassVar[bool] = False
    has_tokens: ClassVar[bool] = False
    has_picture: ClassVar[bool] = True
    thumbnails: ClassVar[bool] = False
    values: ClassVar[str] = "(x - mean) / std"
    handmade: ClassVar[str] = ""
    recipe: ClassVar[str]
    large_recipe: ClassVar[str] = ""
    sizes: ClassVar[Sequence[Sequence[str]]] = ((),)
    finetune_recipe: ClassVar[str] = "supervised/finetune_any"
    example: ClassVar[Example]

    @property
    def name(self) -> str:
        """File name of the modality."""
        return type(self).__module__.rpartition(".")[2]

    def check(self, input: "Input") -> None:
        """Refuse an input that this modality cannot have.

        Raises:
            ValueError: for a shape with another number of axes, or for `mean` and `std` that do not
                have one value a channel.
        """
        if len(input.shape) != len(self.axes):
            raise ValueError(
                f"The shape of {self.plural} must be ({', '.join(self.axes)}), got {input.shape}."
            )
        if not self.is_picture and (input.dtype or input.bits or input.channels or input.range):
            raise ValueError(
                f"Only images have stored types, named channels and ranges, got {self.plural}. "
                "Leave them out."
            )
        channels = self.channels(input)
        if len(input.mean) != channels or len(input.std) != channels:
            raise ValueError(
                f"`mean` and `std` must have {channels} values for {self.plural} of shape "
                f"{input.shape}, got {len(input.mean)} and {len(input.std)}."
            )

    def channels(self, input: "Input") -> int:
        """Count the channels that are normalized."""
        return input.shape[0]

    def fits(self, data: "Input", encoder: "Input") -> bool:
        """Return whether data are of this modality and of the encoder's shape, free axes aside."""
        fixed = len(self.axes) - self.free_axes
        return data.modality == self.name and data.shape[:fixed] == encoder.shape[:fixed]

    def required_channels(self, input: "Input") -> int | None:
        """Return the size of the first axis that every sample must have; `None` for any."""
        return input.shape[0]

    def blank(self, input: "Input", count: int) -> Tensor:
        """Make samples `[count, *sizes]` of one value in the type that an encoder takes."""
        return torch.zeros(count, *input.shape)

    def as_float(self, x: Tensor) -> Tensor:
        """Convert stored values to floats: uint8 to [0, 1], all others as they are."""
        return x.float().div(255.0) if x.dtype == torch.uint8 else x.float()

    def normalize(self, x: Tensor, input: "Input") -> Tensor:
        """Compute `(x − mean) / std` by channel for floats `[B, *sizes]` of any size."""
        shape = (-1, *(1 for _ in input.shape[1:]))
        mean, std = (
            torch.tensor(values, dtype=x.dtype).to(x.device, non_blocking=True).view(shape)
            for values in (input.mean, input.std)
        )
        return x.sub(mean).div_(std)

    @abstractmethod
    def patches(self, input: "Input", dim: int, size: "PatchSize") -> "Patches":
        """Build the module that cuts samples into patches for a transformer, and embeds them.

        Args:
            input: of the encoder.
            dim: width of the transformer.
            size: of the patches.
        """

    def raw_features(self, x: Tensor, input: "Input") -> Tensor:
        """Flatten normalized samples `[B, *sizes]` to the features that an encoder has to beat."""
        return x.flatten(1)

    def handmade_features(self, x: Tensor, input: "Input") -> Tensor | None:
        """Describe normalized samples `[B, *sizes]` by statistics that need no training: `[B, F]`.

        They take less than a second per 1,000 samples, are finite for constant samples, and their
        blocks have a norm of about 1 each, so that none of them dominates a distance. `None` where
        the raw input is made by hand already.
        """
        return None

    def picture(self, x: Tensor, input: "Input") -> Tensor:
        """Draw one sample, as stored or as a view before normalization, as an image `[C, H, W]`.

        Raises:
            ValueError: when samples of this modality have no picture.
        """
        self.no_picture()

    def picture_note(self, input: "Input") -> str:
        """Say what `picture` shows, where a picture does not show all of a sample; else nothing."""
        return ""

    def no_picture(self) -> NoReturn:
        """Refuse to draw samples of this modality.

        Raises:
            ValueError: always.
        """
        supported = ", ".join(name for name in modality_names() if modality_of(name).has_picture)
        raise ValueError(f"{self.plural.capitalize()} have no pictures. Supported: {supported}.")

    def frames(self, x: Tensor) -> Tensor | None:
        """Return the frames `[T, C, H, W]` in [0, 1] of a sample that moves; `None` for others."""
        return None

    def coordinates(self, x: Tensor) -> Tensor | None:
        """Return int8 points `[N, 3]` to turn around, the second axis up; `None` for others."""
        return None

    def sound(self, x: Tensor, source: object) -> str:
        """Return a data URI with the sound of a sample; empty for samples without one.

        Args:
            x: one sample.
            source: it comes from.
        """
        return ""

    def sound_of_patches(
        self, values: Sequence[Tensor], positions: Sequence[int], patches: "Patches", source: object
    ) -> str:
        """Return a data URI with the sound of some patches, one after another; empty without one.

        Args:
            values: of each patch, `[P]`.
            positions: number of each patch in the grid.
            patches: that cut them.
            source: they come from.
        """
        return ""


def modality_of(input: "Input | str") -> Modality:
    """Return the modality of an input, or the one of a name.

    Raises:
        ValueError: when there is no modality of this name.
    """
    return _loaded(input if isinstance(input, str) else input.modality)


def modality_names() -> tuple[str, ...]:
    """Return the names of all modalities, in alphabetical order."""
    files = pkgutil.iter_modules(package.__path__)
    return tuple(sorted({file.name for file in files} - {*_SHARED}))


@functools.cache
def _loaded(name: str) -> Modality:
    if name not in modality_names():
        raise ValueError(f"`modality` must be one of {', '.join(modality_names())}, got {name!r}.")
    # Imported on demand: most programs use one modality, and some files import PIL.
    module = importlib.import_module(f"mezzotint.modality.{name}")
    # Unpacking fails unless the file has exactly one subclass of its own.
    (cls,) = (
        value
        for value in vars(module).values()
        if isinstance(value, type)
        and issubclass(value, Modality)
        and value.__module__ == module.__name__
    )
    modality: Modality = cls()
    return modality
