"""Make a batch of chosen samples for a view generator, with the image region of each view.

Used outside of training: by the gallery, and by the invariance probes of features.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from mezzotint.augment.image.views import ImageViews
from mezzotint.augment.views import ViewContext, ViewGenerator
from mezzotint.data.source import Source
from mezzotint.types import Batch, Crop, CropSampler, Input, Unreadable


@dataclass
class _Crops:
    """Calls a crop sampler and records its boxes, as fractions of the stored image."""

    sampler: CropSampler
    boxes: list[list[float]] = field(default_factory=list)

    def __call__(self, height: int, width: int) -> Sequence[Crop]:
        chosen = self.sampler(height, width)
        self.boxes = [
            [top / height, left / width, h / height, w / width] for (top, left, h, w), *_ in chosen
        ]
        return chosen


def view_batch(
    source: Source, views: ViewGenerator, ids: Tensor, *, input: Input, seed: int, epoch: int = 0
) -> tuple[Batch, Tensor | None]:
    """Make the batch that the loader would make of these samples, without unreadable ones.

    Args:
        source: source of the samples.
        views: view generator.
        ids: int64 `[B]`, indices of the samples.
        input: input of the encoder.
        seed: seed of the run.
        epoch: epoch, from 0.

    Returns:
        The batch; and for views that crop images, their boxes, float64 `[B, views, 4]`: top, left,
        height and width as fractions of the stored image's sides.
    """
    rows: list[list[Tensor]] = []
    kept: list[int] = []
    boxes: list[list[list[float]]] = []
    cropped = source.croppable
    crop_samplers = views.crop_samplers(ids, ViewContext(input, seed, epoch)) if cropped else []
    for position, index in enumerate(ids.tolist()):
        try:
            if cropped:
                crops = _Crops(crop_samplers[position])
                rows.append(source.read_crops(index, crops))
                if isinstance(views, ImageViews):
                    boxes.append([crops.boxes[crop] for crop in _crop_of_view(views)])
            else:
                rows.append([source.read(index)["x"]])
        except Unreadable:
            continue
        kept.append(index)
    x = tuple(torch.stack(column) for column in zip(*rows, strict=True))
    batch = Batch(x, torch.tensor(kept, dtype=torch.int64), cropped=cropped)
    if not rows or not isinstance(views, ImageViews):
        return batch, None
    return batch, torch.tensor(boxes, dtype=torch.float64) if cropped else _boxes(
        views, batch, ViewContext(input, seed, epoch)
    )


def _crop_of_view(views: ImageViews) -> list[int]:
    """Return for each view the number of its crop; views may share one."""
    numbers = {view: number for number, shared in enumerate(views.crops) for view in shared}
    return [numbers[view] for view in range(views.num_views)]


def _boxes(views: ImageViews, batch: Batch, context: ViewContext) -> Tensor:
    height, width = batch.x[0].shape[-2:]
    drawn = views.draw(batch.ids, context)
    boxes = [
        view.crop.boxes(params["crop"], height, width)
        for view, params in zip(views.views, drawn, strict=True)
    ]
    return torch.stack(boxes, dim=1).double() / torch.tensor(
        [height, width, height, width], dtype=torch.float64
    )
