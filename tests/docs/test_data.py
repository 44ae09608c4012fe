import re
from pathlib import Path

import yaml

from mezzotint.data.image import doctor
from mezzotint.recipe.signatures import index
from tests import ROOT

DOCS = ROOT / "docs"
PAGE = (DOCS / "data.md").read_text(encoding="utf-8")


def test_each_recipe_of_the_page_names_a_source_and_its_keys() -> None:
    sources = index().members("Source")
    lines = [
        line
        for block in re.findall(r"```yaml\n(.*?)```", PAGE, re.S)
        for line in block.splitlines()
    ]
    shown = [yaml.safe_load(line)["data"] for line in lines]
    for data in shown:
        kind = data.pop("kind")
        assert data.keys() <= sources[kind].keys.keys(), kind
        assert {name for name, key in sources[kind].keys.items() if key.required} <= data.keys(), (
            kind
        )
    assert {
        "embedded_images",
        "image_folder",
        "arrays",
        "cifar10",
        "cifar100",
        "stl10",
        "svhn",
    } <= sources.keys()


def test_every_source_stands_on_a_page() -> None:
    pages = "".join(
        (DOCS / name).read_text(encoding="utf-8")
        for name in ("data.md", "audio.md", "points.md", "series.md", "tokens.md", "video.md")
    )
    missing = [kind for kind in index().members("Source") if kind not in pages]
    assert missing == []


def test_each_key_is_explained() -> None:
    for entry in index().members("Source").values():
        for key in entry.keys.values():
            assert key.doc, f"{entry.kind}.{key.name}"


def test_the_page_shows_what_the_doctor_says(tmp_path: Path) -> None:
    shown = re.search(r"```console\n\$ mezzotint doctor photos\n(.*?)```", PAGE, re.S)
    assert shown is not None
    report = doctor.Report(
        "photos",
        images=55,
        num_classes=2,
        classes={"train/flower": 21, "train/temple": 23, "val/flower": 6, "val/temple": 5},
        unreadable=[
            ("train/flower/download.jpg", "empty: 0 bytes"),
            ("train/temple/half.jpg", "truncated: Truncated File Read"),
            ("train/temple/page.jpg", "not an image: no known image format"),
        ],
        duplicates=[["train/temple/001 (copy).jpg", "train/temple/001.jpg"]],
        leaks=[["train/flower/002.jpg", "val/flower/x7.png"]],
        empty_classes=["val/bridge"],
        not_images=["labels.csv"],
        formats={"JPEG RGB": 41, "PNG RGB": 11},
        sizes={"height": [122, 236, 299], "width": [125, 209, 292]},
        mean=[0.5024, 0.4876, 0.4315],
        std=[0.3870, 0.3066, 0.3340],
    )
    assert "\n".join(report.lines()) + "\n" == shown[1]
