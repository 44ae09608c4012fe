"""Training crops by nvJPEG, without a GPU: torchvision's CPU decoder stands in for it."""

import io
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torchvision
from PIL import Image
from torch import Tensor

from mezzotint.augment.image.geometry import RandomResizedCrop
from mezzotint.augment.image.policies import identity
from mezzotint.augment.image.views import TwoViews
from mezzotint.data.image import nvjpeg
from mezzotint.data.image.folder import ImageFolder
from mezzotint.data.labeled import Labeled
from mezzotint.data.loader import BatchPlan, batches
from mezzotint.data.source import Source
from mezzotint.types import Batch, Crop, Interpolation

VIEWS = TwoViews(crop=RandomResizedCrop(scale=(0.5, 1.0)), policy=identity())


def picture(number: int, mode: str = "RGB") -> Image.Image:
    """A smooth one, so that decoders and resizing agree within a few levels."""
    down, across = np.mgrid[0:60, 0:80] / 80
    waves = [np.sin(3 * down + number), np.cos(2 * across - number), np.sin(2 * (down + across))]
    return Image.fromarray((127 + 120 * np.stack(waves, axis=2)).astype(np.uint8)).convert(mode)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Eight images in two classes: plain JPEG, and one PNG, one grayscale, one rotated by EXIF."""
    exif = Image.Exif()
    exif[0x0112] = 6
    for number in range(8):
        folder = tmp_path / "images" / ("cat" if number % 2 else "dog")
        folder.mkdir(parents=True, exist_ok=True)
        kind: dict[str, Any] = {"exif": exif} if number == 3 else {}
        name = f"{number}.png" if number == 1 else f"{number}.jpg"
        picture(number, "L" if number == 2 else "RGB").save(
            folder / name, **({} if number == 1 else {"quality": 95}) | kind
        )
    return tmp_path / "images"


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """A GPU that is the CPU; returns how many files each call decoded."""
    calls: list[int] = []
    real: Callable[..., Any] = torchvision.io.decode_jpeg

    def decode(data: list[Tensor], **settings: Any) -> Any:
        calls.append(len(data))
        return real(data, **settings)

    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(nvjpeg, "DEVICE", torch.device("cpu"))
    monkeypatch.setattr(torchvision.io, "decode_jpeg", decode)
    return calls


def read(source: Source, workers: int = 0, steps: int = 2, views: TwoViews = VIEWS) -> list[Batch]:
    plan = BatchPlan(len(source), len(source), seed=0)
    return list(batches(source, views, plan, start=0, stop=steps, workers=workers))


@pytest.mark.parametrize("workers", [0, 1])
def test_crops_are_those_of_pillow_up_to_the_decoder(
    root: Path, gpu: list[int], workers: int
) -> None:
    expected = read(ImageFolder(root=str(root), size=24))
    assert not gpu
    found = read(ImageFolder(root=str(root), size=24, decoder="nvjpeg"), workers)
    assert gpu == [5, 5], "plain JPEG files, a call a batch"
    for own, other in zip(found, expected, strict=True):
        assert own.cropped and torch.equal(own.ids, other.ids)
        for x, y in zip(own.x, other.x, strict=True):
            assert x.dtype == torch.uint8 and x.shape == y.shape == (8, 3, 24, 24)
            assert (x.float() - y.float()).abs().max() <= 3.0
    assert {"read", "draw", "stack", "decode", "crop"} == set(found[1].seconds), (
        "and the second is measured"
    )


def test_images_that_are_not_plain_are_the_workers_own(root: Path, gpu: list[int]) -> None:
    source = ImageFolder(root=str(root), size=24, decoder="nvjpeg")
    left = [isinstance(source.read_encoded(i, whole), nvjpeg.Jpeg) for i in range(8)]
    names = [Path(source.id_of(i)).name for i in range(8)]
    assert {name for name, plain in zip(names, left, strict=True) if not plain} == {
        "1.png",
        "2.jpg",
        "3.jpg",
    }


@pytest.mark.parametrize("damage", ["cut off", "inside"])
def test_a_broken_file_is_skipped_and_named_as_by_pillow(
    root: Path, gpu: list[int], damage: str
) -> None:
    path = root / "dog" / "4.jpg"
    data = path.read_bytes()
    # Without its tables the file opens, and ends as it should, and no decoder can make anything of
    # it.
    at = data.index(b"\xff\xc4")
    path.write_bytes(
        data[:-200] if damage == "cut off" else data[:at] + b"\xff\xda" + data[at + 2 :]
    )
    expected = read(ImageFolder(root=str(root), size=24), steps=1)[0]
    found = read(ImageFolder(root=str(root), size=24, decoder="nvjpeg"), steps=1)[0]
    assert [bad.id for bad in found.bad] == [bad.id for bad in expected.bad] == ["dog/4.jpg"]
    assert all(
        (x.float() - y.float()).abs().max() <= 3.0 for x, y in zip(found.x, expected.x, strict=True)
    )


def test_too_little_memory_is_no_broken_file(
    root: Path, gpu: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: Any, **__: Any) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(torchvision.io, "decode_jpeg", full)
    with pytest.raises(torch.OutOfMemoryError):
        read(ImageFolder(root=str(root), size=24, decoder="nvjpeg"), steps=1)


def test_a_labeled_part_of_the_folder_decodes_as_the_folder_does(
    root: Path, gpu: list[int]
) -> None:
    source = Labeled(source=ImageFolder(root=str(root), size=24, decoder="nvjpeg"))
    assert read(source, steps=1)[0].labels is not None
    assert len(gpu) == 1


def test_without_a_gpu_it_is_refused_in_one_line(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(
        ValueError, match="needs an NVIDIA GPU, and CUDA is not available. Use decoder=pillow"
    ):
        ImageFolder(root=str(root), decoder="nvjpeg")
    with pytest.raises(ValueError, match="must be pillow or nvjpeg, got 'turbo'"):
        ImageFolder(root=str(root), decoder="turbo")  # type: ignore[arg-type]


def test_crops_are_cut_at_full_size_and_antialiased() -> None:
    file = io.BytesIO()
    picture(0).save(file, "JPEG", quality=95)
    data = torch.frombuffer(bytearray(file.getvalue()), dtype=torch.uint8)
    [[small, same]] = nvjpeg.decode_crops(
        [nvjpeg.Jpeg(data, [Crop((10, 20, 40, 40), 8), Crop((0, 0, 30, 30), 30)])],
        torch.device("cpu"),
    )
    pixels = torch.from_numpy(np.array(Image.open(file))).permute(2, 0, 1)
    assert (same.float() - pixels[:, :30, :30].float()).abs().max() <= 2.0
    means = pixels[:, 10:50, 20:60].float().view(3, 8, 5, 8, 5).mean(dim=(2, 4))
    assert (small.float() - means).abs()[:, 1:-1, 1:-1].max() <= 4.0


@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
def test_both_filters_are_those_of_pillow(interpolation: Interpolation) -> None:
    file = io.BytesIO()
    noise = np.random.default_rng(0).integers(0, 256, (10, 12, 3), dtype=np.uint8)
    Image.fromarray(noise).resize((96, 80), Image.Resampling.BICUBIC).save(file, "JPEG", quality=95)
    data = torch.frombuffer(bytearray(file.getvalue()), dtype=torch.uint8)
    crops = [Crop((5, 6, 60, 70), size, interpolation) for size in (24, 100)]
    [found] = nvjpeg.decode_crops([nvjpeg.Jpeg(data, crops)], torch.device("cpu"))
    for crop, pixels in zip(crops, found, strict=True):
        chosen = Image.Resampling[interpolation.upper()]
        cut = Image.open(file).crop((6, 5, 76, 65)).resize((crop.size, crop.size), chosen)
        away = (pixels.permute(1, 2, 0).float() - torch.from_numpy(np.array(cut)).float()).abs()
        # The decoders part by a level or two; the two filters part by 4 levels and more on average.
        assert away.mean() < 1.0


def test_the_filter_of_the_views_reaches_the_decoder(root: Path, gpu: list[int]) -> None:
    source = ImageFolder(root=str(root), size=24, decoder="nvjpeg")
    bilinear, bicubic = (
        read(source, steps=1, views=TwoViews(crop=crop, policy=identity()))[0].x[0]
        for crop in (RandomResizedCrop(), RandomResizedCrop(interpolation="bicubic"))
    )
    assert ((bilinear.float() - bicubic.float()).flatten(1).abs().amax(dim=1) > 0.0).all()


def whole(height: int, width: int) -> Sequence[Crop]:
    return [Crop((0, 0, height, width), 24)]
