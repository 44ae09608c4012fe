"""`mezzotint gallery`, `doctor`, `recipes` and `prepare` from the command line."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from mezzotint.cli.app import run
from mezzotint.detection.recipes import FAMILIES as TRANSFER
from mezzotint.recipe.reading import shipped
from mezzotint.recipe.schema import FAMILIES
from mezzotint.recipe.signatures import index


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    rng = np.random.default_rng(0)
    for number in range(6):
        folder = tmp_path / "photos" / ("cats" if number % 2 else "dogs")
        folder.mkdir(parents=True, exist_ok=True)
        pixels = rng.integers(0, 255, (20, 24, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{number}.png")
    return tmp_path / "photos"


def test_doctor_exits_with_1_if_problems_are_found(
    photos: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["doctor", str(photos), "--workers", "0"]) == 0
    (photos / "cats" / "zero.png").write_bytes(b"")
    assert run(["doctor", str(photos), "--workers", "0"]) == 1
    assert "cats/zero.png" in capsys.readouterr().out
    assert run(["doctor", str(photos), "--workers", "0", "--json"]) == 1
    assert json.loads(capsys.readouterr().out)


def test_gallery_draws_a_recipe_or_policies_on_images(photos: Path, tmp_path: Path) -> None:
    page = tmp_path / "g.html"
    assert run(["gallery", "--samples", "3", "--out", str(page)]) == 0
    assert page.stat().st_size > 5_000
    arguments = ["gallery", str(photos), "--size", "16", "--samples", "2", "--policy", "simclr"]
    assert run([*arguments, "--out", str(page)]) == 0
    assert "simclr" in page.read_text(encoding="utf-8")


def test_recipes_are_listed_and_printed(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["recipes"]) == 0
    names = [line.split()[0] for line in capsys.readouterr().out.splitlines()]
    assert set(shipped()) <= set(names)
    assert run(["recipes", "image/emoji_simclr"]) == 0
    assert capsys.readouterr().out.startswith(shipped()["image/emoji_simclr"].read_text()[:50])


@pytest.mark.parametrize("section", FAMILIES)
def test_every_section_is_explained(section: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["recipes", section]) == 0
    out = capsys.readouterr().out
    members = index().members(FAMILIES[section])
    if len(members) > 1:
        assert [line.partition(":")[0] for line in out.splitlines()] == [
            f"{section}.{kind}" for kind in members
        ]
    else:
        assert all(f"\n  {key}: " in out for key in next(iter(members.values())).keys)


@pytest.mark.parametrize(
    ("name", "lines"),
    [
        (
            "run",
            [
                "  epochs: a whole number, at least 1; default 100",
                "  compute: see `mezzotint recipes compute`",
            ],
        ),
        ("compute", ["  device: one of auto, cpu, cuda; default auto"]),
        ("method.simclr", ["  temperature: a number, positive; default 0.2"]),
        ("sgd", ["  lr: a number, positive (required)"]),
        ("two_views", ["  policy: a policy, see `mezzotint recipes policy`; default simclr"]),
    ],
)
def test_keys_are_explained_as_people_write_them(
    name: str, lines: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["recipes", name]) == 0
    out = capsys.readouterr().out.splitlines()
    assert set(lines) <= set(out), out


@pytest.mark.parametrize(
    ("name", "lines"),
    [
        (
            "run.log",
            [
                "  log: see `mezzotint recipes log`",
                "  knn_epochs: a whole number, at least 0; default 10",
            ],
        ),
        ("run.compute", ["  device: one of auto, cpu, cuda; default auto"]),
        ("run.compute.device", ["  device: one of auto, cpu, cuda; default auto"]),
        ("method.bridle.codebook.vq", []),
        ("log.trackers", []),
    ],
)
def test_keys_at_any_depth_are_explained(
    name: str, lines: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["recipes", name]) == 0
    out = capsys.readouterr().out.splitlines()
    assert set(lines) <= set(out) and out, out


def test_a_key_that_takes_one_of_several_kinds_lists_them(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert run(["recipes", "method.bridle.codebook"]) == 0
    first, *rest = capsys.readouterr().out.splitlines()
    assert first.startswith("  codebook: a codebook")
    assert {"method.bridle.codebook.vq", "method.bridle.codebook.rq"} <= {
        line.partition(":")[0] for line in rest
    }


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("run.logg", "`run` has no key 'logg'. Its keys are epochs,"),
        ("run.logg", "Did you mean 'log'?"),
        ("run.epochs.x", "`run.epochs` has no key 'x'. It is a plain value."),
        ("method.bridl", "`method.kind` must be one of"),
        ("method.bridle.codebook.vqq", "`method.bridle.codebook.kind` must be one of"),
        ("nothing.log", "There is no recipe, section or kind 'nothing.log'."),
    ],
)
def test_keys_that_are_not_there_are_refused(
    name: str, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["recipes", name]) == 2
    assert message in capsys.readouterr().err


def test_a_kind_of_two_families_is_explained_twice(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["recipes", "simclr"]) == 0
    method, policy = capsys.readouterr().out.split("\n\n")
    assert "temperature" in method and "jitter_p" in policy


def test_prepare_refuses_what_is_not_the_data_set(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["prepare", "esc50", str(tmp_path)]) == 2
    assert "meta/esc50.csv" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_the_schema_of_recipes_is_printed(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["recipes", "--schema"]) == 0
    assert set(json.loads(capsys.readouterr().out)["properties"]) >= {"method", "phases", "load"}
    assert run(["recipes", "transfer", "--schema"]) == 0
    assert set(json.loads(capsys.readouterr().out)["properties"]) == set(TRANSFER)
    assert run(["recipes", "moco", "--schema"]) == 2
    assert "takes no name" in capsys.readouterr().err
