import pytest
import torch

from mezzotint.augment.image.geometry import HorizontalFlip, RandomResizedCrop
from mezzotint.augment.image.policies import simclr
from mezzotint.augment.video import PerFrame, RandomClip, RandomErasing
from mezzotint.seeding import Draws


def draws(count: int, key: int = 5) -> Draws:
    return Draws(torch.arange(count), key)


def test_a_clip_is_every_stride_th_frame_from_a_random_one_on() -> None:
    x = torch.arange(20.0).view(1, 1, 20, 1, 1).repeat(400, 2, 1, 3, 3)
    transform = RandomClip(frames=4, stride=3)
    y = transform(x, draws(400))
    assert y.shape == (400, 2, 4, 3, 3) == transform.output_shape((400, 2, 20, 3, 3))
    times = y[:, 0, :, 0, 0]
    assert bool((times.diff(dim=1) == 3).all()) and set(times[:, 0].tolist()) == set(
        map(float, range(9))
    )
    short = RandomClip(frames=8, stride=2)(x[:2, :, :6], draws(2))
    assert short[0, 0, :, 0, 0].tolist() == [0, 2, 4, 5, 5, 5, 5, 5]


def test_all_frames_see_the_same_transform_and_samples_another() -> None:
    image = torch.rand(8, 3, 1, 24, 24)
    x = image.expand(8, 3, 5, 24, 24)
    crop, flip = RandomResizedCrop(size=16), HorizontalFlip(p=0.5)
    transform = PerFrame(transforms=[crop, flip, simclr(strength=0.5)])
    y = transform(x, draws(8))
    assert y.shape == (8, 3, 5, 16, 16) == transform.output_shape((8, 3, 5, 24, 24))
    assert torch.equal(y, y[:, :, :1].expand_as(y))
    own = draws(8)
    alone = crop(image.squeeze(2), own.fold("0.random_resized_crop"))
    alone = flip(alone, own.fold("1.horizontal_flip"))
    alone = simclr(strength=0.5)(alone, own.fold(f"2.{simclr().config['kind']}"))
    torch.testing.assert_close(y[:, :, 0], alone)


def test_erasing_fills_one_box_in_all_frames() -> None:
    x = torch.rand(500, 3, 4, 20, 20)
    y = RandomErasing(p=0.4, area=(0.1, 0.3))(x, draws(500))
    changed = y != x
    assert torch.equal(changed, changed[:, :1, :1].expand_as(changed))
    boxes = changed[:, 0, 0]
    chosen = boxes.flatten(1).any(dim=1)
    assert abs(chosen.float().mean().item() - 0.4) < 0.06
    shares = boxes[chosen].float().mean(dim=(1, 2))
    assert shares.min() > 0.06 and shares.max() < 0.35
    for box in boxes[chosen][:50]:
        rows, columns = box.any(dim=1), box.any(dim=0)
        assert torch.equal(box, rows.unsqueeze(1) & columns.unsqueeze(0))
    images = RandomErasing(p=1.0)(x[:, :, 0], draws(500))
    assert images.shape == (500, 3, 20, 20) and bool(
        (images != x[:, :, 0]).flatten(1).any(dim=1).all()
    )


def test_what_makes_no_sense_is_refused() -> None:
    for make in (
        lambda: RandomClip(frames=0), lambda: RandomErasing(area=(0.0, 0.5)),
        lambda: RandomErasing(p=2.0),
    ):  # fmt: skip
        with pytest.raises(ValueError, match=r"^[`A-Z].* got .*\. [A-Z].*"):
            make()
