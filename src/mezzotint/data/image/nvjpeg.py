"""JPEG files decoded and cropped on a GPU, a batch at a time: workers read the files, and nvJPEG does the rest.

torchvision calls NVIDIA's library. Pixels are those of another decoder: a level or two away from
Pillow's, and always from the file at full size, where the workers' decoder takes a half, a quarter
or an eighth when a crop needs no more. Files that are not plain (no JPEG, turned by EXIF, not RGB,
cut off) are decoded by the workers as ever, so that what becomes of unusual images, and what counts
as unreadable, is the same for both.
"""

import warnings
from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from mezzotint.timing import part
from mezzotint.types import Box

DEVICE = torch.device("cuda")
_END = b"\xff\xd9"


@dataclass(frozen=True)
class Jpeg:
    """A file that is still to be decoded, and what is wanted of it.

    Attributes:
        data: all bytes of the file, uint8 `[N]`, on the CPU.
        crops: for each crop its box (top, left, height and width) and its output size.
    """

    data: Tensor
    crops: Sequence[tuple[Box, int]]


def require_cuda() -> None:
    """Refuse to go on where there is no GPU.

    Raises:
        ValueError: without CUDA.
    """
    if not torch.cuda.is_available():
        raise ValueError(
            "got decoder=nvjpeg without CUDA; allowed is an NVIDIA GPU: choose decoder=pillow"
        )


def is_whole(data: bytes) -> bool:
    """Whether a JPEG file ends as it should; nvJPEG gives gray for what is missing, and no error."""
    return data.endswith(_END)


def decode_crops(files: Sequence[Jpeg], device: torch.device) -> list[list[Tensor]]:
    """Decode files and cut crops out of them, each antialiased (bilinear) to its own size.

    Args:
        files: one or more.
        device: where; a CPU does the same with another library.

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


def _cut(image: Tensor, box: Box, size: int) -> Tensor:
    top, left, height, width = box
    inside = image[None, :, top : top + height, left : left + width].float()
    crop = F.interpolate(inside, (size, size), mode="bilinear", align_corners=False, antialias=True)
    return crop[0].round_().clamp_(0.0, 255.0).to(torch.uint8)
