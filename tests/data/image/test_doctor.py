import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image

from mezzotint.data.image import doctor
from mezzotint.data.image.doctor import Report, deep_images, finding, only_native
from mezzotint.data.image.doctor import examine_folder as examine
from tests.data.image.stored import write_dicom


def paint(path: Path, seed: int, height: int = 20, width: int = 30) -> npt.NDArray[np.uint8]:
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path)
    return pixels


def clean(root: Path) -> None:
    for i in range(12):
        paint(root / "train" / "ab"[i % 2] / f"{i}.{'png' if i % 3 else 'jpg'}", i, 20 + i, 30)
    for i in range(12, 18):
        paint(root / "val" / "ab"[i % 2] / f"{i}.png", i)


def plant(root: Path) -> dict[str, object]:
    """Put one of each problem into a clean folder; return exactly the expected findings."""
    whole = (root / "train" / "a" / "2.png").read_bytes()
    (root / "train/a/empty.jpg").write_bytes(b"")
    (root / "train/a/text.png").write_text("no image")
    (root / "train/b/cut.png").write_bytes(whole[: len(whole) // 2])
    (root / "train/b/wide.png").write_bytes(whole)
    paint(root / "val/a/large.png", 99, 200, 300)
    (root / "train/b/1-again.png").write_bytes((root / "train/b/1.png").read_bytes())
    Image.open(root / "train/b/3.jpg").save(
        root / "val/b/leaked.png"
    )  # the same pixels in another format
    (root / "train/c/deep").mkdir(parents=True)
    (root / "val/c").mkdir()
    (root / "labels.csv").write_text("x")
    (root / "train/a/notes.txt").write_text("x")
    (root / "val/link").symlink_to(root / "train")
    return {
        "unreadable": {
            "train/a/empty.jpg": "empty: 0 bytes",
            "train/a/text.png": "not an image: no known image format",
            "train/b/cut.png": "truncated: ",
            "val/a/large.png": "too large: 300 x 200 pixels, more than max_pixels=50000",
        },
        "duplicates": [
            ["train/a/2.png", "train/b/wide.png"],
            ["train/b/1-again.png", "train/b/1.png"],
        ],
        "leaks": [["train/b/3.jpg", "val/b/leaked.png"]],
        "empty_classes": ["train/c", "val/c"],
        "not_images": ["labels.csv", "train/a/notes.txt"],
        "links": ["val/link"],
    }


@pytest.mark.parametrize("workers", [0, 2])
def test_a_clean_folder_has_no_findings(workers: int, tmp_path: Path) -> None:
    clean(tmp_path)
    report = examine(str(tmp_path), workers=workers)
    assert report.ok and report.images == 18
    for name in (
        "unreadable",
        "duplicates",
        "leaks",
        "empty_classes",
        "not_images",
        "links",
        "closed",
    ):
        assert getattr(report, name) == []
    assert report.classes == {"train/a": 6, "train/b": 6, "val/a": 3, "val/b": 3}
    assert report.formats == {"PNG RGB": 14, "JPEG RGB": 4}
    assert report.sizes == {"height": [20, 22, 31], "width": [30, 30, 30]}
    lines = list(report.lines())
    assert len(lines) == 6 and lines[-1] == "ok"
    assert lines[0].endswith("images, 2 classes")  # each once, whatever its splits
    assert lines[4] == "  in each class: train/a 6, train/b 6, val/a 3, val/b 3"


@pytest.mark.parametrize("workers", [0, 2])
def test_exactly_what_was_planted_is_named(workers: int, tmp_path: Path) -> None:
    clean(tmp_path)
    expected = plant(tmp_path)
    report = examine(str(tmp_path), workers=workers, max_pixels=50_000)
    unreadable = expected.pop("unreadable")
    assert isinstance(unreadable, dict) and dict(report.unreadable).keys() == unreadable.keys()
    for path, reason in report.unreadable:
        assert reason.startswith(unreadable[path])
    for name, value in expected.items():
        assert getattr(report, name) == value, name
    assert not report.ok
    text = "\n".join(report.lines())
    assert "unreadable: 4\n  train/a/empty.jpg: empty: 0 bytes\n" in text
    assert (
        "in more than one split: 1\n  train/b/3.jpg = val/b/leaked.png\n" in text
        and text.endswith("not ok")
    )


@pytest.mark.parametrize(
    "fault", ["unreadable", "leaks", "empty_classes", "contradictions", "unknown_classes"]
)
def test_each_of_these_alone_is_not_ok(fault: str, tmp_path: Path) -> None:
    clean(tmp_path)
    if fault == "unreadable":
        (tmp_path / "train/a/x.png").write_bytes(b"x")
    elif fault == "contradictions":
        (tmp_path / "train/b/x.png").write_bytes((tmp_path / "train/a/2.png").read_bytes())
    elif fault == "unknown_classes":
        paint(tmp_path / "val/z/1.png", 99)
    elif fault == "leaks":
        (tmp_path / "val/a/x.png").write_bytes((tmp_path / "train/a/2.png").read_bytes())
    else:
        (tmp_path / "val/z").mkdir()
    report = examine(str(tmp_path), workers=0)
    assert len(getattr(report, fault)) == 1 and not report.ok


@pytest.mark.parametrize("harmless", ["duplicates", "not_images"])
def test_these_are_named_but_ok(harmless: str, tmp_path: Path) -> None:
    clean(tmp_path)
    name = "train/a/x.png" if harmless == "duplicates" else "x.csv"
    (tmp_path / name).write_bytes((tmp_path / "train/a/2.png").read_bytes())
    report = examine(str(tmp_path), workers=0)
    assert len(getattr(report, harmless)) == 1 and report.ok


def test_mean_and_deviation_are_those_of_the_pixels(tmp_path: Path) -> None:
    images = [paint(tmp_path / f"{i}.png", i, 10, 10) // (i + 1) for i in range(4)]
    for i, image in enumerate(images):
        Image.fromarray(image).save(tmp_path / f"{i}.png")
    report = examine(str(tmp_path), workers=0)
    unit = np.stack(images) / 255
    np.testing.assert_allclose(report.mean, unit.mean(axis=(0, 1, 2)), rtol=1e-12)
    np.testing.assert_allclose(report.std, unit.std(axis=(0, 1, 2)), rtol=1e-9)


def test_the_same_pixels_in_another_shape_are_another_image(tmp_path: Path) -> None:
    for name, shape in (("a.png", (4, 9)), ("b.png", (9, 4)), ("c.png", (6, 6))):
        Image.fromarray(np.full((*shape, 3), 7, np.uint8)).save(tmp_path / name)
    assert examine(str(tmp_path), workers=0).duplicates == []


def test_json_holds_everything(tmp_path: Path) -> None:
    clean(tmp_path)
    plant(tmp_path)
    os.rename(os.fsencode(tmp_path / "train/a/2.png"), os.fsencode(tmp_path) + b"/train/a/\xff.png")
    report = examine(str(tmp_path), workers=0)
    content = json.loads(report.to_json())
    assert content.pop("ok") is False
    content["unreadable"] = [tuple(item) for item in content["unreadable"]]
    assert Report(**content) == report


def test_an_empty_folder_is_not_ok(tmp_path: Path) -> None:
    report = examine(str(tmp_path))
    assert not report.ok and list(report.lines()) == [
        f"{tmp_path}: 0 images, 0 classes",
        "not ok: there is no image",
    ]
    with pytest.raises(ValueError, match="does not exist. It must be a folder of images. Check"):
        examine(str(tmp_path / "gone"))


def test_long_lists_are_cut_in_lines_only(tmp_path: Path) -> None:
    for i in range(25):
        (tmp_path / f"{i:02}.png").write_bytes(b"")
    report = examine(str(tmp_path), workers=0)
    assert len(report.unreadable) == 25 and "  … and 15 more" in list(report.lines())


def test_a_long_group_of_equal_images_is_cut_too() -> None:
    groups = [[str(i) for i in range(count)] for count in (10, 1_011)]
    assert list(finding("duplicate", groups)) == [
        "duplicate: 2",
        "  0 = 1 = 2 = 3 = 4 = 5 = 6 = 7 = 8 = 9",
        "  0 = 1 = 2 = 3 = 4 = 5 = 6 = 7 = 8 = 9 and 1,001 more",
    ]


def test_progress_counts_all_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "_CHUNK", 5)
    clean(tmp_path)
    seen: list[tuple[int, int]] = []
    examine(str(tmp_path), workers=0, progress=lambda done, total: seen.append((done, total)))
    assert seen == [(5, 18), (10, 18), (15, 18), (18, 18)]


def examine_or_die(root: str, path: str, max_pixels: int) -> doctor._Facts:
    """In the place of `_look`: a decoder that ends its process on certain files."""
    if "deadly" in path:
        os._exit(139)
    return LOOK(root, path, max_pixels)


def examine_all_or_die(root: str, paths: Sequence[str], max_pixels: int) -> list[doctor._Facts]:
    return [examine_or_die(root, path, max_pixels) for path in paths]


LOOK = doctor._examine


def test_a_decoder_that_ends_its_process_costs_one_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clean(tmp_path)
    for name in ("train/a/deadly.png", "val/b/deadly.png"):
        paint(tmp_path / name, len(name))
    monkeypatch.setattr(doctor, "_CHUNK", 7)
    monkeypatch.setattr(doctor, "_examine", examine_or_die)
    monkeypatch.setattr(doctor, "_examine_all", examine_all_or_die)
    report = examine(str(tmp_path), workers=2)
    crashed = "crash: the decoder ended its process"
    assert report.unreadable == [("train/a/deadly.png", crashed), ("val/b/deadly.png", crashed)]
    assert report.images == 20 and sum(report.formats.values()) == 18


def test_the_doctor_does_not_import_torch() -> None:
    code = "import sys, mezzotint.data.image.doctor; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_what_reading_loses_is_counted(tmp_path: Path) -> None:
    clean(tmp_path)
    values = np.random.default_rng(0).integers(0, 4096, (9, 9)).astype(np.uint16)
    values[0, 0] = 4095
    for i in range(3):
        Image.fromarray(np.roll(values, i)).save(tmp_path / "train/a" / f"scan{i}.png")
    report = examine(str(tmp_path), workers=0)
    assert report.lost == [
        "3 have 16 bits a channel: the upper 8 are read (data.reader=native reads all)",
        "value range: images of 16 bits use at most 12 of them, and become dark; multiply their "
        "values by 16, or set data.reader=native and data.reader.range=percentiles",
    ]
    assert not report.ok and "  " + report.lost[0] in list(report.lines())


def test_images_of_one_color_are_named(tmp_path: Path) -> None:
    for number in range(3):
        pixels = np.full((8, 9, 3), 77 * number, np.uint8)
        pixels[0, 0] += np.uint8(number == 2)
        Image.fromarray(pixels).save(tmp_path / f"{number}.png")
    report = examine(tmp_path, workers=0)
    assert report.constant == ["0.png", "1.png"] and report.ok
    assert "image of one color: 2" in list(report.lines())


def test_what_only_the_native_reader_reads(tmp_path: Path) -> None:
    """Images of 16 bits lose bits in 8-bit RGB; arrays, DICOM and zarr have no such reader."""
    rng, stored = np.random.default_rng(0), tmp_path / "stored"
    scans, clouds, photos = tmp_path / "scans", tmp_path / "clouds", tmp_path / "photos"
    for folder in (stored, scans, clouds, photos):
        folder.mkdir()
    for i in range(3):
        np.save(stored / f"{i}.npy", rng.random((9, 9, 4), np.float32))
        np.save(clouds / f"{i}.npy", rng.random((40, 6), np.float32))
        write_dicom(scans / f"{i}", rng.integers(0, 4096, (9, 9)).astype(np.uint16))
        pixels = rng.integers(0, 255, (9, 9, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(photos / f"{i}.png")
    assert [only_native(str(one)) for one in (stored, scans, clouds, photos)] == [
        True, True, False, False
    ]  # fmt: skip
    np.save(stored / "0.npy", rng.random((9, 100), np.float32))
    assert only_native(str(stored)) and not deep_images(str(photos))
    for i in range(4):
        Image.fromarray(np.full((9, 9), i, np.uint16)).save(photos / f"deep{i}.png")
    assert deep_images(str(photos)) and not only_native(str(photos))
