import os
import pickle
import shutil
import struct
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from sklearn.datasets import load_sample_images

from mezzotint.data.image.folder import ImageFolder, PathList
from mezzotint.data.listing.folder import scan
from mezzotint.data.source import Source
from mezzotint.types import Box, Crop, Interpolation, Unreadable

PHOTO = load_sample_images().images[0]


def paint(path: Path, seed: int = 0, height: int = 40, width: int = 56) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path)


def fill(root: Path, names: list[str]) -> ImageFolder:
    for i, name in enumerate(names):
        paint(root / name, i)
    return ImageFolder(root=str(root), size=32)


def ids(source: Source) -> list[str]:
    return [source.read(i)["id"] for i in range(len(source))]


def test_classes_are_the_folders_below_the_root(tmp_path: Path) -> None:
    source = fill(tmp_path, ["dog/a.png", "dog/deep/er/b.png", "cat/c.jpg", "loose.png"])
    assert isinstance(source, Source) and source.croppable and source.evaluation()[1]
    assert not source.in_memory
    assert source.classes == ["cat", "dog"]
    labels = {name: source.read(i)["label"] for i, name in enumerate(ids(source))}
    assert labels == {"cat/c.jpg": 0, "dog/a.png": 1, "dog/deep/er/b.png": 1, "loose.png": None}
    x = source.read(0)["x"]
    assert (
        x.dtype == torch.uint8
        and tuple(x.shape) == source.input.shape == (3, 32, 32)
        and x.is_contiguous()
    )


def test_the_order_is_that_of_the_bytes_whoever_wrote_first(tmp_path: Path) -> None:
    names = [
        "b/2.png",
        "b/10.png",
        "a b/ü ö.png",
        "a/日本.PNG",
        "B/x.JPeG",
        "a-c/y.webp",
        "a/z.tiff",
    ]
    first, second = fill(tmp_path / "1", names), fill(tmp_path / "2", names[::-1])
    assert ids(first) == ids(second) == sorted(names, key=os.fsencode)


def test_what_is_no_image_is_left_out(tmp_path: Path) -> None:
    source = fill(tmp_path, ["a/1.png", "b/2.png"])
    (tmp_path / "a" / "notes.txt").write_text("x")
    (tmp_path / "labels.csv").write_text("x")
    paint(tmp_path / "a" / ".hidden.png")
    paint(tmp_path / ".cache" / "3.png")
    again = ImageFolder(root=str(tmp_path))
    assert ids(again) == ids(source) == ["a/1.png", "b/2.png"]
    assert scan(str(tmp_path)).others == ["a/notes.txt", "labels.csv"]


def test_links_are_not_followed(tmp_path: Path) -> None:
    root = tmp_path / "root"
    source = fill(root, ["a/1.png", "b/2.png"])
    paint(tmp_path / "outside" / "secret.png")
    (root / "c").symlink_to(tmp_path / "outside")
    (root / "a" / "loop").symlink_to(root)
    (root / "a" / "s.png").symlink_to(tmp_path / "outside" / "secret.png")
    assert ids(ImageFolder(root=str(root))) == ids(source)
    assert scan(str(root)).links == ["a/loop", "a/s.png", "c"]
    (tmp_path / "entrance").symlink_to(root)
    assert ids(ImageFolder(root=str(tmp_path / "entrance"))) == ids(source)


def test_a_folder_of_links_says_so(tmp_path: Path) -> None:
    paint(tmp_path / "outside" / "1.png")
    (tmp_path / "root").mkdir()
    (tmp_path / "root" / "a").symlink_to(tmp_path / "outside")
    with pytest.raises(
        ValueError, match=r"has no images \(not followed: 1 symbolic link\). Supported"
    ):
        ImageFolder(root=str(tmp_path / "root"))


def test_special_files_are_not_opened(tmp_path: Path) -> None:
    fill(tmp_path, ["a/1.png"])
    os.mkfifo(tmp_path / "a" / "2.png")
    assert len(ImageFolder(root=str(tmp_path))) == 1


@pytest.mark.parametrize(
    ("given_root", "message"),
    [
        ("gone", "does not exist. It must be a folder of images. Check the path"),
        ("file", "is a file. It must be a folder of images. Check the path"),
        ("empty", "has no images. Supported: jpg, png"),
        ("classes", "has no images. Supported: jpg, png"),
        ("splits", r"has no images \(`train` is empty\). Supported: jpg, png"),
    ],
)
def test_nothing_to_read(given_root: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    for folder in ("empty", "classes/a", "classes/b", "splits/train"):
        (tmp_path / folder).mkdir(parents=True)
    paint(tmp_path / "splits/val/a/1.png")
    with pytest.raises(ValueError, match=message) as caught:
        ImageFolder(root=str(tmp_path / given_root))
    assert "\n" not in str(caught.value)


def test_a_folder_that_may_not_be_listed_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fill(tmp_path, ["a/1.png", "b/2.png"])
    listed = os.scandir

    def refuse(path: str) -> object:
        if path.rstrip("/").endswith("b"):
            raise PermissionError
        return listed(path)

    monkeypatch.setattr(os, "scandir", refuse)
    with pytest.raises(ValueError, match="no permission to list b. Change"):
        ImageFolder(root=str(tmp_path))


@pytest.mark.parametrize(
    "keys", [{"size": 0}, {"holdout": 0.0}, {"holdout": 1.0}, {"max_pixels": 0}]
)
def test_values_out_of_range(keys: dict[str, int], tmp_path: Path) -> None:
    fill(tmp_path, ["a/1.png"])
    with pytest.raises(ValueError, match=f"`{next(iter(keys))}`.* must be .*, got "):
        ImageFolder(root=str(tmp_path), **keys)  # type: ignore[arg-type]


def test_five_bad_files_of_each_kind_among_fifty(tmp_path: Path) -> None:
    names = [f"{'ab'[i % 2]}/{i:03}.png" for i in range(50)]
    fill(tmp_path, names)
    whole = (tmp_path / names[0]).read_bytes()
    Image.fromarray(PHOTO).save(tmp_path / "photo.jpg")
    photo = (tmp_path / "photo.jpg").read_bytes()
    (tmp_path / "photo.jpg").unlink()
    kinds: dict[str, Callable[[int], bytes]] = {
        "empty": lambda i: b"",
        "not an image": lambda i: b"word " * (i + 1),
        "truncated": lambda i: whole[: len(whole) * (i + 2) // 8],
        "broken": lambda i: whole[:60] + bytes(200 + i) + whole[260 + i :],
        "too large": lambda i: huge_png(8000 + i),
        "truncated: image file is truncated": lambda i: photo[: len(photo) * (i + 2) // 8],
    }
    expected = {}
    for number, (kind, content) in enumerate(kinds.items()):
        for i in range(5):
            name = f"a/bad-{number}-{i}.{'jpg' if ':' in kind else 'png'}"
            (tmp_path / name).write_bytes(content(i))
            expected[name] = kind
    source, found, read = ImageFolder(root=str(tmp_path), size=16), {}, []
    for i in range(len(source)):
        try:
            read.append(source.read(i)["id"])
        except Unreadable as error:
            found[error.id] = error.reason
    assert read == sorted(names) and found.keys() == expected.keys()
    for name, kind in expected.items():
        assert found[name].startswith(kind), (name, found[name])


def huge_png(side: int) -> bytes:
    def chunk(name: bytes, content: bytes) -> bytes:
        return (
            struct.pack(">I", len(content))
            + name
            + content
            + struct.pack(">I", zlib.crc32(name + content))
        )

    header = struct.pack(">IIBBBBB", side, side, 1, 0, 0, 0, 0)
    rows = zlib.compress(bytes((side // 8 + 1) * side), 9)
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", rows) + chunk(b"IEND", b"")
    )


def test_a_bomb_of_400_megapixels_in_49_kilobytes(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(huge_png(20_000))
    assert 48_000 < (tmp_path / "a.png").stat().st_size < 50_000
    with pytest.raises(Unreadable, match="a.png: too large: "):
        ImageFolder(root=str(tmp_path)).read(0)


def test_a_file_that_vanishes_is_unreadable(tmp_path: Path) -> None:
    source = fill(tmp_path, ["a/1.png"])
    (tmp_path / "a" / "1.png").unlink()
    with pytest.raises(Unreadable, match="a/1.png: missing"):
        source.read(0)


@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
@pytest.mark.parametrize(
    ("height", "width"), [(427, 640), (200, 60), (256, 256), (30, 300), (1, 1)]
)
def test_read_is_resize_and_center_crop(
    height: int, width: int, interpolation: Interpolation, tmp_path: Path
) -> None:
    Image.fromarray(PHOTO[:height, :width]).save(tmp_path / "a.png")
    source = ImageFolder(root=str(tmp_path), size=112, interpolation=interpolation)
    found = source.read(0)["x"].numpy().transpose(1, 2, 0)
    # The way of the papers: the shorter side to 128, then the middle 112; its rounding may shift
    # the crop by a pixel.
    ratio = 128 / min(height, width)
    size = max(128, round(width * ratio)), max(128, round(height * ratio))
    resized = Image.fromarray(PHOTO[:height, :width]).resize(
        size, Image.Resampling[interpolation.upper()]
    )
    left, top = (size[0] - 112) // 2, (size[1] - 112) // 2
    expected = np.asarray(resized.crop((left, top, left + 112, top + 112))).astype(int)
    assert np.abs(found - expected).mean() < 6


@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
def test_whole_samples_are_pillow_s_resize_of_the_middle(
    interpolation: Interpolation, tmp_path: Path
) -> None:
    Image.fromarray(PHOTO[:256, :300]).save(tmp_path / "a.png")
    source = ImageFolder(root=str(tmp_path), size=96, interpolation=interpolation)
    middle = Image.fromarray(PHOTO[16:240, 38:262])
    expected = np.asarray(middle.resize((96, 96), Image.Resampling[interpolation.upper()]))
    np.testing.assert_array_equal(source.read(0)["x"].permute(1, 2, 0).numpy(), expected)
    parts = source.multi_crop(1, 3).read(0)["x"]
    assert torch.equal(parts[1], source.read(0)["x"])
    other: Interpolation = "bicubic" if interpolation == "bilinear" else "bilinear"
    different = ImageFolder(root=str(tmp_path), size=96, interpolation=other).read(0)["x"]
    assert (different.float() - source.read(0)["x"].float()).abs().mean() > 1.0


def test_another_filter_is_refused(tmp_path: Path) -> None:
    paint(tmp_path / "a.png")
    with pytest.raises(ValueError, match="`interpolation` must be bilinear or bicubic, got 'near"):
        ImageFolder(root=str(tmp_path), interpolation="nearest")  # type: ignore[arg-type]


@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
def test_crops_equal_those_of_the_whole_image(interpolation: Interpolation, tmp_path: Path) -> None:
    Image.fromarray(PHOTO).save(tmp_path / "a.jpg")
    source = ImageFolder(root=str(tmp_path))
    requested: list[tuple[int, int]] = []

    def choose(height: int, width: int) -> list[Crop]:
        requested.append((height, width))
        boxes = [((10, 20, 100, 150), 64), ((0, 0, height, width), 224), ((400, 600, 20, 30), 16)]
        return [Crop(*box, interpolation) for box in boxes]

    crops = source.read_crops(0, choose)
    assert requested == [(427, 640)]
    whole = Image.open(tmp_path / "a.jpg")
    for crop, ((top, left, height, width), size, _) in zip(crops, choose(427, 640), strict=True):
        plain = whole.crop((left, top, left + width, top + height)).resize(
            (size, size), Image.Resampling[interpolation.upper()]
        )
        assert crop.dtype == torch.uint8 and crop.is_contiguous()
        np.testing.assert_array_equal(crop.numpy().transpose(1, 2, 0), np.asarray(plain))


@pytest.mark.parametrize("box", [(-1, 0, 9, 9), (0, 50, 9, 9), (0, 0, 41, 9), (0, 0, 0, 9)])
def test_a_box_outside_is_an_error_of_the_caller(box: Box, tmp_path: Path) -> None:
    source = fill(tmp_path, ["a.png"])
    with pytest.raises(ValueError, match="must lie within the 40 x 56 pixels of a.png. Correct"):
        source.read_crops(0, lambda height, width: [Crop(box, 8)])


def test_an_error_of_the_caller_is_not_blamed_on_the_file(tmp_path: Path) -> None:
    source = fill(tmp_path, ["a.png"])
    with pytest.raises(ZeroDivisionError):
        source.read_crops(0, lambda height, width: [Crop((0, 0, 1, 1), 1 // 0)])


def test_a_part_of_each_class_is_held_out(tmp_path: Path) -> None:
    source = fill(
        tmp_path,
        [*(f"a/{i}.png" for i in range(10)), *(f"b/{i}.png" for i in range(5)), "loose.png"],
    )
    whole, tasks = source.evaluation()
    assert whole is source and [task.name for task in tasks] == ["label/holdout"]
    task = tasks[0]
    assert np.bincount(task.labels[task.test]).tolist() == [2, 1]
    assert sorted([*task.train, *task.test]) == list(range(15)) and task.classes == ["a", "b"]
    again = ImageFolder(root=str(tmp_path)).evaluation()[1][0]
    np.testing.assert_array_equal(task.test, again.test)


@pytest.mark.parametrize("names", [["1.png", "2.png"], ["only/1.png", "only/2.png"]])
def test_with_fewer_than_two_classes_there_is_no_task(names: list[str], tmp_path: Path) -> None:
    assert fill(tmp_path, names).evaluation()[1] == []


def test_splits_as_in_imagenet(tmp_path: Path) -> None:
    train = [f"train/{c}/{i}.png" for c in ("n01", "n02") for i in range(3)]
    val = ["val/n01/9.png", "val/n02/9.png", "val/n03/9.png"]
    source = fill(tmp_path, [*train, *val])
    (tmp_path / "labels.csv").write_text("x")
    assert ids(source) == train and source.read(5)["label"] == 1
    whole, tasks = source.evaluation()
    assert ids(whole) == [*train, *val] and len(source) == 6
    assert [task.name for task in tasks] == ["label/val"]
    assert tasks[0].train.tolist() == list(range(6)) and tasks[0].test.tolist() == [6, 7, 8]
    assert [tasks[0].classes[i] for i in tasks[0].labels] == ["n01"] * 3 + ["n02"] * 3 + [
        "n01",
        "n02",
        "n03",
    ]
    assert whole.read(6)["label"] == 0 and whole.fingerprint() != source.fingerprint()


def test_splits_without_classes_and_other_names(tmp_path: Path) -> None:
    source = fill(tmp_path, ["train/1.png", "test/2.png", "validation/3.png"])
    assert ids(source) == ["train/1.png"] and source.evaluation()[1] == []
    other = ImageFolder(root=str(tmp_path), split="test")
    assert ids(other) == ["test/2.png"]
    with pytest.raises(
        ValueError,
        match="must be one of the splits of .*, train, validation, test, got 'val'. Name one",
    ):
        ImageFolder(root=str(tmp_path), split="val")


def test_val_is_scored_rather_than_test(tmp_path: Path) -> None:
    source = fill(tmp_path, [f"{s}/{c}/1.png" for s in ("train", "test", "val") for c in "ab"])
    assert [task.name for task in source.evaluation()[1]] == ["label/val"]
    only = fill(tmp_path / "2", [f"{s}/{c}/1.png" for s in ("train", "test") for c in "ab"])
    assert [task.name for task in only.evaluation()[1]] == ["label/test"]


def test_a_class_may_be_called_train(tmp_path: Path) -> None:
    source = fill(tmp_path, ["train/1.png", "plane/2.png"])
    assert source.classes == ["plane", "train"] and len(source) == 2
    with pytest.raises(ValueError, match="which has none, got 'train'"):
        ImageFolder(root=str(tmp_path), split="train")


def test_the_fingerprint_knows_names_and_sizes(tmp_path: Path) -> None:
    source = fill(tmp_path / "1", ["a/1.png", "b/2.png"])
    fill(tmp_path / "2", ["a/1.png", "b/2.png"])
    first = source.fingerprint()
    assert ImageFolder(root=str(tmp_path / "2")).fingerprint() == first
    shutil.move(tmp_path / "1/a/1.png", tmp_path / "1/a/3.png")
    renamed = ImageFolder(root=str(tmp_path / "1"))
    (tmp_path / "2/a/1.png").write_bytes((tmp_path / "2/a/1.png").read_bytes() + b"\0")
    grown = ImageFolder(root=str(tmp_path / "2"))
    paint(tmp_path / "2/a/new.png")
    added = ImageFolder(root=str(tmp_path / "2"))
    assert len({first, *(s.fingerprint() for s in (renamed, grown, added))}) == 4


def test_it_can_be_sent_to_a_worker(tmp_path: Path) -> None:
    source = fill(tmp_path, [f"a/{i}.png" for i in range(3)])
    copy = pickle.loads(pickle.dumps(source))
    assert ids(copy) == ids(source) and copy.config == source.config
    assert source.config == {"kind": "image_folder", "root": str(tmp_path), "size": 32}


@given(st.lists(st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]))))
def test_paths_are_kept_in_one_block(names: list[str]) -> None:
    paths = PathList(names)
    assert list(paths) == names and len(paths) == len(names)
    assert not names or paths[-1] == names[-1]


def test_names_that_are_no_unicode_are_kept(tmp_path: Path) -> None:
    paint(tmp_path / "a.png")
    os.rename(os.fsencode(tmp_path / "a.png"), os.fsencode(tmp_path) + b"/\xff\xfe.png")
    assert ImageFolder(root=str(tmp_path), size=8).read(0)["id"] == os.fsdecode(b"\xff\xfe.png")


def test_copies_and_patients_are_held_out_together(tmp_path: Path) -> None:
    for number in range(12):
        paint(tmp_path / "pets" / ("cat", "dog")[number % 2] / f"{number:02}.png", number // 4)
    source = ImageFolder(root=str(tmp_path / "pets"), size=8, holdout=0.4)
    both, (task,) = source.evaluation()
    pixels = [both.read(i)["x"].numpy().tobytes() for i in range(12)]
    assert len(task.test) and not {pixels[i] for i in task.test} & {pixels[i] for i in task.train}
    for number in range(24):
        name = f"{('ill', 'well')[number % 2]}/patient{number % 8 // 2}/{number}.png"
        paint(tmp_path / "scans" / name, 50 + number)
    both, (task,) = ImageFolder(root=str(tmp_path / "scans"), size=8).evaluation()
    patient = [both.id_of(i).split("/")[1] for i in range(24)]
    assert len(task.test) and not {patient[i] for i in task.test} & {patient[i] for i in task.train}


def test_the_group_of_an_image_can_be_told(tmp_path: Path) -> None:
    for number in range(24):
        paint(tmp_path / ("a", "b")[number % 2] / f"x{number % 6 // 2}-{number}.png", number)
    for group, apart in ((r"x\d", True), ("", False)):
        source = ImageFolder(root=str(tmp_path), size=8, group=group)
        _, (task,) = source.evaluation()
        who = [source.id_of(i).split("/")[1][:2] for i in range(24)]
        assert ({who[i] for i in task.test} & {who[i] for i in task.train} == set()) == apart
    with pytest.raises(ValueError, match="`group` must be a regular expression"):
        ImageFolder(root=str(tmp_path), group="[")
