"""Views of images with text `[B, 4, H, W]`: transforms of images and of tokens, each for its part.

The last channel holds the tokens, row by row from its first position, followed by padding
(`mezzotint.data.image_text`), so transforms that quantize, blur or crop colors must not change it.
"""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn.functional import pad

from mezzotint.augment.transform import BatchLayout, Compose, Params, Transform, params_of
from mezzotint.seeding import Draws

_IMAGE, _TEXT = "image", "text"

IMAGES_WITH_TEXT = BatchLayout("image_text", ("B", 4, "H", "W"))


class ImageAndText(Transform):
    """Transform the colors and the text of a sample, each by its own transforms.

    Args:
        image: transforms of the colors `[B, 3, H, W]` that keep the size, in order, such as
            `randomized_quantization` or a policy.
        text: transforms of the tokens, int64 `[B, H · W]`, in order, such as `token_mask`.
    """

    layouts = (IMAGES_WITH_TEXT,)

    def __init__(self, *, image: list[Transform], text: list[Transform]) -> None:
        self.image, self.text = Compose(transforms=image), Compose(transforms=text)

    def draw(self, shape: Sequence[int], draws: Draws) -> Params:
        """Draw all parameters, under `image.index.kind.name` and `text.index.kind.name`."""
        batch, _, height, width = shape
        image = self.image.draw((batch, 3, height, width), draws.fold(f"{_IMAGE}."))
        text = self.text.draw((batch, height * width), draws.fold(f"{_TEXT}."))
        return _joined(image, text)

    def to_device(self, params: Params, device: torch.device) -> Params:
        return _joined(
            self.image.to_device(params_of(params, _IMAGE), device),
            self.text.to_device(params_of(params, _TEXT), device),
        )

    def apply(self, x: Tensor, params: Params) -> Tensor:
        image, text = (params_of(params, part) for part in (_IMAGE, _TEXT))
        plane = x[:, 3].flatten(1)
        tokens = self.text.apply(plane.long(), text).to(x.dtype)
        # `token_crop` with a length returns fewer tokens than the plane has.
        plane = pad(tokens, (0, plane.shape[1] - tokens.shape[1]))
        return torch.cat([self.image.apply(x[:, :3], image), plane.view_as(x[:, 3:])], dim=1)


def _joined(image: Params, text: Params) -> Params:
    parts = {_IMAGE: image, _TEXT: text}
    return {f"{part}.{key}": value for part, own in parts.items() for key, value in own.items()}
