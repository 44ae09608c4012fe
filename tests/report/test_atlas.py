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
from mezzotint.report.neighbors import Look, look

Images = Callable[..., dict[str, Any]]
Made = tuple[dict[str, Any], dict[str, Any], Look]


@pytest.fixture
def made(tmp_path: Path, colored_images: Images, monkeypatch: pytest.MonkeyPatch) -> Made:
    """Sections, the map's data, and what they were made of: 25 of 60 test samples on the map."""
    np.savez(tmp_path / "x.npz", **colored_images(200))
    source = Arrays(path=str(tmp_path / "x.npz"), holdout=0.3)
    torch.manual_seed(0)
    encoder = resnet18(source.input, stem="small", width=4).eval()
    monkeypatch.setattr(neighbors, "_MOST_MAPPED", 25)
    sections, script = feature_sections(source, encoder, 5)
    seen = look(encoder, source)
    assert script is not None and seen is not None
    return sections, script, seen


def test_each_point_has_its_own_name_label_guess_and_picture(made: Made) -> None:
    sections, script, seen = made
    assert len(script["points"]) == len(script["names"]) == sections["atlas"]["count"] == 25
    sheet = Image.open(
        io.BytesIO(base64.b64decode(sections["atlas"]["sprite"].src.partition(",")[2]))
    ).convert("RGB")
    row_of = {int(place): row for row, place in enumerate(seen.test)}
    for i, (name, (x, y, label, guess)) in enumerate(
        zip(script["names"], script["points"], strict=True)
    ):
        place = int(name.partition("/")[2])
        assert script["classes"][label] == ("red", "green", "blue")[place % 3]
        assert guess == seen.guesses[row_of[place]]
        assert 30 <= x <= 970 and 30 <= y <= 970
        left, top = i % script["columns"] * script["size"], i // script["columns"] * script["size"]
        color = np.asarray(sheet.crop((left + 8, top + 8, left + 24, top + 24)), float).mean(
            axis=(0, 1)
        )
        assert color.argmax() == place % 3


def test_paths_draw_every_point_once_under_its_class(made: Made) -> None:
    sections, script, _ = made
    drawn = {p["label"]: p["d"].split("h0")[:-1] for p in sections["atlas"]["paths"]}
    for label, moves in drawn.items():
        expected = [f"M{x} {y}" for x, y, own, _ in script["points"] if own == label]
        assert moves == expected
        [entry] = [p for p in sections["atlas"]["paths"] if p["label"] == label]
        assert entry["count"] == len(moves) and entry["name"] == script["classes"][label]
    assert sum(map(len, drawn.values())) == 25
    assert sections["atlas"]["how"].startswith("25 of 60 test samples")


def test_neighbors_are_marked_right_when_their_class_is(made: Made) -> None:
    sections, _, _ = made
    assert len(sections["kin"]["rows"]) == 7
    for row in sections["kin"]["rows"]:
        assert len(row["others"]) == 8
        assert all(n["right"] == (n["label"] == row["label"]) for n in row["others"])
        cosines = [float(n["similarity"]) for n in row["others"]]
        assert cosines == sorted(cosines, reverse=True)


def test_weak_points_add_up(made: Made) -> None:
    sections, _, seen = made
    weak = sections["weak"]
    right = int((seen.labels == seen.guesses).sum())
    assert f"{right} of 60 test samples right" in weak["how"]
    assert sum(c["count"] for c in weak["classes"]) == 60
    assert sum(round(c["share"] * c["count"]) for c in weak["classes"]) == right
    assert sum(p["count"] for p in weak["pairs"]) <= 60 - right
    assert all(len(p["examples"]) == min(4, p["count"]) for p in weak["pairs"])
