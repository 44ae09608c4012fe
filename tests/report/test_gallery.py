import base64
import io
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from mezzotint.augment.image.geometry import RandomResizedCrop
from mezzotint.augment.image.policies import simclr
from mezzotint.augment.image.views import MultiCrop, TwoViews
from mezzotint.augment.randomized_quantization.transform import RandomizedQuantization
from mezzotint.augment.views import ViewContext, ViewGenerator
from mezzotint.data.image.arrays import Arrays
from mezzotint.data.image.embedded import EmbeddedImages
from mezzotint.data.image.folder import ImageFolder
from mezzotint.data.source import Source
from mezzotint.report.gallery import view_strips, write_gallery
from mezzotint.report.plots import number
from mezzotint.seeding import sample_order
from mezzotint.types import Batch

Images = Callable[..., dict[str, Any]]

VIEWS = TwoViews(
    policy=simclr(strength=0.5), randomized_quantization=RandomizedQuantization(bins=5, p=0.5)
)


@pytest.fixture
def arrays(tmp_path: Path, colored_images: Images) -> Arrays:
    np.savez(tmp_path / "x.npz", **colored_images(40))
    return Arrays(path=str(tmp_path / "x.npz"))


@pytest.fixture
def folder(tmp_path: Path, colored_images: Images) -> ImageFolder:
    """Images of odd sizes, one of which cannot be read."""
    for i, pixels in enumerate(colored_images(9, size=40)["x"]):
        folder = tmp_path / "images" / f"class{i % 3}"
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels[: 30 + i]).save(folder / f"{i}.png")
    (tmp_path / "images" / "class0" / "0.png").write_bytes(b"not an image")
    return ImageFolder(root=str(tmp_path / "images"), size=24)


def pixels_of(src: str) -> np.ndarray:
    image = Image.open(io.BytesIO(base64.b64decode(src.partition(",")[2])))
    return np.asarray(image)


def test_views_are_those_of_training_without_their_normalization(arrays: Arrays) -> None:
    ids = sample_order(len(arrays), 7, 0)[:5]
    batch = Batch((arrays.read_batch(ids),), ids)
    seen = VIEWS(batch, ViewContext(arrays.input, 7, 0), step=0)
    mean, std = (torch.tensor(v).view(-1, 1, 1) for v in (arrays.input.mean, arrays.input.std))
    strips = view_strips(arrays, VIEWS, arrays.input, samples=5, seed=7)
    assert [strip.name for strip in strips] == [arrays.read(int(i))["id"] for i in ids]
    for row, strip in enumerate(strips):
        assert np.array_equal(
            pixels_of(strip.original.src), arrays.images[ids[row]].permute(1, 2, 0).numpy()
        )
        for view, shown in enumerate(strip.views):
            expected = (seen.x[view][row] * std + mean) * 255
            difference = pixels_of(shown.picture.src) - expected.permute(1, 2, 0).numpy()
            assert np.abs(difference).max() <= 0.51


def test_parameters_are_what_was_drawn(arrays: Arrays) -> None:
    strips = view_strips(arrays, VIEWS, arrays.input, samples=12, seed=0)
    ids = sample_order(len(arrays), 0, 0)[:12]
    drawn = VIEWS.draw(ids, ViewContext(arrays.input, 0, 0))
    said = 0
    for row, strip in enumerate(strips):
        for view, shown in enumerate(strip.views):
            params = drawn[view]
            box = VIEWS.views[view].crop.boxes(params["crop"], 16, 16)[row]
            pairs = dict(shown.parameters)
            assert pairs["crop"] == f"{100 * float(box[2] * box[3]) / 256:.0f} %"
            assert ("flip" in pairs) == bool(params["flip"]["chosen"][row])
            jitter = {
                key.rpartition(".")[2]: v
                for key, v in params["policy"].items()
                if ".color_jitter." in key
            }
            assert ("jitter" in shown.brief) == bool(jitter["chosen"][row])
            if jitter["chosen"][row]:
                said += 1
                assert pairs["brightness"] == number(float(jitter["brightness"][row]))
                names = ["brightness", "contrast", "saturation", "hue"]
                assert pairs["order"] == " ".join(
                    names[i][:3] for i in jitter["order"][row].tolist()
                )
            if "quantized" in shown.brief:
                assert pairs["edges per channel"] == "4"
    assert said > 3


def test_files_of_any_size_are_cropped_as_the_workers_crop_and_bad_ones_left_out(
    folder: ImageFolder,
) -> None:
    strips = view_strips(folder, VIEWS, folder.input, samples=9, seed=0)
    assert {strip.name for strip in strips} == {f"class{i % 3}/{i}.png" for i in range(1, 9)}
    ids = sample_order(len(folder), 0, 0)
    crop_samplers = VIEWS.crop_samplers(ids, ViewContext(folder.input, 0, 0))
    for view, index in enumerate(ids.tolist()):
        strip = next((s for s in strips if s.name == folder._paths[index]), None)
        if strip is None:
            continue
        height = 30 + int(Path(strip.name).stem)
        crops = [box for box, *_ in crop_samplers[view](height, 40)]
        for shown, (_, _, rows, columns) in zip(strip.views, crops, strict=True):
            assert dict(shown.parameters)["crop"] == f"{100 * rows * columns / (height * 40):.0f} %"
            assert (shown.picture.height, shown.picture.width) == (24, 24)


class Pictures(HTMLParser):
    """All pictures and all text of a page."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.sources: list[str] = []
        self.text = ""
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag == "img":
            self.sources.append(dict(attrs)["src"] or "")

    def handle_data(self, data: str) -> None:
        self.text += data + " "


MANY = MultiCrop(local_crop=RandomResizedCrop(size=8, scale=(0.05, 0.2)), num_local=3)


@pytest.mark.parametrize(("views", "count"), [(VIEWS, 2), (MANY, 5)])
def test_page_has_the_original_and_every_view_of_each_sample(
    arrays: Arrays, tmp_path: Path, views: ViewGenerator, count: int
) -> None:
    out = write_gallery(
        arrays, views, arrays.input, tmp_path / "new" / "gallery.html", samples=4, seed=1
    )
    page = Pictures(out.read_text(encoding="utf-8"))
    assert len(page.sources) == 4 * (1 + count)
    assert all(source.startswith("data:image/png;base64,") for source in page.sources)
    assert f"4 of 40 samples, each with {count} views of 16 × 16 pixels" in page.text
    assert page.text.count("crop") >= 4 * count
    assert ("8 × 8 pixels" in page.text) == (count == 5)


def test_page_names_whose_work_the_samples_are(tmp_path: Path) -> None:
    source = EmbeddedImages(name="digits")
    out = write_gallery(source, VIEWS, source.input, tmp_path / "g.html", samples=1)
    assert source.credit in Pictures(out.read_text(encoding="utf-8")).text


def test_more_samples_than_there_are_shows_all(arrays: Arrays, tmp_path: Path) -> None:
    out = write_gallery(arrays, VIEWS, arrays.input, tmp_path / "g.html", samples=100)
    assert len(Pictures(out.read_text(encoding="utf-8")).sources) == 120


def test_what_cannot_be_shown_is_refused(arrays: Arrays, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="`samples` must be at least 1, got 0"):
        write_gallery(arrays, VIEWS, arrays.input, tmp_path / "g.html", samples=0)

    class Table(Arrays):
        pass

    table: Source = Table(path=arrays.path)
    table.input = type(arrays.input)((3,), (0.0,) * 3, (1.0,) * 3, "table")
    with pytest.raises(
        ValueError, match="Rows have no pictures. Supported: audio, image, image_text, points"
    ):
        write_gallery(table, VIEWS, table.input, tmp_path / "g.html")
