"""The page of a codebook: values against naive counts, pictures against their patches."""

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch

from mezzotint.data.image.embedded import EmbeddedImages
from mezzotint.encoders.vit import ViT
from mezzotint.recipe.recipe import Plan, Recipe
from mezzotint.recipe.schema import RecipeError
from mezzotint.report.codes import (
    Coded,
    can_draw_patches,
    encode_samples,
    join,
    nearest_patches,
    write_codes,
)
from mezzotint.runs.reuse import trained_method
from mezzotint.train.plan import pretrain_plan
from mezzotint.types import Codes, Input

BOOK = {"kind": "rq", "dim": 8, "num_codes": 24, "num_levels": 2}


def recipe(data: Any, patch: Any, *phases: dict[str, Any]) -> dict[str, Any]:
    return {
        "data": data,
        "views": {"kind": "transformed", "transforms": [], "count": 1},
        "encoder": {"kind": "vit", "width": 16, "depth": 1, "heads": 2, "patch": patch},
        "method": {
            "kind": "bridle",
            "codebook": BOOK,
            "decoder": {"width": 16, "depth": 1, "heads": 2},
        },
        "optimizer": {"kind": "adamw", "lr": 1e-3},
        "run": {"epochs": 1, "batch_size": 512, "log": {"knn_epochs": 0}},
        "phases": list(phases),
    }


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    mae = {
        "name": "after",
        "method": {"kind": "mae", "decoder": {"width": 16, "depth": 1, "heads": 2}},
    }
    config = recipe({"kind": "embedded_images", "name": "digits"}, 2, {"name": "first"}, mae)
    folder = pretrain_plan(
        Plan.of(config), tmp_path_factory.mktemp("codes") / "run", progress="quiet"
    )
    write_codes(folder, samples=40, frequent=3)
    return folder


def test_the_last_phase_with_a_codebook_is_measured_as_counting_does(run: Path) -> None:
    facts = json.loads((run / "codes.json").read_text())
    assert facts["phase"] == "1-first" and facts["samples"] == 40 and facts["patches"] == 16
    made = trained_method(Recipe.load(run / "1-first"), run / "1-first")
    method: Any = made.method.eval()
    found = encode_samples(made.data, method.encoder, method.tokenizer, method.codebook, 40)
    for level, said in enumerate(facts["levels"]):
        codes = found.codes.indices[..., level].flatten().tolist()
        counts = [codes.count(code) for code in range(24)]
        assert said["counts"] == counts
        assert said["usage"] == pytest.approx(sum(c > 0 for c in counts) / 24)
        entropy = -sum(c / 640 * math.log(c / 640) for c in counts if c)
        assert said["entropy"] == pytest.approx(entropy, rel=1e-5)
        assert said["perplexity"] == pytest.approx(math.exp(entropy) / 24, rel=1e-5)
    left = [level["residual"] for level in facts["levels"]]
    z = method.tokenizer(*_parts(made, found))
    error = (z - method.codebook.decode(found.codes.indices)).square().sum() / z.square().sum()
    assert left[1] == pytest.approx(float(error), rel=1e-3) and left[1] < left[0] < 1.0
    assert facts["levels"][1]["explained"] > facts["levels"][0]["explained"] > 0.05


def _parts(made: Any, found: Any) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    x = made.encoder.input.normalize(found.x)
    values, where = made.encoder.patches.split(x)
    return x, values, where


def test_patches_of_a_code_have_it_and_are_its_nearest(run: Path) -> None:
    made = trained_method(Recipe.load(run / "1-first"), run / "1-first")
    method: Any = made.method.eval()
    found = encode_samples(made.data, method.encoder, method.tokenizer, method.codebook, 40)
    code = int(found.codes.usage[1].argmax())
    nearest = nearest_patches(found, 1, code)
    assert len({sample for sample, _ in nearest}) == len(nearest) > 1
    mine = sorted(
        min(
            float(found.distances[n, i, 1])
            for i in range(16)
            if found.codes.indices[n, i, 1] == code
        )
        for n in range(40)
        if (found.codes.indices[n, :, 1] == code).any()
    )
    assert [float(found.distances[n, i, 1]) for n, i in nearest] == mine[: len(nearest)]


def test_the_page_shows_patches_and_levels(run: Path) -> None:
    page = (run / "codes.html").read_text()
    assert page.count('aria-label="usage of the codes of level') == 2
    assert (
        page.count("<rect") == 48 and page.count(">2 of 2 levels<") == 8 and "patch of code" in page
    )
    assert "http" not in page.replace("http-equiv", "") and "data-sound=" not in page


def test_codes_of_sound_can_be_heard(tmp_path: Path) -> None:
    config = recipe({"kind": "speech"}, [16, 16], {"name": "first"})
    run = pretrain_plan(Plan.of(config), tmp_path / "run", progress="quiet")
    page = write_codes(run, samples=16, frequent=1).read_text()
    assert page.count(' data-sound="') == 2 + 8 * 3  # two codes, eight samples thrice


def test_a_run_without_a_codebook_is_refused(run: Path, tmp_path: Path) -> None:
    with pytest.raises(
        RecipeError,
        match=r"a run of mae, which has no codebook. It must be a run of bridle, .*Try `mezz",
    ):
        write_codes(run / "2-after")
    with pytest.raises(RecipeError, match=r"is not a run. It must be a directory"):
        write_codes(tmp_path)
    with pytest.raises(ValueError, match=r"`samples` must be at least 2, got 1"):
        write_codes(run, samples=1)


def test_a_codebook_that_was_never_started_is_refused(run: Path) -> None:
    fresh: Any = Recipe.load(run / "1-first").method
    with pytest.raises(ValueError, match=r"The codebook is not initialized"):
        encode_samples(
            EmbeddedImages(name="digits"), fresh.encoder, fresh.tokenizer, fresh.codebook, 4
        )


@pytest.mark.parametrize(
    ("shape", "patch"), [((3, 8, 12), [4, 2]), ((3, 4, 8, 8), [2, 4, 8]), ((2, 12), [3])]
)
def test_join_is_the_inverse_of_split(shape: tuple[int, ...], patch: list[int]) -> None:
    kinds: dict[int, str] = {2: "image", 3: "video", 1: "series"}
    encoder = ViT(
        Input(shape, (0.0,) * shape[0], (1.0,) * shape[0], kinds[len(patch)]),
        width=12,
        depth=1,
        heads=2,
        patch=patch,
    )
    x = torch.randn(2, *shape)
    values, _ = encoder.patches.split(x)
    assert torch.equal(join(values[1], encoder), x[1])


def test_nearest_patches_are_of_different_samples_and_have_the_code() -> None:
    indices = torch.tensor([[0, 1, 0], [1, 1, 1], [0, 0, 1]]).unsqueeze(-1)
    distances = torch.tensor([[3.0, 9, 2], [9, 9, 9], [1, 4, 0]]).unsqueeze(-1)
    codes = Codes(torch.zeros(0), indices, torch.zeros(()), torch.zeros(1, 2), torch.zeros(1))
    coded = Coded(torch.zeros(3), torch.zeros(3, 3, 1), torch.zeros(1, 3, 1), codes, distances)
    assert nearest_patches(coded, 0, 0) == [(2, 0), (0, 2)]
    assert nearest_patches(coded, 0, 1) == [(2, 2), (0, 1), (1, 0)]


def test_only_patches_on_a_grid_can_be_drawn() -> None:
    image = Input((3, 8, 8), (0.0,) * 3, (1.0,) * 3)
    table = Input((6,), (0.0,) * 6, (1.0,) * 6, "table")
    assert can_draw_patches(ViT(image, width=12, depth=1, heads=2, patch=[4, 4]))
    assert not can_draw_patches(ViT(table, width=12, depth=1, heads=2))
