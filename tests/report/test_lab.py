"""The augmentation lab, and that every small recipe's gallery can be drawn."""

import re
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from typer.testing import CliRunner

from mezzotint.augment.image.operations import NAMES, OPERATIONS
from mezzotint.augment.image.policies import simclr
from mezzotint.augment.image.rand_augment import RandAugment, describe
from mezzotint.cli import app
from mezzotint.data.image.embedded import EmbeddedImages
from mezzotint.data.open import is_data, open_images
from mezzotint.recipe.recipe import Recipe
from mezzotint.report import lab
from mezzotint.report import lab as magnitudes
from mezzotint.report.gallery import in_words, view_strips
from mezzotint.seeding import Draws

SMALL = (
    "image/emoji_simclr", "image/emoji_massrl", "image/emoji_ssql", "image/emoji_bridle",
    "supervised/emoji_finetune", "points/furniture_simclr", "series/smartwatch_simclr",
    "audio/speech_simclr", "audio/speech_bridle", "tokens/emails_simclr",
    "video/rotating_objects_simclr", "dabs/emails_randquant", "dabs/smartwatch_randquant",
)  # fmt: skip


@pytest.fixture(autouse=True)
def fast(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(magnitudes, "_SECONDS", 0.0)


@pytest.mark.parametrize("name", SMALL)
def test_every_small_recipe_has_a_gallery(name: str) -> None:
    recipe = Recipe.load(name)
    strips = view_strips(recipe.data, recipe.views, recipe.encoder.input, samples=2, seed=0)
    assert len(strips) == 2
    assert all(len(strip.views) == recipe.views.num_views for strip in strips)


def test_of_a_choice_of_policies_only_what_was_drawn_is_told() -> None:
    recipe = Recipe.load("image/emoji_massrl")
    strips = view_strips(recipe.data, recipe.views, recipe.encoder.input, samples=12, seed=0)
    briefs = [shown.brief for strip in strips for shown in strip.views]
    kinds = {
        kind
        for kind in ("simclr", "rand augment", "auto augment", "fast auto augment")
        for b in briefs
        if kind in b
    }
    assert len(kinds) == 4 and not any("shear x 0" in brief.split(", ") for brief in briefs)
    for brief in briefs:  # crop, name of the policy, and at most two operations
        assert brief.startswith("crop") and ("simclr" in brief or len(brief.split(", ")) <= 4)


def test_views_of_several_policies_are_named() -> None:
    policies = "views.policies=[{kind: simclr}, {kind: simclr}, {kind: aug_mix}]"
    local = [
        "views.mode=all",
        "views.num_global=1",
        "views.num_local=1",
        "views.local_crop.size=16",
        policies,
    ]
    for overrides, names in (
        (
            local,
            ["simclr.1", "simclr.2", "aug mix", "local, simclr", "local, simclr", "local, aug mix"],
        ),
        (["views.num_local=1"], ["", "", "local"]),  # sampled policies are named per sample
        (["views={kind: two_views}"], ["", ""]),
    ):
        recipe = Recipe.load("image/emoji_massrl", overrides)
        [strip] = view_strips(recipe.data, recipe.views, recipe.encoder.input, samples=1, seed=0)
        assert [shown.name for shown in strip.views] == names
        assert all(shown.name in shown.picture.alt for shown in strip.views)


def test_long_parameters_are_counted() -> None:
    angles = torch.tensor([[0.1, -0.2, 0.25]])
    drawn = {"turn": {"angles": angles, "noise": torch.zeros(1, 3, 128)}}
    assert in_words(drawn, 0)[0] == [
        ("turn", ""),
        ("angles", "0.1 −0.2 0.25"),
        ("noise per channel", "128"),
    ]


def test_a_row_per_policy_and_a_strip_per_operation(tmp_path: Path) -> None:
    source = EmbeddedImages(name="emoji")
    texts = [
        "rand_augment",
        "{kind: rand_augment, magnitude: 20}",
        "solarize",
        "randomized_quantization",
    ]
    page = lab.write_lab(source, tmp_path / "lab.html", policies=texts, samples=3).read_text(
        encoding="utf-8"
    )
    steps = sum(7 if OPERATIONS[name].magnitude else 1 for name in NAMES if name != "identity") + 7
    assert len(re.findall("<img ", page)) == 3 * (1 + len(texts)) + steps
    for text in texts:
        assert f"<h3>{text} <span" in page
    assert page.count("<meter ") == len(NAMES)  # identity left out, randomized quantization added
    assert "with 1 thread" in page or f"{torch.get_num_threads()} threads" in page
    assert "1.67e" not in page and source.credit[:20] in page


def test_parameters_under_a_view_are_those_that_were_drawn(tmp_path: Path) -> None:
    policy, x = RandAugment(magnitude=20), EmbeddedImages(name="emoji").images[5]
    views, words = lab.visualize(policy, x, count=6, seed=3)
    params = policy.draw((6, 3, 32, 32), Draws(torch.arange(6), 3))
    assert torch.equal(views, policy.apply(x.expand(6, -1, -1, -1) / 255.0, params))
    for row, said in enumerate(words):
        assert said == ", ".join(
            f"{op} {size}".strip().replace("-", "−") for op, size in describe(params, row)
        )
    assert lab.visualize(simclr(), x, count=2)[0].shape == (2, 3, 32, 32)


def test_magnitudes_run_from_the_weakest_to_the_strongest() -> None:
    assert magnitudes.magnitudes_of("rotate", 7, (3, 32, 32)).tolist() == [
        -30,
        -20,
        -10,
        0,
        10,
        20,
        30,
    ]
    assert magnitudes.magnitudes_of("posterize", 3, (3, 32, 32)).tolist() == [8, 6, 4]
    assert magnitudes.magnitudes_of("invert", 7, (3, 32, 32)).tolist() == [0]
    x = torch.rand(3, 16, 16, generator=torch.Generator().manual_seed(0))
    strips = {
        strip.name: strip for strip in magnitudes.operation_strips(x, x.expand(4, -1, -1, -1))
    }
    assert [label for _, label in strips["rotate"].steps][:4] == ["−30", "−20", "−10", "0"]
    same = [p.src for p, label in strips["brightness"].steps if label == "0"]
    assert same == [
        p.src for p, label in strips["sharpness"].steps if label == "0"
    ]  # factor 1 changes nothing
    assert all(strip.microseconds > 0 for strip in strips.values())


def test_the_verb_takes_a_folder_embedded_images_or_a_recipe(tmp_path: Path) -> None:
    for index in range(3):
        pixels = np.random.default_rng(index).integers(0, 256, (30, 40, 3), dtype=np.uint8)
        (tmp_path / "photos").mkdir(exist_ok=True)
        Image.fromarray(pixels).save(tmp_path / "photos" / f"{index}.png")
    out = str(tmp_path / "g.html")
    for given in (
        [str(tmp_path / "photos"), "--policy", "trivial_augment", "--size", "24"],
        ["digits", "--policy", "aug_mix"],
        ["image/emoji_simclr", "--policy", "byol"],
    ):
        result = CliRunner().invoke(
            app, ["gallery", *given, "--samples", "2", "--out", out], catch_exceptions=False
        )
        assert result.exit_code == 0, result.output
        assert "Cost of each operation" in Path(out).read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (["emoji", "--policy", "rand_augmnt"], "Did you mean 'rand_augment'"),
        (["emoji", "--policy", "{kind: rand_augment, magnitude: 99}"], "got 31 and 99"),
        (
            ["emoji", "--policy", "rotate"],
            "Write {kind: rand_augment, num_ops: 1, names: [rotate]}",
        ),
        (
            ["emoji", "--policy", "[simclr, byol]"],
            "`--policy` must be a mapping with `kind` and its keys, got ['simclr', 'byol']",
        ),
        (["nowhere/", "--policy", "simclr"], "Give a recipe, a run, an image folder or file"),
        (["emojis"], "Did you mean 'emoji'"),
        (["points/furniture_simclr", "--policy", "simclr"], "`--policy` needs images"),
        (
            ["furniture"],
            "is embedded points data. Supported for image: a folder, .arrow, .npy, .npz, .parquet, "
            ".tar; embedded data: emoji",
        ),
        (["emoji", "views.flip=0"], "Only options may follow data"),
    ],
)
def test_what_cannot_be_drawn_is_refused(given: list[str], message: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=re.escape(message)) as caught:
        CliRunner().invoke(
            app, ["gallery", *given, "--out", str(tmp_path / "g.html")], catch_exceptions=False
        )
    assert "\n" not in str(caught.value)


def test_data_is_told_from_recipes_and_runs(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "recipe.yaml").write_text("")
    assert is_data("emoji") and is_data(str(tmp_path)) and not is_data(str(tmp_path / "run"))
    assert not is_data("image/emoji_simclr") and not is_data(str(tmp_path / "run" / "recipe.yaml"))
    assert open_images("digits", 96).input.shape == (1, 8, 8)
