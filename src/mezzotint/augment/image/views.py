"""Views of images: from a batch of stored images to the crops that a method contrasts.

Everything is done on whole batches, on the device of the encoder; only the crop of large images is
done earlier, by the loader workers that decode them, which ask `choosers` for the same boxes.

Parameters are drawn on the CPU, keyed by (seed, epoch, sample, view, transform), and then moved: so
a sample's views do not depend on the device, the batch, the worker or the process it happens to be
in.
"""

import functools

import torch
from torch import Tensor

from mezzotint.augment.image.geometry import RandomResizedCrop
from mezzotint.augment.image.policies import Policy, identity, simclr
from mezzotint.augment.image.render import View, render_views, rows_of
from mezzotint.augment.randomized_quantization.transform import RandomizedQuantization
from mezzotint.augment.transform import Params
from mezzotint.augment.views import Chooser as Chooser
from mezzotint.augment.views import ViewGenerator as ViewGenerator
from mezzotint.augment.views import view_draws
from mezzotint.timing import part
from mezzotint.types import Batch, Box, Input


class ImageViews(ViewGenerator, abstract=True):
    """Views of images: each a crop, a flip and a policy.

    Attributes:
        views: how each is made; the generators below differ in nothing else.
    """

    modalities = frozenset({"image"})

    views: list[View]

    @property
    def tags(self) -> tuple[str, ...]:
        """One a view."""
        return tuple(view.tag for view in self.views)

    def draw(self, ids: Tensor, *, input: Input, seed: int, epoch: int) -> list[dict[str, Params]]:
        """Every parameter of every view, to look at or to predict.

        Args:
            ids: int64 `[B]`.
            input: of the encoder.
            seed: of the run.
            epoch: from 0.

        Returns:
            For each view its parameters by `crop`, `flip`, `policy` and `randomized_quantization`,
            on the CPU.
        """
        ids = ids.cpu()
        drawn: list[dict[str, Params]] = []
        for place, view in enumerate(self.views):
            drawn.append(view.draw(input, view_draws(ids, seed, epoch, place), drawn))
        return drawn

    @property
    def crops(self) -> list[list[int]]:
        """The places of the views that share each crop, the one that it is drawn for first."""
        groups: dict[int, list[int]] = {}
        for place, view in enumerate(self.views):
            groups.setdefault(place if view.crop_of is None else view.crop_of, []).append(place)
        return list(groups.values())

    def choosers(self, ids: Tensor, *, input: Input, seed: int, epoch: int) -> list[Chooser]:
        """For each sample the function that tells a source which boxes to cut out of it while it decodes.

        They are the boxes that `render` would cut out of the whole image.

        Raises:
            ValueError: when the views are not square.
        """
        places = [group[0] for group in self.crops]
        views = [self.views[place] for place in places]
        sizes = [view.size(input) for view in views]
        if any(height != width for height, width in sizes):
            raise ValueError(
                f"got views of {sizes} for images that are cropped while they are decoded; allowed are square ones: "
                "give the crop a size"
            )
        ids = ids.cpu()
        drawn = [
            view.crop.draw((len(ids),), view_draws(ids, seed, epoch, place).fold("crop"))
            for place, view in zip(places, views, strict=True)
        ]
        crops = [view.crop for view in views]
        return [
            functools.partial(
                _choose, crops, [rows_of(params, slice(row, row + 1)) for params in drawn], sizes
            )
            for row in range(len(ids))
        ]

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
        """Make the views of a batch.

        Args:
            batch: whole images, or the crops of `crops`.
            input: of the encoder.
            seed: of the run.
            epoch: from 0.
            device: where the views are made; by default where the batch is.
            normalized: as the encoder takes them, or in [0, 1] as they are shown.

        Returns:
            One float32 `[B, C, H, W]` a view.

        Raises:
            TypeError: when the batch is not uint8.
            ValueError: when a cropped batch does not have one tensor a crop.
        """
        if any(x.dtype != torch.uint8 for x in batch.x):
            raise TypeError(
                f"got a batch of {[str(x.dtype) for x in batch.x]}; allowed is torch.uint8: "
                "let the source return images as they are stored"
            )
        groups = self.crops
        if len(batch.x) != (len(groups) if batch.cropped else 1):
            raise ValueError(
                f"got {len(batch.x)} tensors with cropped={batch.cropped}; allowed are the {len(groups)} crops of "
                "these views, or a single tensor of whole images: make the batch with this generator's choosers"
            )
        images = [x if device is None else x.to(device, non_blocking=True) for x in batch.x]
        with part("draw"):
            drawn = self.draw(batch.ids, input=input, seed=seed, epoch=epoch)
        made: dict[int, Tensor] = {}
        for number, places in enumerate(groups):
            own = render_views(
                [self.views[place] for place in places],
                images[number if batch.cropped else 0],
                [drawn[place] for place in places],
                input=input,
                cropped=batch.cropped,
                normalized=normalized,
            )
            made.update(zip(places, own, strict=True))
        return tuple(made[place] for place in range(len(self.views)))


class TwoViews(ImageViews):
    """Two views of each sample, alike or not.

    Args:
        crop: the box of either view. `scale: [1, 1], ratio: [1, 1]` keeps the whole of a square
            image.
        policy: of the first view, and of the second unless that has its own.
        second_policy: of the second view.
        flip: share of the samples that are mirrored.
        randomized_quantization: of the first view, and of the second unless that has its own;
            `None` for none.
        second_randomized_quantization: of the second view; one with `p: 0` quantizes the first view
            alone.
    """

    def __init__(
        self,
        *,
        crop: RandomResizedCrop = RandomResizedCrop(),
        policy: Policy = simclr(),
        second_policy: Policy | None = None,
        flip: float = 0.5,
        randomized_quantization: RandomizedQuantization | None = None,
        second_randomized_quantization: RandomizedQuantization | None = None,
    ) -> None:
        second_policy = policy if second_policy is None else second_policy
        second_quantization = second_randomized_quantization or randomized_quantization
        self.views = [
            View("global", crop, flip, policy, randomized_quantization),
            View("global", crop, flip, second_policy, second_quantization),
        ]


class OneView(ImageViews):
    """One view of each sample, as supervised training takes it.

    Args:
        crop: the box. `scale: [1, 1], ratio: [1, 1]` keeps the whole of a square image.
        policy: color, blur and so on.
        flip: share of the samples that are mirrored.
        randomized_quantization: of the view; `None` for none.
    """

    def __init__(
        self,
        *,
        crop: RandomResizedCrop = RandomResizedCrop(),
        policy: Policy = identity(),  # noqa: B008 - keeps no state
        flip: float = 0.5,
        randomized_quantization: RandomizedQuantization | None = None,
    ) -> None:
        self.views = [View("global", crop, flip, policy, randomized_quantization)]


class MultiCrop(ImageViews):
    """Some large crops, and many small ones of small parts (SwAV, Caron et al. 2020; DINO, Caron et al. 2021).

    Args:
        crop: of the global views.
        local_crop: of the local views; its size in pixels is less than the global one.
        num_global: global views, which come first.
        num_local: local views.
        policy: of every view.
        flip: share of the samples that are mirrored.
        randomized_quantization: of every view; `None` for none.
    """

    def __init__(
        self,
        *,
        crop: RandomResizedCrop = RandomResizedCrop(),
        local_crop: RandomResizedCrop = RandomResizedCrop(size=96, scale=(0.05, 0.2)),
        num_global: int = 2,
        num_local: int = 6,
        policy: Policy = simclr(),
        flip: float = 0.5,
        randomized_quantization: RandomizedQuantization | None = None,
    ) -> None:
        if num_global < 1 or num_local < 0 or num_global + num_local < 2:
            raise ValueError(
                f"got num_global={num_global} and num_local={num_local}; allowed are at least one global view and two "
                "views in all: give for example 2 and 6"
            )
        kinds = [("global", crop)] * num_global + [("local", local_crop)] * num_local
        self.views = [View(tag, box, flip, policy, randomized_quantization) for tag, box in kinds]


def _choose(
    crops: list[RandomResizedCrop],
    params: list[Params],
    sizes: list[tuple[int, int]],
    height: int,
    width: int,
) -> list[tuple[Box, int]]:
    """A module-level function, so that a chooser can be sent to another process."""
    boxes = [
        crop.boxes(own, height, width)[0].tolist() for crop, own in zip(crops, params, strict=True)
    ]
    return [
        ((top, left, h, w), size) for (top, left, h, w), (size, _) in zip(boxes, sizes, strict=True)
    ]
