"""Views of images: from a batch of stored images to the crops that a method contrasts.

Views are made for whole batches, on the device of the encoder. Only large images are cropped
earlier, by the loader workers that decode them; `crop_samplers` gives these workers the same boxes.

Parameters are drawn on the CPU, keyed by (seed, epoch, sample, view, transform), and then moved: a
sample's views do not depend on its batch, device, worker or process.
"""

import functools
from dataclasses import replace

import torch
from torch import Tensor

from mezzotint.augment.image.geometry import RandomResizedCrop
from mezzotint.augment.image.policies import Policy, identity, simclr
from mezzotint.augment.image.render import View, render_views, require_pixels, rows_of
from mezzotint.augment.randomized_quantization.transform import RandomizedQuantization
from mezzotint.augment.transform import Params
from mezzotint.augment.views import ViewContext, ViewGenerator, checked_strength
from mezzotint.timing import part
from mezzotint.types import Batch, Crop, CropSampler, Input


class ImageViews(ViewGenerator, abstract=True):
    """Make views of images: a crop, a flip and an augmentation policy for each.

    Attributes:
        views: how each view is made; the generators below differ only in this list.
    """

    modalities = frozenset({"image"})

    views: list[View]

    @property
    def tags(self) -> tuple[str, ...]:
        return tuple(view.tag for view in self.views)

    def check(self, input: Input) -> None:
        """Refuse policies of color for other channels than gray and RGB, and of 8 bits for more."""
        deep = bool(input.dtype) and input.bits != 8
        for policy in {id(view.policy): view.policy for view in self.views}.values():
            policy.check((1, *input.shape))
            reducing = next((one.kind for one in policy.leaves() if one.eight_bit), None)
            if deep and reducing is not None:
                raise ValueError(
                    f"`{reducing}` rounds images to 256 levels, and these are {input.dtype}. Use "
                    "`policy: {kind: native}`, which keeps all bits, or leave `data.reader` out."
                )

    def draw(self, ids: Tensor, context: ViewContext) -> list[dict[str, Params]]:
        """Draw the parameters of every view, to show or to predict them.

        Args:
            ids: sample ids, int64 `[B]`.
            context: input of the encoder, seed and epoch.

        Returns:
            For each view its parameters under `crop`, `flip`, `policy` and
            `randomized_quantization`, on the CPU.
        """
        drawn: list[dict[str, Params]] = []
        for index, view in enumerate(self.views):
            # A view that shares an earlier view's crop reads its parameters from the list so far.
            drawn.append(view.draw(context.input, context.draws(ids, index), drawn))
        return drawn

    @property
    def crops(self) -> list[list[int]]:
        """Indices of the views of each crop, starting with the view that draws the crop."""
        groups: dict[int, list[int]] = {}
        for index, view in enumerate(self.views):
            groups.setdefault(index if view.crop_of is None else view.crop_of, []).append(index)
        return list(groups.values())

    def crop_samplers(self, ids: Tensor, context: ViewContext) -> list[CropSampler]:
        """Return one crop sampler per sample, with which a source crops while it decodes.

        They cut and resize as `render` does with the whole image.

        Raises:
            ValueError: when the views are not square.
        """
        firsts = [group[0] for group in self.crops]
        views = [self.views[index] for index in firsts]
        sizes = [view.size(context.input) for view in views]
        if any(height != width for height, width in sizes):
            raise ValueError(
                f"Views must be square if images are cropped while they are decoded, got {sizes}. "
                "Set `views.crop.size`."
            )
        drawn = [
            view.crop.draw((len(ids),), context.draws(ids, index).fold("crop"))
            for index, view in zip(firsts, views, strict=True)
        ]
        crops = [view.crop for view in views]
        return [
            functools.partial(
                _crops, crops, [rows_of(params, slice(row, row + 1)) for params in drawn], sizes
            )
            for row in range(len(ids))
        ]

    @torch.no_grad()
    def render(
        self,
        batch: Batch,
        context: ViewContext,
        *,
        device: torch.device | None = None,
        normalized: bool = True,
    ) -> tuple[Tensor, ...]:
        """Make the views of a batch.

        Args:
            batch: whole images, or one tensor per entry of `crops`.
            context: input of the encoder, seed and epoch.
            device: device on which the views are made; by default the device of the batch.
            normalized: True returns values as the encoder takes them, False values in [0, 1].

        Returns:
            One float32 `[B, C, H, W]` per view.

        Raises:
            TypeError: when the batch is neither uint8 nor floating point.
            ValueError: when floats are not in [0, 1], or a cropped batch does not have one tensor
                per crop.
        """
        for x in batch.x:
            require_pixels(x)
        groups = self.crops
        if len(batch.x) != (len(groups) if batch.cropped else 1):
            raise ValueError(
                f"These views take the {len(groups)} crops of their crop samplers or one tensor "
                f"of whole images, got {len(batch.x)} tensors with cropped={batch.cropped}. "
                "Make the batch with this generator's `crop_samplers`."
            )
        images = [x if device is None else x.to(device, non_blocking=True) for x in batch.x]
        with part("draw"):
            drawn = self.draw(batch.ids, context)
        made: dict[int, Tensor] = {}
        for number, group in enumerate(groups):
            own = render_views(
                [self.views[index] for index in group],
                images[number if batch.cropped else 0],
                [drawn[index] for index in group],
                input=context.input,
                cropped=batch.cropped,
                normalized=normalized,
            )
            made.update(zip(group, own, strict=True))
        return tuple(made[index] for index in range(len(self.views)))


class TwoViews(ImageViews):
    """Make two views of each image, with the same policy or one policy each.

    Args:
        crop: crop of both views. `scale: [1, 1], ratio: [1, 1]` keeps a square image whole.
        policy: augmentation policy of both views, or of the first if `second_policy` is set.
        second_policy: augmentation policy of the second view.
        flip: probability that an image is mirrored.
        randomized_quantization: quantization of both views, or of the first if the second has its
            own; `None` for none.
        second_randomized_quantization: quantization of the second view; `p: 0` in it quantizes
            only the first view.
        per_branch: draw the quantization of a view twice, for the trained branch and for the
            momentum copy, which share crop, flip and policy.
        strength: factor of how much crop, flip, policy and quantization change, from 0 for next to
            nothing to 2.
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
        per_branch: bool = False,
        strength: float = 1.0,
    ) -> None:
        second_policy = policy if second_policy is None else second_policy
        second_quantization = second_randomized_quantization or randomized_quantization
        self.views = [
            View("global", crop, flip, policy, randomized_quantization),
            View("global", crop, flip, second_policy, second_quantization),
        ]
        self.per_branch = per_branch
        if per_branch:
            if randomized_quantization is None and second_quantization is None:
                raise ValueError(
                    "`views.per_branch` needs `views.randomized_quantization`, the step that is "
                    "drawn for each branch. Set it, or leave per_branch out."
                )
            self.views += [
                replace(view, crop_of=index, same_policy=True)
                for index, view in enumerate(self.views)
            ]
        factor = checked_strength(strength)
        self.views = [view.at_strength(factor) for view in self.views]

    @property
    def num_target_views(self) -> int:
        return 2 if self.per_branch else 0


class OneView(ImageViews):
    """Make one view of each image, as supervised training takes it.

    Args:
        crop: crop of the view. `scale: [1, 1], ratio: [1, 1]` keeps a square image whole.
        policy: augmentation policy, such as color jitter and blur.
        flip: probability that an image is mirrored.
        randomized_quantization: quantization of the view; `None` for none.
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
    """Make a few large crops and many small ones (SwAV, Caron et al. 2020; DINO, 2021).

    Args:
        crop: crop of the global views.
        local_crop: crop of the local views; its output size is smaller than the global one.
        num_global: number of global views, which come first.
        num_local: number of local views.
        policy: augmentation policy of every view.
        flip: probability that an image is mirrored.
        randomized_quantization: quantization of every view; `None` for none.
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
                "`num_global` must be 1 or more, `num_local` 0 or more, and their sum 2 or more, "
                f"got {num_global} and {num_local}. Try 2 and 6."
            )
        kinds = [("global", crop)] * num_global + [("local", local_crop)] * num_local
        self.views = [View(tag, box, flip, policy, randomized_quantization) for tag, box in kinds]


def _crops(
    crops: list[RandomResizedCrop],
    params: list[Params],
    sizes: list[tuple[int, int]],
    height: int,
    width: int,
) -> list[Crop]:
    """Return the crops of one image.

    A module-level function, so that a crop sampler can be pickled for a worker process.
    """
    boxes = [
        crop.boxes(own, height, width)[0].tolist() for crop, own in zip(crops, params, strict=True)
    ]
    return [
        Crop((top, left, h, w), size, crop.interpolation)
        for (top, left, h, w), (size, _), crop in zip(boxes, sizes, crops, strict=True)
    ]
