"""Views of anything: the same sample through a chain of transforms, twice or more.

For modalities whose samples all have one shape in memory: log-mel spectrograms, point clouds, sensor series, tables.
What a chain consists of says everything about the modality; randomized quantization fits any.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from mezzotint.augment.generator import ViewGenerator, view_draws
from mezzotint.augment.transform import Params, Transform
from mezzotint.seeding import Draws
from mezzotint.timing import part
from mezzotint.types import Batch, Input


class Transformed(ViewGenerator):
    """Views made by chains of transforms.

    Args:
        transforms: of every view, in order.
        second: of the second view, where it differs.
        count: of views; a single one suits supervised training.
    """

    def __init__(self, *, transforms: list[Transform], second: list[Transform] | None = None, count: int = 2) -> None:
        if count < 1 or (second is not None and count != 2):
            raise ValueError(
                f"got count={count}{' with a second chain' if second else ''}; allowed is one view or more, and two "
                "where the second has a chain of its own"
            )
        self.chains = [list(transforms)] * count if second is None else [list(transforms), list(second)]

    @property
    def tags(self) -> tuple[str, ...]:
        """All views are global."""
        return ("global",) * len(self.chains)

    def draw(self, ids: Tensor, *, input: Input, seed: int, epoch: int) -> list[dict[str, Params]]:
        """Parameters by place and kind of the transform, for samples of the shape that the encoder takes."""
        shape = (len(ids), *input.shape)
        return [
            self._draw(chain, shape, view_draws(ids, seed, epoch, place)) for place, chain in enumerate(self.chains)
        ]

    def _draw(self, chain: Sequence[Transform], shape: tuple[int, ...], draws: Draws) -> dict[str, Params]:
        drawn = {}
        for name, transform in _named(chain):
            drawn[name] = transform.draw(shape, draws.fold(name))
            shape = transform.output_shape(shape)
        return drawn

    @torch.no_grad()
    def render(
        self,
        batch: Batch,
        *,
        input: Input,
        seed: int,
        epoch: int,
        device: torch.device | None = None,
        normalized: bool = True,
    ) -> tuple[Tensor, ...]:
        """Make the views; uint8 values become floats in [0, 1], floats stay what they are.

        Raises:
            ValueError: when the batch was cropped by the loader.
        """
        if batch.cropped or len(batch.x) != 1:
            raise ValueError("got crops; allowed is a single tensor of whole samples: choose views of images")
        stored = batch.x[0] if device is None else batch.x[0].to(device, non_blocking=True)
        x = input.as_float(stored)
        views = []
        for place, chain in enumerate(self.chains):
            with part("draw"):
                drawn = self._draw(chain, tuple(x.shape), view_draws(batch.ids, seed, epoch, place))
            view = x
            for name, transform in _named(chain):
                with part(str(transform.config["kind"])):
                    view = transform.apply(view, {key: value.to(x.device) for key, value in drawn[name].items()})
            views.append(input.normalize(view) if normalized else view)
        return tuple(views)


def _named(chain: Sequence[Transform]) -> list[tuple[str, Transform]]:
    return [(f"{place}.{transform.config['kind']}", transform) for place, transform in enumerate(chain)]
