"""Views of images with text `[B, 4, H, W]`: transforms of images for the colors, of tokens for the text.

The last channel holds the tokens, row by row from its first place on, with padding behind them
(`mezzotint.data.image_text`), so what quantizes, blurs or crops colors must not see it.
"""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn.functional import pad

from mezzotint.augment.transform import Compose, Params, Transform
from mezzotint.seeding import Draws

_IMAGE, _TEXT = "image.", "text."


class ImageAndText(Transform):
    """Change the colors by transforms of images that keep their size, and the text by transforms of tokens.

    Args:
        image: of the colors `[B, 3, H, W]`, in order, such as `randomized_quantization` or a
            policy.
        text: of the tokens, int64 `[B, H · W]`, in order, such as `token_mask`.
    """

    modalities = frozenset({"image_text"})

    def __init__(self, *, image: list[Transform], text: list[Transform]) -> None:
        self.image, self.text = Compose(transforms=image), Compose(transforms=text)

    def draw(self, shape: Sequence[int], draws: Draws) -> Params:
        """Parameters of all transforms, under `image.place.kind.name` and `text.place.kind.name`."""
        batch, _, height, width = shape
        image = self.image.draw((batch, 3, height, width), draws.fold(_IMAGE))
        text = self.text.draw((batch, height * width), draws.fold(_TEXT))
        return {_IMAGE + k: v for k, v in image.items()} | {_TEXT + k: v for k, v in text.items()}

    def apply(self, x: Tensor, params: Params) -> Tensor:
        """Apply each to its part."""
        image, text = (
            {key.removeprefix(part): value for key, value in params.items() if key.startswith(part)}
            for part in (_IMAGE, _TEXT)
        )
        plane = x[:, 3].flatten(1)
        tokens = self.text.apply(plane.long(), text).to(x.dtype)
        plane = pad(
            tokens, (0, plane.shape[1] - tokens.shape[1])
        )  # of a crop with a length of its own
        return torch.cat([self.image.apply(x[:, :3], image), plane.view_as(x[:, 3:])], dim=1)
