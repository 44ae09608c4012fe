"""Features averaged over several clips and crops of a sample, against the same done by hand."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from mezzotint.data.image.folder import ImageFolder
from mezzotint.data.video.decode import read_frames, squares, times_of
from mezzotint.data.video.folder import VideoFolder
from mezzotint.encoders.resnet import resnet8
from mezzotint.encoders.vit import ViT
from mezzotint.evaluation.features import Reading, extract, raw_features


def videos(folder: Path) -> Path:
    """Three videos of 2 seconds, 96 x 32, in which a light column wanders to the right."""
    av = pytest.importorskip("av")
    for number in range(3):
        with av.open(str(folder / f"{number}.mp4"), "w") as container:
            stream = container.add_stream("mpeg4", rate=10)
            stream.width, stream.height, stream.pix_fmt = 96, 32, "yuv420p"
            for time in range(20):
                pixels = np.zeros((32, 96, 3), np.uint8)
                pixels[:, 4 * time + 5 * number : 4 * time + 5 * number + 16] = 200
                container.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24")))
            container.mux(stream.encode())
    return folder


def test_videos_are_averaged_over_clips_and_crops(tmp_path: Path) -> None:
    source = VideoFolder(root=str(videos(tmp_path)), frames=4, fps=5.0, size=16)
    torch.manual_seed(0)
    encoder = ViT(source.input, width=12, depth=1, heads=2, patch=[2, 8, 8]).eval()
    found = extract(encoder, source.multi_crop(3, 2).evaluation()[0], reading=Reading(2))
    by_hand = []
    for number in range(3):
        parts = []
        for start in (0.0, 0.6, 1.2):  # seconds: 2 s less the 0.8 s of a clip, in two steps
            times = start + np.arange(4) / 5.0
            whole = read_frames(str(tmp_path / f"{number}.mp4"), lambda _, at=times: at, 32, 3)  # type: ignore[misc]
            frames = whole.view(3, 3, 4, 32, 32)
            for crop in (0, 2):  # of three squares the outer two
                small = squares(frames[crop].transpose(0, 1), 16).transpose(0, 1)
                parts.append(source.input.normalize(source.input.as_float(small).unsqueeze(0)))
        with torch.no_grad():
            by_hand.append(torch.cat([encoder(part) for part in parts]).mean(dim=0))
    assert torch.allclose(found, torch.stack(by_hand), atol=1e-5)


def test_one_clip_and_crop_is_the_sample_itself(tmp_path: Path) -> None:
    source = VideoFolder(root=str(videos(tmp_path)), frames=4, fps=5.0, size=16)
    assert torch.equal(source.multi_crop(1, 1).read(1)["x"], source.read(1)["x"])
    assert source.multi_crop(5, 3).read(1)["x"].shape == (15, 3, 4, 16, 16)
    assert source.read(1)["x"].shape == (3, 4, 16, 16)  # the source itself is left as it was


def test_times_of_clips() -> None:
    assert times_of("middle", 2, 1.0, 3)(6.0) == pytest.approx([0, 1, 2, 3, 4, 5])
    assert times_of("middle", 2, 1.0, 2)(1.0) == pytest.approx(
        [0, 1, 0, 1]
    )  # a video shorter than a clip
    assert times_of("even", 2, 1.0, 2)(8.0) == pytest.approx([1, 5, 3, 7])


@pytest.mark.parametrize(("height", "width"), [(32, 80), (80, 32)])
def test_images_are_averaged_over_crops(height: int, width: int, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    pixels = [rng.integers(0, 255, (height, width, 3), dtype=np.uint8) for _ in range(3)]
    for number, image in enumerate(pixels):
        Image.fromarray(image).save(tmp_path / f"{number}.png")
    source = ImageFolder(root=str(tmp_path), size=28)
    encoder = resnet8(source.input, width=4).eval()
    found = extract(encoder, source.multi_crop(1, 3))
    for image, row in zip(pixels, found, strict=True):
        cuts = [
            image[2:30, at : at + 28] if width > height else image[at : at + 28, 2:30]
            for at in (0, 26, 52)
        ]
        x = torch.stack([torch.from_numpy(cut).permute(2, 0, 1) for cut in cuts])
        with torch.no_grad():
            by_hand = encoder(source.input.normalize(source.input.as_float(x))).mean(dim=0)
        assert torch.allclose(row, by_hand, atol=1e-5)
    raw = raw_features(source.multi_crop(1, 3)).x
    assert raw.shape == (3, 3 * 28 * 28)


def test_images_have_no_clips(tmp_path: Path) -> None:
    Image.new("RGB", (40, 40)).save(tmp_path / "a.png")
    with pytest.raises(ValueError, match="`clips` must be 1 and `crops` 1 or more for images"):
        ImageFolder(root=str(tmp_path)).multi_crop(2, 1)
