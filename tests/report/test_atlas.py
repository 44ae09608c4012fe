import base64
import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from mezzotint.data.image.arrays import Arrays
from mezzotint.encoders.resnet import resnet18
from mezzotint.report import neighbors
from mezzotint.report.atlas import feature_sections
from mezzotint.report.neighbors import NearestNeighbors, find_neighbors

Images = Callable[..., dict[str, Any]]
Made = tuple[dict[str, Any], dict[str, Any], NearestNeighbors]


@pytest.fixture
def made(tmp_path: Path, colored_images: Images, monkeypatch: pytest.MonkeyPatch) -> Made:
    """Sections, the map's data, and what they were made of: 25 of 60 test samples on the map."""
    np.savez(tmp_path / "x.npz", **colored_images(200))
    source = Arrays(path=str(tmp_path / "x.npz"), holdout=0.3)
    torch.manual_seed(0)
    encoder = resnet18(source.input, stem="small", width=4).eval()
    monkeypatch.setattr(neighbors, "_MOST_MAPPED", 25)
    sections, script = feature_sections(source, encoder, 5)
    nearest = find_neighbors(encoder, source)
    assert script is not None and nearest is not None
    return sections, script, nearest


def test_each_point_has_its_own_name_label_prediction_and_picture(made: Made) -> None:
    sections, script, nearest = made
    assert len(script["points"]) == len(script["names"]) == sections["map"]["count"] == 25
    sheet = Image.open(
        io.BytesIO(base64.b64decode(sections["map"]["sprite"].src.partition(",")[2]))
    ).convert("RGB")
    row_of = {int(index): row for row, index in enumerate(nearest.test)}
    for i, (name, (x, y, label, predicted)) in enumerate(
        zip(script["names"], script["points"], strict=True)
    ):
        index = int(name.partition("/")[2])
        assert script["classes"][label] == ("red", "green", "blue")[index % 3]
        assert predicted == nearest.predictions[row_of[index]]
        assert 30 <= x <= 970 and 30 <= y <= 970
        left, top = i % script["columns"] * script["size"], i // script["columns"] * script["size"]
        color = np.asarray(sheet.crop((left + 8, top + 8, left + 24, top + 24)), float).mean(
            axis=(0, 1)
        )
        assert color.argmax() == index % 3


def test_paths_draw_every_point_once_under_its_class(made: Made) -> None:
    sections, script, _ = made
    drawn = {p["label"]: p["d"].split("h0")[:-1] for p in sections["map"]["paths"]}
    for label, moves in drawn.items():
        expected = [f"M{x} {y}" for x, y, own, _ in script["points"] if own == label]
        assert moves == expected
        [entry] = [p for p in sections["map"]["paths"] if p["label"] == label]
        assert entry["count"] == len(moves) and entry["name"] == script["classes"][label]
    assert sum(map(len, drawn.values())) == 25
    assert sections["map"]["how"].startswith("25 of 60 test samples")
    assert sections["map"]["pictures"]  # images are shown at once


def test_neighbors_of_the_same_class_are_marked_as_correct(made: Made) -> None:
    sections, _, _ = made
    assert len(sections["neighbors"]["rows"]) == 5
    for row in sections["neighbors"]["rows"]:
        assert [line["name"] for line in row["lines"]] == ["pixels", "this encoder"]
        for line in row["lines"]:
            assert len(line["others"]) == 6
            assert all(n["correct"] == (n["label"] == row["label"]) for n in line["others"])
            cosines = [float(n["similarity"]) for n in line["others"]]
            assert cosines == sorted(cosines, reverse=True)


def test_neighbors_have_three_lines_each_of_its_own_features(
    tmp_path: Path, colored_images: Images
) -> None:
    np.savez(tmp_path / "x.npz", **colored_images(60))
    source = Arrays(path=str(tmp_path / "x.npz"), holdout=0.3)
    torch.manual_seed(0)
    encoder, fresh = (resnet18(source.input, stem="small", width=4).eval() for _ in range(2))
    sections, _ = feature_sections(source, encoder, 5, untrained=fresh)
    first = sections["neighbors"]["rows"][0]
    name, [index] = (
        first["query"].alt,
        [i for i in range(60) if source.read(i)["id"] == first["query"].alt],
    )
    for line, own in zip(first["lines"], (None, fresh, encoder), strict=True):
        found = find_neighbors(own, source, queries=np.array([index]))
        assert found is not None
        expected = [source.read(int(near))["id"] for near in found.neighbors[0][:6]]
        assert [n["picture"].alt for n in line["others"]] == expected and name not in expected
    names = [line["name"] for line in first["lines"]]
    assert names == ["pixels", "untrained encoder", "this encoder"]


def test_errors_add_up(made: Made) -> None:
    sections, _, nearest = made
    errors = sections["errors"]
    right = int((nearest.labels == nearest.predictions).sum())
    assert f"{right} of 60 test samples are correct" in errors["how"]
    assert sum(c["count"] for c in errors["classes"]) == 60
    assert sum(round(c["accuracy"] * c["count"]) for c in errors["classes"]) == right
    assert sum(p["count"] for p in errors["pairs"]) <= 60 - right
    assert all(len(p["examples"]) == min(4, p["count"]) for p in errors["pairs"])
