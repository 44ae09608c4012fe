"""Decode and crop JPEG files on a GPU with nvJPEG, a batch at a time.

torchvision calls NVIDIA's library. Pixel values differ by a level or two from Pillow's, and files
are always decoded at full size, where Pillow decodes at 1/2, 1/4 or 1/8 if a crop needs no more.
Other files (not JPEG, rotated by EXIF, not RGB, truncated) are still decoded by the workers, so
that unusual and unreadable images are treated the same with both decoders.
"""

import warnings
from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from mezzotint.timing import part
from mezzotint.types import Box, Crop, Interpolation

DEVICE = torch.device("cuda")
_END = b"\xff\xd9"


@dataclass(frozen=True)
class Jpeg:
    """A JPEG file to decode, and the crops to cut out of it.

    Attributes:
        data: all bytes of the file, uint8 `[N]`, on the CPU.
        crops: crops to cut.
    """

    data: Tensor
    crops: Sequence[Crop]


def require_cuda() -> None:
    """Check that a GPU is available.

    Raises:
        ValueError: without CUDA.
    """
    if not torch.cuda.is_available():
        raise ValueError(
            "`decoder=nvjpeg` needs an NVIDIA GPU, and CUDA is not available. Use decoder=pillow."
        )


def is_whole(data: bytes) -> bool:
    """Return whether a JPEG file ends with its marker; nvJPEG fills missing parts with gray."""
    return data.endswith(_END)


def decode_crops(files: Sequence[Jpeg], device: torch.device) -> list[list[Tensor]]:
    """Decode files, cut their crops, and resize each to its size, antialiased.

    Args:
        files: one or more files.
        device: device of the decoder; on a CPU torchvision uses another library.

    Returns:
        For each file its crops, uint8 `[3, size, size]` on the device.

    Raises:
        RuntimeError: when a file of the batch cannot be decoded.
    """
    from torchvision.io import ImageReadMode, decode_jpeg

    with warnings.catch_warnings(), part("decode"):
        # torchvision 0.29 calls it deprecated, in favor of TorchCodec, which is not required here.
        warnings.filterwarnings("ignore", message=".*deprecated.*")
        images = decode_jpeg([file.data for file in files], mode=ImageReadMode.RGB, device=device)
    with part("crop"):
        return [
            [_cut(image, *crop) for crop in file.crops]
            for image, file in zip(images, files, strict=True)
        ]


def _cut(image: Tensor, box: Box, size: int, interpolation: Interpolation) -> Tensor:
    top, left, height, width = box
    inside = image[None, :, top : top + height, left : left + width].float()
    crop = F.interpolate(
        inside, (size, size), mode=interpolation, align_corners=False, antialias=True
    )
    return crop[0].round_().clamp_(0.0, 255.0).to(torch.uint8)
